"""A run whose event loop hangs, or whose time is long over, is ended; one that works isn't."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

from lead_coordinator.pipelines.watchdog import ended_if_hung


def now_and(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_a_loop_that_hangs_is_ended():
    ended = threading.Event()

    async def hang() -> None:
        with ended_if_hung(now_and(3600), end=ended.set, silent_seconds=0.05, look_every_seconds=0.01):
            # Blocks the loop, as a hanging call would, until it is ended; the bound is for a watchdog that
            # fails.
            assert ended.wait(timeout=30), "the loop didn't turn and nothing ended the process"

    asyncio.run(hang())


def test_a_run_long_after_its_timeout_is_ended_although_its_loop_turns():
    ended = asyncio.Event()

    async def work() -> None:
        loop = asyncio.get_running_loop()

        def end() -> None:
            loop.call_soon_threadsafe(ended.set)

        with ended_if_hung(now_and(-10), end=end, overtime_seconds=0.0, look_every_seconds=0.01):
            await asyncio.wait_for(ended.wait(), timeout=30)

    asyncio.run(work())


class Clock:
    """Stands still until a test moves it; tells when the event loop has read it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.read_by_loop = asyncio.Event()
        self._loop_thread = threading.get_ident()

    def __call__(self) -> float:
        if threading.get_ident() == self._loop_thread:
            self.read_by_loop.set()
        return self.now


def test_a_loop_that_turns_is_left_alone():
    """Never silent for 30 s at a time, though the whole takes many times that long."""

    async def work() -> None:
        clock, loop = Clock(), asyncio.get_running_loop()
        ended = asyncio.Event()

        def end() -> None:
            loop.call_soon_threadsafe(ended.set)
            loop.call_soon_threadsafe(clock.read_by_loop.set)

        with ended_if_hung(now_and(3600), end=end, silent_seconds=30, look_every_seconds=0.001, clock=clock):
            for _ in range(10):
                clock.read_by_loop.clear()
                await asyncio.wait_for(clock.read_by_loop.wait(), timeout=30)
                assert not ended.is_set(), "a run that works must not be ended"
                clock.now += 29

    asyncio.run(work())


def test_nothing_is_left_watching_afterwards():
    async def work() -> None:
        with ended_if_hung(now_and(3600), look_every_seconds=0.01):
            await asyncio.sleep(0)

    asyncio.run(work())
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}
