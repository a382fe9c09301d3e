"""One audit from its start to its end, slice by slice, over the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from lead_coordinator.database import seo
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import Lease
from lead_coordinator.database.seo import NextPage, StoredAudit, StoredPage
from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.seo.crawl import MAX_URL
from lead_coordinator.pipelines.seo.evaluate import Evaluation, Evaluator
from lead_coordinator.pipelines.seo.facts import FACTS_VERSION, Kind, Page, page_from_json, to_json
from lead_coordinator.pipelines.seo.findings import counts, finding_row
from lead_coordinator.pipelines.seo.rules import RULES
from lead_coordinator.pipelines.seo.settings import SeoSettings
from lead_coordinator.pipelines.seo.visit import Visited, Waiting
from lead_coordinator.web.fetch import Fetcher, FetchFailed
from lead_coordinator.web.robots import Robots
from lead_coordinator.web.urls import canonical, origin_of

MAX_ASKED_FOR = 500


@dataclass(frozen=True)
class Begun:
    """How an audit begins: where, and with which addresses in the frontier."""

    scope: str
    start_url: str
    pages: tuple[dict[str, Any], ...]


def first_pages(url: str, asked_for: Sequence[str], robots: Robots | None) -> Begun:
    """A whole site begins at its home page and its sitemaps (those that robots.txt names, else /sitemap.xml),
    an audit of single pages with those. Raises `InvalidInput`.
    """
    start = _address(url)
    if asked_for:
        if len(asked_for) > MAX_ASKED_FOR:
            raise InvalidInput(f"urls: {len(asked_for)} given, at most {MAX_ASKED_FOR} are allowed")
        wanted = [_address(one) for one in asked_for]
        outside = next((one for one in wanted if origin_of(one) != origin_of(start)), None)
        if outside is not None:
            raise InvalidInput(f"urls: {outside[:200]} isn't on the site {origin_of(start)}")
        return Begun("pages", start, tuple(_row(one, "page", 0, wanted=True) for one in wanted))
    named = []
    for one in robots.sitemaps if robots is not None else ():
        try:
            address = canonical(one)
        except FetchFailed:
            continue  # robots-invalid says it
        if len(address) <= MAX_URL and origin_of(address) == origin_of(start):
            named.append(address)
    sitemaps = [_row(one, "sitemap", 0, wanted=True) for one in dict.fromkeys(named)]
    sitemaps = sitemaps or [_row(f"{origin_of(start)}/sitemap.xml", "sitemap", 0)]
    return Begun("site", start, (_row(start, "page", 0, wanted=True), *sitemaps))


class StoredFrontier:
    """An audit's frontier in the database. Writes under the lease of the run."""

    def __init__(self, db: AsyncDatabase, lease: Lease, audit_id: int) -> None:
        self._db = db
        self._lease = lease
        self._audit_id = audit_id

    async def next(self, limit: int) -> Sequence[Waiting]:
        rows = await seo.next_seo_pages(self._db, self._audit_id, limit=limit)
        return [_waiting(row) for row in rows]

    async def record(self, visited: Sequence[Visited]) -> int:
        pages = [{"page_id": one.waiting.page_id, "facts": storable(to_json(one.page))} for one in visited]
        found = {
            (one.url, one.kind, one.in_sitemap): one
            for each in visited
            for one in sorted(each.found, key=lambda one: -one.depth)
            if len(one.url) <= MAX_URL
        }
        rows = [
            _row(one.url, one.kind, one.depth, in_sitemap=one.in_sitemap, wanted=one.wanted)
            for one in found.values()
        ]
        waiting = 0
        # Each page is recorded with all that it led to: a process that dies in between has lost neither.
        for start in range(0, max(1, len(rows)), 50_000):
            part = rows[start : start + 50_000]
            last = start + 50_000 >= len(rows)
            waiting = await seo.record_seo_pages(
                self._db, self._lease, self._audit_id, pages if last else [], part
            )
        return waiting


