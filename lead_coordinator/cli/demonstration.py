"""The demo's course: start, submit, watch, measure, judge.

It measures what the product promises and prints it: memory and connections of the whole platform (sampled
twice a second), executions at once (exact, from their start and end times), refusals by the sandbox (its own
count), waiting, cost. A demo on a LEAD_HOME that was used before goes on there: topics that are published
already count as published and stay as they are.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg

from lead_coordinator.cli.demo_report import Figures, judge, measure, result_table
from lead_coordinator.cli.platform.logs import Terminal
from lead_coordinator.cli.platform.processes import memory_bytes
from lead_coordinator.cli.platform.run import Platform
from lead_coordinator.cli.submit import submit_rows
from lead_coordinator.cli.views import dollars, provider_table
from lead_coordinator.database.reports import get_platform_status
from lead_coordinator.errors import DatabaseError, LeadCoordinatorError
from lead_coordinator.pipelines.content.topics import BadRow, TopicRow
from lead_coordinator.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SAMPLE_SECONDS = 0.5
PLAIN_LINE_SECONDS = 5.0
# The longest honest silence is a task's last retry (4 minutes and its jitter) and the batch after it.
# Runs end within a second or two of their last article; a busy machine takes longer.
RUNS_END_SECONDS = 30.0
SILENCE_SECONDS = 600.0


class DemoFailed(LeadCoordinatorError):
    """The demo can't go on; the sentence says where it stands."""


@dataclass
class Peaks:
    """The highest of what was sampled."""

    memory_bytes: int = 0
    processes: int = 0
    connections: int = 0


