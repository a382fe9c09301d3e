"""The intelligence engine's records: feeds, items, stories, counts of terms, proposals. Rows as dicts; what
they mean is `pipelines/intelligence/state.py`'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import AsyncDatabase, Row, given
from lead_coordinator.database.executions import Lease

# A page's earnings are counted over this many days at most, and from half as many on.
EARNING_DAYS = 30
MIN_EARNING_DAYS = 15

_ITEMS = """
    SELECT i.identity, i.feed_url, i.url, i.title, i.summary, i.published_at, i.words, i.signature, i.terms,
        i.duplicate_of, i.story_id
    FROM lead.feed_item AS i
    WHERE i.site = %(site)s AND i.published_at >= %(since)s
    ORDER BY i.published_at DESC, i.identity LIMIT %(limit)s
"""
_STORIES = """
    SELECT s.story_id, s.title, s.summary, s.first_at, s.last_at, s.items, s.centroid
    FROM lead.story AS s
    WHERE s.site = %(site)s AND s.last_at >= %(since)s
    ORDER BY s.last_at DESC, s.story_id LIMIT %(limit)s
"""
_TERMS = """
    SELECT c.day, c.term, c.items FROM lead.term_count AS c
    WHERE c.site = %(site)s AND c.day BETWEEN %(since)s AND %(until)s
"""
_PROPOSALS = """
    SELECT p.story_id, p.title, p.value_usd, p.details, p.proposed_at, p.updated_at, p.submitted_at
    FROM lead.topic_proposal AS p
    WHERE p.site = %(site)s AND (p.updated_at >= %(since)s OR p.submitted_at >= %(since)s)
    ORDER BY p.updated_at DESC, p.story_id LIMIT %(limit)s
"""
# The path of a publication's address is the page of its figures; revenue of up to 30 days, as 30 days' worth.
_ARTICLES = """
    SELECT p.title, p.url, p.details, p.published_at, m.days, m.earned_usd
    FROM lead.publication AS p
    LEFT JOIN (
        SELECT x.page, count(*) AS days, (sum(x.revenue_usd) / count(*) * %(days)s)::float8 AS earned_usd
        FROM (
            SELECT d.page, d.revenue_usd, row_number() OVER (PARTITION BY d.page ORDER BY d.day DESC) AS place
            FROM lead.page_metric AS d
            WHERE d.site = %(site)s AND d.revenue_usd IS NOT NULL AND d.day > %(since)s
        ) AS x
        WHERE x.place <= %(days)s
        GROUP BY x.page
    ) AS m ON m.page = regexp_replace(p.url, '^[a-z]+://[^/]*', '')
    WHERE p.site = %(site)s AND p.status = 'published'
    ORDER BY p.published_at DESC, p.id DESC LIMIT %(limit)s
"""
_COST = """
    SELECT avg(t.cost_usd) AS cost_usd, count(*) AS articles
    FROM lead.publication AS p INNER JOIN lead.task AS t ON t.id = p.task_id
    WHERE p.site = %(site)s AND p.status = 'published' AND t.status = 'completed'
"""


@dataclass(frozen=True)
class RecordedRound:
    """What a round added: items that were new, and the stories whose topic is wanted since this round."""

    new_items: int
    newly_submitted: tuple[str, ...]


async def record_intelligence(
    db: AsyncDatabase,
    lease: Lease,
    task_id: int,
    site: str,
    found: Mapping[str, Any],
    *,
    current_time: datetime | None = None,
) -> RecordedRound:
    """Stores what a round found (feeds, items, stories, proposals), all or nothing.

    Raises `InvalidInput` and `StaleLease`.
    """
    answer = await db.call(
        "record_intelligence",
        task_id=task_id,
        execution_id=lease.execution_id,
        fence=lease.fence,
        site=site,
        round=Jsonb(found),
        **given(current_time=current_time),
    )
    return RecordedRound(answer["new_items"], tuple(answer["newly_submitted"]))


async def list_feeds(db: AsyncDatabase, site: str) -> list[Row]:
    """What is known of the site's feeds."""
    return await db.rows(
        "SELECT f.url, f.title, f.etag, f.last_modified, f.polled_at, f.changed_at, f.failures, f.error"
        " FROM lead.feed AS f WHERE f.site = %s ORDER BY f.url LIMIT 1000",
        [site],
    )


async def list_items(db: AsyncDatabase, site: str, since: datetime, limit: int) -> list[Row]:
    """Items published since then, newest first."""
    return await db.rows(_ITEMS, {"site": site, "since": since, "limit": limit})


async def list_stories(db: AsyncDatabase, site: str, since: datetime, limit: int) -> list[Row]:
    """Stories that had an item since then, the latest first."""
    return await db.rows(_STORIES, {"site": site, "since": since, "limit": limit})


async def list_term_counts(db: AsyncDatabase, site: str, since: date, until: date) -> list[Row]:
    """Items a term and day (UTC), both days included; the term "" counts all items of a day."""
    return await db.rows(_TERMS, {"site": site, "since": since, "until": until})


async def list_proposals(db: AsyncDatabase, site: str, since: datetime, limit: int) -> list[Row]:
    """Proposals that were made, renewed or submitted since then, the latest first."""
    return await db.rows(_PROPOSALS, {"site": site, "since": since, "limit": limit})


async def list_articles(db: AsyncDatabase, site: str, since: date, limit: int) -> list[Row]:
    """What is out on the site, newest first, with `days` of revenue figures and what 30 such days earn."""
    return await db.rows(_ARTICLES, {"site": site, "since": since, "limit": limit, "days": EARNING_DAYS})


async def article_cost(db: AsyncDatabase, site: str) -> Row | None:
    """The mean cost of an article in US dollars (`cost_usd`, None without any), and of how many."""
    return await db.row(_COST, {"site": site})
