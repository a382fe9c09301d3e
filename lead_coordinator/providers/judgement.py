"""What the gateway concludes: whom to ask next, whether an answer can be used, which error a task meets.

Plain functions over plain data; `gateway` does the asking.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from pydantic import BaseModel, ValidationError

from lead_coordinator.database import calls
from lead_coordinator.errors import (
    AuthError,
    BadAnswer,
    BudgetExhausted,
    DestinationDown,
    ItemCostLimit,
    RateLimited,
    TaskError,
)
from lead_coordinator.providers.base import CallRequest, ProviderError, RawAnswer

# A key, an account or a request that was refused is refused the second time too.
_NOT_AGAIN: frozenset[calls.Outcome] = frozenset({"auth_error", "billing_stop", "client_error"})


@dataclass(frozen=True)
class GatewayPolicy:
    """How hard one call tries. Defaults suit a run of five minutes.

    `max_attempts`: requests sent for one call; `max_bad_answers`: how many of them may be answered unusably;
    `patience_seconds`: how long one call waits for admission, all its waits together.
    """

    max_attempts: int = 6
    max_bad_answers: int = 3
    patience_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.max_bad_answers < 1 or self.patience_seconds < 0:
            raise ValueError("max_attempts and max_bad_answers must be 1 or more, patience_seconds 0 or more")


def spent(failures: list[ProviderError], policy: GatewayPolicy) -> bool:
    """True where one call has tried enough."""
    bad = sum(failure.outcome == "bad_response" for failure in failures)
    return len(failures) >= policy.max_attempts or bad >= policy.max_bad_answers


def in_order(candidates: list[calls.Candidate], failures: list[ProviderError]) -> list[calls.Candidate]:
    """Fewest failures in this call first, then the cheapest; without those that refuse for good."""
    count = {c.provider: sum(f.provider == c.provider for f in failures) for c in candidates}
    closed = {failure.provider for failure in failures if failure.outcome in _NOT_AGAIN}
    usable = [candidate for candidate in candidates if candidate.provider not in closed]
    return sorted(usable, key=lambda candidate: (count[candidate.provider], candidate.max_cost_usd))


def affordable(
    request: CallRequest, candidates: list[calls.Candidate], paid_usd: Decimal
) -> list[calls.Candidate]:
    """The candidates that can't take this call over what it may cost, after `paid_usd` for failed tries.

    Raises `ItemCostLimit` where none is left.
    """
    limit = request.max_cost_usd
    if limit is None:
        return candidates
    kept = [candidate for candidate in candidates if paid_usd + candidate.max_cost_usd <= limit]
    if not kept:
        cheapest = min(candidate.max_cost_usd for candidate in candidates)
        raise ItemCostLimit(
            f"step {request.step}: it may cost {cheapest:.6f} US dollars on top of {paid_usd:.6f}, "
            f"and {limit:.6f} are left"
        )
    return kept


def not_admitted(step: str, refusal: calls.Refusal) -> TaskError:
    """The error for a refusal that waiting does not help, or not soon enough."""
    blocked = ", ".join(f"{entry.provider}: {entry.reason}" for entry in refusal.blocked)
    sentence = f"step {step} wasn't admitted ({refusal.reason}{'; ' + blocked if blocked else ''})"
    kinds: dict[calls.RefusalReason, type[TaskError]] = {
        "rate_limited": RateLimited,
        "budget": BudgetExhausted,
        "item_cost_limit": ItemCostLimit,
        "breaker_open": DestinationDown,
    }
    return kinds.get(refusal.reason, DestinationDown)(sentence, retry_after_ms=refusal.wait_ms)


def validated(provider: str, answer: RawAnswer, request: CallRequest) -> BaseModel:
    """The answer as the schema's model, or `ProviderError("bad_response")` with the usage that was paid
    for."""
    if not answer.complete:
        problem = f"the answer to step {request.step} is incomplete ({answer.finish})"
    else:
        try:
            return request.schema.model_validate_json(answer.text)
        except ValidationError as error:
            # Places and kinds only: what the model wrote is untrusted, and long.
            found = error.errors(include_url=False, include_input=False, include_context=False)[:3]
            places = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'answer'}: {one['type']}" for one in found
            )
            problem = f"the answer to step {request.step} doesn't fit {request.schema.__name__}: {places}"
    raise ProviderError(provider, "bad_response", problem, billable=True, http_status=200, usage=answer.usage)


def verdict(step: str, failures: list[ProviderError], policy: GatewayPolicy) -> TaskError:
    """The error for a call that is given up after these failures."""
    last = failures[-1]
    story = f"step {step}: no answer after {len(failures)} requests; the last: {last}"
    outcomes = {failure.outcome for failure in failures}
    bad = sum(failure.outcome == "bad_response" for failure in failures)
    if bad >= policy.max_bad_answers:
        return BadAnswer(story)
    if not spent(failures, policy):  # every provider refuses for good
        return AuthError(story) if outcomes & {"auth_error", "billing_stop"} else BadAnswer(story)
    if last.outcome == "rate_limited":
        return RateLimited(story, retry_after_ms=last.retry_after_ms)
    # One that answers nonsense between failures of its service: the service is what is wrong.
    if outcomes <= {"bad_response", "client_error"}:
        return BadAnswer(story)
    if last.outcome in ("auth_error", "billing_stop"):
        return AuthError(story)
    return DestinationDown(story, retry_after_ms=last.retry_after_ms)
