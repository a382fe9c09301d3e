"""The official SDKs against the sandbox: what both sides say about the same call must agree."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest
from google.genai import types

from lead_coordinator.providers.base import CallRequest, Message, Provider, ProviderError
from lead_coordinator.providers.gemini import GeminiProvider
from lead_coordinator.providers.openai import OpenAIProvider
from lead_coordinator_tests.providers.answers import Article, Plan, question
from lead_coordinator_tests.providers.conftest import RunningSandbox, StartSandbox

pytestmark = pytest.mark.anyio
KEY = "key-that-nobody-must-see"


def make(
    name: str, sandbox: RunningSandbox, key: str = KEY, model: str = "", timeout: float = 10.0
) -> Provider:
    if name == "gemini":
        return GeminiProvider(key, model or "gemini-2.5-flash-lite", sandbox.url, timeout)
    return OpenAIProvider(key, model or "gpt-6-luna", sandbox.openai_url, timeout)


@pytest.fixture(params=["gemini", "openai"])
async def provider(request: pytest.FixtureRequest, sandbox: RunningSandbox) -> AsyncIterator[Provider]:
    provider = make(request.param, sandbox)
    yield provider
    await provider.aclose()


@pytest.mark.parametrize("schema", [Plan, Article])
async def test_a_structured_answer(provider: Provider, sandbox: RunningSandbox, schema: type) -> None:
    request = question(schema)
    answer = await provider.send(provider.model, request)
    schema.model_validate_json(answer.text)
    assert answer.complete
    assert answer.model == provider.model
    (logged,) = sandbox.admin.calls()
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (
        logged["input_tokens"],
        logged["output_tokens"],
    )
    assert logged["provider"] == provider.name
    assert logged["status"] == 200
    assert answer.usage.input_tokens <= provider.max_input_tokens(provider.model, request), "the bound holds"
    assert json.loads(sandbox.call_log.read_text().splitlines()[-1]) == logged


async def test_one_call_is_one_request_even_when_it_fails(
    provider: Provider, sandbox: RunningSandbox
) -> None:
    for fault in ("server_error", "overloaded", "rate_limited"):
        sandbox.admin.reset()
        sandbox.admin.set_faults({"all": {fault: 1.0}})
        with pytest.raises(ProviderError):
            await provider.send(provider.model, question())
        assert sandbox.admin.stats()["providers"][provider.name]["calls"] == 1, (
            "the SDK must not retry by itself"
        )


@pytest.mark.parametrize(
    ("fault", "outcome", "billable"),
    [
        ("rate_limited", "rate_limited", False),
        ("server_error", "server_error", False),
        ("overloaded", "server_error", False),
        ("truncated", "server_error", True),
        ("garbage", "bad_response", True),
        ("bad_key", "auth_error", False),
        ("billing_stop", "billing_stop", False),
    ],
)
async def test_every_failure_has_its_outcome(
    provider: Provider, sandbox: RunningSandbox, fault: str, outcome: str, billable: bool
) -> None:
    sandbox.admin.reset()  # every fifth injected 429 comes without a delay: this is to be the first
    sandbox.admin.set_faults({provider.name: {fault: 1.0}})
    with pytest.raises(ProviderError) as caught:
        await provider.send(provider.model, question())
    assert (caught.value.outcome, caught.value.billable) == (outcome, billable), str(caught.value)
    assert KEY not in str(caught.value)
    if fault == "rate_limited":
        assert caught.value.http_status == 429
        assert caught.value.retry_after_ms == 2000, "the service's own delay is what counts"


async def test_a_timeout_ends_the_call(sandbox: RunningSandbox) -> None:
    sandbox.admin.set_faults({"all": {"timeout": 1.0}})
    for name in ("gemini", "openai"):
        provider = make(name, sandbox, timeout=0.3)
        with pytest.raises(ProviderError) as caught:
            await provider.send(provider.model, question())
        assert (caught.value.outcome, caught.value.billable) == ("timeout", True)
        await provider.aclose()


async def test_a_service_that_is_not_there(sandbox: RunningSandbox) -> None:
    for provider in (
        GeminiProvider(KEY, "m", "http://127.0.0.1:9"),
        OpenAIProvider(KEY, "m", "http://127.0.0.1:9/v1"),
    ):
        await provider.warm()
        with pytest.raises(ProviderError) as caught:
            await provider.send("gemini-2.5-flash-lite", question())
        assert (caught.value.outcome, caught.value.billable) == ("connection_error", False)
        await provider.aclose()


async def test_a_bad_key_and_an_unknown_model(sandbox: RunningSandbox) -> None:
    for name, unknown in (("gemini", "llama-4"), ("openai", "llama-4")):
        refused = make(name, sandbox, key="invalid-key")
        with pytest.raises(ProviderError) as caught:
            await refused.send(refused.model, question())
        assert caught.value.outcome == "auth_error"
        known = make(name, sandbox)
        with pytest.raises(ProviderError) as caught:
            await known.send(unknown, question())
        assert (caught.value.outcome, caught.value.http_status) == ("client_error", 404)
        for provider in (refused, known):
            await provider.aclose()


async def test_an_answer_at_its_limit_is_incomplete_and_paid_for(provider: Provider) -> None:
    answer = await provider.send(provider.model, question(max_output_tokens=20))
    assert not answer.complete
    assert answer.usage is not None
    assert answer.usage.output_tokens == 20


async def test_thinking_is_counted_where_a_model_thinks(sandbox: RunningSandbox) -> None:
    for name, model in (("gemini", "gemini-2.5-pro"), ("openai", "o4-mini")):
        provider = make(name, sandbox, model=model)
        answer = await provider.send(model, question())
        assert answer.usage is not None
        assert 0 < answer.usage.thinking_tokens < answer.usage.output_tokens, (
            f"{model} thinks before it answers"
        )
        (logged,) = sandbox.admin.calls(1)
        assert logged["thinking_tokens"] == answer.usage.thinking_tokens
        assert logged["output_tokens"] == answer.usage.output_tokens
        await provider.aclose()


async def test_the_default_models_do_not_think(provider: Provider) -> None:
    answer = await provider.send(provider.model, question())
    assert answer.usage is not None
    assert answer.usage.thinking_tokens == 0


async def test_a_long_prefix_is_cached_the_second_time(provider: Provider) -> None:
    prefix = Message("system", "Rules of the house. " * 400)
    request = CallRequest("plan", (prefix, Message("user", "Title: A test")), Plan, 4000)
    first = await provider.send(provider.model, request)
    second = await provider.send(provider.model, request)
    assert first.usage is not None
    assert second.usage is not None
    assert first.usage.cached_tokens == 0
    assert 1024 <= second.usage.cached_tokens <= second.usage.input_tokens


async def test_the_schema_of_response_json_schema_is_answered_too(sandbox: RunningSandbox) -> None:
    from google import genai

    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=sandbox.url))
    for kind in ({"response_json_schema": Article.model_json_schema()}, {"response_schema": Plan}):
        answer = await client.aio.models.generate_content(
            model="gemini-2.5-flash-lite",
            contents="Title: A test of schemas",
            config=types.GenerateContentConfig(response_mime_type="application/json", **kind),
        )
        (Article if "response_json_schema" in kind else Plan).model_validate_json(answer.text or "")


async def test_openai_parse_reads_the_answer(sandbox: RunningSandbox) -> None:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(api_key=KEY, base_url=sandbox.openai_url, max_retries=0) as client:
        answer = await client.chat.completions.parse(
            model="gpt-6-luna", messages=[{"role": "user", "content": "Title: A test"}], response_format=Plan
        )
    assert isinstance(answer.choices[0].message.parsed, Plan)


async def test_the_window_refuses_as_the_services_do(start_sandbox: StartSandbox) -> None:
    sandbox = start_sandbox(gemini_limit=2, openai_limit=1)
    for name, limit in (("gemini", 2), ("openai", 1)):
        provider = make(name, sandbox)
        results = await asyncio.gather(
            *(provider.send(provider.model, question()) for _ in range(limit + 2)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, ProviderError)]
        assert len(refused) == 2, "what is over the limit is refused, what is within it is answered"
        for error in refused:
            assert error.outcome == "rate_limited"
            assert error.retry_after_ms is not None
            assert 50_000 < error.retry_after_ms <= 60_000, "the delay is until the oldest leaves the window"
        stats = sandbox.admin.stats()["providers"][name]
        assert (stats["refused_429"], stats["peak_60s"], stats["peak_60s_received"]) == (2, limit, limit + 2)
        await provider.aclose()


async def test_no_key_reaches_a_log(sandbox: RunningSandbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("gemini", "openai"):
        provider = make(name, sandbox)
        await provider.send(provider.model, question())
        assert KEY not in repr(provider.__dict__["_redact"])
        await provider.aclose()
    assert KEY not in caplog.text
    assert KEY not in sandbox.call_log.read_text()


class Refused(Exception):
    pass


async def test_what_is_awaited_before_leaving_can_stop_the_request(
    provider: Provider, sandbox: RunningSandbox
) -> None:
    awaited: list[int] = []

    async def note() -> None:
        awaited.append(len(sandbox.admin.calls()))

    await provider.send(provider.model, question(), note)
    assert awaited == [0], "awaited once, before the service saw anything"

    async def refuse() -> None:
        raise Refused("not now")

    with pytest.raises(Refused, match="not now"):
        await provider.send(provider.model, question(), refuse)
    assert len(sandbox.admin.calls()) == 1, "nothing was sent"
