"""`lead-coordinator site`: what each site wants of the pipelines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lead_coordinator.pipelines.profile import SiteProfile

site = typer.Typer(
    help="List, show and set site profiles: what each site wants of the pipelines.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@site.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False) -> None:
    """Show every site that has a profile, and what is done for it by itself."""
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from lead_coordinator.cli.target import find_database
        from lead_coordinator.database.connection import Database
        from lead_coordinator.database.json import dumps
        from lead_coordinator.database.sites import list_sites
        from lead_coordinator.settings import Settings

        with Database(find_database(Settings.load())[0]) as database:
            sites = list_sites(database)
        if as_json:
            typer.echo(dumps([vars(one) for one in sites]))
            return
        if not sites:
            typer.echo("No site has a profile: the pipelines use their defaults, and do what is submitted.")
        for one in sites:
            when = one.updated_at.strftime("%Y-%m-%d %H:%M UTC")
            typer.echo(f"{one.site}  {one.profile.get('url') or 'no address'}  (set {when})")


@site.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the site.")],
    everything: Annotated[bool, typer.Option("--all", help="With every default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show a site's profile, as a file that `site apply` takes."""
    from lead_coordinator.cli.console import fail, known_errors

    with known_errors():
        from lead_coordinator.cli.target import find_database
        from lead_coordinator.database.connection import Database
        from lead_coordinator.database.sites import get_site
        from lead_coordinator.pipelines.profile import SiteProfile
        from lead_coordinator.settings import Settings

        with Database(find_database(Settings.load())[0]) as database:
            stored = get_site(database, name)
        if stored is None:
            fail(f"there is no site {name!r}; `lead-coordinator site list` names those there are.")
        profile = SiteProfile.read(name, stored)
        _print(profile.model_dump(mode="json") if everything else {"name": name, **profile.stored()}, as_json)


@site.command()
def apply(
    file: Annotated[Path, typer.Argument(help="A YAML file: one profile, or several with --- between.")],
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Set the profiles of a file: all of them, or none where one is wrong.

    A profile replaces the one that was there; what it doesn't name has its default again.
    """
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from dataclasses import asdict

        from lead_coordinator.cli.site_file import read_profiles
        from lead_coordinator.cli.target import find_database
        from lead_coordinator.database.connection import Database
        from lead_coordinator.database.json import dumps
        from lead_coordinator.database.sites import set_site
        from lead_coordinator.settings import Settings

        # Before a database is looked for: a bad file is the caller's own affair.
        profiles = read_profiles(file)
        reason = f"site apply {file.name}"
        with (
            Database(find_database(Settings.load())[0]) as database,
            database.connection() as connection,
            connection.transaction(),
        ):
            answers = [set_site(database, one.name, one.stored(), reason=reason) for one in profiles]
        if as_json:
            typer.echo(dumps([asdict(answer) for answer in answers]))
            return
        for answer in answers:
            did = "created" if answer.created else "changed" if answer.changed else "as it was"
            typer.echo(f"{answer.site}: {did}.")


def _print(profile: "dict[str, Any] | SiteProfile", as_json: bool) -> None:
    if as_json:
        from lead_coordinator.database.json import dumps

        typer.echo(dumps(profile))
        return
    import yaml

    typer.echo(yaml.safe_dump(profile, sort_keys=False, allow_unicode=True), nl=False)
