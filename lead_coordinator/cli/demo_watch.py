"""The demo's eyes: waits until something is so, shows how it goes, samples memory and connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg

from lead_coordinator.cli.demo_examples import ARTICLES_SITE, PLANTED_SITE
from lead_coordinator.cli.platform.processes import memory_bytes
from lead_coordinator.cli.platform.run import Platform
from lead_coordinator.cli.views import dollars, provider_table
from lead_coordinator.database.reports import get_platform_status
from lead_coordinator.errors import DatabaseError, LeadCoordinatorError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SAMPLE_SECONDS = 0.5
# A line where there is no terminal: when something has moved, else rarely.
PLAIN_LINE_SECONDS, QUIET_LINE_SECONDS = 3.0, 20.0
# The longest honest silence is a task's last retry (4 minutes and its jitter) and the batch after it.
SILENCE_SECONDS = 600.0
UNFINISHED = ("queued", "processing", "deferred")
# What tasks of each type are called on the screen.
WORK = {
    "intelligence_analysis": "looking for topics",
    "content_generation": "articles",
    "seo_analysis": "audits",
    "revenue_optimization": "ranking",
}
# Of this demo: what it submitted, and what followed from that (follow-ups name their site).
_COUNTS = """
SELECT t.task_type, t.status, count(*) AS n FROM lead.task AS t
WHERE t.id = ANY(%(ids)s) OR (t.created_at >= %(since)s AND t.payload ->> 'site' = ANY(%(sites)s))
GROUP BY t.task_type, t.status
"""


class DemoFailed(LeadCoordinatorError):
    """The demo can't go on; the sentence says where it stands."""


@dataclass
class Peaks:
    """The highest of what was sampled."""

    memory_bytes: int = 0
    processes: int = 0
    connections: int = 0


Counts = Mapping[str, Mapping[str, int]]


class Watch:
    """Looks at a running platform. `task_ids`: what the demo submitted itself."""

    def __init__(self, platform: Platform, console: Console | None) -> None:
        self.platform = platform
        self.console = console
        self.peaks = Peaks()
        self.task_ids: list[int] = []
        self.since = datetime.now(UTC)
        self.began = time.monotonic()

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Waits. DemoFailed when nothing has moved for SILENCE_SECONDS; StopRequested on Ctrl-C."""
        moved_at, last, said_at, said = time.monotonic(), None, 0.0, None
        with self._live() as live:
            while not done():
                self._sample()
                counts = self.counts()
                if counts != last:
                    moved_at, last = time.monotonic(), counts
                status = self._status()
                if live is not None and status is not None:
                    live.update(self.view(status, counts, what))
                elif status is not None and time.monotonic() - said_at >= (
                    PLAIN_LINE_SECONDS if counts != said else QUIET_LINE_SECONDS
                ):
                    said_at, said = time.monotonic(), counts
                    self._print(self.line(status, counts))
                if time.monotonic() - moved_at > SILENCE_SECONDS:
                    raise DemoFailed(
                        f"waited for {what}, and nothing has moved for {SILENCE_SECONDS:g} s: "
                        f"{self.line(status or {}, counts)}"
                    )
                self.platform.supervisor.pause(SAMPLE_SECONDS)
                self.platform.tend()

    def counts(self) -> Counts:
        """Task type → status → number, of this demo's tasks."""
        try:
            rows = self.platform.database.rows(
                _COUNTS,
                {"ids": self.task_ids, "since": self.since, "sites": [ARTICLES_SITE, PLANTED_SITE]},
            )
        except (DatabaseError, psycopg.Error):
            return {}
        found: dict[str, dict[str, int]] = {}
        for row in rows:
            found.setdefault(row["task_type"], {})[row["status"]] = row["n"]
        return found

    def _print(self, line: str) -> None:
        if self.console is not None:
            self.console.print(line, highlight=False, soft_wrap=True)

    def _live(self) -> AbstractContextManager[Any]:
        if self.console is None or not self.console.is_terminal:
            return nullcontext()
        from rich.live import Live

        # Log lines meanwhile are printed above the view, not through it.
        return Live(
            console=self.console,
            refresh_per_second=4,
            redirect_stdout=True,
            redirect_stderr=False,
            transient=True,
        )

    def _sample(self) -> None:
        processes = self.platform.processes()
        self.peaks.memory_bytes = max(self.peaks.memory_bytes, memory_bytes(processes))
        self.peaks.processes = max(self.peaks.processes, len(processes))
        try:
            row = self.platform.database.row(
                "SELECT count(*) AS clients FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND datname = current_database()"
            )
        except (DatabaseError, psycopg.Error):
            return  # the supervisor says what is wrong with the database, and mends it
        self.peaks.connections = max(self.peaks.connections, row["clients"] if row else 0)

    def _status(self) -> dict[str, Any] | None:
        try:
            return get_platform_status(self.platform.database)
        except (DatabaseError, psycopg.Error):
            return None

    # -- showing

    def line(self, status: Mapping[str, Any], counts: Counts) -> str:
        calls = ", ".join(
            f"{name} {p.get('used_last_60s', 0)} of {p.get('limit_per_minute')} ({p.get('breaker_state')})"
            for name, p in sorted(status.get("providers", {}).items())
        )
        work = "; ".join(f"{name} {progress(counts[kind])}" for kind, name in WORK.items() if kind in counts)
        return (
            f"{time.monotonic() - self.began:5.0f} s  {work or 'nothing yet'};"
            f" spent {dollars(status.get('budget', {}).get('spent_usd'), 4)}; calls a minute: {calls or '–'}"
        )

    def view(self, status: Mapping[str, Any], counts: Counts, what: str) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        executions, budget = status.get("executions", {}), status.get("budget", {})
        facts = [(name, progress(counts[kind])) for kind, name in WORK.items() if kind in counts]
        facts += [
            ("runs", f"{executions.get('running', 0)} of {executions.get('max_concurrent', '–')} at once"),
            (
                "spent",
                f"{dollars(budget.get('spent_usd'), 4)}, and {dollars(budget.get('held_usd'), 4)} held",
            ),
            (
                "peaks",
                f"{self.peaks.memory_bytes / 1024**2:,.0f} MB, {self.peaks.connections} connections",
            ),
        ]
        grid = Table.grid(padding=(0, 2, 0, 0))
        for name, text in facts:
            grid.add_row(Text(name, style="dim"), text)
        return Group(
            Text(),
            Text.assemble(
                ("Lead Coordinator ", "bold"),
                (self.platform.web_url, "cyan"),
                f"  {time.monotonic() - self.began:.0f} s, waiting for {what}",
            ),
            grid,
            provider_table(status.get("providers", {})),
        )


def progress(counts: Mapping[str, int]) -> str:
    """`3 of 12 done, 4 in work, 1 dead letter`."""
    parts = [f"{counts.get('completed', 0)} of {sum(counts.values())} done"]
    if counts.get("processing"):
        parts.append(f"{counts['processing']} in work")
    if counts.get("dead_letter"):
        parts.append(f"{counts['dead_letter']} dead letters")
    return ", ".join(parts)
