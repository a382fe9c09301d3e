"""Publishing exactly once.

The intent is a unique row, taken with the fence, before anything leaves the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import AsyncDatabase, Database, given
from lead_coordinator.database.executions import Lease


@dataclass(frozen=True)
class Publication:
    """The row that a task publishes under; the same task always gets the same row, and so the same slug."""

    publication_id: int
    slug: str
    already_published: bool
    url: str | None


@dataclass(frozen=True)
class Published:
    """One article that is out."""

    publication_id: int
    task_id: int
    slug: str
    title: str
    url: str
    published_at: datetime
    details: Mapping[str, Any]


async def begin_publication(
    db: AsyncDatabase,
    lease: Lease,
    task_id: int,
    site: str,
    slug: str,
    title: str,
    *,
    current_time: datetime | None = None,
) -> Publication:
    """Reserves a slug on a site (made unique with -2, -3, …). Raises `StaleLease`."""
    answer = await db.call(
        "begin_publication",
        task_id=task_id,
        execution_id=lease.execution_id,
        fence=lease.fence,
        site=site,
        slug=slug,
        title=title,
        **given(current_time=current_time),
    )
    return Publication(
        answer["publication_id"], answer["slug"], bool(answer["already_published"]), answer.get("url")
    )


async def confirm_publication(
    db: AsyncDatabase,
    lease: Lease,
    publication_id: int,
    url: str,
    content_sha256: str,
    *,
    details: Mapping[str, Any] | None = None,
    article_id: int | None = None,
    current_time: datetime | None = None,
) -> None:
    """Records that the article is out: where, and the SHA-256 (hex) of what was written.

    `article_id`: the revision that is current from now on. Raises `StaleLease`, and `IllegalTransition` where
    it was rejected meanwhile.
    """
    await db.call(
        "confirm_publication",
        publication_id=publication_id,
        execution_id=lease.execution_id,
        fence=lease.fence,
        url=url,
        content_sha256=content_sha256,
        details=Jsonb(details or {}),
        **given(article_id=article_id, current_time=current_time),
    )


async def alist_publications(db: AsyncDatabase, site: str, *, limit: int | None = None) -> list[Published]:
    """What is out on a site, newest first."""
    return _published(await db.call_rows("list_publications", site=site, **given(limit=limit)))


def list_publications(db: Database, site: str, *, limit: int | None = None) -> list[Published]:
    """`alist_publications` for callers without an event loop."""
    return _published(db.call_rows("list_publications", site=site, **given(limit=limit)))


def _published(rows: list[dict[str, Any]]) -> list[Published]:
    names = ("publication_id", "task_id", "slug", "title", "url", "published_at", "details")
    return [Published(**{name: row[name] for name in names}) for row in rows]
