"""Fetching pages: guarded, polite, and within bounds whatever the server does.

Each redirect has to pass the guard and robots.txt by itself, so they are followed here.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from types import TracebackType
from typing import Self

import httpcore2
import httpx2

from lead_coordinator.web.addresses import GuardedNetwork, Resolve, resolve_name
from lead_coordinator.web.exchange import (
    REDIRECTS,
    USER_AGENT,
    Clock,
    Exchange,
    Fetched,
    FetchPolicy,
    Request,
)
from lead_coordinator.web.failures import FetchFailed, Hop, failed
from lead_coordinator.web.politeness import Now, Politeness, Sleep
from lead_coordinator.web.robots import MAX_ROBOTS_BYTES, Robots, read_robots
from lead_coordinator.web.urls import canonical, host_of, origin_of, resolve

__all__ = ["USER_AGENT", "FetchFailed", "FetchPolicy", "Fetched", "Fetcher", "Hop"]

ROBOTS_SECONDS = 3600.0
UNREACHABLE_ROBOTS_SECONDS = 60.0
_MAX_ROBOTS_KEPT = 1000


class Fetcher:
    """Fetches for all tasks of a run; an async context manager. Safe for many coroutines of one event loop.

    `now`: seconds of a clock that only goes forward; `sleep` waits by it; `resolve`: how names are looked up;
    `ssl_context`: whose certificates are believed, instead of the public authorities'.
    """

    def __init__(
        self,
        policy: FetchPolicy | None = None,
        *,
        now: Now = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        resolve: Resolve = resolve_name,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.policy = policy or FetchPolicy()
        self._now = now
        self._politeness = Politeness(
            self.policy.per_host_concurrency, self.policy.per_host_delay_seconds, now=now, sleep=sleep
        )
        self._robots: dict[str, tuple[float, Robots]] = {}
        self._asking: dict[str, asyncio.Lock] = {}
        self._network = GuardedNetwork(allow_private=self.policy.allow_private_addresses, resolve=resolve)
        self._ssl_context = ssl_context
        self._pool: httpcore2.AsyncConnectionPool | None = None
        self._exchange: Exchange | None = None

    async def __aenter__(self) -> Self:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=self._ssl_context or httpx2.create_ssl_context(trust_env=False),
            max_connections=50,
            max_keepalive_connections=20,
            keepalive_expiry=10.0,
            network_backend=self._network,
        )
        self._exchange = Exchange(self._pool, self.policy)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = self._exchange = None

    async def get(
        self,
        url: str,
        *,
        etag: str | None = None,
        last_modified: str | None = None,
        max_bytes: int | None = None,
        head: bool = False,
        truncate: bool = False,
    ) -> Fetched:
        """Fetches one address. Any status is an answer; what gave none raises `FetchFailed`.

        `etag`, `last_modified`: of the copy that the caller holds; where it is still good, `not_modified` is
        True. `max_bytes`: instead of the policy's. `head`: without the body. `truncate`: a longer body is cut
        rather than refused.
        """
        conditions = {}
        if etag:
            conditions["If-None-Match"] = etag
        if last_modified:
            conditions["If-Modified-Since"] = last_modified
        request = Request(
            canonical(url),
            Clock(self._now, self.policy.total_seconds),
            self.policy.max_bytes if max_bytes is None else max_bytes,
            head,
            truncate,
            conditions,
        )
        return await self._follow(request, robots=self.policy.obey_robots)

    async def robots(self, url: str) -> Robots:
        """The robots.txt that counts for this address, kept for an hour (for a minute where it couldn't be
        read)."""
        origin = origin_of(canonical(url))
        lock = self._asking.setdefault(origin, asyncio.Lock())
        async with lock:
            known = self._robots.get(origin)
            if known is not None and known[0] > self._now():
                return known[1]
            robots = await self._read_robots(f"{origin}/robots.txt")
            if len(self._robots) >= _MAX_ROBOTS_KEPT:
                oldest = next(iter(self._robots))
                del self._robots[oldest]
                self._asking.pop(oldest, None)
            keep = UNREACHABLE_ROBOTS_SECONDS if robots.unreachable else ROBOTS_SECONDS
            self._robots[origin] = (self._now() + keep, robots)
            return robots

    # ---- one page, over its redirects ------------------------------------------------------------------

    async def _follow(self, request: Request, *, robots: bool) -> Fetched:
        assert self._exchange is not None, "a Fetcher is used inside `async with`"
        current, seen = request.url, {request.url}
        while True:
            delay = None
            if robots:
                rules = await self.robots(current)
                if not rules.allows(current):
                    raise _forbidden_by(rules, current, request.hops)
                delay = rules.crawl_delay
            async with self._politeness.turn(host_of(current), crawl_delay=delay):
                answer = await self._exchange.ask(current, request)
            if answer.status in (429, 503):
                self._politeness.hold(host_of(current), _asked_for_seconds(answer))
            location = answer.headers.get("location", "")
            if answer.status not in REDIRECTS or not location:
                return answer
            target = self._target(current, location, request)
            request.hops += (Hop(current, answer.status, target),)
            if target in seen:
                raise failed(
                    "redirect_loop", request.url, f"redirects lead back to {target}", hops=request.hops
                )
            if len(request.hops) > self.policy.max_redirects:
                reason = f"more than {self.policy.max_redirects} redirects"
                raise failed("too_many_redirects", request.url, reason, hops=request.hops)
            seen.add(target)
            current = target

    def _target(self, current: str, location: str, request: Request) -> str:
        try:
            return resolve(current, location)
        except FetchFailed as error:
            reason = f"it redirects to where we don't go: {error.reason}"
            raise failed(error.kind, current, reason, hops=request.hops) from None

    # ---- robots.txt ------------------------------------------------------------------------------------

    async def _read_robots(self, url: str) -> Robots:
        request = Request(
            url,
            Clock(self._now, self.policy.total_seconds),
            MAX_ROBOTS_BYTES + 1,
            head=False,
            truncate=True,
        )
        agent = self.policy.user_agent
        try:
            answer = await self._follow(request, robots=False)
        except FetchFailed as error:
            if error.kind in ("forbidden_address", "dns", "invalid_url"):
                # The page itself fails for the same reason, and says so better.
                return read_robots(url, agent, 404)
            return read_robots(url, agent, None, failure=error)
        return read_robots(
            url, agent, answer.status, answer.body, content_type=answer.headers.get("content-type", "")
        )


def _asked_for_seconds(answer: Fetched) -> float:
    """How long the host wants to be left alone, where it says so in seconds."""
    said = answer.headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdigit() and len(said) < 6 else 0.0


def _forbidden_by(rules: Robots, url: str, hops: tuple[Hop, ...]) -> FetchFailed:
    if rules.failure is not None and rules.failure.kind in ("connection", "timeout", "tls"):
        # The host itself doesn't answer, which says more than that its robots.txt can't be read.
        return failed(rules.failure.kind, url, rules.failure.reason, hops=hops)
    if rules.unreachable:
        reason = "its robots.txt can't be read, so nothing of the site may be fetched for now"
        return failed("robots", url, reason, hops=hops)
    return failed("robots", url, "its robots.txt forbids it", hops=hops)
