"""The floor: a table, an index, SKIP LOCKED, and no bookkeeping at all."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.types.json import Jsonb

from benchmarks.load import FILL_STEP, PAYLOAD_SQL, PRIORITY_SQL, payload, priority
from benchmarks.server import Stopwatch
from benchmarks.systems.base import WARM_UP_CALLS
from lead_coordinator.database.connection import connect

CREATE = """
CREATE TABLE job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    status text NOT NULL DEFAULT 'queued',
    priority integer NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz
);
CREATE INDEX job_waiting ON job (priority DESC, id) WHERE status = 'queued';
"""
FILL = (
    f"INSERT INTO job (priority, payload) SELECT {PRIORITY_SQL}, {PAYLOAD_SQL}"
    " FROM generate_series(%s::integer, %s::integer) AS n"
)
CLAIM = """
UPDATE job SET status = 'processing'
WHERE id = ANY (ARRAY(
    SELECT id FROM job WHERE status = 'queued' ORDER BY priority DESC, id LIMIT %s FOR UPDATE SKIP LOCKED
))
RETURNING *
"""
COMPLETE = "UPDATE job SET status = 'completed', completed_at = now() WHERE id = ANY (%s)"
ENQUEUE = (
    "INSERT INTO job (priority, payload)"
    " SELECT (t ->> 'priority')::integer, t -> 'payload' FROM jsonb_array_elements(%s) AS t"
)


class Plain:
    name = "plain"
    largest_batch = None
    overshoots = False

    def create(self, url: str) -> None:
        with connect(url) as connection:
            connection.execute(CREATE)

    def fill(self, url: str, waiting: int) -> None:
        with connect(url) as connection:
            for first in range(1, waiting + 1, FILL_STEP):
                connection.execute(FILL, [first, min(waiting, first + FILL_STEP - 1)])

    def drain(self, url: str, tasks: int, batch: int) -> Stopwatch:
        with connect(url) as connection:

            def claim_and_complete(limit: int) -> int:
                claimed = connection.execute(CLAIM, [limit]).fetchall()
                connection.execute(COMPLETE, [[row["id"] for row in claimed]])
                return len(claimed)

            for _ in range(WARM_UP_CALLS):
                claim_and_complete(1)
            with Stopwatch((connection.info.backend_pid,)) as watch:
                left = tasks
                while left > 0:
                    left -= claim_and_complete(min(batch, left))
        return watch

    def count_completed(self, url: str) -> int:
        with connect(url) as connection:
            row = connection.execute("SELECT count(*) AS n FROM job WHERE status = 'completed'").fetchone()
        assert row is not None
        return int(row["n"])

    def enqueue(self, url: str, batches: Sequence[Sequence[int]]) -> Stopwatch:
        with connect(url) as connection, Stopwatch((connection.info.backend_pid,)) as watch:
            for numbers in batches:
                rows = [{"priority": priority(n), "payload": payload(n)} for n in numbers]
                connection.execute(ENQUEUE, [Jsonb(rows)])
        return watch
