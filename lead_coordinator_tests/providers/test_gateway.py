"""The gateway's promises, against the SQL contract in memory and providers that do what a test says."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import Lease
from lead_coordinator.errors import (
    AuthError,
    BadAnswer,
    BudgetExhausted,
    DatabaseUnavailable,
    DestinationDown,
    ItemCostLimit,
    LeadCoordinatorError,
    RateLimited,
)
from lead_coordinator.providers.base import (
    BeforeLeaving,
    CallRequest,
    Message,
    Outcome,
    Provider,
    ProviderError,
    RawAnswer,
    Usage,
)
from lead_coordinator.providers.gateway import Gateway, GatewayPolicy
from lead_coordinator.providers.prices import UnknownPrice
from lead_coordinator_tests.providers.ledger import Ledger

pytestmark = pytest.mark.anyio
USAGE = Usage(1000, 500)
GEMINI_COST = Decimal("0.0003")  # 1,000 × $0.10 + 500 × $0.40 a million
LEASE = Lease("content-20261124T120000-abcd1234", 3)


class Reply(BaseModel):
    word: str
    number: int


GOOD = RawAnswer(json.dumps({"word": "yes", "number": 3}), USAGE, "model", "STOP")
REQUEST = CallRequest("outline", (Message("user", "Say it."),), Reply, 1000)


@dataclass
class Scripted:
    """A provider that answers from a list (the last entry for ever): an answer, an error, or `hang`."""

    name: str
    model: str
    script: list[Any] = field(default_factory=lambda: [GOOD])
    sent: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def max_output_tokens(self, model: str, request: CallRequest) -> int:
        return request.max_output_tokens

    def max_input_tokens(self, model: str, request: CallRequest) -> int:
        return 2000

    async def warm(self) -> None: ...

    async def aclose(self) -> None: ...

    async def send(
        self, model: str, request: CallRequest, before_leaving: BeforeLeaving | None = None
    ) -> RawAnswer:
        if "unbuildable" in self.script:
            raise ValueError("the request can't be built")
        assert before_leaving is not None
        await before_leaving()
        action = self.script[min(self.sent, len(self.script) - 1)]
        self.sent += 1
        self.started.set()
        await asyncio.sleep(0)
        if action == "hang":
            await asyncio.Event().wait()
        if isinstance(action, ProviderError):
            raise failure(action.outcome, self.name, retry_after_ms=action.retry_after_ms)
        if isinstance(action, Exception):
            raise action
        assert isinstance(action, RawAnswer)
        return action


def failure(outcome: Outcome, provider: str = "gemini", **extra: Any) -> ProviderError:
    billable = outcome in ("timeout", "bad_response")
    return ProviderError(provider, outcome, "made by the test", billable=billable, **extra)


class Setup:
    def __init__(
        self, gemini: list[Any] | None = None, openai: list[Any] | None = None, **ledger: Any
    ) -> None:
        self.gemini = Scripted("gemini", "gemini-2.5-flash-lite", gemini or [GOOD])
        self.openai = Scripted("openai", "gpt-6-luna", openai or [GOOD])
        self.ledger = Ledger(**ledger)
        self.slept: list[float] = []
        self.held_while_sleeping = 0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.held_while_sleeping += self.ledger.active
        await asyncio.sleep(0)

    def gateway(self, policy: GatewayPolicy | None = None, only: str | None = None) -> Gateway:
        providers: dict[str, Provider] = {
            p.name: p for p in (self.openai, self.gemini) if only in (None, p.name)
        }
        database = cast("AsyncDatabase", self.ledger)
        return Gateway(database, LEASE, providers, policy, sleep=self.sleep, seed=1)

    async def call(self, **options: Any) -> Any:
        return await self.gateway(**options).call(11, REQUEST)


async def test_the_cheapest_is_asked_first_and_its_real_cost_is_settled() -> None:
    setup = Setup()
    result = await setup.call()
    assert setup.ledger.begun == [["gemini", "openai"]]
    assert (result.provider, result.model, result.usage) == ("gemini", "gemini-2.5-flash-lite", USAGE)
    assert result.value == Reply(word="yes", number=3)
    (call,) = setup.ledger.calls
    assert (call.status, call.outcome, call.cost, call.task_id, call.step) == (
        "settled",
        "ok",
        GEMINI_COST,
        11,
        "outline",
    )
    assert call.usage == {
        "input_tokens": 1000,
        "output_tokens": 500,
        "thinking_tokens": 0,
        "cached_tokens": 0,
    }
    assert result.cost_usd == GEMINI_COST
    assert call.max_cost >= GEMINI_COST, "what is held covers what is spent"


async def test_not_now_waits_without_holding_anything() -> None:
    refusals = [{"reason": "rate_limited", "wait_ms": 1500}, {"reason": "breaker_open", "wait_ms": 0}]
    setup = Setup(refusals=refusals)
    await setup.call()
    assert setup.slept[0] == 1.5
    assert 0 < setup.slept[1] < 1, "no busy loop, whatever the database says"
    assert setup.held_while_sleeping == 0, "no database call is open while it waits"


@pytest.mark.parametrize(
    ("reason", "wait_ms", "expected"),
    [
        ("rate_limited", 500_000, RateLimited),
        ("breaker_open", 500_000, DestinationDown),
        ("budget", 500_000, BudgetExhausted),
        ("budget", None, BudgetExhausted),
        ("item_cost_limit", None, ItemCostLimit),
        ("item_cost_limit", 5, ItemCostLimit),
    ],
)
async def test_what_does_not_help_waiting_is_raised(
    reason: str, wait_ms: int | None, expected: type[LeadCoordinatorError]
) -> None:
    setup = Setup(refusals=[{"reason": reason, "wait_ms": wait_ms}])
    with pytest.raises(expected) as caught:
        await setup.call()
    assert caught.value.retry_after_ms == wait_ms  # type: ignore[attr-defined]
    assert setup.slept == []
    assert setup.gemini.sent == 0


async def test_patience_is_for_all_waits_together() -> None:
    setup = Setup(refusals=[{"reason": "rate_limited", "wait_ms": 1000}] * 10)
    with pytest.raises(RateLimited):
        await setup.call(policy=GatewayPolicy(patience_seconds=3.5))
    assert setup.slept == [1.0, 1.0, 1.0]


async def test_an_expired_grant_is_asked_for_again() -> None:
    setup = Setup(expired=2)
    await setup.call()
    assert setup.ledger.outcomes() == [("gemini", "released"), ("gemini", "released"), ("gemini", "ok")]
    assert setup.gemini.sent == 1


async def test_grants_that_always_expire_are_not_taken_for_ever() -> None:
    setup = Setup(expired=1000)
    with pytest.raises(RateLimited, match="expired"):
        await setup.call()
    assert setup.gemini.sent == 0
    assert setup.ledger.open_calls() == []


async def test_a_provider_that_fails_gives_way_to_the_other() -> None:
    setup = Setup(gemini=[failure("server_error")])
    result = await setup.call()
    assert result.provider == "openai"
    assert setup.ledger.begun == [["gemini", "openai"], ["openai", "gemini"]]
    assert setup.ledger.calls[0].cost == 0, "a 5xx isn't billed"
    assert setup.slept == [], "the other provider needs no pause"


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [("timeout", Decimal("0.0006")), ("connection_error", Decimal(0)), ("rate_limited", Decimal(0))],
)
async def test_what_may_have_been_billed_is_settled_at_its_maximum(
    outcome: Outcome, expected: Decimal
) -> None:
    setup = Setup(gemini=[failure(outcome, retry_after_ms=1200)])
    await setup.call()
    first = setup.ledger.calls[0]
    assert (first.outcome, first.cost, first.retry_after_ms) == (outcome, expected, 1200)


async def test_an_answer_that_does_not_fit_costs_what_it_cost_and_is_tried_again() -> None:
    wrong = RawAnswer('{"word": "yes"}', USAGE, "model", "STOP")
    setup = Setup(gemini=[wrong])
    result = await setup.call()
    assert result.provider == "openai"
    first = setup.ledger.calls[0]
    assert (first.outcome, first.cost) == ("bad_response", GEMINI_COST)
    assert "number: missing" in str(first.error)


@pytest.mark.parametrize(
    "answer",
    [
        RawAnswer("not json <script>", USAGE, "m", "STOP"),
        RawAnswer('{"word": "x", "number": "many"}', None, "m", "STOP"),
        RawAnswer(GOOD.text, USAGE, "m", "MAX_TOKENS", complete=False),
        RawAnswer("", USAGE, "m", "SAFETY", complete=False),
    ],
)
async def test_bad_answers_end_after_three(answer: RawAnswer) -> None:
    setup = Setup(gemini=[answer], openai=[answer])
    with pytest.raises(BadAnswer) as caught:
        await setup.call()
    assert [outcome for _, outcome in setup.ledger.outcomes()] == ["bad_response"] * 3
    assert "script" not in str(caught.value), "what a model wrote isn't repeated in an error"
    if answer.usage is None:
        assert all(call.cost == call.max_cost for call in setup.ledger.calls)


async def test_tries_are_bounded_and_the_destination_is_named_down() -> None:
    setup = Setup(gemini=[failure("server_error")], openai=[failure("timeout", "openai")])
    with pytest.raises(DestinationDown, match="6 requests"):
        await setup.call()
    providers = [provider for provider, _ in setup.ledger.outcomes()]
    assert providers == ["gemini", "openai", "gemini", "openai", "gemini", "openai"]
    assert setup.slept == sorted(setup.slept), "pauses grow"
    assert len(setup.slept) == 4


async def test_refused_for_the_rate_to_the_end_is_rate_limited() -> None:
    errors = [failure("rate_limited", name, retry_after_ms=700) for name in ("gemini", "openai")]
    setup = Setup(gemini=[errors[0]], openai=[errors[1]])
    with pytest.raises(RateLimited) as caught:
        await setup.call()
    assert caught.value.retry_after_ms == 700
    assert setup.slept == [], "SQL says when to come back, not the gateway"


async def test_a_refused_key_is_not_tried_again() -> None:
    setup = Setup(gemini=[failure("auth_error")])
    assert (await setup.call()).provider == "openai"
    assert setup.ledger.begun == [["gemini", "openai"], ["openai"]]
    setup = Setup(gemini=[failure("auth_error")], openai=[failure("billing_stop", "openai")])
    with pytest.raises(AuthError):
        await setup.call()
    assert len(setup.ledger.calls) == 2


async def test_a_refused_request_is_not_tried_again() -> None:
    setup = Setup(gemini=[failure("client_error")])
    with pytest.raises(BadAnswer):
        await setup.call(only="gemini")
    assert len(setup.ledger.calls) == 1


async def test_a_model_without_a_price_stops_before_anything_is_sent() -> None:
    setup = Setup()
    setup.gemini.model = "gemini-imaginary"
    with pytest.raises(UnknownPrice, match="gemini-imaginary"):
        setup.gateway()


async def test_an_error_nobody_foresaw_is_settled_too() -> None:
    setup = Setup(gemini=[RuntimeError("a bug")])
    with pytest.raises(RuntimeError):
        await setup.call()
    assert setup.ledger.calls[0].cost == setup.ledger.calls[0].max_cost


async def test_a_request_that_can_not_be_built_gives_its_slot_back() -> None:
    setup = Setup(gemini=["unbuildable"])
    with pytest.raises(ValueError, match="built"):
        await setup.call()
    assert setup.ledger.outcomes() == [("gemini", "released")]


async def test_cancelled_while_waiting_for_the_answer() -> None:
    setup = Setup(gemini=["hang"])
    task = asyncio.create_task(setup.call())
    await setup.gemini.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (call,) = setup.ledger.calls
    assert (call.status, call.outcome, call.cost) == ("settled", "cancelled", call.max_cost)


@pytest.mark.parametrize("function", ["begin_api_call", "mark_api_call_sent", "settle_api_call"])
async def test_cancelled_inside_a_statement(function: str) -> None:
    """Whether the statement took effect is unknown then: the gateway waits for it, and ends the call."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hook(name: str) -> None:
        if name == function:
            reached.set()
            await go_on.wait()

    setup = Setup(hook=hook)
    task = asyncio.create_task(setup.call())
    await reached.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done(), "it must wait until it knows"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    (call,) = setup.ledger.calls
    assert setup.ledger.open_calls() == []
    if function != "settle_api_call":
        assert setup.gemini.sent == 0
        assert call.cost in (None, 0), "what was never sent costs nothing"
    else:
        assert (call.outcome, call.cost) == ("ok", GEMINI_COST)


