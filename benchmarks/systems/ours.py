"""The control plane: `claim_tasks` and `complete_tasks`, with priorities, ageing, fencing and attempt rows.

Half of what waits is older than the 30 minutes after which a task ages. With `tenants` a third belongs to
tenants, so that every batch is shared out fairly among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg.types.json import Jsonb

from benchmarks.load import fill_control_plane, payload, priority
from benchmarks.server import Stopwatch, deploy_control_plane
from benchmarks.systems.base import WARM_UP_CALLS
from lead_coordinator.database.connection import connect

TASK_TYPE = "content_generation"
# The time that the database is told, so that the half that is old stays a half however long a run takes.
NOW = datetime.now(UTC)
OLDEST = timedelta(minutes=60)
TENANTS = tuple(f"tenant-{number}" for number in range(5))
CLAIM = "SELECT * FROM public.claim_tasks('benchmark', %s, %s, p_current_time => %s)"
COMPLETE = "SELECT public.complete_tasks(%s, %s, p_current_time => %s)"
ENQUEUE = "SELECT public.submit_tasks(%s, %s) AS answer"
INSERT = (
    "INSERT INTO public.task_queue (task_type, priority_base, payload)"
    " SELECT %s, (t ->> 'priority')::integer, t -> 'payload' FROM jsonb_array_elements(%s) AS t"
)


@dataclass
class Ours:
    tenants: bool = False
    largest_batch: int | None = None
    overshoots = False

    @property
    def name(self) -> str:
        return "ours-tenants" if self.tenants else "ours"

    def create(self, url: str) -> None:
        deploy_control_plane(url, clock_tolerance_seconds="86400")

    def fill(self, url: str, waiting: int) -> None:
        fill_control_plane(url, waiting, now=NOW, oldest=OLDEST, tenants=TENANTS if self.tenants else ())

    def drain(self, url: str, tasks: int, batch: int) -> Stopwatch:
        with connect(url) as connection:

            def claim_and_complete(limit: int) -> int:
                claimed = connection.execute(CLAIM, [TASK_TYPE, limit, NOW]).fetchall()
                lease = claimed[0]
                connection.execute(COMPLETE, [lease["execution_id"], lease["fence"], NOW])
                return len(claimed)

            for _ in range(WARM_UP_CALLS):
                claim_and_complete(1)
            with Stopwatch((connection.info.backend_pid,)) as watch:
                left = tasks
                while left > 0:
                    left -= claim_and_complete(min(batch, left))
        return watch

    def count_completed(self, url: str) -> int:
        """Tasks that are completed and have exactly one attempt that says so."""
        with connect(url) as connection:
            row = connection.execute(
                "SELECT count(*) AS n FROM lead.task AS t WHERE t.status = 'completed' AND"
                " (SELECT array_agg(a.outcome) FROM lead.task_attempt AS a WHERE a.task_id = t.id)"
                " = ARRAY['completed']"
            ).fetchone()
        assert row is not None
        return int(row["n"])

    def enqueue(self, url: str, batches: Sequence[Sequence[int]]) -> Stopwatch:
        with connect(url) as connection, Stopwatch((connection.info.backend_pid,)) as watch:
            for numbers in batches:
                rows = [
                    {"task_type": TASK_TYPE, "payload": payload(n), "priority": priority(n)} for n in numbers
                ]
                connection.execute(ENQUEUE, [Jsonb(rows), NOW])
        return watch


@dataclass
class OursBare(Ours):
    """Tasks that come by a bare INSERT, as outsiders submit them."""

    @property
    def name(self) -> str:
        return "ours, bare INSERT"

    def enqueue(self, url: str, batches: Sequence[Sequence[int]]) -> Stopwatch:
        with connect(url) as connection, Stopwatch((connection.info.backend_pid,)) as watch:
            for numbers in batches:
                rows = [{"priority": priority(n), "payload": payload(n)} for n in numbers]
                connection.execute(INSERT, [TASK_TYPE, Jsonb(rows)])
        return watch
