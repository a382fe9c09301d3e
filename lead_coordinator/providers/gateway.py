"""The one way to a model: priced, admitted by SQL, sent once, settled, whatever happens.

A call goes: price the worst case of every candidate, `begin_api_call` (a slot, the money, the breaker; or
"not now, come back in so many milliseconds"), `mark_api_call_sent` as the last thing before the request
leaves, the request, `settle_api_call`.

Invariants:
- While it waits, a call holds nothing: no connection, no slot, no money.
- Every granted call ends in `settle_api_call` or `release_api_call`, through cancellation and timeouts too.
  Only a process that dies, or a database that stays away, leaves one open: recovery settles that at its
  maximum.
- The statements that give and end a grant are not interrupted by cancellation: their outcome has to be known.
- A call that was sent and whose cost isn't known is settled at its maximum (`p_cost_usd` NULL).
- Tries are bounded: `max_attempts` requests, of which `max_bad_answers` may be answers that can't be used. A
  provider that fails goes behind the others for the rest of the call; one that refuses the key, the account
  or the request itself isn't asked again in this call.

What a caller meets: `RateLimited`, `BudgetExhausted`, `ItemCostLimit` (not admitted in time),
`DestinationDown`, `AuthError` (providers fail), `BadAnswer` (they answer, and it is no use), `StaleLease`
(stop at once), `DatabaseUnavailable`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from lead_coordinator.database import calls
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import Lease
from lead_coordinator.errors import AuthError, DatabaseUnavailable, LeadCoordinatorError, RateLimited
from lead_coordinator.providers import prices
from lead_coordinator.providers.base import (
    CallRequest,
    CallResult,
    Provider,
    ProviderError,
    Usage,
)
from lead_coordinator.providers.judgement import (
    GatewayPolicy,
    affordable,
    in_order,
    not_admitted,
    spent,
    validated,
    verdict,
)
from lead_coordinator.providers.uninterrupted import uninterrupted

__all__ = ["Gateway", "GatewayPolicy"]

logger = logging.getLogger(__name__)

# Never ask again at once, whatever the database says: a busy loop would help nobody.
SHORTEST_WAIT_SECONDS = 0.02
FIRST_BACKOFF_SECONDS = 0.25
LONGEST_BACKOFF_SECONDS = 4.0
MOST_EXPIRIES = 10
SETTLE_PAUSES_SECONDS = (0.2, 1.0, 3.0)


class _GrantExpired(Exception):
    """The slot was granted and not used in time; nothing was sent."""


@dataclass
class _Flight:
    """How far one request got. `started`: monotonic seconds; `ended`: its call was released or settled."""

    sent_at: datetime | None = None
    started: float = 0.0
    ended: bool = False


class Gateway:
    """`ModelCaller` over SQL admission. One instance serves all tasks of one run, concurrently.

    `providers`: by name, each asked for its own `model`. Raises `UnknownPrice` at once for a model without a
    price.
    """

    def __init__(
        self,
        db: AsyncDatabase,
        lease: Lease,
        providers: Mapping[str, Provider],
        policy: GatewayPolicy | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        seed: int | None = None,
    ) -> None:
        if not providers:
            raise ValueError("a gateway needs at least one provider")
        self._db = db
        self._lease = lease
        self._providers = dict(providers)
        self._policy = policy or GatewayPolicy()
        self._sleep = sleep
        self._now = now
        self._random = random.Random(seed)
        # Calls of a run queue here in order; otherwise all of them would ask the database whenever a slot
        # comes free.
        self._turn = asyncio.Lock()
        for provider in self._providers.values():
            prices.check_priced(provider.name, provider.model, now())

    async def warm(self) -> None:
        """Opens connections, so that the first request leaves as soon as it is marked sent."""
        await asyncio.gather(*(provider.warm() for provider in self._providers.values()))

    async def aclose(self) -> None:
        """Closes the providers' connections. Calls must have ended."""
        await asyncio.gather(
            *(provider.aclose() for provider in self._providers.values()), return_exceptions=True
        )

    async def call(self, task_id: int, request: CallRequest) -> CallResult:
        """One validated answer for the task. See the module for what it raises."""
        candidates = self._candidates(request)
        failures: list[ProviderError] = []
        patience = self._policy.patience_seconds
        expiries = 0
        while True:
            usable = in_order(candidates, failures)
            if not usable or spent(failures, self._policy):
                raise verdict(request.step, failures, self._policy)
            paid = sum((failure.charged_usd for failure in failures), Decimal(0))
            usable = affordable(request, usable, paid)
            if all(any(f.provider == c.provider for f in failures) for c in usable):
                await self._back_off(failures)
            grant, patience = await self._admit(task_id, request.step, usable, patience)
            try:
                return replace(await self._use(grant, request), failed_usd=paid)
            except _GrantExpired as expired:
                # A grant lives for seconds: a process that can't use one in time must not go on taking them.
                expiries += 1
                if expiries >= MOST_EXPIRIES:
                    raise RateLimited(
                        f"step {request.step}: {expiries} grants expired unused: {expired}"
                    ) from None
            except ProviderError as failure:
                logger.warning("step %s of task %s: %s (%s)", request.step, task_id, failure, failure.outcome)
                failures.append(failure)

    def _candidates(self, request: CallRequest) -> list[calls.Candidate]:
        """The models that may be asked, the cheapest first. AuthError where no provider of them is set up."""
        at = self._now()
        candidates = []
        asked = request.candidates or [(one.name, one.model) for one in self._providers.values()]
        for name, model in asked:
            provider = self._providers.get(name)
            if provider is None:
                continue
            input_tokens = provider.max_input_tokens(model, request)
            output_tokens = provider.max_output_tokens(model, request)
            cost = prices.maximum_cost(name, model, input_tokens, output_tokens, at)
            candidates.append(calls.Candidate(name, model, cost, input_tokens, output_tokens))
        if not candidates:
            wanted = ", ".join(f"{name}:{model}" for name, model in asked)
            raise AuthError(
                f"step {request.step}: {wanted} may be asked, and keys are given for "
                f"{', '.join(sorted(self._providers))} only"
            )
        return sorted(candidates, key=lambda candidate: candidate.max_cost_usd)

    # -- admission -------------------------------------------------------------------------------------------

    async def _admit(
        self, task_id: int, step: str, candidates: list[calls.Candidate], patience: float
    ) -> tuple[calls.Grant, float]:
        """A grant and the patience that is left, seconds; or the error that says why there is none."""
        queued_at = time.monotonic()
        async with self._turn:
            patience -= time.monotonic() - queued_at
            while True:
                answer = await self._begin(task_id, step, candidates)
                if isinstance(answer, calls.Grant):
                    return answer, patience
                wait = None if answer.wait_ms is None else max(answer.wait_ms / 1000, SHORTEST_WAIT_SECONDS)
                if answer.reason == "item_cost_limit" or wait is None or wait > patience:
                    raise not_admitted(step, answer)
                await self._sleep(wait)
                patience -= wait

    async def _begin(
        self, task_id: int, step: str, candidates: list[calls.Candidate]
    ) -> calls.Grant | calls.Refusal:
        answer, cancelled = await uninterrupted(
            calls.begin_api_call(self._db, self._lease, task_id, step, candidates)
        )
        if cancelled is not None:
            if isinstance(answer, calls.Grant):
                await self._end_unsent(answer)
            raise cancelled
        assert answer is not None
        return answer

    # -- one request -----------------------------------------------------------------------------------------

    async def _use(self, grant: calls.Grant, request: CallRequest) -> CallResult:
        provider = self._providers[grant.provider]
        flight = _Flight()
        try:
            answer = await provider.send(grant.model, request, lambda: self._mark_sent(grant, flight))
        except ProviderError as failure:
            await self._end(grant, flight, failure)
            raise
        except asyncio.CancelledError:
            await self._end(
                grant, flight, _ended(grant, "cancelled", "cancelled while waiting for the answer")
            )
            raise
        except _GrantExpired:
            raise
        except Exception as error:
            await self._end(grant, flight, _ended(grant, "bad_response", type(error).__name__))
            raise
        assert flight.sent_at is not None, "a provider must announce the request before it leaves"
        sent_at = flight.sent_at
        latency_ms = round((time.monotonic() - flight.started) * 1000)
        try:
            value = validated(grant.provider, answer, request)
        except ProviderError as failure:
            await self._settle_failure(grant, failure, sent_at)
            raise
        cost = (
            None
            if answer.usage is None
            else prices.real_cost(grant.provider, grant.model, answer.usage, sent_at)
        )
        charged = await self._settle(grant, "ok", cost, usage=answer.usage, http_status=200)
        return CallResult(
            value=value,
            provider=grant.provider,
            model=grant.model,
            usage=answer.usage or Usage(),
            cost_usd=charged,
            latency_ms=latency_ms,
            call_id=grant.call_id,
        )

    async def _mark_sent(self, grant: calls.Grant, flight: _Flight) -> None:
        """The last thing before the request leaves. Where it fails, the call has been ended."""
        try:
            marked, cancelled = await uninterrupted(
                calls.mark_api_call_sent(self._db, self._lease, grant.call_id)
            )
        except Exception:
            flight.ended = True
            await self._end_unsent(grant)
            raise
        if cancelled is not None:
            flight.ended = True
            await self._end_unsent(grant)
            raise cancelled
        assert marked is not None
        if not marked.ok:
            flight.ended = True
            raise _GrantExpired(str(marked.reason))
        flight.sent_at, flight.started = self._now(), time.monotonic()

    async def _end(self, grant: calls.Grant, flight: _Flight, failure: ProviderError) -> None:
        """Ends a call without an answer: settled where the request left, released where it didn't."""
        if flight.ended:
            return
        if flight.sent_at is None:
            await self._end_unsent(grant)
        else:
            await self._settle_failure(grant, failure, flight.sent_at)

    async def _end_unsent(self, grant: calls.Grant) -> None:
        """Ends a call that surely wasn't sent, and of which it isn't known whether it was marked as sent. Its
        errors only go to the log: whoever calls this has one to raise."""
        try:
            released, _ = await uninterrupted(calls.release_api_call(self._db, self._lease, grant.call_id))
            if not released:  # it was marked, or has ended already, in which case settling changes nothing
                await self._settle(grant, "cancelled", Decimal(0), error="marked as sent, never sent")
        except LeadCoordinatorError as error:
            logger.warning("call %s stays open until recovery: %s", grant.call_id, error)

    async def _settle_failure(self, grant: calls.Grant, failure: ProviderError, sent_at: datetime) -> None:
        cost: Decimal | None = None
        if failure.usage is not None:
            cost = prices.real_cost(grant.provider, grant.model, failure.usage, sent_at)
        elif not failure.billable:
            cost = Decimal(0)
        failure.charged_usd = await self._settle(
            grant,
            failure.outcome,
            cost,
            usage=failure.usage,
            http_status=failure.http_status,
            retry_after_ms=failure.retry_after_ms,
            error=str(failure),
        )

    async def _settle(
        self,
        grant: calls.Grant,
        outcome: calls.Outcome,
        cost: Decimal | None,
        *,
        usage: Usage | None = None,
        http_status: int | None = None,
        retry_after_ms: int | None = None,
        error: str | None = None,
    ) -> Decimal:
        """Settles the call (idempotent, so a broken connection is no reason not to try again); what it was
        charged."""

        async def settle() -> calls.Settled:
            for pause in (*SETTLE_PAUSES_SECONDS, None):
                try:
                    return await calls.settle_api_call(
                        self._db,
                        grant.call_id,
                        outcome,
                        cost,
                        usage=usage.as_dict() if usage else None,
                        http_status=http_status,
                        retry_after_ms=retry_after_ms,
                        error=error,
                    )
                except DatabaseUnavailable:
                    if pause is None:
                        raise
                    await self._sleep(pause)
            raise AssertionError("unreachable")

        settled, cancelled = await uninterrupted(settle())
        if cancelled is not None:
            raise cancelled
        assert settled is not None
        return settled.cost_usd

    async def _back_off(self, failures: list[ProviderError]) -> None:
        """Every provider has failed this call: give them a moment (SQL paces what was refused for its
        rate)."""
        if failures and failures[-1].outcome != "rate_limited":
            pause = min(FIRST_BACKOFF_SECONDS * 2 ** (len(failures) - 1), LONGEST_BACKOFF_SECONDS)
            await self._sleep(pause * self._random.uniform(0.5, 1.5))


def _ended(grant: calls.Grant, outcome: calls.Outcome, reason: str) -> ProviderError:
    return ProviderError(grant.provider, outcome, reason, billable=True)
