"""The gateway on the real control plane, with the real SDKs, against the sandbox: the whole way of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.executions import Lease
from lead_coordinator.errors import BadAnswer, BudgetExhausted, DestinationDown, ItemCostLimit, StaleLease
from lead_coordinator.providers.base import Provider, Usage
from lead_coordinator.providers.factory import build_providers, open_gateway
from lead_coordinator.providers.gateway import Gateway, GatewayPolicy
from lead_coordinator.providers.gemini import GeminiProvider
from lead_coordinator.providers.openai import OpenAIProvider
from lead_coordinator.providers.prices import real_cost
from lead_coordinator.settings import Settings, SettingsError
from lead_coordinator_tests.providers.answers import Article, Plan, question
from lead_coordinator_tests.providers.conftest import RunningSandbox

pytestmark = pytest.mark.anyio
TASKS = 10


@dataclass(frozen=True)
class Run:
    lease: Lease
    tasks: list[int]


@pytest.fixture
def run(db: Database) -> Run:
    """A started execution with ten tasks."""
    for number in range(TASKS):
        db.call("submit_task", task_type="content_generation", payload={"title": f"Topic {number}"})
    db.call("orchestrate_workflow_execution", worker_id="test")
    (launch,) = db.call_rows("launchable_executions")
    started = db.call(
        "start_execution",
        execution_id=launch["execution_id"],
        launch_number=launch["launch_number"],
        run_id="run-1",
    )
    return Run(
        Lease(started["execution_id"], started["fence"]), [task["task_id"] for task in started["tasks"]]
    )


@pytest.fixture
async def gateway(async_db: AsyncDatabase, run: Run, sandbox: RunningSandbox) -> AsyncIterator[Gateway]:
    providers: dict[str, Provider] = {
        "gemini": GeminiProvider("key", "gemini-2.5-flash-lite", sandbox.url, 3.0),
        "openai": OpenAIProvider("key", "gpt-6-luna", sandbox.openai_url, 3.0),
    }
    gateway = Gateway(async_db, run.lease, providers, GatewayPolicy(patience_seconds=10), seed=1)
    await gateway.warm()
    yield gateway
    await gateway.aclose()


def rows(db: Database) -> list[dict[str, object]]:
    return db.rows("SELECT * FROM lead.api_call ORDER BY id")


def nothing_held(db: Database) -> None:
    assert not db.rows("SELECT * FROM lead.api_call WHERE status NOT IN ('settled', 'released')"), (
        "no call stays open"
    )
    held = db.row("SELECT calls_held_usd, actual_cost FROM public.workflow_orchestration")
    spent = db.row("SELECT coalesce(sum(cost_usd), 0) AS usd FROM lead.api_call WHERE status = 'settled'")
    assert held is not None
    assert spent is not None
    assert held["calls_held_usd"] == 0
    assert held["actual_cost"] == spent["usd"], "the execution costs what its calls cost"


async def test_the_ledger_agrees_with_the_services_own_log(
    db: Database, gateway: Gateway, run: Run, sandbox: RunningSandbox
) -> None:
    results = await asyncio.gather(
        *(gateway.call(task, question(schema)) for task in run.tasks for schema in (Plan, Article))
    )
    logged = sandbox.admin.calls()
    assert len(logged) == len(results) == 2 * TASKS
    cost = sum(real_cost(call["provider"], call["model"], _usage(call), datetime.now(UTC)) for call in logged)
    booked = rows(db)
    assert sum(Decimal(str(row["cost_usd"])) for row in booked) == cost == sum(r.cost_usd for r in results)
    for name in ("input_tokens", "output_tokens", "thinking_tokens", "cached_tokens"):
        assert sum(int(str(row[name])) for row in booked) == sum(call[name] for call in logged)
    assert {row["status"] for row in booked} == {"settled"}
    assert all(row["cost_usd"] <= row["max_cost_usd"] for row in booked)  # type: ignore[operator]
    assert {row["provider"] for row in booked} == {"gemini"}, "the cheapest has slots for all of them"
    nothing_held(db)


def _usage(call: dict[str, int]) -> Usage:
    return Usage(call["input_tokens"], call["output_tokens"], call["thinking_tokens"], call["cached_tokens"])


async def test_when_the_cheapest_has_no_slot_the_other_serves(
    db: Database, gateway: Gateway, run: Run, sandbox: RunningSandbox
) -> None:
    db.execute(
        "UPDATE public.api_rate_limits SET requests_per_minute = 4, adaptive_limit = 4"
        " WHERE provider = 'gemini'"
    )
    results = await asyncio.gather(*(gateway.call(task, question()) for task in run.tasks))
    providers = [result.provider for result in results]
    assert (providers.count("gemini"), providers.count("openai")) == (4, TASKS - 4)
    assert sandbox.admin.stats()["providers"]["gemini"]["calls"] == 4


async def test_faults_of_every_kind_leave_nothing_open(
    db: Database, gateway: Gateway, run: Run, sandbox: RunningSandbox
) -> None:
    sandbox.admin.set_faults(
        {"all": {"server_error": 0.15, "garbage": 0.05, "truncated": 0.05, "bad_answer": 0.1}}
    )
    results = await asyncio.gather(
        *(gateway.call(task, question()) for task in run.tasks for _ in range(2)), return_exceptions=True
    )
    for result in results:
        if isinstance(result, BaseException):
            assert isinstance(result, (DestinationDown, BadAnswer)), repr(result)
    booked = rows(db)
    logged = sandbox.admin.calls()
    assert len([row for row in booked if row["status"] == "settled"]) == len(logged), "a row for each request"
    assert {row["outcome"] for row in booked} > {"ok"}, "the rehearsal must have met faults"
    nothing_held(db)


async def test_a_provider_that_is_down_is_left_alone(
    db: Database, gateway: Gateway, run: Run, sandbox: RunningSandbox
) -> None:
    sandbox.admin.set_faults({"gemini": {"down": True}})
    results = await asyncio.gather(*(gateway.call(task, question()) for task in run.tasks))
    assert {result.provider for result in results} == {"openai"}
    breaker = db.row("SELECT state FROM lead.circuit_breaker WHERE name = 'provider:gemini'")
    assert breaker is not None
    assert breaker["state"] == "open"
    asked = sandbox.admin.stats()["providers"]["gemini"]["calls"]
    await gateway.call(run.tasks[0], question())
    assert sandbox.admin.stats()["providers"]["gemini"]["calls"] == asked, (
        "an open breaker lets nothing through"
    )


async def test_both_down_is_the_destination_down_and_says_until_when(
    gateway: Gateway, run: Run, sandbox: RunningSandbox
) -> None:
    sandbox.admin.set_faults({"all": {"down": True}})
    results = await asyncio.gather(
        *(gateway.call(task, question()) for task in run.tasks), return_exceptions=True
    )
    assert {type(result) for result in results} == {DestinationDown}
    with pytest.raises(DestinationDown, match="breaker_open") as caught:
        await gateway.call(run.tasks[0], question())
    assert caught.value.retry_after_ms is not None
    assert caught.value.retry_after_ms > 0


def received(sandbox: RunningSandbox) -> int:
    """Requests that arrived, answered or not."""
    return sum(one["peak_60s_received"] for one in sandbox.admin.stats()["providers"].values())


async def test_cancelled_in_flight_is_settled_at_its_maximum(
    db: Database, gateway: Gateway, run: Run, sandbox: RunningSandbox
) -> None:
    sandbox.admin.set_faults({"all": {"timeout": 1.0}})
    task = asyncio.create_task(gateway.call(run.tasks[0], question()))
    while not received(sandbox):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (row,) = rows(db)
    assert (row["status"], row["outcome"], row["cost_usd"]) == ("settled", "cancelled", row["max_cost_usd"])
    nothing_held(db)


async def test_a_lost_lease_sends_nothing(
    db: Database, gateway: Gateway, run: Run, sandbox: RunningSandbox
) -> None:
    db.call(
        "report_run_failure", execution_id=run.lease.execution_id, run_id="run-1", reason="killed by the test"
    )
    with pytest.raises(StaleLease):
        await gateway.call(run.tasks[0], question())
    assert sandbox.admin.calls() == []


async def test_no_money_sends_nothing(
    db: Database, gateway: Gateway, run: Run, sandbox: RunningSandbox
) -> None:
    db.execute("UPDATE public.api_rate_limits SET daily_cost_limit = 0")
    with pytest.raises(BudgetExhausted):
        await gateway.call(run.tasks[0], question())
    db.execute("UPDATE public.api_rate_limits SET daily_cost_limit = 500")
    db.execute(
        "UPDATE lead.workflow_policy SET item_cost_limit_usd = 0.0001"
        " WHERE workflow_type = 'content_pipeline'"
    )
    with pytest.raises(ItemCostLimit):
        await gateway.call(run.tasks[0], question())
    assert sandbox.admin.calls() == []
    nothing_held(db)


async def test_a_gateway_from_the_settings(
    async_db: AsyncDatabase, run: Run, sandbox: RunningSandbox
) -> None:
    settings = Settings.load({"GEMINI_BASE_URL": sandbox.url, "OPENAI_BASE_URL": sandbox.openai_url})
    assert set(build_providers(settings)) == {"gemini", "openai"}
    async with open_gateway(async_db, run.lease, settings) as gateway:
        result = await gateway.call(run.tasks[0], question())
    assert (result.provider, result.model) == ("gemini", "gemini-2.5-flash-lite")


async def test_one_key_means_one_provider() -> None:
    assert set(build_providers(Settings.load({"OPENAI_API_KEY": "sk-not-a-real-key"}))) == {"openai"}
    assert set(build_providers(Settings.load({"GEMINI_API_KEY": "not-a-real-key"}))) == {"gemini"}
    with pytest.raises(SettingsError, match="GEMINI_BASE_URL"):
        build_providers(Settings.load({}))