class Demonstration:
    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        rows: Sequence[TopicRow],
        bad: Sequence[BadRow] = (),
        parent_pid: int | None = None,
    ) -> None:
        self.rows = rows
        self.bad = bad
        self.peaks = Peaks()
        self.terminal = Terminal(sys.stdout, only=("platform", "database", "sandbox"))
        self.platform = Platform(settings, environ, self.terminal, parent_pid=parent_pid)
        self.supervisor = self.platform.supervisor
        self.task_ids: list[int] = []
        self.began = time.monotonic()
        self.console: Console | None = None

    def run(self) -> bool:
        """The whole demo up to the printed table. True when every topic ended as it should."""
        from rich.console import Console

        self.console = Console()
        self.platform.start()
        submitted_at = datetime.now(UTC)
        before = self._sandbox_stats()
        taken, refused = submit_rows(self.platform.database, self.rows)
        self.task_ids = [task.task_id for _, task in taken]
        new = sum(1 for _, task in taken if task.created)
        known = f", {len(taken) - new} known from an earlier run" if new < len(taken) else ""
        self.terminal.say("platform", f"{new} topics submitted{known}; watch them in the UI, or here")
        if self.task_ids:
            self._watch()
            self._let_runs_end()
        figures = measure(self.platform.database, self.task_ids, submitted_at, self.platform.site_dir)
        sandbox = self._sandbox_stats()
        verdict = judge(
            figures, len(self.rows), [str(row) for row in refused], [str(row) for row in self.bad]
        )
        self.console.print(
            result_table(
                figures,
                self.peaks,
                sandbox_delta(before, sandbox),
                self.platform,
                elapsed_seconds=time.monotonic() - self.began,
            )
        )
        for problem in verdict:
            self.console.print(f"[red]not as it should be:[/red] {problem}", highlight=False)
        return not verdict

    def stay(self) -> None:
        """Leaves the platform up until it is told to stop."""
        self.terminal.only = None
        self.terminal.say(
            "platform", f"the platform stays up: the UI is at {self.platform.web_url}; Ctrl-C stops it"
        )
        while not self.supervisor.stopping.wait(SAMPLE_SECONDS):
            self.platform.tend()

    # -- watching

    def _watch(self) -> None:
        """Until every topic has ended. DemoFailed when nothing moves any more."""
        assert self.console is not None
        moved_at, last, said_at = time.monotonic(), None, 0.0
        with self._live() as live:
            while True:
                self._sample()
                counts = self._counts()
                if counts != last:
                    moved_at, last = time.monotonic(), counts
                status = self._status()
                if live is not None and status is not None:
                    live.update(self._view(status, counts))
                elif status is not None and time.monotonic() - said_at >= PLAIN_LINE_SECONDS:
                    said_at = time.monotonic()
                    self.console.print(self._line(status, counts), highlight=False, soft_wrap=True)
                if counts and not any(counts.get(state) for state in ("queued", "processing", "deferred")):
                    return
                if time.monotonic() - moved_at > SILENCE_SECONDS:
                    raise DemoFailed(
                        f"nothing has moved for {SILENCE_SECONDS:g} s: {self._line(status or {}, counts)}"
                    )
                self.supervisor.pause(SAMPLE_SECONDS)
                self.platform.tend()

    def _let_runs_end(self) -> None:
        """The last article is out a moment before its run ends: stopped now, it would count as failed."""
        deadline = time.monotonic() + RUNS_END_SECONDS
        while time.monotonic() < deadline and self._unfinished_runs():
            self.supervisor.pause(SAMPLE_SECONDS)
            self.platform.tend()

    def _unfinished_runs(self) -> bool:
        try:
            row = self.platform.database.row(
                "SELECT 1 FROM dagster.runs WHERE status IN ('STARTING', 'STARTED', 'CANCELING') LIMIT 1"
            )
        except (DatabaseError, psycopg.Error):
            return False
        return row is not None

    def _live(self) -> AbstractContextManager[Any]:
        assert self.console is not None
        if not self.console.is_terminal:
            return nullcontext()
        from rich.live import Live

        # Log lines meanwhile are printed above the view, not through it.
        return Live(console=self.console, refresh_per_second=4, redirect_stdout=True, redirect_stderr=False)

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

    def _counts(self) -> dict[str, int]:
        try:
            rows = self.platform.database.rows(
                "SELECT status, count(*) AS n FROM lead.task WHERE id = ANY(%s) GROUP BY status",
                [self.task_ids],
            )
        except (DatabaseError, psycopg.Error):
            return {}
        return {row["status"]: row["n"] for row in rows}

    def _status(self) -> dict[str, Any] | None:
        try:
            return get_platform_status(self.platform.database)
        except (DatabaseError, psycopg.Error):
            return None

    def _sandbox_stats(self) -> dict[str, Any]:
        from lead_coordinator.cli.platform.web import get_json

        if self.platform.sandbox_url is None:
            return {}
        return get_json(f"{self.platform.sandbox_url}/sandbox/stats") or {}

    # -- showing

    def _line(self, status: Mapping[str, Any], counts: Mapping[str, int]) -> str:
        providers = status.get("providers", {})
        calls = ", ".join(
            f"{name} {p.get('used_last_60s', 0)} of {p.get('limit_per_minute')} ({p.get('breaker_state')})"
            for name, p in sorted(providers.items())
        )
        return (
            f"{time.monotonic() - self.began:5.0f} s"
            f"  queue {waiting(counts)}, running {counts.get('processing', 0)},"
            f" published {counts.get('completed', 0)} of {len(self.task_ids)},"
            f" dead letters {counts.get('dead_letter', 0)},"
            f" spent {dollars(status.get('budget', {}).get('spent_usd'), 4)}; calls a minute: {calls or '–'}"
        )

    def _view(self, status: Mapping[str, Any], counts: Mapping[str, int]) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        executions, budget = status.get("executions", {}), status.get("budget", {})
        done = sum(counts.get(state, 0) for state in ("completed", "dead_letter", "cancelled", "failed"))
        runs = f"{executions.get('running', 0)} of {executions.get('max_concurrent', '–')} runs"
        facts = (
            (
                "queue",
                f"{waiting(counts)} topics",
                "in work",
                f"{counts.get('processing', 0)} topics in {runs}",
            ),
            ("published", f"{counts.get('completed', 0)}", "dead letters", f"{counts.get('dead_letter', 0)}"),
            ("spent", dollars(budget.get("spent_usd"), 4), "held", dollars(budget.get("held_usd"), 4)),
            (
                *("peak memory", f"{self.peaks.memory_bytes / 1024**2:,.0f} MB"),
                *("peak connections", str(self.peaks.connections)),
            ),
        )
        bar = Table.grid()
        bar.add_row(ProgressBar(total=max(len(self.task_ids), 1), completed=done, width=60))
        grid = Table.grid(padding=(0, 2, 0, 0))
        for name, text, other_name, other_text in facts:
            grid.add_row(Text(name, style="dim"), text, Text(other_name, style="dim"), other_text)
        return Group(
            Text(),
            Text.assemble(
                ("Lead Coordinator ", "bold"),
                (self.platform.web_url, "cyan"),
                f"  {time.monotonic() - self.began:.0f} s",
            ),
            bar,
            grid,
            provider_table(status.get("providers", {})),
        )


def waiting(counts: Mapping[str, int]) -> int:
    return counts.get("queued", 0) + counts.get("deferred", 0)


def sandbox_delta(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """What the sandbox counted since the demo began, per provider: calls and requests over the limit."""
    providers = after.get("providers", after)
    earlier = before.get("providers", before)
    return {
        name: {key: stats.get(key, 0) - earlier.get(name, {}).get(key, 0) for key in ("calls", "refused_429")}
        for name, stats in providers.items()
        if isinstance(stats, dict) and "calls" in stats
    }


__all__ = ["DemoFailed", "Demonstration", "Figures", "Peaks"]