async def evaluate_audit(
    db: AsyncDatabase, audit: StoredAudit, settings: SeoSettings, robots: Robots | None
) -> Evaluation:
    """The rules over an audit's pages, streamed from the database twice."""
    evaluator = Evaluator(
        audit.start_url,
        settings,
        robots=robots,
        complete=audit.complete,
        whole_site=audit.scope == "site",
    )
    async for pages in _batches(db, audit.audit_id):
        await asyncio.to_thread(_each, evaluator.add, pages)
    async for pages in _batches(db, audit.audit_id):
        await asyncio.to_thread(_each, evaluator.check, pages)
    return await asyncio.to_thread(evaluator.finish)


async def finish_audit(
    db: AsyncDatabase, lease: Lease, audit: StoredAudit, evaluation: Evaluation
) -> dict[str, Any]:
    """Closes the audit; what changed since the one before."""
    page_rules = [rule.id for rule in RULES if rule.page_check is not None]
    return await seo.finish_seo_audit(
        db,
        lease,
        audit.audit_id,
        [finding_row(finding) for finding in evaluation.findings if len(finding.url) <= MAX_URL],
        scores=evaluation.scores,
        site_score=evaluation.site_score,
        unread=evaluation.unread,
        rules=None if audit.scope == "site" else page_rules,
        summary={**counts(evaluation), "html_pages": evaluation.pages},
    )


async def live_address(fetcher: Fetcher, url: str) -> str:
    """Where the site really lies, when its address only adds or drops `www.` or turns to https; else its
    address as it is."""
    try:
        got = await fetcher.get(url, max_bytes=16_384, truncate=True)
    except FetchFailed:
        return url
    return got.final_url if _bare_host(got.final_url) == _bare_host(url) else url


def _bare_host(url: str) -> str:
    return (urlsplit(url).hostname or "").removeprefix("www.")


async def robots_of(fetcher: Fetcher, url: str) -> Robots | None:
    """The site's robots.txt; None where its address isn't one that may be fetched."""
    try:
        return await fetcher.robots(url)
    except FetchFailed:
        return None


async def _batches(db: AsyncDatabase, audit_id: int) -> AsyncIterator[list[StoredPage]]:
    after = 0
    while True:
        pages = await seo.get_seo_pages(db, audit_id, after=after)
        if not pages:
            return
        yield pages
        after = pages[-1].page_id


def _each(take: Any, pages: Sequence[StoredPage]) -> None:
    for stored in pages:
        take(_page(stored))


def _page(stored: StoredPage) -> Page:
    return page_from_json(
        stored.url,
        cast(Kind, stored.kind),
        stored.facts,
        in_sitemap=stored.in_sitemap,
        wanted=stored.wanted,
    )


def storable(value: Any) -> Any:
    """JSON without what PostgreSQL can't keep in it: null characters and lone surrogates."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {storable(key): storable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [storable(one) for one in value]
    return value


def _row(
    url: str, kind: str, depth: int, *, in_sitemap: bool = False, wanted: bool = False
) -> dict[str, Any]:
    return {"url": url, "kind": kind, "depth": depth, "in_sitemap": in_sitemap, "wanted": wanted}


def _waiting(row: NextPage) -> Waiting:
    """The address with its earlier copy, where that can be trusted: made by this parser, and without headers
    of which a 304 wouldn't say that they are gone."""
    earlier = row.earlier
    if earlier is not None and (
        earlier.get("version") != FACTS_VERSION
        or _said(earlier, "robots_header")
        or _said(earlier, "link_header")
    ):
        earlier = None
    return Waiting(
        row.page_id,
        row.url,
        cast(Kind, row.kind),
        row.depth,
        etag=_said(earlier, "etag"),
        last_modified=_said(earlier, "last_modified"),
        earlier=earlier,
    )


def _said(earlier: Mapping[str, Any] | None, name: str) -> str | None:
    value = None if earlier is None else (earlier.get("visit") or {}).get(name)
    return str(value) if value else None


def _address(url: str) -> str:
    try:
        address = canonical(url)
    except FetchFailed as error:
        raise InvalidInput(f"url: {error}") from None
    if len(address) > MAX_URL:
        raise InvalidInput(f"url: {address[:200]}… has over {MAX_URL} characters")
    return address
