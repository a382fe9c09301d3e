"""What a queue must be able to do to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from benchmarks.server import Stopwatch

# Calls of one task before a clock runs: a worker is long-lived, and its connection has planned and cached.
WARM_UP_CALLS = 10


class QueueSystem(Protocol):
    """One queue. Every method is given the address of a database that holds nothing else."""

    @property
    def name(self) -> str:
        """As it is called in the results."""

    @property
    def largest_batch(self) -> int | None:
        """The largest batch that can be asked for; None for as many as one likes."""

    @property
    def overshoots(self) -> bool:
        """Whether its worker stops only some tasks after it is told to, and takes no warm-up."""

    def create(self, url: str) -> None:
        """Tables and functions."""

    def fill(self, url: str, waiting: int) -> None:
        """So many waiting tasks, written in whatever way is fastest; this isn't measured."""

    def drain(self, url: str, tasks: int, batch: int) -> Stopwatch:
        """Claims and completes so many tasks, so many at a time, after a warm-up; a transaction a call."""

    def count_completed(self, url: str) -> int:
        """Tasks that the tables hold as completed."""

    def enqueue(self, url: str, batches: Sequence[Sequence[int]]) -> Stopwatch:
        """Submits the rows of these numbers, a transaction for each batch."""
