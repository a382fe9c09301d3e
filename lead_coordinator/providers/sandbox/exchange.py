"""What both wire protocols come down to: a question, an answer, and a reply in HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class BadRequest(Exception):
    """The service refuses the request itself. `param`: the field, where the protocol says it."""

    def __init__(
        self, message: str, status: int = 400, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param


@dataclass(frozen=True)
class Question:
    """A request, understood. `thinking`: share of the answer's tokens that the model thinks beforehand.

    `schema` None: plain text is wanted.
    """

    model: str
    system: str
    texts: tuple[str, ...]
    schema: Mapping[str, Any] | None
    schema_text: str
    max_output_tokens: int | None
    thinking: float
    max_thinking_tokens: int | None = None


@dataclass(frozen=True)
class Answer:
    """What was written, and what it is billed as. `output_tokens` without thinking."""

    text: str
    truncated: bool
    input_tokens: int
    output_tokens: int
    thinking_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Reply:
    """Status, JSON body and headers of an HTTP response."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
