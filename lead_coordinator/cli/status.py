"""`lead-coordinator status`: how the platform stands, in one screen."""

from typing import Annotated

import typer


def status(as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False) -> None:
    """Show queue, executions, money, providers, times, and what needs attention."""
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from dataclasses import asdict

        from lead_coordinator.cli.target import find_database
        from lead_coordinator.database.connection import Database
        from lead_coordinator.database.json import dumps
        from lead_coordinator.database.reports import check_coordinator_alerts, get_platform_status
        from lead_coordinator.settings import Settings

        settings = Settings.load()
        url, runtime = find_database(settings)
        with Database(url) as database:
            answer = get_platform_status(database)
            alerts = check_coordinator_alerts(database)
        if as_json:
            running = (
                {"pid": runtime.pid, "state": runtime.state, "web_url": runtime.web_url} if runtime else None
            )
            listed = [asdict(alert) for alert in alerts]
            typer.echo(dumps({**answer, "alerts": listed, "platform": running}))
            return
        from rich.console import Console

        from lead_coordinator.cli.views import status_view

        where = f"UI {runtime.web_url}" if runtime else "no platform of this LEAD_HOME is running"
        Console().print(status_view(answer, where, alerts))
