"""`lead-coordinator experiment`: headline and placement tests."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lead_coordinator.database.connection import Database
    from lead_coordinator.database.revenue import Experiment, Outcome

experiment = typer.Typer(
    help="Create, watch and end headline and placement tests.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Argument(help="The experiment's name.", show_default=False)]
Site = Annotated[str, typer.Option(help="Name of the site.")]
Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]


@experiment.command()
def create(
    name: Name,
    page: Annotated[str, typer.Option(help="Path of the page (/articles/roses.html).")],
    variant: Annotated[
        list[str], typer.Option(help="NAME=CONTENT, at least twice; the first is the control, as it is now.")
    ],
    kind: Annotated[str, typer.Option(help="headline or placement.")] = "headline",
    site: Site = "main",
    minimum_exposures: Annotated[
        int | None, typer.Option(help="Visitors each variant needs before anything is decided.")
    ] = None,
    maximum_days: Annotated[int | None, typer.Option(help="It ends after so many days.")] = None,
    maximum_regret: Annotated[
        float | None, typer.Option(help="Successes that may be given away to learn.")
    ] = None,
    error_rate: Annotated[float | None, typer.Option(help="Chance of a false winner, 0.001 to 0.5.")] = None,
    minimum_share: Annotated[
        float | None,
        typer.Option(help="Least share of visitors that the others than the best get, 0 to 0.5."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Begin an experiment. What isn't said of its rules is as in the site's profile."""
    from lead_coordinator.cli.console import known_errors

    rules = {
        "minimum_exposures": minimum_exposures,
        "maximum_days": maximum_days,
        "maximum_regret": maximum_regret,
        "error_rate": error_rate,
        "minimum_share": minimum_share,
    }
    with known_errors():
        from lead_coordinator.database.json import dumps
        from lead_coordinator.database.revenue import create_experiment
        from lead_coordinator.pipelines.profile import SiteProfile

        variants = [_pair(text, "--variant", "NAME=CONTENT") for text in variant]
        SiteProfile.read(site, {})  # the name of a site that can't be one is refused here
        given = {rule: value for rule, value in rules.items() if value is not None}
        with _database() as database:
            number, created = create_experiment(
                database,
                site,
                name,
                kind,  # type: ignore[arg-type]  # the database says what is allowed
                page,
                variants,
                given,
            )
        if as_json:
            typer.echo(dumps({"experiment_id": number, "created": created}))
        elif created:
            typer.echo(f"Experiment {name} has begun with {len(variants)} variants.")
        else:
            typer.echo(f"Nothing new: experiment {name} is there already.")


@experiment.command("list")
def list_(
    site: Annotated[str | None, typer.Option(help="Only of this site.")] = None,
    status: Annotated[str | None, typer.Option(help="running or stopped.")] = None,
    as_json: Json = False,
) -> None:
    """Show experiments, newest first."""
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from dataclasses import asdict

        from lead_coordinator.database.json import dumps
        from lead_coordinator.database.revenue import list_experiments

        with _database() as database:
            found = list_experiments(database, site=site, status=status)
        if as_json:
            typer.echo(dumps([asdict(one) for one in found]))
            return
        if not found:
            typer.echo("There is no experiment; `lead-coordinator experiment create` begins one.")
        for one in found:
            ended = f"{one.winner or 'no winner'}: {one.reason}" if one.status == "stopped" else "running"
            visitors = sum(variant.exposures for variant in one.variants)
            typer.echo(f"{one.site}  {one.name}  {one.kind} on {one.page}, {visitors:,} visitors, {ended}")


@experiment.command()
def show(name: Name, site: Site = "main", as_json: Json = False) -> None:
    """Show an experiment's results as a table and a plot, and what they come to."""
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from lead_coordinator.database.json import dumps
        from lead_coordinator.database.revenue import list_outcomes
        from lead_coordinator.database.sites import get_site
        from lead_coordinator.pipelines.profile import SiteProfile
        from lead_coordinator.pipelines.revenue.results import experiment_row

        with _database() as database:
            found = _find(database, site, name)
            history = list_outcomes(database, found.experiment_id)
            profile = SiteProfile.read(site, get_site(database, site) or {})
        from datetime import UTC, datetime

        from lead_coordinator.pipelines.revenue.experiment import arms_of, batches_of, decide, rules_of

        rules = rules_of(found.rules, profile.revenue.experiment)
        now = found.stopped_at or datetime.now(UTC)
        decision = decide(arms_of(found), batches_of(history), rules, begun=found.created_at, now=now)
        if as_json:
            typer.echo(
                dumps(
                    {
                        **experiment_row(found, decision, history),
                        "status": found.status,
                        "rules": rules.model_dump(),
                    }
                )
            )
            return
        from rich.console import Console

        from lead_coordinator.cli.experiment_view import experiment_view

        Console().print(experiment_view(found, decision, rules, history))


@experiment.command()
def record(
    name: Name,
    outcome: Annotated[
        list[str], typer.Argument(help="VARIANT=SUCCESSES/VISITORS since the last time.", show_default=False)
    ],
    site: Site = "main",
    key: Annotated[str | None, typer.Option(help="What is recorded with the same key counts once.")] = None,
) -> None:
    """Add what happened to visitors since the last time."""
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from lead_coordinator.database.revenue import record_outcomes

        outcomes = _outcomes(outcome)
        with _database() as database:
            found = _find(database, site, name)
            new = record_outcomes(database, found.experiment_id, outcomes, key=key)
        typer.echo("Recorded." if new else f"Nothing new: {key} was recorded before.")


@experiment.command()
def stop(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why it ends.")],
    site: Site = "main",
    winner: Annotated[
        str | None, typer.Option(help="The variant to keep; none: no difference was shown.")
    ] = None,
) -> None:
    """End an experiment by hand. The revenue optimiser ends it by itself when its rules say so."""
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from lead_coordinator.database.revenue import decide_experiment

        with _database() as database:
            found = _find(database, site, name)
            ended = decide_experiment(database, found.experiment_id, stop=True, winner=winner, reason=reason)
        typer.echo(f"Experiment {name} has ended." if ended else f"Nothing new: {name} had ended before.")


def _database() -> "Database":
    from lead_coordinator.cli.target import find_database
    from lead_coordinator.database.connection import Database
    from lead_coordinator.settings import Settings

    return Database(find_database(Settings.load())[0])


def _find(database: "Database", site: str, name: str) -> "Experiment":
    from lead_coordinator.database.revenue import list_experiments
    from lead_coordinator.errors import NotFound

    for found in list_experiments(database, site=site, limit=10_000):
        if found.name == name:
            return found
    raise NotFound(f"site {site} has no experiment {name!r}; `lead-coordinator experiment list` names them")


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    from lead_coordinator.errors import InvalidInput

    head, equals, tail = text.partition("=")
    if not (head and equals and tail):
        raise InvalidInput(f"{option}: {text[:80]!r} given, {form} is needed")
    return head, tail


def _outcomes(texts: "Sequence[str]") -> "list[Outcome]":
    from lead_coordinator.database.revenue import Outcome
    from lead_coordinator.errors import InvalidInput

    found = []
    for text in texts:
        form = "VARIANT=SUCCESSES/VISITORS"
        variant, counts = _pair(text, "outcome", form)
        successes, _, visitors = counts.partition("/")
        if not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in (successes, visitors)):
            raise InvalidInput(f"outcome: {text[:80]!r} given, {form} with whole numbers is needed")
        found.append(Outcome(variant, int(visitors), int(successes)))
    return found
