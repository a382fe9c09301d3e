"""Audits, their pages and their findings, each function one SQL function.

An audit goes over many slices: what is still to be visited lies in the database, and whoever holds an
execution goes on with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import AsyncDatabase, Database, given
from lead_coordinator.database.executions import Lease


@dataclass(frozen=True)
class StoredAudit:
    """An audit. `scope`: site or pages; `pages`: addresses that are to be pages; `waiting`: addresses not
    visited yet; `complete`: no limit turned an address away. `site_score`, `changes`: once it is finished."""

    audit_id: int
    site: str
    scope: str
    status: str
    start_url: str
    pages: int
    waiting: int
    complete: bool
    previous_id: int | None
    site_score: Decimal | None
    summary: Mapping[str, Any]
    changes: Mapping[str, Any] | None


@dataclass(frozen=True)
class NextPage:
    """An address to visit. `earlier`: the facts of the copy that the audit before has."""

    page_id: int
    url: str
    kind: str
    depth: int
    earlier: Mapping[str, Any] | None


@dataclass(frozen=True)
class StoredPage:
    """An address that was visited, with its facts."""

    page_id: int
    url: str
    kind: str
    in_sitemap: bool
    wanted: bool
    facts: Mapping[str, Any]
    score: int | None


@dataclass(frozen=True)
class StoredFinding:
    """A finding with its life. `status`: open or fixed; `times_opened`: 2 and more after it came back."""

    finding_id: int
    url: str
    rule: str
    severity: str
    status: str
    evidence: Mapping[str, Any]
    times_opened: int
    opened_at: datetime
    seen_at: datetime
    fixed_at: datetime | None


async def begin_seo_audit(
    db: AsyncDatabase,
    key: str,
    site: str,
    scope: str,
    start_url: str,
    pages: Sequence[Mapping[str, Any]],
    *,
    max_pages: int,
    max_resources: int,
    current_time: datetime | None = None,
) -> int:
    """Begins an audit, or finds the one that this key began. Its id. Raises `InvalidInput`."""
    answer = await db.call(
        "begin_seo_audit",
        key=key,
        site=site,
        scope=scope,
        start_url=start_url,
        pages=Jsonb(list(pages)),
        max_pages=max_pages,
        max_resources=max_resources,
        **given(current_time=current_time),
    )
    return int(answer["audit_id"])


async def get_seo_audit(db: AsyncDatabase, audit_id: int) -> StoredAudit:
    """Raises `NotFound`."""
    row = await db.call("get_seo_audit", audit_id=audit_id)
    return StoredAudit(
        audit_id=int(row["id"]),
        site=row["site"],
        scope=row["scope"],
        status=row["status"],
        start_url=row["start_url"],
        pages=int(row["pages"]),
        waiting=int(row["waiting"]),
        complete=bool(row["complete"]),
        previous_id=row["previous_id"],
        site_score=None if row["site_score"] is None else Decimal(str(row["site_score"])),
        summary=row["summary"],
        changes=row["changes"],
    )


async def next_seo_pages(db: AsyncDatabase, audit_id: int, *, limit: int = 50) -> list[NextPage]:
    """What is to be visited next: sitemaps, then pages by depth, then what is only looked at."""
    rows = await db.call_rows("next_seo_pages", audit_id=audit_id, limit=limit)
    return [NextPage(**row) for row in rows]


async def record_seo_pages(
    db: AsyncDatabase,
    lease: Lease,
    audit_id: int,
    pages: Sequence[Mapping[str, Any]],
    found: Iterable[Mapping[str, Any]],
    *,
    current_time: datetime | None = None,
) -> int:
    """Records what was visited ({page_id, facts}) and what it led to ({url, kind, depth, in_sitemap}).

    How many addresses wait now. Raises `StaleLease`, `NotFound`, `InvalidInput`.
    """
    answer = await db.call(
        "record_seo_pages",
        audit_id=audit_id,
        execution_id=lease.execution_id,
        fence=lease.fence,
        pages=Jsonb(list(pages)),
        found=Jsonb(list(found)),
        **given(current_time=current_time),
    )
    return int(answer["waiting"])


async def get_seo_pages(
    db: AsyncDatabase, audit_id: int, *, after: int = 0, limit: int = 200
) -> list[StoredPage]:
    """Visited addresses in the order of their ids, those after one."""
    rows = await db.call_rows("get_seo_pages", audit_id=audit_id, after=after, limit=limit)
    return [StoredPage(**row) for row in rows]


async def finish_seo_audit(
    db: AsyncDatabase,
    lease: Lease,
    audit_id: int,
    findings: Sequence[Mapping[str, Any]],
    *,
    scores: Mapping[str, int],
    site_score: float | None,
    unread: Sequence[str],
    rules: Sequence[str] | None = None,
    summary: Mapping[str, Any] | None = None,
    current_time: datetime | None = None,
) -> dict[str, Any]:
    """Closes an audit and gives its findings their life. What changed: opened, regressed, still, fixed
    (counts), new_critical; the same again for a finished audit.

    Raises `StaleLease`, `NotFound`, `InvalidInput`.
    """
    answer: dict[str, Any] = await db.call(
        "finish_seo_audit",
        audit_id=audit_id,
        execution_id=lease.execution_id,
        fence=lease.fence,
        findings=Jsonb(list(findings)),
        scores=Jsonb(dict(scores)),
        site_score=None if site_score is None else Decimal(str(site_score)),
        unread=Jsonb(list(unread)),
        rules=None if rules is None else list(rules),
        summary=Jsonb(summary or {}),
        **given(current_time=current_time),
    )
    return answer


async def alist_seo_findings(
    db: AsyncDatabase, site: str, *, status: str | None = "open", limit: int = 1000
) -> list[StoredFinding]:
    """A site's findings, the gravest first. `status`: open, fixed, or None for both."""
    rows = await db.call_rows("list_seo_findings", site=site, status=status, limit=limit)
    return [StoredFinding(**row) for row in rows]


def list_seo_findings(
    db: Database, site: str, *, status: str | None = "open", limit: int = 1000
) -> list[StoredFinding]:
    """`alist_seo_findings` for callers without an event loop."""
    rows = db.call_rows("list_seo_findings", site=site, status=status, limit=limit)
    return [StoredFinding(**row) for row in rows]


def list_seo_audits(db: Database, site: str, *, limit: int = 20) -> list[dict[str, Any]]:
    """A site's audits, newest first: audit_id, scope, status, pages, site_score, summary, changes, times."""
    return db.call_rows("list_seo_audits", site=site, limit=limit)
