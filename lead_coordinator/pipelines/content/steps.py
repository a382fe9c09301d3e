"""From a brief to an article: outline → draft → edit and check; where the gate refuses it, revise → check
again.

An update of an article that is out goes update → edit and check, with the same single revision. The steps
know nothing of providers, limits or the database: that is the ModelCaller's. What a model answered goes into
the next prompt as data, like the brief itself: it may repeat what a hostile brief said.

A step that was answered is kept (`Kept`) under a digest of all that was asked; asked the same again, after a
deferral or in another run, it isn't paid for twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel, ValidationError

from lead_coordinator.errors import ItemCostLimit
from lead_coordinator.pipelines.content.article import Article, build_article
from lead_coordinator.pipelines.content.brief import Brief
from lead_coordinator.pipelines.content.prompts import data_block, load_prompt
from lead_coordinator.pipelines.content.quality import Judgement
from lead_coordinator.pipelines.content.research import Notes
from lead_coordinator.pipelines.content.schemas import (
    META_DESCRIPTION_MAX,
    META_DESCRIPTION_MIN,
    SEO_TITLE_MAX,
    STEP_SCHEMAS,
    Draft,
    EditedArticle,
    Outline,
)
from lead_coordinator.pipelines.content.settings import WRITING_STEPS, ContentSettings
from lead_coordinator.providers.base import CallRequest, CallResult, ModelCaller

STEPS = WRITING_STEPS
# Models write shorter than they are asked to, and an editor cuts: ask for more than is needed.
AIM_MORE = 1.25

# Caps, thinking included; money is held for them. 1,500 words are some 2,200 tokens, as JSON some 2,600:
# the rest is room for longer languages and for a model that thinks.
MAX_OUTPUT_TOKENS = {
    "outline": 2048,
    "draft": 6144,
    "edit_and_check": 8192,
    "revise": 6144,
    "check_again": 8192,
    "update": 6144,
}
TEMPERATURE = {
    "outline": 0.7,
    "draft": 0.8,
    "edit_and_check": 0.3,
    "revise": 0.5,
    "check_again": 0.3,
    "update": 0.5,
}
# The second check is the first one over again.
PROMPT_OF = {step: step for step in STEPS} | {"check_again": "edit_and_check"}

AnswerT = TypeVar("AnswerT", bound=BaseModel)


@dataclass(frozen=True)
class StepRecord:
    """One call that was answered: which, by whom, with which prompt, for how many tokens and US dollars.

    `cost_usd` is the answer's, `failed_usd` what unusable answers before it cost. `reused`: an earlier
    attempt of the task paid for it.
    """

    step: str
    call_id: int
    provider: str
    model: str
    prompt_version: str
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    latency_ms: int
    failed_usd: Decimal = Decimal(0)
    reused: bool = False


class Kept(Protocol):
    """The answers that a task has got already. A failing store must raise, not forget."""

    async def get(self, step: str, asked: str) -> Mapping[str, Any] | None:
        """What was kept of a step under that digest."""
        ...

    async def put(self, step: str, asked: str, kept: Mapping[str, Any]) -> None: ...


class KeptInMemory:
    """For one attempt only."""

    def __init__(self) -> None:
        self.notes: dict[str, tuple[str, Mapping[str, Any]]] = {}

    async def get(self, step: str, asked: str) -> Mapping[str, Any] | None:
        digest, kept = self.notes.get(step, ("", {}))
        return kept if digest == asked else None

    async def put(self, step: str, asked: str, kept: Mapping[str, Any]) -> None:
        self.notes[step] = (asked, kept)


@dataclass(frozen=True)
class Written:
    """An article and how it came about. `judgements`: what the gate said, the last one last."""

    article: Article
    calls: tuple[StepRecord, ...]
    judgements: tuple[Judgement, ...] = ()

    @property
    def cost_usd(self) -> Decimal:
        """What the answers used here cost, with the unusable ones before them."""
        return sum((call.cost_usd + call.failed_usd for call in self.calls), Decimal(0))

    @property
    def revisions(self) -> int:
        return sum(call.step == "revise" for call in self.calls)

    @property
    def providers(self) -> list[str]:
        return sorted({call.provider for call in self.calls})

    @property
    def models(self) -> list[str]:
        return sorted({call.model for call in self.calls})

    @property
    def prompt_versions(self) -> dict[str, str]:
        return {call.step: call.prompt_version for call in self.calls}


Judge = Callable[[Article], Awaitable[Judgement]]


async def _content(article: Article) -> Judgement:
    return Judgement((), {})


@dataclass
class Writer:
    """Writes for one task.

    `round`: a step that was kept in another round is asked again. `spent_usd`: what earlier attempts of the
    task have cost; with this one's it never passes the site's cap.
    `before_step` is told each step before it is asked and may raise to stop there (no time left);
    `after_step` gets the record of each answered call. Every method raises what the caller raises.
    """

    caller: ModelCaller
    task_id: int
    settings: ContentSettings = field(default_factory=ContentSettings)
    notes: Notes = field(default_factory=Notes)
    kept: Kept = field(default_factory=KeptInMemory)
    round: int = 0
    spent_usd: Decimal = Decimal(0)
    judge: Judge = _content
    before_step: Callable[[str], None] = lambda step: None
    after_step: Callable[[StepRecord], None] = lambda record: None
    calls: list[StepRecord] = field(default_factory=list)

    async def write(self, brief: Brief) -> Written:
        """The article of a brief: three calls, five where the gate asks for a revision."""
        aim = self._aim
        outline = await self._ask("outline", Outline, brief, aim_words=aim)
        draft = await self._ask(
            "draft", Draft, brief, outline=data_block(outline.model_dump()), **self._lengths
        )
        return await self._finish(brief, draft, "")

    async def update(self, brief: Brief, article: Article, why: Mapping[str, str]) -> Written:
        """Another revision of an article, with the reasons for it: two calls, four with a revision."""
        draft = await self._ask(
            "update",
            Draft,
            brief,
            article=data_block(_as_draft(article)),
            reasons=data_block(dict(why)),
            **self._lengths,
        )
        return await self._finish(brief, draft, article.slug)

    async def _finish(self, brief: Brief, draft: Draft, slug: str) -> Written:
        """Checked, judged, and once revised where the gate refuses it."""
        article = await self._checked("edit_and_check", brief, draft, slug)
        judgements = [await self.judge(article)]
        if judgements[0].problems:
            revised = await self._ask(
                "revise",
                Draft,
                brief,
                article=data_block(_as_draft(article)),
                reasons=data_block({"reasons": list(judgements[0].problems)}),
                **self._lengths,
            )
            article = await self._checked("check_again", brief, revised, slug)
            judgements.append(await self.judge(article))
        return Written(article, tuple(self.calls), tuple(judgements))

    async def _checked(self, step: str, brief: Brief, draft: Draft, slug: str) -> Article:
        edited = await self._ask(
            step,
            EditedArticle,
            brief,
            draft=data_block(draft.model_dump()),
            min_words=self.settings.quality.min_words,
            seo_title_max=SEO_TITLE_MAX,
            meta_description_min=META_DESCRIPTION_MIN,
            meta_description_max=META_DESCRIPTION_MAX,
        )
        if slug:
            edited = edited.model_copy(update={"slug": slug})
        sources = tuple(source.url for source in self.notes.sources)
        return build_article(brief, edited, links=self.notes.links, sources=sources)

    @property
    def _aim(self) -> int:
        return round(self.settings.quality.min_words * AIM_MORE / 100) * 100

    @property
    def _lengths(self) -> dict[str, int]:
        return {"min_words": self.settings.quality.min_words, "aim_words": self._aim}

    @property
    def _left_usd(self) -> Decimal:
        mine = sum((c.cost_usd + c.failed_usd for c in self.calls if not c.reused), Decimal(0))
        return self.settings.cost_cap_usd - self.spent_usd - mine

    async def _ask(self, step: str, expected: type[AnswerT], brief: Brief, **values: object) -> AnswerT:
        prompt = load_prompt(PROMPT_OF[step])
        messages = prompt.messages(
            brief=data_block(brief.for_prompt()),
            voice=data_block(self.settings.voice.for_prompt()),
            notes=data_block(self.notes.for_prompt()),
            **values,
        )
        whole = "\x1f".join([str(self.round), step, *(message.text for message in messages)])
        asked = hashlib.sha256(whole.encode("utf-8", "replace"))
        kept = await self.kept.get(step, asked.hexdigest())
        if kept is not None and (answer := _restored(kept, expected)) is not None:
            self.calls.append(answer[1])
            return answer[0]
        self.before_step(step)
        if self._left_usd <= 0:
            raise ItemCostLimit(
                f"step {step}: the article has cost {self.settings.cost_cap_usd - self._left_usd} of at most "
                f"{self.settings.cost_cap_usd} US dollars"
            )
        request = CallRequest(
            step=step,
            messages=messages,
            schema=STEP_SCHEMAS[step],
            max_output_tokens=MAX_OUTPUT_TOKENS[step],
            temperature=TEMPERATURE[step],
            candidates=self.settings.candidates(step),
            max_cost_usd=self._left_usd,
        )
        result = await self.caller.call(self.task_id, request)
        record = _record(step, prompt.version, result)
        self.calls.append(record)
        self.after_step(record)
        stored = {"answer": result.value.model_dump(mode="json"), "record": _stored(record)}
        await self.kept.put(step, asked.hexdigest(), stored)
        return cast(AnswerT, result.value)


async def write_article(caller: ModelCaller, task_id: int, brief: Brief, **options: Any) -> Written:
    """`Writer(caller, task_id, **options).write(brief)`."""
    return await Writer(caller, task_id, **options).write(brief)


def _as_draft(article: Article) -> dict[str, Any]:
    """What a model is shown of an article."""
    return {
        "title": article.title,
        "introduction": article.introduction,
        "sections": [{"heading": s.heading, "body": s.body} for s in article.sections],
    }


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
        failed_usd=result.failed_usd,
    )


def _stored(record: StepRecord) -> dict[str, Any]:
    return asdict(record) | {"cost_usd": str(record.cost_usd), "failed_usd": str(record.failed_usd)}


def _restored(kept: Mapping[str, Any], expected: type[AnswerT]) -> tuple[AnswerT, StepRecord] | None:
    """An answer that was kept, or None where it isn't one (another version kept it)."""
    try:
        record = dict(kept["record"])
        money = {name: Decimal(str(record.pop(name))) for name in ("cost_usd", "failed_usd")}
        return (
            expected.model_validate(kept["answer"]),
            StepRecord(**{**record, **money, "reused": True}),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError, ValidationError):
        return None
