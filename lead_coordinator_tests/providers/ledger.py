"""The SQL functions that the gateway calls, in memory: enough of their contract to see what the gateway does
with them.

Its own rules are strict: a call that is marked without a grant, settled without a mark, or released after it
was sent is an error of the test. `open_calls()` is what the gateway left behind.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from lead_coordinator.errors import DatabaseUnavailable


@dataclass
class Call:
    call_id: int
    provider: str
    task_id: int
    step: str
    max_cost: Decimal
    status: str = "reserved"
    outcome: str | None = None
    cost: Decimal | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    retry_after_ms: int | None = None
    error: str | None = None


Hook = Callable[[str], Awaitable[None]]


@dataclass
class Ledger:
    """`refusals`: what `begin_api_call` answers before it grants; `expired`: how many marks find their grant
    gone; `unavailable`: function names that fail so many times; `hook`: awaited inside every function."""

    refusals: list[dict[str, Any]] = field(default_factory=list)
    expired: int = 0
    unavailable: dict[str, int] = field(default_factory=dict)
    hook: Hook | None = None
    calls: list[Call] = field(default_factory=list)
    begun: list[list[str]] = field(default_factory=list)
    active: int = 0
    most_active: int = 0

    async def call(self, function: str, **params: Any) -> Any:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            if self.hook is not None:
                await self.hook(function)
            await asyncio.sleep(0)
            if self.unavailable.get(function, 0) > 0:
                self.unavailable[function] -= 1
                raise DatabaseUnavailable("the connection to the database broke")
            return getattr(self, function)(**params)
        finally:
            self.active -= 1

    call_without_flush = call

    def begin_api_call(
        self, execution_id: str, fence: int, task_id: int, step: str, candidates: Any
    ) -> dict[str, Any]:
        offered = candidates.obj
        self.begun.append([candidate["provider"] for candidate in offered])
        if self.refusals:
            return {"granted": False, "blocked": [], **self.refusals.pop(0)}
        first = offered[0]
        call = Call(len(self.calls) + 1, first["provider"], task_id, step, first["max_cost_usd"])
        self.calls.append(call)
        return {
            "granted": True,
            "call_id": call.call_id,
            "provider": first["provider"],
            "model": first["model"],
            "use_by_ms": 2000,
            "probe": False,
        }

    def mark_api_call_sent(self, call_id: int, fence: int) -> dict[str, Any]:
        call = self.calls[call_id - 1]
        assert call.status == "reserved"
        if self.expired:
            self.expired -= 1
            call.status = "released"
            return {"ok": False, "reason": "grant_expired"}
        call.status = "sent"
        return {"ok": True, "reason": None}

    def settle_api_call(
        self,
        call_id: int,
        outcome: str,
        cost_usd: Decimal | None,
        usage: Any = None,
        http_status: int | None = None,
        retry_after_ms: int | None = None,
        error: str | None = None,
    ) -> dict[str, Any]:
        call = self.calls[call_id - 1]
        if call.status not in ("settled", "released"):
            assert call.status == "sent", f"a call that is {call.status} can't be settled"
            call.status, call.outcome, call.error = "settled", outcome, error
            call.cost = call.max_cost if cost_usd is None else cost_usd
            call.usage, call.retry_after_ms = dict(usage.obj), retry_after_ms
        return {"cost_usd": call.cost, "breaker_state": "closed"}

    def release_api_call(self, call_id: int, fence: int) -> bool:
        call = self.calls[call_id - 1]
        if call.status != "reserved":
            return False
        call.status = "released"
        return True

    def open_calls(self) -> list[Call]:
        return [call for call in self.calls if call.status not in ("settled", "released")]

    def outcomes(self) -> list[tuple[str, str | None]]:
        return [(call.provider, call.outcome or call.status) for call in self.calls]
