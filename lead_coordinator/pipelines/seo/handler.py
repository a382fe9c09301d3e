"""One task of the SEO monitor: an audit of a site or of single pages, or the next slice of one.

The task is `{"site": …, "urls"?: […], "standing"?: true}`, and `{"site": …, "audit_id": …, "slice": …}` for
what a slice hands on. An audit that isn't done when its time is over submits its next slice; whatever dies in
between goes on from what was recorded. No model is called.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from lead_coordinator.database import seo
from lead_coordinator.database.executions import ClaimedTask
from lead_coordinator.database.publications import alist_publications
from lead_coordinator.database.queue import NewTask
from lead_coordinator.database.seo import StoredAudit
from lead_coordinator.errors import InvalidInput, TaskError
from lead_coordinator.pipelines.runtime import TaskOutcome, TaskRun
from lead_coordinator.pipelines.seo import results
from lead_coordinator.pipelines.seo.audit import (
    MAX_ASKED_FOR,
    StoredFrontier,
    evaluate_audit,
    finish_audit,
    first_pages,
    live_address,
    robots_of,
)
from lead_coordinator.pipelines.seo.crawl import crawl_slice
from lead_coordinator.pipelines.seo.findings import article_slugs, fix_tasks
from lead_coordinator.pipelines.seo.settings import SeoSettings
from lead_coordinator.pipelines.seo.visit import Site
from lead_coordinator.web.fetch import Fetcher, FetchPolicy
from lead_coordinator.web.urls import origin_of

# The rules take some milliseconds a page, and reading the pages as long again.
EVALUATE_SECONDS = 10.0
SECONDS_A_PAGE = 0.02
# No crawl is begun with less.
CRAWL_SECONDS = 10.0
MAX_SLICES = 1000
MAX_PUBLICATIONS = 100_000


class SeoTask(BaseModel):
    """The payload of a `seo_analysis` task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    urls: tuple[Annotated[str, StringConstraints(min_length=1, max_length=2000)], ...] = Field(
        (), max_length=MAX_ASKED_FOR
    )
    standing: bool = False
    audit_id: Annotated[int, Field(ge=1)] | None = None
    slice: Annotated[int, Field(ge=1, le=MAX_SLICES)] = 1


def parse_task(payload: object) -> SeoTask:
    """Raises InvalidInput with field, value and what is allowed."""
    try:
        return SeoTask.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "payload"
        if first["type"] == "extra_forbidden":
            raise InvalidInput(
                f"{field}: there is no such field; site, urls, standing, audit_id and slice are known"
            ) from None
        raise InvalidInput(f"{field}: {str(first['input'])[:100]!r} given; {first['msg']}") from None


