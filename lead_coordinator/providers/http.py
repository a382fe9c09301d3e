"""The HTTP client under both SDKs: bounded answers, no redirects, no retries, connections kept warm.

What a service sends is not trusted: a body over the cap ends the request with `BodyTooLarge`, before it is
held in memory. We ask for uncompressed bodies; one that comes compressed anyway may only be so small that it
can't unfold into more than some tens of megabytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextvars import ContextVar
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2

from lead_coordinator.providers.base import MAX_BODY_BYTES, BeforeLeaving, ProviderError, Redactor

T = TypeVar("T")

MAX_COMPRESSED_BYTES = 64_000
CONNECT_TIMEOUT_SECONDS = 10.0
KEEPALIVE_SECONDS = 30.0
# A run has at most fifty tasks in flight; the rest of the pool is never opened.
MAX_CONNECTIONS = 64


class BodyTooLarge(httpx2.TransportError):
    """The service sent more than an answer can be."""


class _CappedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, limit: int) -> None:
        self._stream = stream
        self._left = limit
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                raise BodyTooLarge(f"the answer is larger than {self._limit} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _cap(response: httpx2.Response) -> None:
    plain = response.headers.get("content-encoding", "identity").lower() in ("", "identity")
    stream = response.stream
    assert isinstance(stream, httpx2.AsyncByteStream)
    response.stream = _CappedStream(stream, MAX_BODY_BYTES if plain else MAX_COMPRESSED_BYTES)


class Departure:
    """Awaits a `before_leaving` from inside the HTTP client, and keeps its error: an SDK may wrap it."""

    def __init__(self, before_leaving: BeforeLeaving | None) -> None:
        self._before_leaving = before_leaving
        self.error: Exception | None = None

    async def now(self) -> None:
        """The request is about to be written. Once: a second request for one call is a mistake."""
        if self._before_leaving is None:
            return
        before_leaving, self._before_leaving = self._before_leaving, _already_left
        try:
            await before_leaving()
        except Exception as error:
            self.error = error
            raise


async def _already_left() -> None:
    raise RuntimeError("one call sends one request, and it has been sent")


_departure: ContextVar[Departure | None] = ContextVar("departure", default=None)


async def departing(before_leaving: BeforeLeaving | None, sending: Awaitable[T]) -> T:
    """Awaits `sending`, whose request through a `capped_client` awaits `before_leaving` before it is written.

    Where `before_leaving` failed, its own error is raised instead of the `ProviderError` made of it.
    """
    departure = Departure(before_leaving)
    token = _departure.set(departure)
    try:
        return await sending
    except ProviderError:
        if departure.error is not None:
            raise departure.error from None
        raise
    finally:
        _departure.reset(token)


async def _depart(request: httpx2.Request) -> None:
    departure = _departure.get()
    if departure is not None:
        await departure.now()


def capped_client(base_url: str, timeout_seconds: float) -> httpx2.AsyncClient:
    """A client for one service. `timeout_seconds` bounds each read; the caller bounds the whole request.

    A proxy named in the environment is used, except to this machine itself.
    """
    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS),
        limits=httpx2.Limits(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS,
        ),
        headers={"accept-encoding": "identity"},
        event_hooks={"request": [_depart], "response": [_cap]},
        follow_redirects=False,
        trust_env=not is_local(base_url),
    )


def is_local(url: str) -> bool:
    """True for an address on this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


async def open_connection(client: httpx2.AsyncClient, base_url: str) -> None:
    """Opens a connection (name, TCP, TLS) and leaves it in the pool. Whatever comes back, or goes wrong, is
    ignored: the first real request will say it."""
    parts = urlsplit(base_url)
    try:
        await client.head(f"{parts.scheme}://{parts.netloc}/", timeout=CONNECT_TIMEOUT_SECONDS)
    except httpx2.HTTPError:
        return


def unsent(error: BaseException) -> bool:
    """True where no byte of the request can have reached the service, so nothing was billed."""
    return isinstance(
        error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
    )


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """The delay that a service asks for in its headers (`retry-after-ms`, or `retry-after` in seconds),
    milliseconds."""
    for name, factor in (("retry-after-ms", 1.0), ("retry-after", 1000.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            delay = float(value) * factor
        except ValueError:
            continue  # an HTTP date: neither service sends one
        if 0 <= delay < 86_400_000:
            return int(delay)
    return None


def transport_error(
    provider: str, error: BaseException, timeout_seconds: float, redact: Redactor
) -> ProviderError:
    """What a failure below HTTP means for the ledger: only a connection that was never made is surely not
    billed."""
    text = redact(f"{type(error).__name__}: {error}")
    if unsent(error):
        return ProviderError(provider, "connection_error", f"no connection: {text}", billable=False)
    if isinstance(error, (TimeoutError, httpx2.TimeoutException)):
        return ProviderError(provider, "timeout", f"no answer within {timeout_seconds:g} s", billable=True)
    if isinstance(error, BodyTooLarge):
        return ProviderError(provider, "bad_response", str(error), billable=True)
    return ProviderError(provider, "server_error", f"the connection broke off: {text}", billable=True)
