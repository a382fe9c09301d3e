"""The `lead-coordinator` command: one file a command, each imports what it needs when it runs."""

from typing import Annotated

import typer

from lead_coordinator import __version__
from lead_coordinator.cli.articles import approve, articles, reject, republish, unpublish
from lead_coordinator.cli.demo import demo
from lead_coordinator.cli.deploy import deploy
from lead_coordinator.cli.doctor import doctor
from lead_coordinator.cli.experiment import experiment
from lead_coordinator.cli.metrics import metrics
from lead_coordinator.cli.site import site
from lead_coordinator.cli.status import status
from lead_coordinator.cli.submit import submit
from lead_coordinator.cli.up import up

app = typer.Typer(
    name="lead-coordinator",
    help="Decides what work runs next on a content platform, launches it, watches it, recovers it.",
    epilog="Settings come from the environment (see README). "
    "Exit codes: 0 done, 1 failed, 2 wrong settings or usage.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(up)
app.command()(demo)
app.command()(deploy)
app.command()(submit)
app.command()(articles)
app.command()(approve)
app.command()(reject)
app.command()(unpublish)
app.command()(republish)
app.add_typer(site, name="site")
app.add_typer(metrics, name="metrics")
app.add_typer(experiment, name="experiment")
app.command()(status)
app.command()(doctor)


@app.command("help")
def help_(
    context: typer.Context,
    command: Annotated[str | None, typer.Argument(help="A command; without it, the list of them.")] = None,
) -> None:
    """Show how a command is used."""
    parent = context.parent
    assert parent is not None
    if command is None:
        typer.echo(parent.get_help())
        return
    group = parent.command
    found = group.get_command(parent, command)  # type: ignore[attr-defined]
    if found is None:
        known = ", ".join(group.list_commands(parent))  # type: ignore[attr-defined]
        typer.echo(f"lead-coordinator: there is no command {command!r}; there are: {known}.", err=True)
        raise typer.Exit(2)
    typer.echo(found.get_help(type(context)(found, parent=parent, info_name=command)))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lead-coordinator {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    app(prog_name="lead-coordinator")