class SeoHandler:
    """Works the audits of one run; its tasks share a fetcher for each way of fetching."""

    def __init__(self) -> None:
        self._fetchers: dict[FetchPolicy, Fetcher] = {}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()
        self._fetchers.clear()

    async def work(self, run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        wish = parse_task(task.payload)
        profile = run.profiles.of(wish.site)
        settings = profile.seo
        url = profile.url or (origin_of(wish.urls[0]) + "/" if wish.urls else None)
        if url is None and wish.audit_id is None:
            raise InvalidInput(f"site {wish.site}: it has no url; set one with `lead-coordinator site apply`")
        run.check_time("crawl", CRAWL_SECONDS)
        fetcher = await self._fetcher(settings)
        audit = await self._audit(run, wish, url or "", settings, fetcher)
        if audit.status == "finished":
            return TaskOutcome(results.finished(wish.site, audit, audit.changes or {}), message="done before")
        return await self._go_on(run, wish, audit, settings, fetcher)

    async def _fetcher(self, settings: SeoSettings) -> Fetcher:
        policy = FetchPolicy(
            allow_private_addresses=settings.allow_private_addresses,
            max_bytes=settings.max_page_bytes,
            total_seconds=settings.page_seconds,
            per_host_concurrency=settings.concurrency,
            per_host_delay_seconds=settings.delay_seconds,
        )
        if policy not in self._fetchers:
            fetcher = Fetcher(policy)
            self._fetchers[policy] = fetcher
            await self._open.enter_async_context(fetcher)
        return self._fetchers[policy]

    async def _audit(
        self, run: TaskRun, wish: SeoTask, url: str, settings: SeoSettings, fetcher: Fetcher
    ) -> StoredAudit:
        audit_id = wish.audit_id
        if audit_id is None:
            robots = None
            if not wish.urls:
                url = await live_address(fetcher, url)
                robots = await robots_of(fetcher, url)
            begun = first_pages(url, wish.urls, robots)
            audit_id = await seo.begin_seo_audit(
                run.db,
                f"task:{run.task_id}",
                wish.site,
                begun.scope,
                begun.start_url,
                begun.pages,
                max_pages=settings.max_pages,
                max_resources=settings.max_resources,
            )
        audit = await seo.get_seo_audit(run.db, audit_id)
        if audit.site != wish.site:
            raise InvalidInput(f"audit_id: {audit_id} is an audit of {audit.site}, not of {wish.site}")
        return audit

    async def _go_on(
        self, run: TaskRun, wish: SeoTask, audit: StoredAudit, settings: SeoSettings, fetcher: Fetcher
    ) -> TaskOutcome:
        site = Site(origin_of(audit.start_url), settings, follow=audit.scope == "site")
        started = time.monotonic()

        def seconds_left() -> float:
            mine = settings.slice_seconds - (time.monotonic() - started)
            return min(mine, run.seconds_left() - EVALUATE_SECONDS)

        frontier = StoredFrontier(run.db, run.lease, audit.audit_id)
        done = await crawl_slice(fetcher, site, frontier, seconds_left=seconds_left)
        audit = await seo.get_seo_audit(run.db, audit.audit_id)
        if audit.waiting:
            if not done.visited:
                raise TaskError(f"audit {audit.audit_id}: no address could be visited in a whole slice")
            return _hand_on(wish, audit, done.visited)
        if done.visited and run.seconds_left() < _evaluation_seconds(audit):
            return _hand_on(wish, audit, done.visited)
        return await self._finish(run, wish, audit, settings, fetcher)

    async def _finish(
        self, run: TaskRun, wish: SeoTask, audit: StoredAudit, settings: SeoSettings, fetcher: Fetcher
    ) -> TaskOutcome:
        robots = await robots_of(fetcher, audit.start_url) if audit.scope == "site" else None
        evaluation = await evaluate_audit(run.db, audit, settings, robots)
        changes = await finish_audit(run.db, run.lease, audit, evaluation)
        audit = await seo.get_seo_audit(run.db, audit.audit_id)
        follow_ups: Sequence[NewTask] = ()
        critical: Sequence[Mapping[str, Any]] = changes.get("new_critical", ())
        if settings.fix_critical and critical:
            published = await alist_publications(run.db, wish.site, limit=MAX_PUBLICATIONS)
            slugs = article_slugs((one.url, one.slug) for one in published)
            follow_ups = fix_tasks(wish.site, critical, slugs, evaluation)
        result = results.finished(wish.site, audit, changes, evaluation, fixes=len(follow_ups))
        return TaskOutcome(result, follow_ups, results.sentence(result))


def _evaluation_seconds(audit: StoredAudit) -> float:
    """Seconds that the rules may take, on a slow machine."""
    return EVALUATE_SECONDS + SECONDS_A_PAGE * audit.pages


def _hand_on(wish: SeoTask, audit: StoredAudit, visited: int) -> TaskOutcome:
    """The rest of the audit as a task of its own, submitted once however often this slice is worked."""
    number = wish.slice + 1
    if number > MAX_SLICES:
        raise InvalidInput(f"audit {audit.audit_id}: it isn't done after {MAX_SLICES} slices")
    payload = {"site": wish.site, "audit_id": audit.audit_id, "slice": number}
    key = f"audit:{audit.audit_id}:slice:{number}"
    result = results.unfinished(wish.site, audit, visited, wish.slice)
    rest = NewTask("seo_analysis", payload, idempotency_key=key)
    return TaskOutcome(result, (rest,), f"{visited} visited, {audit.waiting} left for slice {number}")
