"""Google's Gemini API through the official SDK, `google-genai` 3.4.

Facts that shape this file:
- Without `retry_options` some calls of the SDK retry by themselves; `attempts=1` turns that off. It ignores
  the server's RetryInfo: we read it.
- `thoughts_token_count` is not part of `candidates_token_count`, and both are billed as output.
- An invalid key is HTTP 400 with the reason API_KEY_INVALID, not 401.
- Requests that fail with 4xx or 5xx aren't billed (ai.google.dev/gemini-api/docs/billing). One that was cut
  off or timed out may have been.
- Thinking is switched off by `thinking_budget=0` for the 2.5 flash models; from Gemini 3 on a level is given,
  of which `MINIMAL` is the least.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

import httpx2
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

from lead_coordinator.database.calls import Outcome
from lead_coordinator.providers.base import (
    BeforeLeaving,
    CallRequest,
    ProviderError,
    RawAnswer,
    Redactor,
    Usage,
    checked_usage,
)
from lead_coordinator.providers.http import capped_client, departing, open_connection, transport_error
from lead_coordinator.providers.wire import answer_schema, input_token_bound

NAME: Final = "gemini"
DEFAULT_BASE_URL = "https://generativelanguage.googleapis.com"
# gemini-2.5-pro can't stop thinking; this is the least it takes.
MINIMUM_PRO_BUDGET = 128
# A spent daily quota comes back at midnight Pacific. We look again every hour, in case it was raised
# meanwhile.
DAILY_QUOTA_TIMEZONE = ZoneInfo("America/Los_Angeles")
LONGEST_QUOTA_WAIT = timedelta(hours=1)


class GeminiProvider:
    """`Provider` over generateContent. `timeout_seconds` bounds one whole request."""

    name = NAME

    def __init__(
        self, api_key: str, model: str, base_url: str | None = None, timeout_seconds: float = 90.0
    ) -> None:
        self.model = model
        self._base_url = base_url or DEFAULT_BASE_URL
        self._timeout_seconds = timeout_seconds
        self._redact = Redactor((api_key,))
        self._http = capped_client(self._base_url, timeout_seconds)
        self._client = genai.Client(
            api_key=api_key,
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=self._base_url,
                timeout=int(timeout_seconds * 1000),
                retry_options=types.HttpRetryOptions(attempts=1),
                httpx_async_client=self._http,
            ),
        )

    def max_output_tokens(self, model: str, request: CallRequest) -> int:
        """The cap, and beyond it the thinking of a model that can't be told to stop: whether the cap includes
        that isn't promised, so it is counted on top."""
        if model.startswith("gemini-2.5-pro"):
            return request.max_output_tokens + MINIMUM_PRO_BUDGET
        return request.max_output_tokens if _thinking_off(model) else 2 * request.max_output_tokens

    def max_input_tokens(self, model: str, request: CallRequest) -> int:
        return input_token_bound((request.system_text, *request.user_texts), request.schema, NAME)

    async def warm(self) -> None:
        await open_connection(self._http, self._base_url)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def send(
        self, model: str, request: CallRequest, before_leaving: BeforeLeaving | None = None
    ) -> RawAnswer:
        return await departing(before_leaving, self._send(model, request))

    async def _send(self, model: str, request: CallRequest) -> RawAnswer:
        config = types.GenerateContentConfig(
            system_instruction=request.system_text or None,
            temperature=request.temperature,
            max_output_tokens=request.max_output_tokens,
            candidate_count=1,
            response_mime_type="application/json",
            response_schema=_schema(request.schema),
            thinking_config=_thinking(model),
        )
        contents = [types.Content(role="user", parts=[types.Part(text=text)]) for text in request.user_texts]
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._client.aio.models.generate_content(
                    model=model,
                    contents=contents,
                    config=config,
                )
            return self._read(answer, model)
        except errors.APIError as error:
            raise self._refused(error) from None
        except (TimeoutError, httpx2.HTTPError) as error:
            raise transport_error(NAME, error, self._timeout_seconds, self._redact) from None
        except Exception as error:  # whatever the SDK makes of a body that isn't what it should be
            raise ProviderError(
                NAME,
                "bad_response",
                self._redact(f"unreadable answer: {type(error).__name__}: {error}"),
                billable=True,
            ) from None

    def _read(self, answer: types.GenerateContentResponse, model: str) -> RawAnswer:
        usage = _usage(answer.usage_metadata)
        candidate = answer.candidates[0] if answer.candidates else None
        if candidate is None:
            blocked = answer.prompt_feedback.block_reason if answer.prompt_feedback else None
            return RawAnswer("", usage, answer.model_version or model, f"blocked:{blocked}", complete=False)
        finish = candidate.finish_reason.value if candidate.finish_reason else "none"
        parts = candidate.content.parts if candidate.content else None
        text = "".join(part.text for part in parts or [] if part.text and not part.thought)
        return RawAnswer(text, usage, answer.model_version or model, finish, complete=finish == "STOP")

    def _refused(self, error: errors.APIError) -> ProviderError:
        details = _details(error.details)
        message = str(error.message or error.status or "")
        outcome = _outcome(int(error.code or 0), message, details)
        return ProviderError(
            NAME,
            outcome,
            self._redact(f"HTTP {error.code} {error.status}: {message}"),
            billable=outcome == "bad_response",
            http_status=int(error.code or 0) or None,
            retry_after_ms=retry_delay_ms(details, datetime.now(UTC)) if outcome == "rate_limited" else None,
        )


