"""The decision: how long `orchestrate_workflow_execution` takes, by how much waits and in which state.

    python -m benchmarks.decision [--states …] [--slots 3,10] [--decisions 200]

Four enabled types wait for slots, a quarter of the tasks each, priorities varied, the ages spread over an
hour. Every decision is timed as a client sees it, with its commit. It finds all slots free, so it really
allocates, holds budget, claims tasks and writes executions; what it dispatched is started and completed
before the next one, and as many tasks of the same types are submitted, so that the number waiting stays.
That goes untimed. The time it is told moves on by a second a decision.

States: `10k`, `100k`, `1m` are vacuumed and analysed after filling, and autovacuum is on. Autovacuum is off
for `1m-loaded` (a million right after loading: no statistics), `1m-aged` (every row older than the 30 minutes
after which a task ages; vacuumed and analysed) and `1m-dead` (a million waiting, after another million was
claimed and completed just before, ten thousand at a time, with no vacuum: the rows that are dead are those
that any claim meets first).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

from benchmarks.load import fill_control_plane
from benchmarks.server import create_database, deploy_control_plane, drop_database, embedded_server
from lead_coordinator.cli.demo_report import percentile
from lead_coordinator.database.connection import Database
from lead_coordinator.database.embedded import EmbeddedServer

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
TASK_TYPES = ("content_generation", "seo_analysis", "revenue_optimization", "intelligence_analysis")
DECISIONS = 200
SLOTS = (3, 10)
CLAIM = 10_000
# As many tasks as an execution held, for its type, put where the old ones came from.
REPLACE = """
INSERT INTO lead.task (task_type, payload, priority_base, created_at, queued_at)
SELECT t.task_type, t.payload, t.priority_base, %(now)s, %(now)s
FROM lead.task AS t WHERE t.id = ANY (%(task_ids)s)
"""


@dataclass(frozen=True)
class State:
    """What a decision finds. `claimed_before`: tasks claimed and completed before it, and not vacuumed."""

    name: str
    waiting: int
    oldest: timedelta = timedelta(minutes=60)
    youngest: timedelta = timedelta(0)
    vacuumed: bool = True
    autovacuum: bool = True
    claimed_before: int = 0


STATES = (
    State("10k", 10_000),
    State("100k", 100_000),
    State("1m", 1_000_000),
    State("1m-loaded", 1_000_000, vacuumed=False, autovacuum=False),
    State("1m-aged", 1_000_000, oldest=timedelta(days=2), youngest=timedelta(minutes=31), autovacuum=False),
    State("1m-dead", 1_000_000, autovacuum=False, claimed_before=1_000_000),
)
BASE = "10k"


@dataclass(frozen=True)
class Decisions:
    """Milliseconds of each decision, in order, and what they dispatched on the whole."""

    state: str
    slots: int
    milliseconds: tuple[float, ...]
    executions: int
    tasks: int

    def quantile(self, q: float) -> float:
        found = percentile(sorted(self.milliseconds), q)
        assert found is not None
        return found


def set_autovacuum(server: EmbeddedServer, on: bool) -> None:
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET autovacuum = {'on' if on else 'off'}")
        connection.execute("SELECT pg_reload_conf()")


def prepare(server: EmbeddedServer, state: State, name: str) -> None:
    """A database in that state, to be copied."""
    url = create_database(server, name)
    deploy_control_plane(
        url, scratch_database="true", daily_budget_usd="1000000", memory_limit_mb="65536",
        max_concurrent_workflows="10",
    )  # fmt: skip
    with Database(url) as db:
        db.execute("UPDATE lead.workflow_policy SET enabled = true")
        fill_control_plane(
            url, state.waiting + state.claimed_before, now=NOON, oldest=state.oldest, youngest=state.youngest,
            task_types=TASK_TYPES,
        )  # fmt: skip
        if state.vacuumed:
            db.execute("VACUUM (ANALYZE)")
        for task_type in TASK_TYPES:
            left = state.claimed_before // len(TASK_TYPES)
            while left > 0:
                claimed = db.rows(
                    "SELECT execution_id, fence FROM claim_tasks('before', %s, %s, 60, %s)",
                    [task_type, min(left, CLAIM), NOON],
                )
                db.call("complete_tasks", **claimed[0], current_time=NOON)
                left -= len(claimed)
        db.execute("SELECT lead.fold_queue_depth()")


def finish_and_replace(db: Database, now: datetime) -> tuple[int, int]:
    """Ends what was dispatched as a run would, and submits as many tasks; answers executions and tasks."""
    offered = db.rows("SELECT execution_id, launch_number FROM launchable_executions(100, %s)", [now])
    tasks = 0
    for execution in offered:
        started = db.call("start_execution", **execution, run_id="benchmark", current_time=now)
        task_ids = [task["task_id"] for task in started["tasks"]]
        tasks += db.call(
            "complete_tasks",
            execution_id=execution["execution_id"],
            fence=started["fence"],
            current_time=now,
        )
        db.execute(REPLACE, {"task_ids": task_ids, "now": now})
    return len(offered), tasks


def decide(url: str, state: str, slots: int, decisions: int) -> Decisions:
    taken: list[float] = []
    executions = tasks = 0
    with Database(url) as db:
        for number in range(decisions):
            now = NOON + timedelta(seconds=number)
            began = time.perf_counter()
            answer = db.call(
                "orchestrate_workflow_execution",
                worker_id="benchmark", current_time=now, max_concurrent=slots,
            )  # fmt: skip
            taken.append(1000 * (time.perf_counter() - began))
            if answer["workflows_dispatched"] != slots:
                raise SystemExit(f"{state}: {slots} executions were to be dispatched: {answer}")
            ended, completed = finish_and_replace(db, now)
            executions, tasks = executions + ended, tasks + completed
    return Decisions(state, slots, tuple(taken), executions, tasks)


def run(
    server: EmbeddedServer,
    states: Sequence[State] = STATES,
    slots: Sequence[int] = SLOTS,
    decisions: int = DECISIONS,
) -> list[Decisions]:
    measured: list[Decisions] = []
    for state in states:
        set_autovacuum(server, state.autovacuum)
        name = f"decision_{state.name}"
        prepare(server, state, name)
        for count in slots:
            url = create_database(server, "fresh", template=name)
            measured.append(decide(url, state.name, count, decisions))
            drop_database(server, "fresh")
            print(f"{state.name}, {count} slots: p50 {measured[-1].quantile(0.5):.1f} ms", file=sys.stderr)
        drop_database(server, name)
    set_autovacuum(server, True)
    return measured


def by_base(one: Decisions, measured: Sequence[Decisions]) -> float | None:
    """Its p50 by that with the fewest tasks waiting and as many slots; None where that wasn't measured."""
    base = [m for m in measured if m.state == BASE and m.slots == one.slots]
    return one.quantile(0.5) / base[0].quantile(0.5) if base else None


