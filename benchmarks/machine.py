"""What the figures were measured on: the machine, the time its disk takes to be sure, and the versions."""

from __future__ import annotations

import os
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from statistics import median

from benchmarks.record import machine
from lead_coordinator.cli.demo_report import percentile
from lead_coordinator.database.connection import Database

PACKAGES = ("psycopg", "pgqueuer", "asyncpg", "procrastinate")
FSYNC_WRITES = 200
PAGE_BYTES = 8192


def fsync_milliseconds() -> tuple[float, float]:
    """Median and 95th percentile of appending a page of 8 KiB to a file and flushing it to the disk.

    In the folder for temporary files, where the servers of the benchmarks have their data.
    """
    taken: list[float] = []
    with tempfile.NamedTemporaryFile(prefix="lc-bench-fsync-", buffering=0) as file:
        for _ in range(FSYNC_WRITES):
            began = time.perf_counter()
            file.write(b"x" * PAGE_BYTES)
            os.fsync(file.fileno())
            taken.append(1000 * (time.perf_counter() - began))
    p95 = percentile(sorted(taken), 0.95)
    assert p95 is not None
    return median(taken), p95


def installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} isn't installed"


def describe(url: str) -> str:
    """A few sentences. `url`: of the server whose version is meant."""
    with Database(url) as db:
        row = db.row("SELECT split_part(current_setting('server_version'), ' ', 1) AS version")
    assert row is not None
    where = machine(row["version"])  # before the disk is busy: it tells the load
    p50, p95 = fsync_milliseconds()
    return (
        f"{where} The embedded server has its own settings (fsync on, 96 MB of shared buffers). 8 KiB and an"
        f" fsync take {p50:.2f} ms (p95 {p95:.2f}). {', '.join(installed(name) for name in PACKAGES)}."
    )
