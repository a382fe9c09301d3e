"""The model inside the sandbox: a question in, an answer with its tokens out. Deterministic for seed and
question."""

from __future__ import annotations

import hashlib
import json
import random

from lead_coordinator.providers.sandbox.brief import read_prompt
from lead_coordinator.providers.sandbox.exchange import Answer, BadRequest, Question
from lead_coordinator.providers.sandbox.prose import Prose
from lead_coordinator.providers.sandbox.schema import BadSchema
from lead_coordinator.providers.sandbox.tokens import PrefixCache, count_tokens, cut_to_tokens
from lead_coordinator.providers.sandbox.writer import Writer

_TEXT_SCHEMA = {"type": "object", "properties": {"article": {"type": "string"}}}


class SandboxModel:
    """`seed` and the question decide the answer, the provider's cache only the price."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.cache = PrefixCache()

    def source(self, asked: Question, salt: str) -> random.Random:
        """Chance that belongs to a question: the same for the same seed, question and salt."""
        parts = (str(self._seed), salt, asked.system, *asked.texts, asked.schema_text)
        digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", errors="surrogatepass")).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))

    def answer(self, asked: Question) -> Answer:
        """Raises `BadRequest` for a schema that can't be answered."""
        prose = Prose(read_prompt([asked.system, *asked.texts]), self.source(asked, "text"))
        try:
            value = Writer(asked.schema if asked.schema is not None else _TEXT_SCHEMA, prose).answer()
        except (BadSchema, RecursionError) as error:
            raise BadRequest(f"Invalid schema: {error}", param="response_format") from None
        text = json.dumps(value, ensure_ascii=False) if asked.schema is not None else str(value["article"])
        output = count_tokens(text)
        thinking = round(output * asked.thinking)
        if asked.max_thinking_tokens is not None:
            thinking = min(thinking, asked.max_thinking_tokens)
        truncated = False
        if asked.max_output_tokens is not None and output + thinking > asked.max_output_tokens:
            truncated = True
            thinking = min(thinking, asked.max_output_tokens)
            output = asked.max_output_tokens - thinking
            text = cut_to_tokens(text, output)
        return Answer(
            text=text,
            truncated=truncated,
            input_tokens=count_tokens(asked.system, *asked.texts, asked.schema_text),
            output_tokens=output,
            thinking_tokens=thinking,
            cached_tokens=self.cache.cached_tokens(asked.model, asked.system),
        )
