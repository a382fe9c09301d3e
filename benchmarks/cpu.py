"""CPU seconds of a running platform, by what its processes are for; those of processes that have ended since
are in it, by way of whoever waited for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import psutil

from lead_coordinator.cli.platform.processes import (
    CODE_SERVER,
    is_run_worker,
    part_of,
    postgres_processes,
)
from lead_coordinator.cli.platform.run import Platform

RUNS, POSTGRES, SUPERVISOR = "runs", "PostgreSQL", "supervisor and this benchmark"


def cpu_seconds(platform: Platform) -> dict[str, float]:
    """User and system time so far, by kind. The differences of two are what was used in between."""
    used: defaultdict[str, float] = defaultdict(float)
    server = {process.pid for process in postgres_processes(platform.settings.postgres_dir)}
    for process in platform.processes():
        try:
            kind = _kind(process, server)
            times = process.cpu_times()
        except psutil.Error:
            continue  # ended while we looked; it is in its parent's time now
        ended = times.children_user + times.children_system
        used[kind] += times.user + times.system
        # A code server's children are runs.
        used[RUNS if kind == CODE_SERVER else kind] += ended
    return used


def _kind(process: psutil.Process, server: set[int]) -> str:
    if process.pid in server:
        return POSTGRES
    if process.pid == psutil.Process().pid:
        return SUPERVISOR
    return RUNS if is_run_worker(process) else part_of(process)


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What each kind used in between, the most first. Kinds that used nothing are left out."""
    spans = {kind: after[kind] - before.get(kind, 0.0) for kind in after}
    return dict(sorted(((k, s) for k, s in spans.items() if s > 0), key=lambda item: -item[1]))
