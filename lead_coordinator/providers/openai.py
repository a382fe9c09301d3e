"""OpenAI's chat completions through the official SDK, `openai` 3.54.

Facts that shape this file:
- The SDK sends a request three times unless told `max_retries=0`, and waits ten minutes for an answer unless
  given a timeout.
- `max_completion_tokens` caps reasoning and answer together; reasoning and cached tokens are subsets of the
  counts.
- Models from gpt-5 on refuse a temperature other than their own, so none is sent to them. `reasoning_effort`
  starts at `none` from gpt-5.1 on (gpt-5: `minimal`).
- A 429 of type `insufficient_quota` means that the account has no money: it never gets better by waiting.
- The price depends on the service tier, and "auto" may pick a dearer one: we name the default tier.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import httpx2
import openai
from openai import AsyncOpenAI
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

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
from lead_coordinator.providers.http import (
    capped_client,
    departing,
    open_connection,
    retry_after_ms,
    transport_error,
)
from lead_coordinator.providers.wire import answer_schema, input_token_bound

NAME: Final = "openai"
DEFAULT_BASE_URL = "https://api.openai.com/v1"


class OpenAIProvider:
    """`Provider` over chat completions. `timeout_seconds` bounds one whole request."""

    name = NAME

    def __init__(
        self, api_key: str, model: str, base_url: str | None = None, timeout_seconds: float = 90.0
    ) -> None:
        self.model = model
        self._base_url = base_url or DEFAULT_BASE_URL
        self._timeout_seconds = timeout_seconds
        self._redact = Redactor((api_key,))
        self._http = capped_client(self._base_url, timeout_seconds)
        self._client = AsyncOpenAI(
            api_key=api_key,
            base_url=self._base_url,
            max_retries=0,
            timeout=timeout_seconds,
            http_client=self._http,
        )

    def max_output_tokens(self, model: str, request: CallRequest) -> int:
        return request.max_output_tokens

    def max_input_tokens(self, model: str, request: CallRequest) -> int:
        return input_token_bound(tuple(message.text for message in request.messages), request.schema, NAME)

    async def warm(self) -> None:
        _ = self._client.chat.completions  # imports what the SDK imports late
        await open_connection(self._http, self._base_url)

    async def aclose(self) -> None:
        await self._client.close()

    async def send(
        self, model: str, request: CallRequest, before_leaving: BeforeLeaving | None = None
    ) -> RawAnswer:
        return await departing(before_leaving, self._send(model, request))

    async def _send(self, model: str, request: CallRequest) -> RawAnswer:
        arguments: dict[str, Any] = {
            "model": model,
            "messages": _messages(request),
            "max_completion_tokens": request.max_output_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": re.sub(r"[^A-Za-z0-9_-]", "_", request.schema.__name__)[:64],
                    "strict": True,
                    "schema": answer_schema(request.schema, NAME),
                },
            },
            "service_tier": "default",
            "store": False,
            "n": 1,
        }
        effort = _reasoning_effort(model)
        if effort is None:
            arguments["temperature"] = request.temperature
        else:
            arguments["reasoning_effort"] = effort
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._client.chat.completions.create(**arguments)
            return self._read(answer, model)
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except openai.APIConnectionError as error:  # a timeout is one of these
            raise transport_error(
                NAME, error.__cause__ or error, self._timeout_seconds, self._redact
            ) from None
        except (TimeoutError, httpx2.HTTPError) as error:
            raise transport_error(NAME, error, self._timeout_seconds, self._redact) from None
        except Exception as error:  # whatever the SDK makes of a body that isn't what it should be
            raise ProviderError(
                NAME,
                "bad_response",
                self._redact(f"unreadable answer: {type(error).__name__}: {error}"),
                billable=True,
            ) from None

    def _read(self, answer: object, model: str) -> RawAnswer:
        # The SDK hands on any text as it is where the body isn't JSON, and doesn't check fields.
        if (
            not isinstance(answer, ChatCompletion)
            or not isinstance(answer.choices, list)
            or not answer.choices
        ):
            raise ValueError("not a chat completion")
        usage = _usage(answer.usage)
        choice = answer.choices[0]
        if choice.message.refusal:
            return RawAnswer("", usage, answer.model or model, "refusal", complete=False)
        finish = str(choice.finish_reason)
        return RawAnswer(
            choice.message.content or "", usage, answer.model or model, finish, complete=finish == "stop"
        )

    def _refused(self, error: openai.APIStatusError) -> ProviderError:
        body = error.body if isinstance(error.body, dict) else {}
        outcome = _outcome(error.status_code, str(body.get("type")), str(body.get("code")))
        return ProviderError(
            NAME,
            outcome,
            self._redact(f"HTTP {error.status_code}: {body.get('message') or error.message}"),
            billable=outcome == "bad_response",
            http_status=error.status_code,
            retry_after_ms=retry_after_ms(error.response.headers)
            if outcome in ("rate_limited", "server_error")
            else None,
        )


def _outcome(status: int, kind: str, code: str) -> Outcome:
    if "insufficient_quota" in (kind, code) or "billing" in code:
        return "billing_stop"
    if status in (401, 403):
        return "auth_error"
    if status == 429:
        return "rate_limited"
    if status in (408, 409) or 500 <= status < 600:
        return "server_error"
    if 400 <= status < 500:
        return "client_error"
    return "bad_response"


def _messages(request: CallRequest) -> list[dict[str, str]]:
    system = [{"role": "system", "content": request.system_text}] if request.system_text else []
    return [*system, *({"role": "user", "content": text} for text in request.user_texts)]


def _reasoning_effort(model: str) -> str | None:
    """The least effort that the model takes; None for models that don't reason (they take a temperature
    instead)."""
    if re.match(r"gpt-5(-|$)", model):
        return "minimal"
    if re.match(r"gpt-([6-9]|\d\d|5\.)", model):
        return "none"
    if re.match(r"o\d", model):
        return "low"
    return None


def _usage(usage: CompletionUsage | None) -> Usage | None:
    if usage is None:
        return None
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return checked_usage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        thinking_tokens=completion.reasoning_tokens if completion else 0,
        cached_tokens=prompt.cached_tokens if prompt else 0,
        cache_write_tokens=prompt.cache_write_tokens if prompt else 0,
    )
