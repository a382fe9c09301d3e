"""pgqueuer over asyncpg, as its users run it, and without its worker.

`PgQueuer` is its queue manager in a process with one connection, with an entrypoint that does nothing: it
dequeues a batch, runs each job as a task of the loop, and logs as many results as it dequeues at once.
`PgQueuerQueries` is only what that says to the database, one batch after the other, as the clients of the
other systems do it: a batch is dequeued, and logged as successful, which moves it from the queue to the log.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import asyncpg
import uvloop
from pgqueuer.domain.types import QueueEntrypoint, QueueManagerId
from pgqueuer.models import Job
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from benchmarks.load import payload, priority
from benchmarks.server import Stopwatch
from benchmarks.systems.base import WARM_UP_CALLS

ENTRYPOINT = QueueEntrypoint("content")
# No limit on what one may do at once, as where no limit is configured.
ENTRYPOINTS = {ENTRYPOINT: EntrypointExecutionParameter(concurrency_limit=0)}
HEARTBEAT_TIMEOUT = timedelta(seconds=30)
FILL_BATCH = 5_000


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncpg.Connection, Queries]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection, Queries.from_asyncpg_connection(connection)
    finally:
        await connection.close()


async def submit(queries: Queries, numbers: Sequence[int]) -> None:
    await queries.enqueue(
        [ENTRYPOINT] * len(numbers),
        [json.dumps(payload(n)).encode() for n in numbers],
        [priority(n) for n in numbers],
    )


class PgQueuerQueries:
    name = "pgqueuer-queries"
    largest_batch = None
    overshoots = False

    def create(self, url: str) -> None:
        async def install() -> None:
            async with connected(url) as (_, queries):
                await queries.install()

        uvloop.run(install())

    def fill(self, url: str, waiting: int) -> None:
        async def fill() -> None:
            async with connected(url) as (_, queries):
                for first in range(1, waiting + 1, FILL_BATCH):
                    await submit(queries, range(first, min(waiting, first + FILL_BATCH - 1) + 1))

        uvloop.run(fill())

    def drain(self, url: str, tasks: int, batch: int) -> Stopwatch:
        async def drain() -> Stopwatch:
            async with connected(url) as (connection, queries):
                manager = QueueManagerId(uuid4())

                async def claim_and_complete(limit: int) -> int:
                    jobs = await queries.dequeue(limit, ENTRYPOINTS, manager, None, HEARTBEAT_TIMEOUT)
                    await queries.log_jobs([(job, "successful", None) for job in jobs])
                    return len(jobs)

                for _ in range(WARM_UP_CALLS):
                    await claim_and_complete(1)
                with Stopwatch((connection.get_server_pid(),)) as watch:
                    left = tasks
                    while left > 0:
                        left -= await claim_and_complete(min(batch, left))
                return watch

        return uvloop.run(drain())

    def count_completed(self, url: str) -> int:
        async def count() -> int:
            async with connected(url) as (connection, _):
                found = await connection.fetchval(
                    "SELECT count(DISTINCT l.job_id) FROM pgqueuer_log AS l WHERE l.status = 'successful'"
                    " AND NOT EXISTS (SELECT FROM pgqueuer AS q WHERE q.id = l.job_id)"
                )
                return int(found)

        return uvloop.run(count())

    def enqueue(self, url: str, batches: Sequence[Sequence[int]]) -> Stopwatch:
        async def enqueue() -> Stopwatch:
            async with connected(url) as (connection, queries):
                with Stopwatch((connection.get_server_pid(),)) as watch:
                    for numbers in batches:
                        await submit(queries, numbers)
                return watch

        return uvloop.run(enqueue())


class PgQueuer(PgQueuerQueries):
    name = "pgqueuer"
    overshoots = True

    def drain(self, url: str, tasks: int, batch: int) -> Stopwatch:
        async def drain() -> Stopwatch:
            async with connected(url) as (connection, queries):
                manager = QueueManager(queries)
                watch = Stopwatch((connection.get_server_pid(),))
                with ExitStack() as running:
                    done = 0

                    @manager.entrypoint(ENTRYPOINT)
                    async def nothing(job: Job) -> None:
                        nonlocal done
                        if done == 0:  # it has looked at its tables and listens
                            running.enter_context(watch)
                        done += 1
                        if done == tasks:
                            manager.shutdown.set()

                    await manager.run(batch_size=batch, heartbeat_timeout=HEARTBEAT_TIMEOUT)
                return watch

        return uvloop.run(drain())
