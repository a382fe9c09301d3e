"""`lead-coordinator deploy`: bring the control plane in the database up to this version, or say what that
would change."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lead_coordinator.settings import Settings


def deploy(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; show what would be added, changed, dropped.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Deploy sql/, or bring an older deployment forward.

    Goes to DATABASE_URL; without it to the running platform's embedded server, or starts that server for the
    purpose. All in one transaction: when it fails, nothing was changed (exit code 1). Over a newer version it
    is refused. A dry run does the same and undoes it; it ends with 0 whether something would change or not.
    """
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from lead_coordinator.cli.platform.run import describe
        from lead_coordinator.database.deploy import deploy as deploy_to
        from lead_coordinator.database.json import dumps
        from lead_coordinator.settings import Settings

        settings = Settings.load()
        with _database(settings, dry_run) as url:
            if dry_run:
                plan = deploy_to(url, settings, dry_run=True)
                typer.echo(dumps({"dry_run": True, **plan.as_json()}) if as_json else str(plan))
                return
            report = deploy_to(url, settings)
        if as_json:
            typer.echo(dumps({"dry_run": False, **report.as_json()}))
            return
        for line in describe(report):
            typer.echo(line)


@contextmanager
def _database(settings: "Settings", dry_run: bool) -> Iterator[str]:
    """The address of the database that is meant, for as long as it is needed."""
    import tempfile
    from pathlib import Path

    from lead_coordinator.cli.platform.checks import check_database, check_home
    from lead_coordinator.cli.platform.home import HomeLock, read_runtime
    from lead_coordinator.database.embedded import EmbeddedServer

    if settings.database_url is not None:
        check_database(settings)
        yield settings.database_url
        return
    runtime = read_runtime(settings.home)
    if runtime is not None and runtime.database_url:
        yield runtime.database_url
        return
    if dry_run and not settings.postgres_dir.exists():
        # There is no database yet, and a dry run makes none: an empty one is tried that is gone afterwards.
        check_home(settings)
        with (
            tempfile.TemporaryDirectory(prefix="lead-dry-run-") as folder,
            EmbeddedServer(Path(folder) / "postgres", durable=False) as server,
        ):
            yield server.url
        return
    lock = HomeLock(settings.home)
    lock.acquire()
    embedded = EmbeddedServer(settings.postgres_dir)
    try:
        yield embedded.start()
    finally:
        embedded.stop()
        lock.release()
