"""What a call that is given up means for its task: its own fault, or its destination's."""

from __future__ import annotations

import pytest

from lead_coordinator.errors import AuthError, BadAnswer, DestinationDown, RateLimited, TaskError
from lead_coordinator.providers.base import ProviderError
from lead_coordinator.providers.judgement import GatewayPolicy, verdict

POLICY = GatewayPolicy(max_attempts=4, max_bad_answers=3)


def failed(*outcomes: str) -> list[ProviderError]:
    return [ProviderError("gemini", outcome, outcome, billable=False) for outcome in outcomes]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcomes", "error"),
    [
        (("bad_response",) * 3, BadAnswer),
        (("server_error", "bad_response", "bad_response", "bad_response"), BadAnswer),
        (("server_error", "timeout", "server_error", "bad_response"), DestinationDown),
        (("connection_error", "bad_response", "timeout", "client_error"), DestinationDown),
        (("bad_response", "client_error", "client_error", "bad_response"), BadAnswer),
        (("timeout", "server_error", "timeout", "rate_limited"), RateLimited),
        (("server_error",) * 4, DestinationDown),
        (("auth_error",), AuthError),
        (("client_error",), BadAnswer),
    ],
)
def test_nonsense_between_failures_of_a_service_is_not_the_tasks_fault(
    outcomes: tuple[str, ...], error: type[TaskError]
) -> None:
    assert type(verdict("draft", failed(*outcomes), POLICY)) is error
