"""Calls to providers: a grant (slot, breaker, budget) before, the real cost after. Asynchronous.

The order is begin, mark sent, send, settle. Between begin and mark the grant can be given back
(`release_api_call`); from mark on the money may be owed, so every ending must be settled. A process that dies
in between is settled by the recovery of its execution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import AsyncDatabase, given
from lead_coordinator.database.executions import Lease

Outcome = Literal[
    "ok",
    "rate_limited",
    "server_error",
    "timeout",
    "connection_error",
    "bad_response",
    "client_error",
    "auth_error",
    "billing_stop",
    "cancelled",
]
RefusalReason = Literal["rate_limited", "breaker_open", "budget", "item_cost_limit"]


@dataclass(frozen=True)
class Candidate:
    """A provider and model that could serve the call.

    `max_cost_usd` is its worst case, thinking tokens included.
    """

    provider: str
    model: str
    max_cost_usd: Decimal
    input_tokens: int
    max_output_tokens: int


@dataclass(frozen=True)
class Wish:
    """A call that a task would make, for `begin_api_calls`."""

    task_id: int
    step: str
    candidates: Sequence[Candidate]


@dataclass(frozen=True)
class Grant:
    """Leave for one call, to be marked as sent within `use_by_ms`.

    `probe`: it tries out a provider that was down.
    """

    call_id: int
    provider: str
    model: str
    use_by_ms: int
    probe: bool


@dataclass(frozen=True)
class Blocked:
    """Why one provider can't take the call now."""

    provider: str
    reason: str
    wait_ms: int | None


@dataclass(frozen=True)
class Refusal:
    """Not now: ask again after `wait_ms`.

    None where waiting doesn't help (an item's cost limit, the day's budget).
    """

    reason: RefusalReason
    wait_ms: int | None
    blocked: tuple[Blocked, ...]


@dataclass(frozen=True)
class Sent:
    """`ok` False: the grant had expired and was given back; begin again."""

    ok: bool
    reason: str | None


@dataclass(frozen=True)
class Settled:
    """What was booked, in US dollars, and the state of the provider's circuit breaker afterwards."""

    cost_usd: Decimal
    breaker_state: str | None


async def begin_api_call(
    db: AsyncDatabase,
    lease: Lease,
    task_id: int,
    step: str,
    candidates: Sequence[Candidate],
    *,
    current_time: datetime | None = None,
) -> Grant | Refusal:
    """Asks for leave to call one of `candidates` (in order of preference). Raises `StaleLease`."""
    answer = await db.call_without_flush(
        "begin_api_call",
        execution_id=lease.execution_id,
        fence=lease.fence,
        task_id=task_id,
        step=step,
        candidates=Jsonb([asdict(candidate) for candidate in candidates]),
        **given(current_time=current_time),
    )
    return _granted_or_not(answer)


async def begin_api_calls(
    db: AsyncDatabase, lease: Lease, wishes: Sequence[Wish], *, current_time: datetime | None = None
) -> tuple[Grant | Refusal, ...]:
    """Asks for leave for up to 100 calls at once; an answer each, in the order given.

    Raises `StaleLease`, and `InvalidInput` for the first that is wrong; then none is granted.
    """
    answers = await db.call_without_flush(
        "begin_api_calls",
        execution_id=lease.execution_id,
        fence=lease.fence,
        calls=Jsonb([asdict(wish) for wish in wishes]),
        **given(current_time=current_time),
    )
    return tuple(_granted_or_not(answer) for answer in answers)


def _granted_or_not(answer: Mapping[str, Any]) -> Grant | Refusal:
    if answer["granted"]:
        return Grant(
            answer["call_id"],
            answer["provider"],
            answer["model"],
            int(answer["use_by_ms"]),
            bool(answer["probe"]),
        )
    return Refusal(
        answer["reason"],
        _milliseconds(answer.get("wait_ms")),
        tuple(
            Blocked(item["provider"], item["reason"], _milliseconds(item.get("wait_ms")))
            for item in answer.get("blocked") or ()
        ),
    )


def _milliseconds(value: int | Decimal | None) -> int | None:
    return None if value is None else int(value)


async def mark_api_call_sent(
    db: AsyncDatabase, lease: Lease, call_id: int, *, current_time: datetime | None = None
) -> Sent:
    """Last thing before the request leaves: from here on it may be billed."""
    answer = await db.call(
        "mark_api_call_sent", call_id=call_id, fence=lease.fence, **given(current_time=current_time)
    )
    return Sent(bool(answer["ok"]), answer.get("reason"))


async def settle_api_call(
    db: AsyncDatabase,
    call_id: int,
    outcome: Outcome,
    cost_usd: Decimal | None,
    *,
    usage: Mapping[str, Any] | None = None,
    http_status: int | None = None,
    retry_after_ms: int | None = None,
    error: str | None = None,
    current_time: datetime | None = None,
) -> Settled:
    """Books the real cost in US dollars; None: unknown, booked at its maximum. Settling twice books once.

    `connection_error` means that the connection couldn't be made: nothing was billed, so pass 0.
    """
    answer = await db.call_without_flush(
        "settle_api_call",
        call_id=call_id,
        outcome=outcome,
        cost_usd=cost_usd,
        usage=Jsonb(usage or {}),
        **given(
            http_status=http_status,
            retry_after_ms=retry_after_ms,
            error=None if error is None else error.replace("\x00", "\ufffd"),
            current_time=current_time,
        ),
    )
    # A call that was released before costs nothing, and its cost is NULL.
    return Settled(Decimal(answer["cost_usd"] or 0), answer.get("breaker_state"))


async def release_api_call(
    db: AsyncDatabase, lease: Lease, call_id: int, *, current_time: datetime | None = None
) -> bool:
    """Gives back a grant that was never sent: slot and money. False where there was nothing to give back."""
    answer = await db.call_without_flush(
        "release_api_call", call_id=call_id, fence=lease.fence, **given(current_time=current_time)
    )
    return bool(answer)
