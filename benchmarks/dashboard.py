"""`get_coordinator_dashboard(24)` over a long past: how long a call takes, as a client sees it.

    python -m benchmarks.dashboard [--executions 1000000] [--calls 50]

The past is ninety days of executions, evenly spread over types and hours, each with its task, attempt and
call (see `dashboard.sql`), vacuumed and analysed. What the dashboard says of the last 24 hours is compared
with a count of the raw rows, so that a fast answer is a right one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.load import FILL_STEP
from benchmarks.server import create_database, deploy_control_plane, drop_database, embedded_server
from lead_coordinator.cli.demo_report import percentile
from lead_coordinator.database.connection import Database
from lead_coordinator.database.embedded import EmbeddedServer

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DAYS = 90
HOURS = 24
EXECUTIONS = 1_000_000
CALLS = 50
_FUNCTIONS = Path(__file__).with_suffix(".sql").read_text()
_RAW = """
SELECT count(*) AS executions FROM public.workflow_orchestration
WHERE completed_at BETWEEN date_trunc('hour', %(now)s) - make_interval(hours => %(hours)s) AND %(now)s
"""


@dataclass(frozen=True)
class Dashboard:
    """Milliseconds of each call, and the executions of the range that it reported."""

    executions: int
    in_range: int
    milliseconds: tuple[float, ...]

    def quantile(self, q: float) -> float:
        found = percentile(sorted(self.milliseconds), q)
        assert found is not None
        return found


def fill(db: Database, executions: int) -> None:
    with db.connection() as connection:
        connection.execute(_FUNCTIONS)
        for first in range(1, executions + 1, FILL_STEP):
            connection.execute(
                "SELECT pg_temp.fill_the_past(%s, %s, %s, %s, %s)",
                [first, min(executions, first + FILL_STEP - 1), executions, DAYS, NOON],
            )
        connection.execute("SELECT pg_temp.fill_what_goes_with_it(%s, %s)", [DAYS, NOON])
        connection.execute("VACUUM (ANALYZE)")


def run(server: EmbeddedServer, executions: int = EXECUTIONS, calls: int = CALLS) -> Dashboard:
    url = create_database(server, "dashboard")
    deploy_control_plane(url, scratch_database="true")
    taken: list[float] = []
    reported = 0
    with Database(url) as db:
        fill(db, executions)
        for _ in range(calls):
            began = time.perf_counter()
            answer = db.call("get_coordinator_dashboard", hours_back=HOURS, current_time=NOON)
            taken.append(1000 * (time.perf_counter() - began))
            reported = int(answer["coordinator_dashboard"]["execution_stats"]["total_executions"])
        raw = db.row(_RAW, {"now": NOON, "hours": HOURS})
    drop_database(server, "dashboard")
    assert raw is not None
    if reported != raw["executions"]:
        raise SystemExit(f"the dashboard reports {reported} executions, and there were {raw['executions']}")
    return Dashboard(executions, reported, tuple(taken))


def table(measured: Dashboard) -> list[str]:
    """The lines of a Markdown table."""
    return [
        "| past executions | of the last 24 h | calls | p50 ms | p95 ms | max ms |",
        "|---|---|---|---|---|---|",
        f"| {measured.executions:,} | {measured.in_range:,} | {len(measured.milliseconds)} |"
        f" {measured.quantile(0.5):.1f} | {measured.quantile(0.95):.1f} | {max(measured.milliseconds):.1f} |",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--executions", type=int, default=EXECUTIONS)
    parser.add_argument("--calls", type=int, default=CALLS)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    with embedded_server() as server:
        print("\n".join(table(run(server, options.executions, options.calls))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
