"""The platform's own memory reaches the scheduler: measured without the run workers, every half minute."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from types import SimpleNamespace

import psutil
import pytest

from lead_coordinator.cli.platform.baseline import EVERY_SECONDS, METRIC, BaselineReporter, baseline_mb
from lead_coordinator.cli.platform.logs import Terminal
from lead_coordinator.cli.platform.processes import CODE_SERVER, PART, is_run_worker, memory_bytes
from lead_coordinator.database.connection import Database
from lead_coordinator_tests.cli.waiting import eventually

SPAWN = (
    "import multiprocessing, time;"
    "worker = multiprocessing.get_context('spawn').Process(target=time.sleep, args=(600,), daemon=True);"
    "worker.start(); print(worker.pid, flush=True); input()"
)


@contextmanager
def part_with_a_worker(part: str) -> Iterator[tuple[psutil.Process, psutil.Process]]:
    """A part that has started a process as Dagster's launcher does, and that process."""
    with subprocess.Popen(
        [sys.executable, "-c", SPAWN],
        env={**os.environ, PART: part},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        try:  # until it has become itself, it is a copy of its parent
            eventually(lambda: "multiprocessing.spawn" in " ".join(worker.cmdline()), "the worker runs")
            yield psutil.Process(parent.pid), worker
        finally:
            parent.communicate("\n", timeout=30)


def test_run_workers_are_told_apart_from_the_code_server() -> None:
    with part_with_a_worker(CODE_SERVER) as (server, worker):
        assert (is_run_worker(server), is_run_worker(worker)) == (False, True)
        trackers = [child for child in server.children() if child.pid != worker.pid]
        assert not any(is_run_worker(child) for child in trackers), "multiprocessing's own helper is no run"
        assert memory_bytes([worker]) > 0
        assert baseline_mb([worker]) == 0, "a run's memory is counted by its execution"
        assert baseline_mb([server, worker]) > 0


def test_what_another_part_spawns_belongs_to_the_platform() -> None:
    with part_with_a_worker("daemon") as (_, child):
        assert not is_run_worker(child)
        assert baseline_mb([child]) > 0


def reported(db: Database) -> list[tuple[int, str, str]]:
    rows = db.rows(
        "SELECT metric_value, metric_unit, source FROM public.system_health WHERE metric_name = %s", [METRIC]
    )
    return [(int(row["metric_value"]), row["metric_unit"], row["source"]) for row in rows]


def used(db: Database) -> int:
    row = db.row("SELECT memory_used_mb FROM lead.capacity(clock_timestamp())")
    assert row is not None
    return int(row["memory_used_mb"])


def test_the_scheduler_counts_with_what_was_measured(db: Database) -> None:
    assert used(db) == 700, "before the first report a careful assumption holds"
    BaselineReporter(lambda: [psutil.Process()], Terminal(quiet=True)).tend(db)
    ((megabytes, unit, source),) = reported(db)
    assert (unit, source) == ("MB", "supervisor")
    assert megabytes == pytest.approx(memory_bytes([psutil.Process()]) / 2**20, rel=0.3)
    assert used(db) == megabytes


def test_it_reports_at_once_and_then_every_half_minute(db: Database) -> None:
    looks, time = 0, SimpleNamespace(now=0.0)

    def processes() -> list[psutil.Process]:
        nonlocal looks
        looks += 1
        return []

    reporter = BaselineReporter(processes, Terminal(quiet=True), clock=lambda: time.now)
    seen = []
    for time.now in (100.0, 100.0 + EVERY_SECONDS - 0.1, 100.0 + EVERY_SECONDS, 101.0 + EVERY_SECONDS):
        reporter.tend(db)
        seen.append(looks)
    assert seen == [1, 1, 2, 2]


def test_a_database_that_cant_be_reached_costs_one_line_and_nothing_else(db: Database) -> None:
    time, said = SimpleNamespace(now=0.0), StringIO()
    reporter = BaselineReporter(list, Terminal(said), clock=lambda: time.now)
    with Database("postgresql://lead:s3cret@127.0.0.1:1/lead") as dead:
        for time.now in (0.0, 40.0):
            reporter.tend(dead)
    assert said.getvalue().count("the platform's memory can't be reported") == 1
    assert "s3cret" not in said.getvalue()
    time.now = 80.0
    reporter.tend(db)
    assert len(reported(db)) == 1, "it goes on as soon as the database is back"
