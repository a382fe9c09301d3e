"""Claim and complete: ours against the plain SKIP LOCKED queue and against peers, in one run on one server.

    python -m benchmarks.queues [--systems ours,plain] [--batches 1,10,100,1000] [--waiting 20000,1000000]
                                [--rounds 5]

For each number of waiting tasks each system fills a database once, and it is vacuumed and analysed. In each
round each system gets a fresh copy of it (a copy of files, after a checkpoint), warms its connection up with
ten tasks, and drains the same number of tasks from the same load with the same payloads. Systems take turns
within a round, and who begins moves on with the round, so that whatever else the machine does hits all alike.
Printed are medians; the ratios to the plain queue and to pgqueuer are taken within each round first.

How many tasks were completed is counted in the tables after each drain.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import psycopg

from benchmarks.server import create_database, drop_database, embedded_server
from benchmarks.systems import SYSTEMS, make_systems
from benchmarks.systems.base import WARM_UP_CALLS, QueueSystem
from lead_coordinator.database.embedded import EmbeddedServer

BATCHES = (1, 10, 100, 1_000)
WAITING = (20_000, 1_000_000)
ROUNDS = 5
# Tasks of a drain: enough for a figure, few enough that the whole stays within an hour.
TASKS = {1: 500, 10: 2_000, 100: 10_000, 1_000: 10_000}
FLOOR = "plain"


@dataclass(frozen=True)
class Drained:
    """One drain. Times are in seconds."""

    system: str
    waiting: int
    batch: int
    round_number: int
    tasks: int
    wall_seconds: float
    server_cpu_seconds: float

    @property
    def tasks_per_second(self) -> float:
        return self.tasks / self.wall_seconds


def tasks_of(batch: int, waiting: int) -> int:
    """Never more than half of what waits, and whole batches."""
    wanted = min(TASKS.get(batch, 10_000), waiting // 2)
    return max(batch, wanted - wanted % batch)


def fill_template(server: EmbeddedServer, system: QueueSystem, waiting: int) -> str:
    """A filled database to copy from, vacuumed and analysed; answers its name."""
    name = f"{system.name}_{waiting}"
    url = create_database(server, name)
    system.create(url)
    system.fill(url, waiting)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
    return name


def drain_copy(
    server: EmbeddedServer, system: QueueSystem, waiting: int, batch: int, round_number: int
) -> Drained:
    tasks = tasks_of(batch, waiting)
    url = create_database(server, "fresh", template=f"{system.name}_{waiting}")
    try:
        watch = system.drain(url, tasks, batch)
        completed = system.count_completed(url)
    finally:
        drop_database(server, "fresh")
    if system.overshoots and completed >= tasks:
        tasks = completed
    elif completed != tasks + WARM_UP_CALLS:
        raise SystemExit(
            f"{system.name}: {completed} tasks completed, and {tasks + WARM_UP_CALLS} were to be"
        )
    return Drained(
        system.name, waiting, batch, round_number, tasks, watch.wall_seconds, watch.server_cpu_seconds
    )


def compare(
    server: EmbeddedServer, systems: Sequence[QueueSystem], waiting: int, batches: Sequence[int], rounds: int
) -> list[Drained]:
    drained: list[Drained] = []
    for system in systems:
        fill_template(server, system, waiting)
        print(f"{system.name}: {waiting:,} tasks wait", file=sys.stderr, flush=True)
    for batch in batches:
        for round_number in range(rounds):
            first = round_number % len(systems)
            for system in (*systems[first:], *systems[:first]):
                if system.largest_batch is None or batch <= system.largest_batch:
                    drained.append(drain_copy(server, system, waiting, batch, round_number))
        print(f"{waiting:,} waiting, {batch:,} a batch: done", file=sys.stderr, flush=True)
    for system in systems:
        drop_database(server, f"{system.name}_{waiting}")
    return drained


def of(drained: Sequence[Drained], system: str, waiting: int, batch: int) -> list[Drained]:
    return [d for d in drained if (d.system, d.waiting, d.batch) == (system, waiting, batch)]


def ratio(mine: Sequence[Drained], theirs: Sequence[Drained]) -> float | None:
    """Tasks a second by theirs in the same round, the median over the rounds; None where they had none."""
    pairs = [(m, t) for m in mine for t in theirs if m.round_number == t.round_number]
    return median(m.tasks_per_second / t.tasks_per_second for m, t in pairs) if pairs else None


def cpu_ratio(mine: Sequence[Drained], theirs: Sequence[Drained]) -> float | None:
    """`ratio`, of the processor time that the server's processes took a task."""
    pairs = [(m, t) for m in mine for t in theirs if m.round_number == t.round_number]
    if not pairs or min(t.server_cpu_seconds for _, t in pairs) == 0:
        return None
    return median(m.server_cpu_seconds / m.tasks / (t.server_cpu_seconds / t.tasks) for m, t in pairs)


def table(drained: Sequence[Drained]) -> list[str]:
    """The lines of a Markdown table: medians over the rounds."""
    lines = [
        "| waiting | a batch | system | tasks a second | by plain | by pgqueuer | server CPU, µs a task"
        " | by plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    systems = list(dict.fromkeys(d.system for d in drained))
    for waiting, batch in sorted({(d.waiting, d.batch) for d in drained}):
        plain, pgqueuer = (of(drained, name, waiting, batch) for name in (FLOOR, "pgqueuer"))
        for system in systems:
            if mine := of(drained, system, waiting, batch):
                shown = ("" if r is None else f"{r:.2f}" for r in (
                    ratio(mine, plain), ratio(mine, pgqueuer), cpu_ratio(mine, plain)
                ))  # fmt: skip
                by_plain, by_pgqueuer, cpu_by_plain = shown
                lines.append(
                    f"| {waiting:,} | {batch:,} | {system} | {median(d.tasks_per_second for d in mine):,.0f}"
                    f" | {by_plain} | {by_pgqueuer}"
                    f" | {1e6 * median(d.server_cpu_seconds / d.tasks for d in mine):,.0f} | {cpu_by_plain} |"
                )
    return lines


def run(
    server: EmbeddedServer,
    systems: Sequence[str] = SYSTEMS,
    waiting: Sequence[int] = WAITING,
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
) -> list[Drained]:
    made = make_systems(systems)
    return [one for count in waiting for one in compare(server, made, count, batches, rounds)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--waiting", default=",".join(map(str, WAITING)))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    with embedded_server() as server:
        drained = run(
            server,
            options.systems.split(","),
            [int(count) for count in options.waiting.split(",")],
            [int(batch) for batch in options.batches.split(",")],
            options.rounds,
        )
    print("\n".join(table(drained)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
