"""One request and its answer, within bounds of size and time; whatever goes wrong becomes `FetchFailed`.

The pool of httpcore2 (what httpx2 sends through) is used directly: bodies are unpacked within a bound,
connections go to checked addresses, and no cookie or proxy of the environment may creep in. A header section
over 100 kB is refused by the pool.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpcore2

from lead_coordinator import __version__
from lead_coordinator.web.addresses import ForbiddenAddress, UnknownHost
from lead_coordinator.web.decoding import BoundedBody, TooLarge, Undecodable
from lead_coordinator.web.failures import Hop, failed
from lead_coordinator.web.politeness import Now
from lead_coordinator.web.urls import host_of

USER_AGENT = f"LeadCoordinator/{__version__}"
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_HEADER_VALUE = 8192
_MAX_REDIRECT_BODY = 16_384
_CLOSED_MEANWHILE = (httpcore2.ReadError, httpcore2.WriteError, httpcore2.RemoteProtocolError)


@dataclass(frozen=True)
class FetchPolicy:
    """How a fetcher behaves. Sizes in bytes, as sent and as unpacked; times in seconds.

    `total_seconds`: for one `get`, redirects included, waiting for a turn at the host not. `allow_private_
    addresses`: this machine and private networks may be fetched from.
    """

    user_agent: str = USER_AGENT
    allow_private_addresses: bool = False
    max_bytes: int = 5_000_000
    max_redirects: int = 10
    connect_seconds: float = 5.0
    total_seconds: float = 20.0
    per_host_concurrency: int = 2
    per_host_delay_seconds: float = 0.5
    obey_robots: bool = True


@dataclass(frozen=True)
class Fetched:
    """An answer, whatever its status. `url`: what was asked for, canonical; `final_url`: who answered, after
    the redirects in `hops`.

    `headers`: lower-case names, repeated ones joined by ", ". `body`: unpacked; empty for HEAD and 304.
    `ttfb_ms`: from sending the last request to the head of its answer, without setting up the connection.
    `elapsed_ms`: all of it, without waiting for turns. `truncated`: the body had more than `max_bytes` and is
    cut there. `received_bytes`: the body's as sent.
    """

    url: str
    final_url: str
    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    hops: tuple[Hop, ...] = ()
    ttfb_ms: int = 0
    elapsed_ms: int = 0
    not_modified: bool = False
    truncated: bool = False
    received_bytes: int = 0

    @property
    def ok(self) -> bool:
        """2xx, or unchanged since last time."""
        return 200 <= self.status < 300 or self.not_modified


@dataclass
class Clock:
    """The time that one `get` has left."""

    now: Now
    seconds: float
    spent: float = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        started = self.now()
        try:
            async with asyncio.timeout(max(0.0, self.seconds - self.spent)):
                yield
        finally:
            self.spent += self.now() - started


@dataclass
class Request:
    """One `get` on its way."""

    url: str
    clock: Clock
    max_bytes: int
    head: bool
    truncate: bool
    conditions: Mapping[str, str] = field(default_factory=dict)
    hops: tuple[Hop, ...] = ()


class Exchange:
    """Asks and takes answers over one pool of connections."""

    def __init__(self, pool: httpcore2.AsyncConnectionPool, policy: FetchPolicy) -> None:
        self._pool = pool
        self._policy = policy

    async def ask(self, url: str, request: Request) -> Fetched:
        """The answer to one request for `url`, without following where it leads. Raises `FetchFailed`."""
        clock, hops = request.clock, request.hops
        try:
            async with clock.running():
                answer = await self._exchange(url, request)
            return replace(answer, elapsed_ms=round(clock.spent * 1000))
        except TimeoutError:
            reason = f"no whole answer within {clock.seconds:g} s"
            raise failed("timeout", url, reason, hops=hops) from None
        except ForbiddenAddress as error:
            raise failed("forbidden_address", url, str(error), hops=hops) from None
        except UnknownHost as error:
            raise failed("dns", url, str(error), hops=hops) from None
        except Undecodable as error:
            raise failed("decoding", url, str(error), hops=hops) from None
        except httpcore2.TimeoutException:
            reason = f"no connection within {self._policy.connect_seconds:g} s"
            raise failed("timeout", url, reason, hops=hops) from None
        except httpcore2.LocalProtocolError as error:
            raise failed("invalid_url", url, f"no request can be made of it ({error})", hops=hops) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            if _is_tls(error):
                reason = f"the certificate or the encryption isn't right ({error})"
                raise failed("tls", url, reason[:500], hops=hops) from None
            reason = f"the connection failed ({type(error).__name__}: {str(error)[:300]})"
            raise failed("connection", url, reason, hops=hops) from None

    async def _exchange(self, url: str, request: Request) -> Fetched:
        sent = _Sent(request.clock.now)
        message = httpcore2.Request(
            "HEAD" if request.head else "GET",
            url,
            headers=self._headers(url, request),
            extensions={"timeout": {"connect": self._policy.connect_seconds}, "trace": sent.trace},
        )
        try:
            response = await self._pool.handle_async_request(message)
        except _CLOSED_MEANWHILE:
            # A kept connection that the server was just closing looks like this; once more, on another.
            response = await self._pool.handle_async_request(message)
        try:
            headers = _plain_headers(response.headers)
            body = b""
            received, cut = 0, False
            if not request.head and response.status not in (204, 304):
                # A redirect's body is nobody's: a little is read, so that the connection can be used again.
                redirect = response.status in REDIRECTS and "location" in headers
                most = min(request.max_bytes, _MAX_REDIRECT_BODY) if redirect else request.max_bytes
                truncate = request.truncate or redirect
                collected = await self._body(response, headers, most, truncate, url, request)
                body, received, cut = collected.finish(), collected.received_bytes, collected.full
        finally:
            await response.aclose()
        return Fetched(
            url=request.url,
            final_url=url,
            status=response.status,
            headers=headers,
            body=body,
            hops=request.hops,
            ttfb_ms=sent.ttfb_ms,
            not_modified=response.status == 304 and bool(request.conditions),
            truncated=cut,
            received_bytes=received,
        )

    async def _body(
        self,
        response: httpcore2.Response,
        headers: Mapping[str, str],
        most: int,
        truncate: bool,
        url: str,
        request: Request,
    ) -> BoundedBody:
        length = headers.get("content-length", "")
        declared = int(length) if length.isascii() and length.isdigit() and len(length) < 16 else None
        try:
            if declared is not None and declared > most and not truncate:
                raise TooLarge
            body = BoundedBody(headers.get("content-encoding", ""), most, truncate=truncate)
            async for piece in response.aiter_stream():
                body.feed(piece)
                if body.full:
                    break
            return body
        except TooLarge:
            raise failed(
                "too_large",
                url,
                f"it has more than the {most:,} bytes that are taken",
                hops=request.hops,
                status=response.status,
                declared_bytes=declared,
            ) from None

    def _headers(self, url: str, request: Request) -> list[tuple[str, str]]:
        headers = {
            "Host": host_of(url),
            "User-Agent": self._policy.user_agent,
            "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "Accept-Encoding": "gzip, deflate",
            # A header that holds a line break would be a second header.
            **{name: "".join(filter(str.isprintable, v))[:1024] for name, v in request.conditions.items()},
        }
        return [(name, value.encode("ascii", "ignore").decode()) for name, value in headers.items()]


class _Sent:
    """When a request was sent and when its answer began, from the pool's own trace."""

    def __init__(self, now: Now) -> None:
        self._now = now
        self._at: float | None = None
        self.ttfb_ms = 0

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("send_request_headers.started"):
            self._at = self._now()
        elif event.endswith("receive_response_headers.complete") and self._at is not None:
            self.ttfb_ms = round((self._now() - self._at) * 1000)


def _plain_headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name_bytes, value_bytes in raw:
        name = name_bytes.decode("ascii", "replace").lower()
        value = value_bytes.decode("latin-1").strip()
        joined = f"{headers[name]}, {value}" if name in headers else value
        headers[name] = joined[:_MAX_HEADER_VALUE]
    return headers


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
