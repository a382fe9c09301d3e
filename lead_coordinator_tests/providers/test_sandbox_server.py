"""The sandbox as a process: its options, its admin API, its window over HTTP, and what it doesn't load."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lead_coordinator.providers.sandbox.admin import SandboxAdmin, SandboxUnreachable
from lead_coordinator.providers.sandbox.calllog import CallLog
from lead_coordinator.providers.sandbox.faults import FAULTS, FaultPlan, InvalidFaults
from lead_coordinator.providers.sandbox.latency import PROFILES
from lead_coordinator.providers.sandbox.server import Sandbox, SandboxConfig
from lead_coordinator_tests.providers.conftest import RunningSandbox, StartSandbox

GEMINI = "/v1beta/models/gemini-2.5-flash-lite:generateContent"
GEMINI_BODY = {"contents": [{"role": "user", "parts": [{"text": "Title: A test"}]}]}
OPENAI_BODY = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Title: A test"}]}
# The window goes by the monotonic clock and the log by the wall clock, which may be read a moment later.
CLOCKS_APART_MS = 50
KEY = {"x-goog-api-key": "k", "authorization": "Bearer k"}


def _post(url: str, path: str, body: object, headers: dict[str, str] = KEY) -> httpx2.Response:
    return httpx2.post(url + path, json=body, headers=headers, timeout=20, trust_env=False)


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_both_versions_of_gemini(sandbox: RunningSandbox, version: str) -> None:
    answer = _post(sandbox.url, GEMINI.replace("v1beta", version), GEMINI_BODY)
    assert answer.status_code == 200
    assert "Sandbox text." in answer.json()["candidates"][0]["content"]["parts"][0]["text"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({**OPENAI_BODY, "temperature": 0.5}, "temperature"),
        ({**OPENAI_BODY, "max_tokens": 5}, "max_tokens"),
        ({**OPENAI_BODY, "max_completion_tokens": 0}, "max_completion_tokens"),
        ({**OPENAI_BODY, "messages": []}, "messages"),
        ({**OPENAI_BODY, "stream": True}, "stream"),
        (
            {
                **OPENAI_BODY,
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "a",
                        "strict": True,
                        "schema": {"type": "object", "properties": {}},
                    },
                },
            },
            "response_format",
        ),
    ],
)
def test_openai_refuses_what_it_does_not_take(sandbox: RunningSandbox, body: object, param: str) -> None:
    answer = _post(sandbox.url, "/v1/chat/completions", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("body", [[], {}, {"contents": []}, {"contents": [{"parts": [{"text": 3}]}]}])
def test_gemini_refuses_what_it_does_not_take(sandbox: RunningSandbox, body: object) -> None:
    answer = _post(sandbox.url, GEMINI, body)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_no_key_no_answer(sandbox: RunningSandbox) -> None:
    assert _post(sandbox.url, GEMINI, GEMINI_BODY, {}).status_code == 403
    assert _post(sandbox.url, "/v1/chat/completions", OPENAI_BODY, {}).status_code == 401


def test_a_body_that_is_too_large_is_refused(sandbox: RunningSandbox) -> None:
    body = {"contents": [{"parts": [{"text": "x" * 5_000_000}]}]}
    assert _post(sandbox.url, GEMINI, body).status_code == 413


@pytest.mark.parametrize(
    ("faults", "word"),
    [
        ({"gemini": {"explosion": 1}}, "explosion"),
        ({"gemini": {"timeout": 1.5}}, "1.5"),
        ({"gemini": {"timeout": True}}, "True"),
        ({"gemini": {"down": 1}}, "down"),
        ({"mistral": {}}, "mistral"),
        ({"gemini": {"timeout": 0.6, "garbage": 0.6}}, "1.2"),
        ({"gemini": 3}, "gemini"),
    ],
)
def test_wrong_faults_are_named_and_change_nothing(
    sandbox: RunningSandbox, faults: object, word: str
) -> None:
    sandbox.admin.set_faults({"openai": {"timeout": 0.1}})
    with pytest.raises(SandboxUnreachable, match=word.replace(".", r"\.")):
        sandbox.admin.set_faults(faults)  # type: ignore[arg-type]
    assert sandbox.admin.stats()["faults"] == {"gemini": {}, "openai": {"timeout": 0.1}}


def test_a_provider_that_is_down_leaves_the_other_alone(sandbox: RunningSandbox) -> None:
    sandbox.admin.set_faults({"gemini": {"down": True}})
    assert _post(sandbox.url, GEMINI, GEMINI_BODY).status_code == 503
    assert _post(sandbox.url, "/v1/chat/completions", OPENAI_BODY).status_code == 200
    sandbox.admin.clear_faults()
    assert _post(sandbox.url, GEMINI, GEMINI_BODY).status_code == 200


def test_what_the_log_says_is_what_was_answered(sandbox: RunningSandbox) -> None:
    before = len(sandbox.call_log.read_text().splitlines())
    usages = [_post(sandbox.url, "/v1/chat/completions", OPENAI_BODY).json()["usage"] for _ in range(3)]
    lines = [json.loads(line) for line in sandbox.call_log.read_text().splitlines()[before:]]
    stats = sandbox.admin.stats()["providers"]["openai"]
    for name, field in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")):
        assert sum(line[name] for line in lines) == sum(usage[field] for usage in usages) == stats[name]
    assert stats["calls"] == stats["ok"] == 3
    assert stats["by_status"] == {"200": 3}


@pytest.mark.anyio
async def test_the_window_is_exact_over_http(start_sandbox: StartSandbox) -> None:
    """Hammered until three windows were filled: by the arrival times of its own call log, no window of the
    configured length holds more than the limit."""
    limit, window = 8, 0.5
    sandbox = start_sandbox(openai_limit=limit, window_seconds=window)
    answers: Counter[int] = Counter()

    async def hammer(client: httpx2.AsyncClient) -> None:
        while answers[200] < 3 * limit:
            answer = await client.post(
                f"{sandbox.openai_url}/chat/completions", json=OPENAI_BODY, headers=KEY
            )
            answers[answer.status_code] += 1

    async with httpx2.AsyncClient(timeout=20, trust_env=False) as client:
        await asyncio.gather(*(hammer(client) for _ in range(12)))
    assert set(answers) == {200, 429}
    lines = [json.loads(line) for line in sandbox.call_log.read_text().splitlines()]
    admitted = sorted(datetime.fromisoformat(line["time"]) for line in lines if not line["refused"])
    assert len(admitted) == answers[200]
    assert len(lines) - len(admitted) == answers[429] == _openai_stats(sandbox)["refused_429"]
    shortest = timedelta(seconds=window, milliseconds=-CLOCKS_APART_MS)
    for first, beyond in zip(admitted, admitted[limit:], strict=False):
        assert beyond - first >= shortest, f"{limit + 1} requests were let in within {window} s from {first}"


def _openai_stats(sandbox: RunningSandbox) -> dict[str, Any]:
    stats: dict[str, Any] = sandbox.admin.stats()["providers"]["openai"]
    return stats


def test_texts_do_not_depend_on_the_process(start_sandbox: StartSandbox) -> None:
    first, second = (start_sandbox(seed=5) for _ in range(2))
    answers = [
        _post(one.url, GEMINI, GEMINI_BODY).json()["candidates"][0]["content"]["parts"][0]["text"]
        for one in (first, second)
    ]
    assert answers[0] == answers[1]


def test_it_ends_in_order_on_sigterm(start_sandbox: StartSandbox) -> None:
    sandbox = start_sandbox()
    assert sandbox.admin.health()["ok"]
    sandbox.process.terminate()
    output, _ = sandbox.process.communicate(timeout=10)
    assert sandbox.process.returncode == 0
    assert output == f"sandbox provider: {sandbox.url}\n", "one line, and no traceback"
    with pytest.raises(SandboxUnreachable):
        sandbox.admin.health()


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lead_coordinator.providers.sandbox", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = _run("--port", port)
    assert ended.returncode == 2
    assert port in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("--port", "99999"), ("--latency", "slow"), ("--gemini-limit", "0")])
def test_wrong_options_are_refused(arguments: tuple[str, str]) -> None:
    ended = _run(*arguments)
    assert ended.returncode == 2
    assert arguments[0] in ended.stderr


def test_it_stays_small() -> None:
    heavy = (
        "pydantic",
        "google",
        "openai",
        "dagster",
        "pandas",
        "httpx2",
        "psycopg",
        "genai_prices",
        "jinja2",
    )
    code = (
        "import sys, lead_coordinator.providers.sandbox.__main__\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.strip() == "[]", "the sandbox must not load what it doesn't need"


@pytest.mark.parametrize("name", ["fast", "real"])
def test_latencies_have_the_median_and_tail_that_are_published(name: str) -> None:
    import random

    source, profile = random.Random(1), PROFILES[name]
    drawn = sorted(profile.draw(source) for _ in range(20_000))
    assert drawn[10_000] == pytest.approx(profile.median_seconds, rel=0.05)
    assert drawn[19_000] == pytest.approx(profile.p95_seconds, rel=0.07)


def test_fault_rates_are_what_was_asked_for() -> None:
    plan = FaultPlan(seed=1)
    plan.replace(
        {"all": {"rate_limited": 0.2}, "gemini": {"server_error": 0.1, "timeout": 0.05, "garbage": 0.02}}
    )
    drawn = [plan.draw("gemini") for _ in range(20_000)]
    for fault, rate in {
        "rate_limited": 0.2,
        "server_error": 0.1,
        "timeout": 0.05,
        "garbage": 0.02,
        None: 0.63,
    }.items():
        assert drawn.count(fault) / 20_000 == pytest.approx(rate, abs=0.01)
    assert {plan.draw("openai") for _ in range(1000)} == {None, "rate_limited"}
    plan.clear()
    assert plan.draw("gemini") is None
    with pytest.raises(InvalidFaults, match=next(iter(FAULTS))):
        plan.replace({"all": {"nothing": 0.1}})


def test_the_log_counts_from_zero_after_a_reset(tmp_path: Path) -> None:
    sandbox = Sandbox(SandboxConfig(call_log=tmp_path / "deep" / "calls.jsonl"))
    assert sandbox.log.stats()["gemini"]["calls"] == 0
    assert isinstance(sandbox.log, CallLog)
    sandbox.log.close()
    assert (tmp_path / "deep" / "calls.jsonl").exists()


def test_an_unreachable_sandbox_is_said_so() -> None:
    with pytest.raises(SandboxUnreachable, match="doesn't answer"):
        SandboxAdmin("http://127.0.0.1:9").stats()
