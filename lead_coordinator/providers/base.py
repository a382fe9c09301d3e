"""What a call to a language model is, without any SDK.

Invariants:
- `Provider.send` sends exactly one HTTP request: retrying is the gateway's, because each request needs a slot
  and money.
- `Provider.send` fails with `ProviderError` and nothing else (cancellation apart). Its `outcome` is a word
  that the SQL function `settle_api_call` takes. `billable` is False only where it is certain that nothing was
  charged.
- `Usage` counts the way providers bill: `cached_tokens` and `cache_write_tokens` are part of `input_tokens`,
  `thinking_tokens` are part of `output_tokens`.
- No message of an error holds a key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel

from lead_coordinator.database.calls import Outcome

# An answer of the models in use is under 100 KB; what is larger is a fault or an attack.
MAX_BODY_BYTES = 2_000_000
MAX_ERROR_CHARS = 500


@dataclass(frozen=True)
class Message:
    """One message of the prompt. System messages come first, whatever their place in the request."""

    role: Literal["system", "user"]
    text: str


@dataclass(frozen=True)
class CallRequest:
    """One structured question to a model.

    `step`: the word under which the call appears in the ledger (`outline`, `draft`, `edit`). `schema`: the
    pydantic model that the answer must satisfy; it must not be recursive or hold free-form dicts.
    `max_output_tokens`: a hard cap for the answer, thinking included; it is also what money is reserved for.
    `temperature`: left out where a model doesn't take one. `candidates`: (provider, model) that may be asked,
    the cheapest first; empty: each provider's own model. `max_cost_usd`: the most that all tries of this call
    may cost together, US dollars; None: only SQL's limits count.
    """

    step: str
    messages: tuple[Message, ...]
    schema: type[BaseModel]
    max_output_tokens: int
    temperature: float = 0.7
    candidates: tuple[tuple[str, str], ...] = ()
    max_cost_usd: Decimal | None = None

    def __post_init__(self) -> None:
        if not self.messages or not any(message.role == "user" for message in self.messages):
            raise ValueError(f"messages of step {self.step!r} must hold at least one message of role 'user'")
        if self.max_output_tokens < 1:
            raise ValueError(f"max_output_tokens={self.max_output_tokens} must be 1 or more")

    @property
    def system_text(self) -> str:
        return "\n\n".join(message.text for message in self.messages if message.role == "system")

    @property
    def user_texts(self) -> tuple[str, ...]:
        return tuple(message.text for message in self.messages if message.role == "user")


@dataclass(frozen=True)
class Usage:
    """Tokens of one call, as billed. Cached and cache-write tokens are part of input, thinking is part of
    output."""

    input_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        """The `p_usage` argument of `settle_api_call`."""
        counts = {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "thinking_tokens": self.thinking_tokens,
            "cached_tokens": self.cached_tokens,
        }
        if self.cache_write_tokens:
            counts["cache_write_tokens"] = self.cache_write_tokens
        return counts


def checked_usage(**counts: object) -> Usage | None:
    """The usage that a service reported, by the field names of `Usage`; None where it makes no sense (not
    whole numbers from 0, or parts larger than their whole): the call is then settled at its maximum. None
    counts as 0."""
    whole: dict[str, int] = {}
    for name, count in counts.items():
        count = 0 if count is None else count
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 10**9:
            return None
        whole[name] = count
    usage = Usage(**whole)
    if (
        usage.cached_tokens + usage.cache_write_tokens > usage.input_tokens
        or usage.thinking_tokens > usage.output_tokens
    ):
        return None
    return usage


@dataclass(frozen=True)
class RawAnswer:
    """What a provider answered: text that ought to be JSON, and what it was charged as.

    `usage` is None where the provider didn't say. `finish`: the provider's own word for why it stopped.
    `complete` is False where the answer was cut off or withheld; `text` is then not worth parsing.
    """

    text: str
    usage: Usage | None
    model: str
    finish: str
    complete: bool = True


@dataclass(frozen=True)
class CallResult:
    """A validated answer. `cost_usd` is what the ledger was charged; `latency_ms` is the time of the request
    alone. `failed_usd`: what the tries before it were charged.
    """

    value: BaseModel
    provider: str
    model: str
    usage: Usage
    cost_usd: Decimal
    latency_ms: int
    call_id: int
    failed_usd: Decimal = Decimal(0)


BeforeLeaving = Callable[[], Awaitable[None]]


class ModelCaller(Protocol):
    """What a pipeline step needs. `Gateway` is the real one."""

    async def call(self, task_id: int, request: CallRequest) -> CallResult:
        """One answer for one task, or a `TaskError` (or `StaleLease`) of `lead_coordinator.errors`."""
        ...


class ProviderError(Exception):
    """One request failed. `outcome` is the word for the ledger; `str(error)` is fit for a log.

    `charged_usd`: what the ledger was charged for it, set where it is settled.
    """

    charged_usd = Decimal(0)

    def __init__(
        self,
        provider: str,
        outcome: Outcome,
        message: str,
        *,
        billable: bool,
        http_status: int | None = None,
        retry_after_ms: int | None = None,
        usage: Usage | None = None,
    ) -> None:
        # One line of text that any log and database takes, whatever the service put into it.
        text = " ".join(message.encode("utf-8", "replace").decode().replace("\x00", " ").split())
        super().__init__(f"{provider}: {text[:MAX_ERROR_CHARS]}")
        self.provider = provider
        self.outcome: Outcome = outcome
        self.billable = billable
        self.http_status = http_status
        self.retry_after_ms = retry_after_ms
        self.usage = usage


@runtime_checkable
class Provider(Protocol):
    """One service. An instance lives for one run and is used by many calls at once."""

    name: str
    """The ledger's word for the service: `gemini` or `openai`."""
    model: str
    """The model to ask unless a step says otherwise."""

    def max_output_tokens(self, model: str, request: CallRequest) -> int:
        """The most output tokens, thinking included, that can be billed for the request."""
        ...

    def max_input_tokens(self, model: str, request: CallRequest) -> int:
        """The most input tokens that can be billed for the request: an upper bound, not an estimate."""
        ...

    async def warm(self) -> None:
        """Makes the first request as quick as the next ones (connection, schemas). Never fails, sends no
        model call."""
        ...

    async def send(
        self, model: str, request: CallRequest, before_leaving: BeforeLeaving | None = None
    ) -> RawAnswer:
        """One request, one answer. Raises `ProviderError`.

        `before_leaving` is awaited once, when the request is built and about to be written: preparing it
        takes milliseconds in which a slot isn't used yet. If it raises, nothing is sent, and its error comes
        out as it is.
        """
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class Redactor:
    """Takes secrets out of text that a provider or an exception made."""

    secrets: tuple[str, ...] = field(default=(), repr=False)

    def __call__(self, text: str) -> str:
        for secret in self.secrets:
            if len(secret) >= 4:
                text = text.replace(secret, "***")
        return text
