"""Outline → draft → edit and check: three structured calls that make an article of a brief.

The steps know nothing of providers, prices, limits or the database: that is the ModelCaller's. What a model
answered goes into the next prompt as data, like the brief itself: it may repeat what a hostile brief said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar, cast

from pydantic import BaseModel

from lead_coordinator.pipelines.content.article import Article, build_article
from lead_coordinator.pipelines.content.brief import Brief
from lead_coordinator.pipelines.content.prompts import data_block, load_prompt
from lead_coordinator.pipelines.content.schemas import (
    META_DESCRIPTION_MAX,
    META_DESCRIPTION_MIN,
    SEO_TITLE_MAX,
    STEP_SCHEMAS,
    Draft,
    EditedArticle,
    Outline,
)
from lead_coordinator.providers.base import CallRequest, CallResult, ModelCaller

STEPS = ("outline", "draft", "edit_and_check")
MIN_WORDS = 1200
# Models write shorter than they are asked to, and an editor cuts: ask for more than is needed.
AIM_WORDS = 1500

# Caps, thinking included; money is held for them. 1,500 words are some 2,200 tokens, as JSON some 2,600: the
# rest is room for longer languages and for a model that thinks.
MAX_OUTPUT_TOKENS = {"outline": 2048, "draft": 6144, "edit_and_check": 8192}
TEMPERATURE = {"outline": 0.7, "draft": 0.8, "edit_and_check": 0.3}

AnswerT = TypeVar("AnswerT", bound=BaseModel)


@dataclass(frozen=True)
class StepRecord:
    """One call that was answered: which, by whom, with which prompt, for how many tokens and US dollars."""

    step: str
    call_id: int
    provider: str
    model: str
    prompt_version: str
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    latency_ms: int


@dataclass(frozen=True)
class Written:
    """An article and how it came about."""

    article: Article
    calls: tuple[StepRecord, ...]

    @property
    def cost_usd(self) -> Decimal:
        """What the answers used here cost. What failed calls cost besides is in the ledger."""
        return sum((call.cost_usd for call in self.calls), Decimal(0))

    @property
    def providers(self) -> list[str]:
        return sorted({call.provider for call in self.calls})

    @property
    def models(self) -> list[str]:
        return sorted({call.model for call in self.calls})

    @property
    def prompt_versions(self) -> dict[str, str]:
        return {call.step: call.prompt_version for call in self.calls}


async def write_article(
    caller: ModelCaller,
    task_id: int,
    brief: Brief,
    *,
    before_step: Callable[[str], None] = lambda step: None,
    after_step: Callable[[StepRecord], None] = lambda record: None,
) -> Written:
    """The article of a brief, in three calls.

    `before_step` is told each step before it starts and may raise to stop there (no time left); `after_step`
    gets the record of each answered call. Raises what the caller raises.
    """
    calls: list[StepRecord] = []

    async def ask(step: str, expected: type[AnswerT], **values: object) -> AnswerT:
        before_step(step)
        prompt = load_prompt(step)
        request = CallRequest(
            step=step,
            messages=prompt.messages(brief=data_block(brief.for_prompt()), **values),
            schema=STEP_SCHEMAS[step],
            max_output_tokens=MAX_OUTPUT_TOKENS[step],
            temperature=TEMPERATURE[step],
        )
        result = await caller.call(task_id, request)
        calls.append(_record(step, prompt.version, result))
        after_step(calls[-1])
        return cast(AnswerT, result.value)

    outline = await ask("outline", Outline, aim_words=AIM_WORDS)
    draft = await ask(
        "draft", Draft, outline=data_block(outline.model_dump()), min_words=MIN_WORDS, aim_words=AIM_WORDS
    )
    edited = await ask(
        "edit_and_check",
        EditedArticle,
        draft=data_block(draft.model_dump()),
        min_words=MIN_WORDS,
        seo_title_max=SEO_TITLE_MAX,
        meta_description_min=META_DESCRIPTION_MIN,
        meta_description_max=META_DESCRIPTION_MAX,
    )
    return Written(article=build_article(brief, edited), calls=tuple(calls))


def _record(step: str, prompt_version: str, result: CallResult) -> StepRecord:
    return StepRecord(
        step=step,
        call_id=result.call_id,
        provider=result.provider,
        model=result.model,
        prompt_version=prompt_version,
        input_tokens=result.usage.input_tokens,
        output_tokens=result.usage.output_tokens,
        cost_usd=result.cost_usd,
        latency_ms=result.latency_ms,
    )
