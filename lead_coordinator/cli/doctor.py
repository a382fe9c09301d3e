"""`lead-coordinator doctor`: what is wrong, and what to do about it."""

from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False) -> None:
    """Check the whole platform and say what to do.

    Settings, disk, database, deployment, daemon, UI, providers. Exit code 1 when something fails.
    """
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from lead_coordinator.cli.checkup import examine
        from lead_coordinator.cli.platform.checks import check_home
        from lead_coordinator.cli.platform.home import read_runtime
        from lead_coordinator.settings import Settings

        settings = Settings.load()
        if settings.database_url is None:  # else the services may run elsewhere, and this folder isn't needed
            check_home(settings)
        findings = []
        for finding in examine(settings, read_runtime(settings.home)):
            findings.append(finding)
            if not as_json:
                typer.echo(f"{finding.state:<5} {finding.check}: {finding.found}")
                if finding.advice is not None:
                    typer.echo(f"      → {finding.advice}")
        failed = any(finding.state == "fail" for finding in findings)
        if as_json:
            from lead_coordinator.database.json import dumps

            typer.echo(
                dumps({"healthy": not failed, "findings": [finding.as_json() for finding in findings]})
            )
    if failed:
        raise typer.Exit(1)
