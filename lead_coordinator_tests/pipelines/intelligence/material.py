"""Feeds, items, a scripted model and whole rounds for the tests of the intelligence engine."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.executions import Lease, StartedExecution, start_execution
from lead_coordinator.database.sites import StoredSite
from lead_coordinator.pipelines.batch import run_batch
from lead_coordinator.pipelines.intelligence.feeds import FeedState, Poll
from lead_coordinator.pipelines.intelligence.handler import IntelligenceHandler
from lead_coordinator.pipelines.intelligence.items import Item, make_item
from lead_coordinator.pipelines.intelligence.naming import NamedStories, NamedStory, Opening
from lead_coordinator.pipelines.intelligence.parse import ParsedItem
from lead_coordinator.pipelines.intelligence.settings import FeedSource
from lead_coordinator.pipelines.profile import SiteProfiles
from lead_coordinator.pipelines.report import BatchEvent, BatchReport
from lead_coordinator.providers.base import CallRequest, CallResult, Usage
from lead_coordinator.settings import Settings

EXAMPLES = Path(__file__).parents[3] / "examples"
FEEDS = EXAMPLES / "feeds"
NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
COMPETITORS = ("warm-home.atom", "city-life.json")


def truth() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((EXAMPLES / "feeds-truth.yaml").read_text())
    return found


def parsed(title: str, text: str = "", *, hours: float = 1.0, **more: Any) -> ParsedItem:
    """An entry of a feed, published so many hours before NOON."""
    values: dict[str, Any] = {
        "guid": title,
        "url": f"https://news.example/{abs(hash(title)) % 10**9}",
        "title": title,
        "text": text,
        "published": NOON - timedelta(hours=hours),
    }
    return ParsedItem(**(values | more))


def item(title: str, text: str = "", *, feed: str = "https://a.example/feed", hours: float = 1.0) -> Item:
    return make_item(parsed(title, text, hours=hours), feed, NOON)


def read(source: FeedSource, items: Sequence[ParsedItem]) -> Poll:
    """A feed that was just read."""
    return Poll(source, FeedState(source.url, source.name, polled_at=NOON), "read", tuple(items))


class ScriptedCaller:
    """A ModelCaller that names every story it is given; with `error` it only raises that."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.requests: list[CallRequest] = []
        self._ids = itertools.count(1)

    async def call(self, task_id: int, request: CallRequest) -> CallResult:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return CallResult(
            value=self._answer(request),
            provider="gemini",
            model="scripted",
            usage=Usage(input_tokens=900, output_tokens=200),
            cost_usd=Decimal("0.0002"),
            latency_ms=12,
            call_id=next(self._ids),
        )

    def _answer(self, request: CallRequest) -> NamedStories | Opening:
        if request.schema is Opening:
            return Opening(summary="One subject filled the day: <b>compost</b>.")
        found = yaml.safe_load(request.user_texts[0].partition("<stories>")[2].partition("</stories>")[0])
        named = [
            NamedStory(id=one["id"], title=f"Named: {one['title'][:40]}", summary="Said by several.")
            for one in found["stories"]
        ]
        return NamedStories(stories=[*named, NamedStory(id="unknown", title="Nobody asked", summary="")])

    @asynccontextmanager
    async def open(self, db: AsyncDatabase, lease: Lease) -> AsyncIterator[ScriptedCaller]:
        yield self


def profiles(**intelligence: Any) -> SiteProfiles:
    """The profile of the site `main` with this intelligence section."""
    return SiteProfiles([StoredSite("main", {"intelligence": intelligence}, NOON)])


def submit(db: Database, **payload: Any) -> int:
    answer = db.call("submit_task", task_type="intelligence_analysis", payload={"site": "main"} | payload)
    return int(answer["task_id"])


async def start(db: AsyncDatabase) -> StartedExecution:
    """Has the coordinator plan, and starts the intelligence execution that it offers, as a run does."""
    # Room for the content run as well that follows from what was found.
    await db.execute("UPDATE lead.setting SET value = '16384' WHERE name = 'memory_limit_mb'")
    decision = await db.call("orchestrate_workflow_execution", worker_id="test")
    offered = [
        row
        for row in await db.call_rows("launchable_executions")
        if row["workflow_type"] == "intelligence_engine"
    ]
    assert offered, f"the coordinator reserves an execution for the waiting task; it said {decision}"
    return await start_execution(db, offered[0]["execution_id"], offered[0]["launch_number"], "run-1")


async def work(
    db: AsyncDatabase,
    home: Path,
    sites: SiteProfiles,
    caller: ScriptedCaller | None = None,
    events: list[BatchEvent] | None = None,
    **more: Any,
) -> BatchReport:
    """A batch of intelligence tasks, from planning to its end."""
    kept: list[BatchEvent] = [] if events is None else events
    return await run_batch(
        db,
        (caller or ScriptedCaller()).open,
        await start(db),
        IntelligenceHandler(),
        kept.append,
        settings=Settings.load({"LEAD_HOME": str(home)}),
        profiles=sites,
        **more,
    )
