"""The platform's own memory, told to the scheduler: the metric `platform_baseline_memory_mb`.

The scheduler gives out MEMORY_LIMIT_MB: so much for the platform itself, the rest in shares of a run's size
(`lead.capacity`). What the platform itself takes is measured here and reported twice a minute: everything but
the run workers, whose share is counted by execution. A metric older than five minutes counts for nothing, and
a careful assumption takes its place; so a database that can't be reached costs a log line and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import psutil
import psycopg

from lead_coordinator.cli.platform.logs import Terminal
from lead_coordinator.cli.platform.processes import is_run_worker, memory_bytes
from lead_coordinator.database.connection import Database
from lead_coordinator.database.control import record_health_metric
from lead_coordinator.errors import DatabaseError

METRIC = "platform_baseline_memory_mb"
EVERY_SECONDS = 30.0


def baseline_mb(processes: Iterable[psutil.Process]) -> int:
    """What these processes hold without the run workers among them, in MB of 2**20 bytes, rounded up."""
    return math.ceil(memory_bytes(p for p in processes if not is_run_worker(p)) / 2**20)


class BaselineReporter:
    """Reports when it is due. `processes` answers every process of the platform."""

    def __init__(
        self,
        processes: Callable[[], list[psutil.Process]],
        terminal: Terminal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processes = processes
        self._terminal = terminal
        self._clock = clock
        self._due_at = clock()
        self._failing = False

    def tend(self, database: Database) -> None:
        """Measures and reports if it is time to. Never raises for the database's sake."""
        if self._clock() < self._due_at:
            return
        self._due_at = self._clock() + EVERY_SECONDS
        try:
            record_health_metric(database, METRIC, baseline_mb(self._processes()), "MB", source="supervisor")
        except (DatabaseError, psycopg.Error) as error:
            if not self._failing:  # once is enough until it works again
                reason = str(error).partition("\n")[0]
                self._terminal.say("platform", f"the platform's memory can't be reported: {reason}")
            self._failing = True
        else:
            self._failing = False
