"""What a broken or hostile service sends is bounded, and ends in the right outcome."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from lead_coordinator.providers.base import MAX_BODY_BYTES, Provider, ProviderError, RawAnswer
from lead_coordinator.providers.gemini import GeminiProvider, retry_delay_ms
from lead_coordinator.providers.http import MAX_COMPRESSED_BYTES, retry_after_ms
from lead_coordinator.providers.openai import OpenAIProvider
from lead_coordinator_tests.providers.answers import question

pytestmark = pytest.mark.anyio
Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def service(script: Script) -> AsyncIterator[list[Provider]]:
    """Providers of both kinds whose service answers every request by `script`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if length:
                await reader.readexactly(int(length[0].split(b":")[1]))
            await script(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    providers: list[Provider] = [
        GeminiProvider("key", "gemini-2.5-flash-lite", url, 1.0),
        OpenAIProvider("key", "gpt-6-luna", f"{url}/v1", 1.0),
    ]
    try:
        yield providers
    finally:
        for provider in providers:
            await provider.aclose()
        server.close()


async def outcome(provider: Provider) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.send(provider.model, question())
    return caught.value


def reply(body: bytes, *headers: str, status: str = "200 OK") -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        lines = [
            f"HTTP/1.1 {status}",
            f"content-length: {len(body)}",
            "content-type: application/json",
            *headers,
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return script


async def test_a_body_without_end_is_cut_off() -> None:
    sent: list[int] = []

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        total = 0
        while total < 20 * MAX_BODY_BYTES:
            writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
            await writer.drain()
            total += 65536
            sent.append(total)

    async with service(script) as providers:
        for provider in providers:
            sent.clear()
            error = await outcome(provider)
            assert (error.outcome, error.billable) == ("bad_response", True), str(error)
            assert sent[-1] < 10 * MAX_BODY_BYTES, "it must stop reading near the cap"


async def test_a_compressed_bomb_is_cut_off() -> None:
    bomb = gzip.compress(b" " * 100_000_000)
    assert len(bomb) > MAX_COMPRESSED_BYTES
    async with service(reply(bomb, "content-encoding: gzip")) as providers:
        for provider in providers:
            assert (await outcome(provider)).outcome == "bad_response"


async def test_a_small_compressed_answer_is_read() -> None:
    body = {"candidates": [{"content": {"parts": [{"text": "{}"}]}, "finishReason": "STOP"}]}
    async with service(
        reply(gzip.compress(json.dumps(body).encode()), "content-encoding: gzip")
    ) as providers:
        answer = await providers[0].send(providers[0].model, question())
        assert (answer.text, answer.usage) == ("{}", None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"[[[",
        b'{"choices": []}',
        b'{"candidates": 3}',
        b'{"choices": [{"message": null}]}',
        b"\xff\xfe",
    ],
)
async def test_a_body_that_is_not_the_protocol(body: bytes) -> None:
    async with service(reply(body)) as providers:
        for provider in providers:
            result = (
                await asyncio.gather(provider.send(provider.model, question()), return_exceptions=True)
            )[0]
            if isinstance(result, RawAnswer):
                assert not result.complete, f"{body!r} holds no answer"
                assert result.usage is None
            else:
                assert isinstance(result, ProviderError), repr(result)
                assert (result.outcome, result.billable) == ("bad_response", True), str(result)


async def test_a_redirect_is_not_followed() -> None:
    async with service(reply(b"", "location: http://127.0.0.1:9/", status="302 Found")) as providers:
        for provider in providers:
            assert (await outcome(provider)).outcome == "bad_response"


async def test_a_connection_that_is_dropped_may_have_been_billed() -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        return None

    async with service(script) as providers:
        for provider in providers:
            error = await outcome(provider)
            assert (error.outcome, error.billable) == ("server_error", True)


async def test_a_drip_is_a_timeout() -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.1)

    async with service(script) as providers:
        for provider in providers:
            assert (await outcome(provider)).outcome == "timeout", (
                "the whole request is bounded, not each read"
            )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1500),
        ({"retry-after": "2"}, 2000),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1e99"}, None),
        ({"retry-after-ms": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_headers(headers: dict[str, str], expected: int | None) -> None:
    assert retry_after_ms(headers) == expected


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "53.5s"}
DAILY = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "RequestsPerDayPerProject"}],
}


def test_the_delay_of_retry_info() -> None:
    noon = datetime(2026, 11, 24, 20, tzinfo=UTC)
    assert retry_delay_ms([RETRY_INFO], noon) == 53_500
    assert retry_delay_ms([], noon) is None
    assert retry_delay_ms([{"@type": "x.RetryInfo", "retryDelay": "soon"}], noon) is None
    assert retry_delay_ms([{"@type": "x.RetryInfo", "retryDelay": "1e300s"}], noon) is None


def test_a_daily_quota_waits_for_midnight_pacific_and_looks_every_hour() -> None:
    midnight = datetime(2026, 11, 25, 8, tzinfo=UTC)  # in Los Angeles, winter
    assert retry_delay_ms([DAILY, RETRY_INFO], midnight - timedelta(minutes=20)) == 20 * 60_000
    assert retry_delay_ms([DAILY], midnight - timedelta(hours=9)) == 60 * 60_000
    assert retry_delay_ms([DAILY, RETRY_INFO], midnight - timedelta(seconds=5)) == 53_500
