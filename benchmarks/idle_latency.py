"""How long a task takes from submission to its published page on a platform that has nothing else to do.

    python benchmarks/idle_latency.py [--tasks 40] [--latency fast|real] [--seed 1] [--target-p95 12]

Boots a platform over a LEAD_HOME of its own, submits one task at a time, each at a random moment after the
one before is published (the dispatch sensor looks every five seconds: what counts is the phase at which a
task comes), and prints the quantiles of where the time went. Exit code 1 when the 95th percentile is over the
target.
"""

from __future__ import annotations

import argparse
import os
import platform as machine
import random
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from lead_coordinator.cli.demo_report import percentile
from lead_coordinator.cli.platform.checks import load_settings
from lead_coordinator.cli.platform.logs import Terminal
from lead_coordinator.cli.platform.run import Platform
from lead_coordinator.cli.platform.supervisor import StopRequested
from lead_coordinator.cli.platform.web import free_port
from lead_coordinator.database.queue import NewTask, submit_task
from lead_coordinator.pipelines.content.brief import TASK_TYPE, parse_brief

PUBLISHED_WITHIN_SECONDS = 300.0
# Longer than the sensor's interval, so that every phase is as likely as any other.
RANDOM_PAUSE_SECONDS = 10.0
_TIMES = """
SELECT
    extract(epoch FROM e.created_at - t.created_at) AS planned,
    extract(epoch FROM e.started_at - e.created_at) AS started,
    extract(epoch FROM p.published_at - e.started_at) AS written,
    extract(epoch FROM p.published_at - t.created_at) AS total
FROM lead.task AS t
JOIN lead.publication AS p ON p.task_id = t.id
JOIN lead.task_attempt AS a ON a.task_id = t.id AND a.outcome = 'completed'
JOIN public.workflow_orchestration AS e ON e.execution_id = a.execution_id
WHERE t.id = %s AND t.status = 'completed' AND p.status = 'published'
"""
PARTS = ("planned", "started", "written", "total")


def measure_one(platform: Platform, number: int) -> dict[str, float]:
    """Submits a task and waits until it is published; the seconds of each part of its way."""
    brief = parse_brief({"title": f"Idle latency, task {number}", "keyword": "idle latency"})
    task = submit_task(platform.database, NewTask(TASK_TYPE, brief.payload()))
    deadline = time.monotonic() + PUBLISHED_WITHIN_SECONDS
    while (row := platform.database.row(_TIMES, [task.task_id])) is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"task {task.task_id} isn't published after {PUBLISHED_WITHIN_SECONDS:g} s")
        platform.supervisor.pause(0.1)
        platform.tend()
    return {part: float(row[part]) for part in PARTS}


def rest(platform: Platform, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        platform.supervisor.pause(min(left, 0.5))
        platform.tend()


def idle(platform: Platform) -> bool:
    row = platform.database.row(
        "SELECT count(*) AS n FROM public.workflow_orchestration WHERE status IN ('pending', 'running')"
    )
    return row is not None and row["n"] == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--latency", choices=("fast", "real"), default="fast")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target-p95", type=float, default=12.0, help="seconds")
    options = parser.parse_args()
    phases = random.Random(options.seed)
    taken: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="lead-bench-") as folder:
        settings, environ = load_settings(
            {
                "LEAD_HOME": Path(folder) / "home",
                "LEAD_WEB_PORT": free_port(),
                "LEAD_SANDBOX": "1",
                "SANDBOX_LATENCY": options.latency,
            }
        )
        platform = Platform(settings, environ, Terminal(sys.stderr))
        with platform.supervisor.signals():
            try:
                platform.start()
                for number in range(1, options.tasks + 1):
                    while not idle(platform):
                        rest(platform, 0.2)
                    rest(platform, phases.uniform(0, RANDOM_PAUSE_SECONDS))
                    taken.append(measure_one(platform, number))
                    print(
                        f"{number:3d}  " + "  ".join(f"{part} {taken[-1][part]:5.2f} s" for part in PARTS),
                        flush=True,
                    )
            except StopRequested:
                print("stopped before the end", file=sys.stderr)
                return 1
            finally:
                platform.stop()
    print(
        f"\n{len(taken)} tasks, sandbox {options.latency}, {os.cpu_count()} cores,"
        f" load {os.getloadavg()[0]:.1f} at the end,"
        f" Python {machine.python_version()}, dagster {version('dagster')}, {machine.platform()}"
    )
    for part in PARTS:
        spans = sorted(one[part] for one in taken)
        p50, p95 = percentile(spans, 0.5), percentile(spans, 0.95)
        print(f"{part:8s} p50 {p50:6.2f} s   p95 {p95:6.2f} s   max {spans[-1]:6.2f} s")
    return 0 if (percentile(sorted(one["total"] for one in taken), 0.95) or 0) <= options.target_p95 else 1


if __name__ == "__main__":
    sys.exit(main())
