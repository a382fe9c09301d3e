"""The sandbox's model without its server: a ModelCaller that answers, counts tokens and prices them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Literal

from lead_coordinator.providers import prices
from lead_coordinator.providers.base import CallRequest, CallResult, Usage
from lead_coordinator.providers.sandbox.exchange import Question
from lead_coordinator.providers.sandbox.model import SandboxModel
from lead_coordinator.providers.wire import answer_schema, schema_bytes
from lead_coordinator.settings import Settings

PRICED_AT = datetime(2026, 11, 24, tzinfo=UTC)


class SandboxCaller:
    """Answers as the sandbox does, at the list price of a provider's default model."""

    def __init__(self, provider: Literal["gemini", "openai"] = "gemini", seed: int = 1) -> None:
        settings = Settings.load({})
        self.provider: Literal["gemini", "openai"] = provider
        self.model = settings.gemini_model if provider == "gemini" else settings.openai_model
        self._sandbox = SandboxModel(seed)
        self._ids = itertools.count(1)
        self.requests: list[CallRequest] = []

    async def call(self, task_id: int, request: CallRequest) -> CallResult:
        self.requests.append(request)
        schema = answer_schema(request.schema, self.provider)
        answer = self._sandbox.answer(
            Question(
                model=self.model,
                system=request.system_text,
                texts=request.user_texts,
                schema=schema,
                # Its length is what is counted.
                schema_text=" " * schema_bytes(request.schema, self.provider),
                max_output_tokens=request.max_output_tokens,
                thinking=0.0,
            )
        )
        assert not answer.truncated, f"step {request.step} fits into {request.max_output_tokens} tokens"
        usage = Usage(input_tokens=answer.input_tokens, output_tokens=answer.output_tokens)
        return CallResult(
            value=request.schema.model_validate_json(answer.text),
            provider=self.provider,
            model=self.model,
            usage=usage,
            cost_usd=prices.real_cost(self.provider, self.model, usage, PRICED_AT),
            latency_ms=1,
            call_id=next(self._ids),
        )
