"""A frontier in memory and an audit over it, for tests that need no database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from lead_coordinator.pipelines.seo.audit import first_pages, robots_of
from lead_coordinator.pipelines.seo.crawl import crawl_slice
from lead_coordinator.pipelines.seo.evaluate import Evaluation, evaluate
from lead_coordinator.pipelines.seo.facts import Page, page_from_json, to_json
from lead_coordinator.pipelines.seo.settings import SeoSettings
from lead_coordinator.pipelines.seo.visit import Found, Site, Visited, Waiting
from lead_coordinator.web.fetch import Fetcher, FetchPolicy
from lead_coordinator.web.urls import origin_of

# Eight at once from a server in the same process: its answers are quick, our two cores aren't.
LOCAL = SeoSettings(allow_private_addresses=True, concurrency=8, page_seconds=10)


@dataclass
class MemoryFrontier:
    """What the SQL functions do. `most_pages`: as an audit's max_pages."""

    most_pages: int = 10_000
    waiting: dict[str, Waiting] = field(default_factory=dict)
    flags: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    pages: dict[str, Page] = field(default_factory=dict)
    count: int = 0

    def add(self, found: Found) -> None:
        in_sitemap, wanted = self.flags.get(found.url, (False, False))
        self.flags[found.url] = (in_sitemap or found.in_sitemap, wanted or found.wanted)
        known = self.waiting.get(found.url)
        if known is not None and known.kind == "link" and found.kind == "page":
            self.waiting[found.url] = replace(known, kind="page")
        elif known is None and found.url not in self.pages:
            is_page = found.kind in ("page", "sitemap")
            if is_page and self.count >= self.most_pages:
                return
            self.count += is_page
            self.waiting[found.url] = Waiting(len(self.flags), found.url, found.kind, found.depth)

    async def next(self, limit: int) -> Sequence[Waiting]:
        turns = {"sitemap": 0, "page": 1}
        return sorted(
            self.waiting.values(), key=lambda one: (turns.get(one.kind, 2), one.depth, one.page_id)
        )[:limit]

    async def record(self, visited: Sequence[Visited]) -> int:
        for one in visited:
            # As it comes back from the database.
            self.pages[one.waiting.url] = page_from_json(one.page.url, one.page.kind, to_json(one.page))
            del self.waiting[one.waiting.url]
        for one in visited:
            for found in one.found:
                self.add(found)
        return len(self.waiting)

    def all_pages(self) -> list[Page]:
        return [
            replace(page, in_sitemap=self.flags[url][0], wanted=self.flags[url][1])
            for url, page in self.pages.items()
        ]


def policy(settings: SeoSettings) -> FetchPolicy:
    return FetchPolicy(
        allow_private_addresses=settings.allow_private_addresses,
        max_bytes=settings.max_page_bytes,
        total_seconds=settings.page_seconds,
        per_host_concurrency=settings.concurrency,
        per_host_delay_seconds=settings.delay_seconds,
    )


async def audited(
    url: str,
    settings: SeoSettings = LOCAL,
    *,
    seconds_left: Callable[[], float] = lambda: 100.0,
    most_pages: int = 10_000,
) -> tuple[Evaluation, MemoryFrontier]:
    """A whole site audited in one go."""
    frontier = MemoryFrontier(most_pages)
    async with Fetcher(policy(settings)) as fetcher:
        robots = await robots_of(fetcher, url)
        begun = first_pages(url, (), robots)
        for row in begun.pages:
            frontier.add(Found(row["url"], row["kind"], row["depth"], wanted=row["wanted"]))
        site = Site(origin_of(begun.start_url), settings)
        await crawl_slice(fetcher, site, frontier, seconds_left=seconds_left)
    return evaluate(frontier.all_pages, begun.start_url, settings, robots=robots), frontier


def by_path(evaluation: Evaluation) -> set[tuple[str, str]]:
    """Findings as (path, rule)."""
    return {(urlsplit(finding.url).path, finding.rule) for finding in evaluation.findings}
