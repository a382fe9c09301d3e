"""`lead-coordinator metrics`: what the search engine and analytics counted, page by page and day by day."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import date

    from lead_coordinator.database.revenue import Imported
    from lead_coordinator.pipelines.revenue.exports import MetricsFile

metrics = typer.Typer(
    help="Import page metrics for the revenue optimiser.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@metrics.callback()
def _metrics() -> None:
    """With a callback, a single command keeps its name."""


@metrics.command("import")
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(help="CSV exports of Search Console or GA4: pages by day.", show_default=False),
    ],
    site: Annotated[str, typer.Option(help="Name of the site.")],
    day: Annotated[
        str | None, typer.Option(help="The day (2026-11-24) of files that have no column of dates.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Pages of other hosts are left out; default: of the site's profile.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only read and check.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Take the figures of one or more files: all of them, or none where a single cell is wrong.

    Figures of the same page and day are replaced, so a file may be imported again, and exports may overlap.
    """
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from datetime import UTC, datetime, timedelta
        from urllib.parse import urlsplit

        from lead_coordinator.cli.target import find_database
        from lead_coordinator.database.connection import Database
        from lead_coordinator.database.revenue import import_page_metrics
        from lead_coordinator.database.sites import get_site
        from lead_coordinator.pipelines.profile import SiteProfile
        from lead_coordinator.pipelines.revenue.exports import read_metrics
        from lead_coordinator.settings import Settings

        single = None if day is None else _day(day)
        today = datetime.now(UTC).date() + timedelta(days=1)  # somewhere it is tomorrow already
        if dry_run and host is not None:
            _say(
                [(file, read_metrics(file, day=single, host=host, today=today), None) for file in files],
                as_json,
            )
            return
        with Database(find_database(Settings.load())[0]) as database:
            profile = SiteProfile.read(site, get_site(database, site) or {})
            if host is None:
                host = urlsplit(profile.url or "").hostname
            read = [(file, read_metrics(file, day=single, host=host, today=today)) for file in files]
            answers: list[tuple[Path, MetricsFile, Imported | None]] = []
            if dry_run:
                answers = [(file, content, None) for file, content in read]
            else:
                with database.connection() as connection, connection.transaction():
                    for file, content in read:
                        answers.append((file, content, import_page_metrics(database, site, content.rows)))
        _say(answers, as_json)


def _day(text: str) -> "date":
    from datetime import date

    from lead_coordinator.errors import InvalidInput

    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"--day: {text[:40]!r} given, a date such as 2026-11-24 is needed") from None


def _say(answers: "list[tuple[Path, MetricsFile, Imported | None]]", as_json: bool) -> None:
    if as_json:
        from lead_coordinator.database.json import dumps

        typer.echo(
            dumps(
                [
                    {
                        "file": str(file),
                        "rows": len(content.rows),
                        "pages": content.pages,
                        "first_day": content.days[0],
                        "last_day": content.days[1],
                        "measures": list(content.measures),
                        "left_out": dict(content.left_out),
                        "inserted": None if imported is None else imported.inserted,
                        "updated": None if imported is None else imported.updated,
                    }
                    for file, content, imported in answers
                ]
            )
        )
        return
    for file, content, imported in answers:
        first, last = content.days
        did = (
            "nothing written" if imported is None else f"{imported.inserted} new, {imported.updated} replaced"
        )
        typer.echo(
            f"{file.name}: {len(content.rows)} rows of {content.pages} pages, {first} to {last} "
            f"({', '.join(content.measures)}): {did}."
        )
        for reason, count in content.left_out.items():
            typer.echo(f"  left out: {count} {reason}")
