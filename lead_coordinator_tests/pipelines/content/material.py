"""Briefs, answers and a scripted model caller for the tests of the content pipeline."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.executions import Lease, StartedExecution, start_execution
from lead_coordinator.pipelines.batch import run_batch as run_any_batch
from lead_coordinator.pipelines.content.article import Article, build_article
from lead_coordinator.pipelines.content.brief import Brief
from lead_coordinator.pipelines.content.handler import ContentHandler
from lead_coordinator.pipelines.content.report import output
from lead_coordinator.pipelines.content.schemas import Draft, EditedArticle, Outline, OutlineSection, Section
from lead_coordinator.pipelines.content.site import StaticSite
from lead_coordinator.pipelines.report import BatchEvent, BatchReport
from lead_coordinator.providers.base import CallRequest, CallResult, Usage
from lead_coordinator.settings import Settings

WHO = ("A patient gardener", "The neighbour", "A careful reader", "Your family", "Anyone with a small plot")
DOES = ("waters", "looks after", "writes down", "measures", "leaves alone", "turns over", "covers")
WHAT = ("the dry bed", "the young plants", "a handful of soil", "the long row", "the pots by the wall")
WHEN = (
    "once a week",
    "before the sun is up",
    "after a day of rain",
    "in the second month",
    "when it is warm",
)
WHY = (
    "so that the roots go down into cool soil",
    "and the leaves tell you by the evening",
    "because it costs less than a new start",
    "which is easy to see from the path",
    "and that is the work of ten minutes",
)


DESCRIPTION = (
    "What to look at first, what to leave alone, and how to tell after a week whether it was worth the work."
)


def body(words: int = 240, seed: str = "") -> str:
    """Plain English sentences, hardly one of them twice; another seed gives others."""
    chance = random.Random(seed)
    sentences: list[str] = []
    count = 0
    while count < words:
        parts = [chance.choice(pool) for pool in (WHO, DOES, WHAT, WHEN, WHY)]
        sentences.append(" ".join(parts[:4]) + ", " + parts[4] + ".")
        count += len(sentences[-1].split())
    return " ".join(sentences)


def edited(title: str = "Water Once a Week", **changes: Any) -> EditedArticle:
    """A good answer: six sections, over 1,400 words that are in no other article."""
    values: dict[str, Any] = {
        "title": title,
        "introduction": f"This is about {title}. {body(80, title)}",
        "sections": [
            Section(heading=f"Part {n} of {title}", body=body(240, f"{title} {n}")) for n in range(1, 7)
        ],
        "seo_title": title[:60],
        "meta_description": DESCRIPTION,
        "slug": "water-once-a-week",
        "score": 88,
        "unsupported_claims": [],
        "issues": [],
    }
    return EditedArticle(**(values | changes))


def article(title: str = "Water Once a Week", brief: Brief | None = None, **changes: Any) -> Article:
    return build_article(brief or Brief(title=title), edited(title, **changes))


def answer_for(request: CallRequest, title: str) -> BaseModel:
    if request.schema is Outline:
        section = OutlineSection(heading="One", points=["a point"], target_words=250)
        return Outline(title=title, angle="Do it", sections=[section])
    if request.schema is Draft:
        return Draft(title=title, introduction=body(80), sections=[Section(heading="One", body=body())])
    words = [word for word in title.lower().split() if word.isalnum()]
    return edited(title, slug="-".join(words))


class ScriptedCaller:
    """A ModelCaller that answers from a script, or well where the script says nothing.

    `script(task_id, request)` may return an answer, None for the usual one, or raise.
    """

    def __init__(
        self,
        title: Callable[[int], str] = lambda task_id: f"Article for task {task_id}",
        script: Callable[[int, CallRequest], Awaitable[BaseModel | None]] | None = None,
    ) -> None:
        self.title = title
        self.script = script
        self.requests: list[tuple[int, CallRequest]] = []
        self._ids = itertools.count(1)

    async def call(self, task_id: int, request: CallRequest) -> CallResult:
        self.requests.append((task_id, request))
        await asyncio.sleep(0)
        value = await self.script(task_id, request) if self.script else None
        return CallResult(
            value=value or answer_for(request, self.title(task_id)),
            provider="gemini" if task_id % 2 else "openai",
            model="scripted",
            usage=Usage(input_tokens=900, output_tokens=700),
            cost_usd=Decimal("0.0003700000"),
            latency_ms=12,
            call_id=next(self._ids),
        )

    @asynccontextmanager
    async def open(self, db: AsyncDatabase, lease: Lease) -> AsyncIterator[ScriptedCaller]:
        yield self


async def until(condition: Callable[[], bool], running: asyncio.Task[Any]) -> None:
    """Waits until the condition holds; fails when the task ends before that."""
    while not condition():
        assert not running.done(), f"it ended too early: {running}"
        await asyncio.sleep(0.02)


def submit(db: Database, *titles: str, **payload: Any) -> list[int]:
    """Submits a topic a title; the ids of the tasks."""
    return [
        db.call("submit_task", task_type="content_generation", payload=payload | {"title": t})["task_id"]
        for t in titles
    ]


async def start(db: AsyncDatabase, run_id: str = "run-1") -> StartedExecution:
    """Has the coordinator plan, and starts the first execution that it offers, as a run does."""
    decision = await db.call("orchestrate_workflow_execution", worker_id="test")
    offered = await db.call_rows("launchable_executions")
    assert offered, f"the coordinator reserves an execution for the waiting tasks; it said {decision}"
    first = offered[0]
    return await start_execution(db, first["execution_id"], first["launch_number"], run_id)


async def run_batch(
    db: AsyncDatabase,
    open_caller: Any,
    execution: StartedExecution,
    site: StaticSite,
    on_event: Callable[[BatchEvent], None] = lambda event: None,
    *,
    sandbox: bool = False,
    **more: Any,
) -> BatchReport:
    """A batch with the content handler on this site."""
    handler = ContentHandler(site, sandbox=sandbox)
    more = {"settings": Settings.load({}), "output": output} | more
    return await run_any_batch(db, open_caller, execution, handler, on_event, **more)