async def test_cancelled_while_it_waits_for_a_slot() -> None:
    setup = Setup(refusals=[{"reason": "rate_limited", "wait_ms": 1000}])
    waiting = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    setup.sleep = sleep  # type: ignore[method-assign]
    gateway = setup.gateway()
    task = asyncio.create_task(gateway.call(1, REQUEST))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert setup.ledger.calls == []
    await gateway.call(2, REQUEST)  # the queue of the others goes on


async def test_a_broken_connection_at_settling_is_tried_again() -> None:
    setup = Setup(unavailable={"settle_api_call": 3})
    result = await setup.call()
    assert result.cost_usd == GEMINI_COST
    assert setup.ledger.open_calls() == []


async def test_a_database_that_stays_away_is_said_so() -> None:
    with pytest.raises(DatabaseUnavailable):
        await Setup(unavailable={"settle_api_call": 99}).call()


async def test_a_mark_that_may_not_have_arrived_is_taken_back() -> None:
    setup = Setup(unavailable={"mark_api_call_sent": 1})
    with pytest.raises(DatabaseUnavailable):
        await setup.call()
    assert setup.gemini.sent == 0
    assert setup.ledger.outcomes() == [("gemini", "released")]


async def test_one_call_of_a_run_asks_for_admission_at_a_time() -> None:
    setup = Setup(refusals=[{"reason": "rate_limited", "wait_ms": 100}] * 5)
    gateway = setup.gateway()
    results = await asyncio.gather(*(gateway.call(task, REQUEST) for task in range(20)))
    assert len(results) == 20
    assert len(setup.ledger.begun) == 25, "those that wait don't all ask"
    assert sorted(call.task_id for call in setup.ledger.calls) == list(range(20))


