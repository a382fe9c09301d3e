"""What the database knows of a site, and what a round adds to it: rows to plain data and back."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from lead_coordinator.database import intelligence as records
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.pipelines.intelligence.coverage import Article
from lead_coordinator.pipelines.intelligence.feeds import FeedState
from lead_coordinator.pipelines.intelligence.items import Item
from lead_coordinator.pipelines.intelligence.settings import IntelligenceSettings
from lead_coordinator.pipelines.intelligence.stories import Story
from lead_coordinator.pipelines.intelligence.topics import Proposal
from lead_coordinator.text.plain import one_line
from lead_coordinator.text.similarity import Signature

# The newest of each; a site with more than that has its oldest looked at no more.
MAX_ITEMS = 8000
MAX_STORIES = 4000
MAX_ARTICLES = 2000
# A topic that was wanted so recently is submitted again where its task isn't there: the key makes it one.
RESUBMIT = timedelta(days=2)


@dataclass(frozen=True)
class StoredProposal:
    """A proposal as it was last recorded."""

    story_id: str
    title: str
    value_usd: Decimal | None
    details: Mapping[str, Any]
    submitted_at: datetime | None


@dataclass(frozen=True)
class SiteState:
    """All that a round starts from. `terms`: term → day → items; `documents`: day → items."""

    feeds: Mapping[str, FeedState] = field(default_factory=dict)
    items: tuple[Item, ...] = ()
    stories: tuple[Story, ...] = ()
    terms: Mapping[str, Mapping[date, int]] = field(default_factory=dict)
    documents: Mapping[date, int] = field(default_factory=dict)
    proposals: Mapping[str, StoredProposal] = field(default_factory=dict)
    articles: tuple[Article, ...] = ()
    article_cost_usd: Decimal | None = None


async def read_state(
    db: AsyncDatabase, site: str, settings: IntelligenceSettings, now: datetime
) -> SiteState:
    """What is known of a site at this moment."""
    since = now - timedelta(days=settings.stories.window_days)
    today = now.date()
    first_day = today - timedelta(days=settings.bursts.history_days)
    terms, documents = term_counts(await records.list_term_counts(db, site, first_day, today))
    cost = await records.article_cost(db, site)
    return SiteState(
        feeds={row["url"]: FeedState(**row) for row in await records.list_feeds(db, site)},
        items=tuple(item_of(row) for row in await records.list_items(db, site, since, MAX_ITEMS)),
        stories=tuple(story_of(row) for row in await records.list_stories(db, site, since, MAX_STORIES)),
        terms=terms,
        documents=documents,
        proposals={
            row["story_id"]: proposal_of(row)
            for row in await records.list_proposals(db, site, since, MAX_STORIES)
        },
        articles=tuple(
            article_of(row)
            for row in await records.list_articles(db, site, today - timedelta(days=90), MAX_ARTICLES)
        ),
        article_cost_usd=cost["cost_usd"] if cost and cost["articles"] else None,
    )


def term_counts(
    rows: Iterable[Mapping[str, Any]],
) -> tuple[dict[str, dict[date, int]], dict[date, int]]:
    """Counts by term and day, and of all items by day."""
    terms: dict[str, dict[date, int]] = defaultdict(dict)
    documents: dict[date, int] = {}
    for row in rows:
        if row["term"]:
            terms[row["term"]][row["day"]] = row["items"]
        else:
            documents[row["day"]] = row["items"]
    return dict(terms), documents


def item_of(row: Mapping[str, Any]) -> Item:
    return Item(
        identity=row["identity"],
        feed_url=row["feed_url"],
        url=row["url"],
        title=row["title"],
        summary=row["summary"],
        published=row["published_at"],
        words=row["words"],
        signature=Signature.from_bytes(base64.b64decode(row["signature"])),
        terms=tuple(sorted(((term, int(n)) for term, n in row["terms"].items()), key=_strongest)),
        duplicate_of=row["duplicate_of"],
        story=row["story_id"],
    )


def story_of(row: Mapping[str, Any]) -> Story:
    return Story(**{**row, "centroid": {word: float(value) for word, value in row["centroid"].items()}})


def proposal_of(row: Mapping[str, Any]) -> StoredProposal:
    names = ("story_id", "title", "value_usd", "details", "submitted_at")
    return StoredProposal(**{name: row[name] for name in names})


def article_of(row: Mapping[str, Any]) -> Article:
    details = row["details"]
    said = (details.get(name) for name in ("keyword", "keywords", "description", "topic"))
    text = " ".join(" ".join(map(str, one)) if isinstance(one, list) else str(one) for one in said if one)
    counted = row["earned_usd"] is not None and row["days"] >= records.MIN_EARNING_DAYS
    return Article(
        title=row["title"],
        url=row["url"] or "",
        text=one_line(text, 1000),
        published_at=row["published_at"],
        earned_usd=float(row["earned_usd"]) if counted else None,
    )


# ---- what is written ---------------------------------------------------------------------------------------


def round_json(
    feeds: Iterable[FeedState],
    items: Sequence[Item],
    stories: Iterable[Story],
    proposals: Iterable[Proposal],
) -> dict[str, Any]:
    """The argument of `record_intelligence`. Times are seconds since 1970."""
    return {
        "feeds": [
            {
                "url": feed.url,
                "title": feed.title,
                "etag": feed.etag,
                "last_modified": feed.last_modified,
                "polled_at": _seconds(feed.polled_at),
                "changed_at": _seconds(feed.changed_at),
                "failures": feed.failures,
                "error": feed.error,
            }
            for feed in feeds
        ],
        "items": [
            {
                "identity": item.identity,
                "feed_url": item.feed_url,
                "url": item.url,
                "title": item.title,
                "summary": item.summary,
                "published_at": _seconds(item.published),
                "words": item.words,
                "signature": base64.b64encode(item.signature.to_bytes()).decode(),
                "terms": dict(item.terms),
                "duplicate_of": item.duplicate_of,
                "story_id": item.story,
            }
            for item in items
        ],
        "stories": [
            {
                "story_id": story.story_id,
                "title": story.title,
                "summary": story.summary,
                "first_at": _seconds(story.first_at),
                "last_at": _seconds(story.last_at),
                "items": story.items,
                "centroid": dict(story.centroid),
            }
            for story in stories
        ],
        "proposals": [
            {
                "story_id": proposal.story_id,
                "title": proposal.title,
                "value_usd": proposal.value_usd,
                "details": proposal_details(proposal),
                "submit": proposal.submit,
            }
            for proposal in proposals
        ],
    }


def proposal_details(proposal: Proposal) -> dict[str, Any]:
    """What a proposal is kept with: enough to submit it again, and to show why it was made."""
    return {
        "keywords": list(proposal.keywords),
        "angle": proposal.angle,
        "low_usd": proposal.low_usd,
        "high_usd": proposal.high_usd,
        "basis": proposal.basis,
        "factors": dict(proposal.factors),
        "reasons": list(proposal.reasons),
        "gap": proposal.gap,
        "evidence": [
            {"title": one.title, "url": one.url, "feed_url": one.feed_url, "published": one.published}
            for one in proposal.evidence
        ],
    }


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _strongest(entry: tuple[str, int]) -> tuple[int, str]:
    return -entry[1], entry[0]
