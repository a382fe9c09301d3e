"""Polling: which feeds are due, one conditional request each, and what came back.

What is kept of a feed from poll to poll is a `FeedState`: its validators (ETag, Last-Modified) are sent with
the next request, so that a feed that hasn't changed costs one small answer. A feed that fails is asked again
later and later, up to a day, and never stops a round: its sentence is in the report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, Protocol

from lead_coordinator.pipelines.intelligence.parse import NotAFeed, ParsedFeed, ParsedItem
from lead_coordinator.pipelines.intelligence.settings import FeedSource, PollSettings
from lead_coordinator.text.plain import one_line
from lead_coordinator.web.fetch import Fetched, FetchFailed

MAX_ERROR = 300
MAX_VALIDATOR = 500
LONGEST_PAUSE = timedelta(days=1)
Outcome = Literal["read", "unchanged", "failed"]


class Fetches(Protocol):
    """What polling needs of a fetcher (`web.fetch.Fetcher`)."""

    async def get(
        self,
        url: str,
        *,
        etag: str | None = None,
        last_modified: str | None = None,
        max_bytes: int | None = None,
    ) -> Fetched: ...


class Reads(Protocol):
    """What polling needs of a reader (`reader.FeedReader`)."""

    async def read(self, body: bytes, url: str, content_type: str = "") -> ParsedFeed: ...


@dataclass(frozen=True)
class FeedState:
    """What is known of a feed. `failures`: in a row, since it last answered."""

    url: str
    title: str = ""
    etag: str | None = None
    last_modified: str | None = None
    polled_at: datetime | None = None
    changed_at: datetime | None = None
    failures: int = 0
    error: str = ""


@dataclass(frozen=True)
class Poll:
    """What one poll brought: the feed's new state, and its items where it has changed."""

    source: FeedSource
    state: FeedState
    outcome: Outcome
    items: tuple[ParsedItem, ...] = ()
    malformed: str = ""

    @property
    def label(self) -> str:
        """The feed's name for a reader."""
        return self.source.name or self.state.title or self.source.label


def due(state: FeedState | None, every: timedelta, now: datetime) -> bool:
    """Whether a feed is to be polled: never yet, or its pause is over. Each failure doubles the pause."""
    if state is None or state.polled_at is None:
        return True
    doublings: int = 2 ** min(state.failures, 20)
    return state.polled_at + min(every * doublings, max(LONGEST_PAUSE, every)) <= now


async def poll_feeds(
    sources: Sequence[FeedSource],
    known: Mapping[str, FeedState],
    settings: PollSettings,
    fetcher: Fetches,
    reader: Reads,
    now: datetime,
) -> list[Poll]:
    """Polls the sources that are due, in their order. What isn't done in time counts as failed."""
    every = timedelta(minutes=settings.every_minutes)
    places = asyncio.Semaphore(settings.concurrency)

    async def one(source: FeedSource) -> Poll:
        async with places:
            return await poll(source, _state(source, known), settings, fetcher, reader, now)

    wanted = [source for source in sources if due(known.get(source.url), every, now)]
    running = [asyncio.ensure_future(one(source)) for source in wanted]
    try:
        if running:
            await asyncio.wait(running, timeout=settings.seconds)
        unanswered = [not task.done() for task in running]
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return [
        _failed(source, _state(source, known), "there was no time left for it in this round", now)
        if late
        else task.result()
        for source, task, late in zip(wanted, running, unanswered, strict=True)
    ]


async def poll(
    source: FeedSource,
    state: FeedState,
    settings: PollSettings,
    fetcher: Fetches,
    reader: Reads,
    now: datetime,
) -> Poll:
    """One request to one feed. Never raises for what the feed does."""
    try:
        answer = await fetcher.get(
            source.url, etag=state.etag, last_modified=state.last_modified, max_bytes=settings.max_bytes
        )
        if answer.not_modified:
            return Poll(source, replace(state, polled_at=now, failures=0, error=""), "unchanged")
        if not 200 <= answer.status < 300:
            return _failed(source, state, f"it answered with status {answer.status}", now)
        feed = await reader.read(answer.body, answer.final_url, answer.headers.get("content-type", ""))
    except FetchFailed as error:
        return _failed(source, state, str(error), now)
    except NotAFeed as error:
        return _failed(source, state, str(error), now)
    fresh = FeedState(
        url=source.url,
        title=feed.title,
        etag=_validator(answer.headers.get("etag")),
        last_modified=_validator(answer.headers.get("last-modified")),
        polled_at=now,
        changed_at=now,
    )
    return Poll(source, fresh, "read", feed.items, feed.malformed)


def _state(source: FeedSource, known: Mapping[str, FeedState]) -> FeedState:
    return known.get(source.url) or FeedState(source.url)


def _failed(source: FeedSource, state: FeedState, reason: str, now: datetime) -> Poll:
    error = one_line(reason, MAX_ERROR)
    return Poll(source, replace(state, polled_at=now, failures=state.failures + 1, error=error), "failed")


def _validator(value: str | None) -> str | None:
    """A validator that may be sent back as a header: printable ASCII, not too long."""
    if value is None or not 0 < len(value) <= MAX_VALIDATOR:
        return None
    return value if value.isascii() and value.isprintable() else None
