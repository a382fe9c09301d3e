"""All benchmarks of the control plane in one run, written into RESULTS.md.

    python -m benchmarks [--parts queues,enqueue,decision,money,dashboard] [--quick]

The whole takes about half an hour and wants a quiet machine. `--quick` shows in two minutes that everything
runs: small sizes, one round, figures that mean nothing. With it, or with some parts only, the section is
printed and RESULTS.md stays as it is. Exit code 1 when the whole ran and missed a target.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace

from benchmarks import dashboard, decision, enqueue, money, queues
from benchmarks.machine import describe
from benchmarks.record import write_section
from benchmarks.report import Figures, render, targets
from benchmarks.server import embedded_server
from lead_coordinator.database.embedded import EmbeddedServer

PARTS = ("queues", "enqueue", "decision", "money", "dashboard")


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    waiting: tuple[int, ...] = queues.WAITING
    batches: tuple[int, ...] = queues.BATCHES
    rounds: int = queues.ROUNDS
    enqueued: int = enqueue.TASKS
    # Of the numbers that wait when a decision is made.
    decision_divisor: int = 1
    decisions: int = decision.DECISIONS
    connections: int = money.CONNECTIONS
    money_seconds: float = money.SECONDS
    money_rounds: int = money.ROUNDS
    executions: int = dashboard.EXECUTIONS


QUICK = Sizes(
    waiting=(3_000,),
    rounds=1,
    enqueued=2_000,
    decision_divisor=10,
    decisions=10,
    connections=4,
    money_seconds=2,
    money_rounds=1,
    executions=20_000,
)


def measure(parts: set[str], sizes: Sizes) -> Figures:
    """Runs the parts, and prints what there is so far where one ends early."""
    with embedded_server() as server:
        figures = Figures(describe(server.url))
        print(figures.machine, file=sys.stderr)
        try:
            measure_into(figures, server, parts, sizes)
        except BaseException:
            print(render(figures))
            raise
    return figures


def measure_into(figures: Figures, server: EmbeddedServer, parts: set[str], sizes: Sizes) -> None:
    if "queues" in parts:
        figures.drained = queues.run(
            server, waiting=sizes.waiting, batches=sizes.batches, rounds=sizes.rounds
        )
    if "enqueue" in parts:
        figures.enqueued = enqueue.run(server, tasks=sizes.enqueued, rounds=sizes.rounds)
    if "decision" in parts:
        states = [
            replace(
                state,
                waiting=state.waiting // sizes.decision_divisor,
                claimed_before=state.claimed_before // sizes.decision_divisor,
            )
            for state in decision.STATES
        ]
        figures.decisions = decision.run(server, states, decisions=sizes.decisions)
    if "money" in parts:
        figures.money = money.run(server, sizes.connections, sizes.money_seconds, sizes.money_rounds)
    if "dashboard" in parts:
        figures.dashboard = dashboard.run(server, sizes.executions)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    parts = set(options.parts.split(","))
    if unknown := parts - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))} isn't one of {', '.join(PARTS)}")
    figures = measure(parts, QUICK if options.quick else Sizes())
    section = render(figures)
    print(section)
    if options.quick or parts != set(PARTS):
        return 0
    write_section("control plane", section)
    return 0 if all(target.reached for target in targets(figures)) else 1


if __name__ == "__main__":
    sys.exit(main())
