"""`lead-coordinator up`: the whole platform in the foreground until Ctrl-C."""

import os
import sys
from typing import Annotated

import typer


def up(
    port: Annotated[
        str | None, typer.Option(metavar="PORT", help="Port of the UI (LEAD_WEB_PORT).", show_default="3000")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address the UI listens on (LEAD_WEB_HOST).", show_default="127.0.0.1")
    ] = None,
    no_sandbox: Annotated[
        bool, typer.Option("--no-sandbox", help="Refuse to start without a provider's key (LEAD_SANDBOX=0).")
    ] = False,
    follow_parent: Annotated[
        bool,
        typer.Option(
            "--follow-parent", help="Stop when the process that started this one ends (for `make up`)."
        ),
    ] = False,
) -> None:
    """Run the whole platform until Ctrl-C.

    PostgreSQL (unless DATABASE_URL is set), the control plane, Dagster, and the sandbox provider (unless a
    key is set).

    Ctrl-C stops every process it started and leaves none. What happened is in LEAD_HOME/logs.
    """
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from lead_coordinator.cli.platform.checks import load_settings

        settings, environ = load_settings(
            {"LEAD_WEB_PORT": port, "LEAD_WEB_HOST": host, "LEAD_SANDBOX": "0" if no_sandbox else None}
        )
        from lead_coordinator.cli.platform.logs import Terminal
        from lead_coordinator.cli.platform.run import Platform
        from lead_coordinator.cli.platform.supervisor import StopRequested
        from lead_coordinator.errors import LeadCoordinatorError

        parent = os.getppid() if follow_parent else None
        platform = Platform(settings, environ, Terminal(sys.stdout), parent_pid=parent)
        supervisor = platform.supervisor
        with supervisor.signals():
            try:
                platform.start()
                while not supervisor.stopping.wait(0.5):
                    platform.tend()
            except StopRequested:
                pass
            except LeadCoordinatorError:
                if not supervisor.stopping.is_set():  # else it failed because it was told to stop
                    raise
            finally:
                platform.stop()
