"""procrastinate over psycopg: its manager's `fetch_job` and `finish_job`.

A call takes one job. The size of a batch is therefore how many workers fetch at once here, each with a
connection of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import uvloop
from procrastinate import PsycopgConnector
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.schema import SchemaManager

from benchmarks.load import payload, priority
from benchmarks.server import Stopwatch
from benchmarks.systems.base import WARM_UP_CALLS

QUEUE = "content"
APPLICATION = "procrastinate"
FILL_BATCH = 5_000


@asynccontextmanager
async def connected(url: str, connections: int = 1) -> AsyncIterator[PsycopgConnector]:
    connector = PsycopgConnector(
        conninfo=url, min_size=connections, max_size=connections, kwargs={"application_name": APPLICATION}
    )
    await connector.open_async()
    try:
        yield connector
    finally:
        await connector.close_async()


def backends(url: str) -> tuple[int, ...]:
    """The processes of the server that its connections talk to."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
            [APPLICATION],
        ).fetchall()
    return tuple(row[0] for row in rows)


async def submit(manager: JobManager, numbers: Sequence[int]) -> None:
    await manager.batch_defer_jobs_async(
        [
            Job(
                queue=QUEUE,
                task_name="write",
                priority=priority(n),
                lock=None,
                queueing_lock=None,
                task_kwargs=payload(n),
            )
            for n in numbers
        ]
    )


class Procrastinate:
    name = "procrastinate"
    largest_batch = 10
    overshoots = False

    def create(self, url: str) -> None:
        async def install() -> None:
            async with connected(url) as connector:
                await SchemaManager(connector).apply_schema_async()

        uvloop.run(install())

    def fill(self, url: str, waiting: int) -> None:
        async def fill() -> None:
            async with connected(url) as connector:
                manager = JobManager(connector)
                for first in range(1, waiting + 1, FILL_BATCH):
                    await submit(manager, range(first, min(waiting, first + FILL_BATCH - 1) + 1))

        uvloop.run(fill())

    def drain(self, url: str, tasks: int, batch: int) -> Stopwatch:
        async def drain() -> Stopwatch:
            async with connected(url, connections=batch) as connector:
                manager = JobManager(connector)
                worker_id = await manager.register_worker()

                async def claim_and_complete() -> None:
                    job = await manager.fetch_job(queues=None, worker_id=worker_id)
                    assert job is not None
                    await manager.finish_job(job, Status.SUCCEEDED, delete_job=False)

                async def work(count: int) -> None:
                    for _ in range(count):
                        await claim_and_complete()

                await work(WARM_UP_CALLS)
                with Stopwatch(backends(url)) as watch:
                    await asyncio.gather(*(work(tasks // batch) for _ in range(batch)))
                return watch

        return uvloop.run(drain())

    def count_completed(self, url: str) -> int:
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM procrastinate_jobs AS j WHERE j.status = 'succeeded' AND"
                " (SELECT count(*) FROM procrastinate_events AS e"
                " WHERE e.job_id = j.id AND e.type = 'succeeded') = 1"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def enqueue(self, url: str, batches: Sequence[Sequence[int]]) -> Stopwatch:
        async def enqueue() -> Stopwatch:
            async with connected(url) as connector:
                manager = JobManager(connector)
                with Stopwatch(backends(url)) as watch:
                    for numbers in batches:
                        await submit(manager, numbers)
                return watch

        return uvloop.run(enqueue())
