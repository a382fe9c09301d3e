"""A slice of a crawl: addresses come from a frontier, are visited many at once, and go back with what they
led to, some tens at a time.

Whatever was recorded stays when the process dies; the rest is still in the frontier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lead_coordinator.pipelines.seo.visit import Site, Visited, Waiting, visit
from lead_coordinator.web.fetch import Fetcher

# What a process that dies has to visit again.
BATCH = 40
# Addresses longer than that aren't kept: an index of the database couldn't hold them.
MAX_URL = 2000


class Frontier(Protocol):
    """Where addresses wait. An audit's lies in the database; a test's in memory."""

    async def next(self, limit: int) -> Sequence[Waiting]:
        """The next to visit, best first; none when all are visited."""
        ...

    async def record(self, visited: Sequence[Visited]) -> int:
        """Keeps what was visited and takes in what it led to. How many wait now."""
        ...


@dataclass(frozen=True)
class Slice:
    """`visited`: addresses; `waiting`: what is left, 0 when the crawl is done."""

    visited: int
    waiting: int


async def crawl_slice(
    fetcher: Fetcher,
    site: Site,
    frontier: Frontier,
    *,
    seconds_left: Callable[[], float],
    batch: int = BATCH,
) -> Slice:
    """Visits until the frontier is empty or the time is over. What is under way then stays there."""
    visited = 0
    while True:
        waiting = await frontier.next(batch)
        if not waiting:
            return Slice(visited, 0)
        if seconds_left() <= 0:
            return Slice(visited, len(waiting))
        done = await _visit_all(fetcher, site, waiting, seconds_left())
        if done:
            await frontier.record(done)
        visited += len(done)
        if len(done) < len(waiting):
            return Slice(visited, len(waiting) - len(done))


async def _visit_all(
    fetcher: Fetcher, site: Site, waiting: Sequence[Waiting], seconds: float
) -> list[Visited]:
    """What could be visited in so many seconds."""
    places = asyncio.Semaphore(site.settings.concurrency)

    async def one(address: Waiting) -> Visited:
        async with places:
            return await visit(fetcher, site, address)

    tasks = [asyncio.ensure_future(one(address)) for address in waiting]
    try:
        await asyncio.wait(tasks, timeout=seconds)
        return [task.result() for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