actions = st.sampled_from(
    [
        GOOD,
        RawAnswer("{}", USAGE, "m", "STOP"),
        RawAnswer("{}", None, "m", "STOP"),
        *(failure(outcome) for outcome in ("rate_limited", "server_error", "timeout", "connection_error")),
        *(failure(outcome) for outcome in ("bad_response", "client_error", "auth_error", "billing_stop")),
        RuntimeError("a bug"),
        "hang",
    ]
)
refusals = st.lists(
    st.builds(
        lambda reason, wait: {"reason": reason, "wait_ms": wait},
        st.sampled_from(["rate_limited", "breaker_open", "budget", "item_cost_limit"]),
        st.one_of(st.none(), st.integers(0, 200_000)),
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(actions, min_size=1, max_size=6),
    st.lists(actions, min_size=1, max_size=6),
    refusals,
    st.integers(0, 3),
    st.dictionaries(
        st.sampled_from(["begin_api_call", "mark_api_call_sent", "settle_api_call"]),
        st.integers(0, 2),
        max_size=3,
    ),
    st.one_of(st.none(), st.integers(0, 60)),
)
def test_whatever_happens_no_call_stays_open(
    gemini: list[Any],
    openai: list[Any],
    refused: list[dict[str, Any]],
    expired: int,
    unavailable: dict[str, int],
    cancel_after: int | None,
) -> None:
    """Random providers, refusals, expiries and broken connections, cancelled at a random moment (a hang
    always is)."""

    async def scenario() -> Setup:
        setup = Setup(gemini, openai, refusals=list(refused), expired=expired, unavailable=dict(unavailable))
        task = asyncio.create_task(setup.call())
        for _ in range(400 if cancel_after is None else cancel_after):
            if task.done():
                break
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            error = task.exception()
            assert error is None or isinstance(error, (LeadCoordinatorError, RuntimeError)), repr(error)
        return setup

    setup = asyncio.run(scenario())
    assert setup.ledger.open_calls() == [], f"left open: {setup.ledger.open_calls()}"
    assert setup.gemini.sent + setup.openai.sent <= 6
    sent = sum(call.status == "settled" for call in setup.ledger.calls)
    assert setup.gemini.sent + setup.openai.sent <= sent, "every request that left has a settled row"
    assert setup.ledger.most_active == 1 or cancel_after is not None


async def test_policies_are_checked() -> None:
    for wrong in ({"max_attempts": 0}, {"max_bad_answers": 0}, {"patience_seconds": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            GatewayPolicy(**wrong)
    with pytest.raises(ValueError, match="at least one provider"):
        Gateway(cast("AsyncDatabase", Ledger()), LEASE, {})


# ---- a step's own models, and a limit for one call ---------------------------------------------------------


async def test_of_the_models_of_a_step_the_cheapest_is_asked_and_the_others_where_it_fails() -> None:
    setup = Setup(gemini=[failure("server_error"), GOOD])
    adequate = (("openai", "gpt-5.4-mini"), ("gemini", "gemini-3.1-flash-lite"), ("mistral", "x"))
    result = await setup.gateway().call(7, replace(REQUEST, candidates=adequate))
    assert (result.provider, result.model) == ("openai", "gpt-5.4-mini")
    assert (setup.gemini.sent, setup.openai.sent) == (1, 1), "the cheaper of the two comes first"


async def test_models_that_no_key_serves_are_a_person_s_business() -> None:
    setup = Setup()
    with pytest.raises(
        AuthError, match=r"mistral:x may be asked, and keys are given for gemini, openai only"
    ):
        await setup.gateway().call(7, replace(REQUEST, candidates=(("mistral", "x"),)))
    with pytest.raises(UnknownPrice):
        await setup.gateway().call(7, replace(REQUEST, candidates=(("gemini", "gemini-made-up"),)))
    assert (setup.gemini.sent, setup.openai.sent) == (0, 0)


async def test_a_call_stops_before_its_limit_is_passed() -> None:
    bad = RawAnswer("no JSON", USAGE, "model", "STOP")
    setup = Setup(gemini=[bad], openai=[GOOD])
    worst = Decimal("0.0006")  # 2,000 × $0.10 + 1,000 × $0.40 a million
    with pytest.raises(ItemCostLimit, match="step outline: it may cost"):
        await setup.gateway().call(7, replace(REQUEST, max_cost_usd=worst - Decimal("0.0000001")))
    assert setup.gemini.sent == 0
    with pytest.raises(ItemCostLimit, match=r"on top of 0\.000300, and 0\.000650 are left"):
        await setup.gateway(only="gemini").call(7, replace(REQUEST, max_cost_usd=Decimal("0.00065")))
    assert setup.gemini.sent == 1, "the failed try counts"


async def test_what_the_tries_before_an_answer_cost_is_told() -> None:
    bad = RawAnswer("no JSON", USAGE, "model", "STOP")
    setup = Setup(gemini=[bad, GOOD])
    result = await setup.gateway(only="gemini").call(7, REQUEST)
    assert (result.cost_usd, result.failed_usd) == (GEMINI_COST, GEMINI_COST)
