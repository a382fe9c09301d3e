"""Turns at a host: at most so many requests at once, and so many seconds between the starts of two."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Now = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

MAX_HOSTS = 10_000
MAX_DELAY_SECONDS = 30.0


@dataclass
class _Host:
    places: asyncio.Semaphore
    next_start: float = 0.0
    waiting: int = 0
    order: asyncio.Lock = field(default_factory=asyncio.Lock)


class Politeness:
    """Gives out turns. `now`: seconds of a clock that only goes forward; `sleep` waits by the same clock."""

    def __init__(
        self, concurrency: int, delay_seconds: float, *, now: Now, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._concurrency = max(1, concurrency)
        self._delay = delay_seconds
        self._now = now
        self._sleep = sleep
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    @asynccontextmanager
    async def turn(self, host: str, *, crawl_delay: float | None = None) -> AsyncIterator[None]:
        """A turn at the host, as an async context. `crawl_delay`: what its robots.txt asks for, in seconds;
        the longer of the two counts, up to 30 s.
        """
        one = self._host(host)
        delay = min(MAX_DELAY_SECONDS, max(self._delay, crawl_delay or 0.0))
        one.waiting += 1
        try:
            async with one.places:
                async with one.order:
                    while (pause := one.next_start - self._now()) > 0:
                        await self._sleep(pause)
                    one.next_start = self._now() + delay
                yield
        finally:
            one.waiting -= 1

    def hold(self, host: str, seconds: float) -> None:
        """The host asked to be left alone for so long (up to 30 s)."""
        one = self._host(host)
        one.next_start = max(one.next_start, self._now() + min(seconds, MAX_DELAY_SECONDS))

    def _host(self, host: str) -> _Host:
        one = self._hosts.get(host)
        if one is None:
            if len(self._hosts) >= MAX_HOSTS:
                self._forget()
            one = self._hosts[host] = _Host(asyncio.Semaphore(self._concurrency))
        self._hosts.move_to_end(host)
        return one

    def _forget(self) -> None:
        """Drops hosts that nobody is at and that may be asked again."""
        now = self._now()
        idle = [name for name, one in self._hosts.items() if not one.waiting and one.next_start <= now]
        for name in idle[: MAX_HOSTS // 2]:
            del self._hosts[name]
