"""Enqueue: tasks a second that each queue takes in, a thousand a call, through its own interface.

    python -m benchmarks.enqueue [--systems …] [--tasks 20000] [--batch 1000] [--rounds 5]

Each system begins a round with an empty, fresh database and one connection; the payloads are the same. What
a client does to hand them over (JSON, arrays) counts. Our bare INSERT is what an outsider does: no function
of ours is called, and the triggers keep what may be claimed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.server import create_database, drop_database, embedded_server
from benchmarks.systems import make_systems
from lead_coordinator.database.embedded import EmbeddedServer

SYSTEMS = ("ours", "ours-bare", "plain", "pgqueuer", "procrastinate")
TASKS = 20_000
BATCH = 1_000
ROUNDS = 5


@dataclass(frozen=True)
class Enqueued:
    """One round of one system. Times are in seconds."""

    system: str
    batch: int
    tasks: int
    wall_seconds: float
    server_cpu_seconds: float


def run(
    server: EmbeddedServer,
    systems: Sequence[str] = SYSTEMS,
    tasks: int = TASKS,
    batch: int = BATCH,
    rounds: int = ROUNDS,
) -> list[Enqueued]:
    batches = [range(first, min(tasks, first + batch)) for first in range(0, tasks, batch)]
    made = make_systems(systems)
    for number, system in enumerate(made):
        system.create(create_database(server, f"empty_{number}"))
    done: list[Enqueued] = []
    for _ in range(rounds):
        for number, system in enumerate(made):
            watch = system.enqueue(create_database(server, "fresh", f"empty_{number}"), batches)
            drop_database(server, "fresh")
            done.append(Enqueued(system.name, batch, tasks, watch.wall_seconds, watch.server_cpu_seconds))
    for number in range(len(made)):
        drop_database(server, f"empty_{number}")
    return done


def table(done: Sequence[Enqueued]) -> list[str]:
    """The lines of a Markdown table: medians over the rounds."""
    lines = ["| system | a call | tasks a second | server CPU, µs a task |", "|---|---|---|---|"]
    for system in dict.fromkeys(one.system for one in done):
        mine = [one for one in done if one.system == system]
        lines.append(
            f"| {system} | {mine[0].batch:,} | {median(one.tasks / one.wall_seconds for one in mine):,.0f}"
            f" | {1e6 * median(one.server_cpu_seconds / one.tasks for one in mine):,.0f} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    with embedded_server() as server:
        done = run(server, options.systems.split(","), options.tasks, options.batch, options.rounds)
    print("\n".join(table(done)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
