"""Ends a run's process that hangs, from inside, whatever its main thread does.

A run that hangs loses its lease after 30 seconds: its tasks are worked elsewhere, and its old fencing number
keeps it from writing. But the process would still hold memory, and a signal reaches Python code only when it
gets to run. So a thread looks every few seconds whether the event loop still turns, and whether the
execution's time is long over.

It also ends a process that was stopped or frozen for a while and wakes up: the loop was silent all that
time.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

# Nothing that a run does on its event loop takes a second, but for the import of an SDK on a busy machine.
SILENT_SECONDS = 60.0
# Recovery comes first, then Dagster's own cancellation; this is for a process that neither reaches.
OVERTIME_SECONDS = 150.0
LOOK_EVERY_SECONDS = 5.0
EXIT_CODE = 70  # EX_SOFTWARE


def end_process() -> None:
    os._exit(EXIT_CODE)


@contextmanager
def ended_if_hung(
    timeout_at: datetime,
    *,
    end: Callable[[], None] = end_process,
    silent_seconds: float = SILENT_SECONDS,
    overtime_seconds: float = OVERTIME_SECONDS,
    look_every_seconds: float = LOOK_EVERY_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Watches the running event loop until the block ends. `timeout_at`: the end of the execution's time.

    `clock`: seconds that never go back; what is silent or over is judged by it.
    """
    loop = asyncio.get_running_loop()
    over = threading.Event()
    turned_at = clock()
    # From the wall clock to the monotonic one, once: the machine's clock may be set meanwhile.
    latest = turned_at + (timeout_at - datetime.now(UTC)).total_seconds() + overtime_seconds

    def turned() -> None:
        nonlocal turned_at
        turned_at = clock()

    def watch() -> None:
        while not over.wait(look_every_seconds):
            now = clock()
            if now - turned_at > silent_seconds or now > latest:
                end()
                return
            loop.call_soon_threadsafe(turned)

    watcher = threading.Thread(target=watch, name="watchdog", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