def retry_delay_ms(details: list[Mapping[str, Any]], now: datetime) -> int | None:
    """How long a 429 asks to be left alone, milliseconds: RetryInfo, and at least an hour's worth of a daily
    quota."""
    delay: timedelta | None = None
    for detail in details:
        if str(detail.get("@type", "")).endswith("RetryInfo"):
            try:
                delay = timedelta(seconds=float(str(detail.get("retryDelay", "")).removesuffix("s")))
            except (ValueError, OverflowError):
                continue
    if any("PerDay" in str(violation.get("quotaId", "")) for violation in _violations(details)):
        here = now.astimezone(DAILY_QUOTA_TIMEZONE)
        midnight = datetime.combine(here.date() + timedelta(days=1), time(), DAILY_QUOTA_TIMEZONE)
        reset = min(midnight.astimezone(UTC) - now.astimezone(UTC), LONGEST_QUOTA_WAIT)
        delay = max(delay or reset, reset)
    if delay is None or not timedelta(0) <= delay <= timedelta(days=1):
        return None
    return int(delay / timedelta(milliseconds=1))


def _outcome(code: int, message: str, details: list[Mapping[str, Any]]) -> Outcome:
    reasons = {str(detail.get("reason")) for detail in details}
    if "API_KEY_INVALID" in reasons or code == 401:
        return "auth_error"
    # "check your plan and billing details" stands in every 429; only these words mean that the money has run
    # out.
    if "BILLING_DISABLED" in reasons or (code == 429 and "credits are depleted" in message):
        return "billing_stop"
    if code == 403:
        return "auth_error"
    if code == 429:
        return "rate_limited"
    if 500 <= code < 600 or code == 408:
        return "server_error"
    if 400 <= code < 500:
        return "client_error"
    return "bad_response"


def _details(body: Any) -> list[Mapping[str, Any]]:
    error = body.get("error", body) if isinstance(body, Mapping) else {}
    details = error.get("details") if isinstance(error, Mapping) else None
    return (
        [detail for detail in details or [] if isinstance(detail, Mapping)]
        if isinstance(details, list)
        else []
    )


def _violations(details: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found = [detail.get("violations") for detail in details]
    return [
        violation
        for group in found
        if isinstance(group, list)
        for violation in group
        if isinstance(violation, Mapping)
    ]


@lru_cache(maxsize=128)
def _schema(model: type[BaseModel]) -> types.Schema:
    return types.Schema.model_validate(answer_schema(model, NAME))


def _thinking_off(model: str) -> bool:
    return model.startswith(("gemini-2.5-flash", "gemini-2.0"))


def _thinking(model: str) -> types.ThinkingConfig | None:
    if model.startswith("gemini-2.5-flash"):
        return types.ThinkingConfig(thinking_budget=0)
    if model.startswith("gemini-2.5-pro"):
        return types.ThinkingConfig(thinking_budget=MINIMUM_PRO_BUDGET)
    if model.startswith("gemini-2.0"):
        return None
    return types.ThinkingConfig(
        thinking_level=types.ThinkingLevel.MINIMAL if "flash" in model else types.ThinkingLevel.LOW
    )


def _usage(metadata: types.GenerateContentResponseUsageMetadata | None) -> Usage | None:
    if metadata is None or metadata.prompt_token_count is None:
        return None
    thinking = metadata.thoughts_token_count or 0
    return checked_usage(
        input_tokens=metadata.prompt_token_count + (metadata.tool_use_prompt_token_count or 0),
        output_tokens=(metadata.candidates_token_count or 0) + thinking,
        thinking_tokens=thinking,
        cached_tokens=metadata.cached_content_token_count,
    )