def table(measured: Sequence[Decisions]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [
        "| state | slots | p50 ms | p95 ms | max ms | first ms | p50 by that at 10k | executions | tasks |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in measured:
        ratio = by_base(one, measured)
        shown = "" if ratio is None else f"{ratio:.2f}"
        count = len(one.milliseconds)
        lines.append(
            f"| {one.state} | {one.slots} | {one.quantile(0.5):.1f} | {one.quantile(0.95):.1f}"
            f" | {max(one.milliseconds):.1f} | {one.milliseconds[0]:.1f} | {shown}"
            f" | {one.executions / count:.1f} | {one.tasks / count:.0f} |"
        )
    return lines


def chosen_states(names: str) -> list[State]:
    known = {state.name: state for state in STATES}
    for name in names.split(","):
        if name not in known:
            raise SystemExit(f"--states: {name} isn't one of {', '.join(known)}")
    return [known[name] for name in names.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", default=",".join(state.name for state in STATES))
    parser.add_argument("--slots", default=",".join(map(str, SLOTS)))
    parser.add_argument("--decisions", type=int, default=DECISIONS)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    with embedded_server() as server:
        measured = run(
            server,
            chosen_states(options.states),
            [int(count) for count in options.slots.split(",")],
            options.decisions,
        )
    print("\n".join(table(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
