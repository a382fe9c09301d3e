"""What a task reads of the database before it thinks: metrics page by page, costs, findings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from urllib.parse import urlsplit

from lead_coordinator.database import revenue as records
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.revenue import MetricRow, PublishedPage
from lead_coordinator.pipelines.revenue.page import YEAR, Known, PageData, Window, page_data
from lead_coordinator.pipelines.revenue.settings import RevenueSettings
from lead_coordinator.pipelines.revenue.weeks import WEEK

# Pages read at once: some 50,000 rows, so that memory stays flat however large the site is.
PAGES_AT_ONCE = 200
MAX_PUBLISHED = 50_000


@dataclass(frozen=True)
class SiteMetrics:
    """The pages of a site in a window. `dropped`: pages beyond what the settings let in."""

    window: Window
    pages: tuple[PageData, ...]
    dropped: bool


async def read_site(
    db: AsyncDatabase,
    site: str,
    today: date,
    settings: RevenueSettings,
    before_chunk: Callable[[], None] = lambda: None,
) -> SiteMetrics | None:
    """Everything that is known of a site's pages; None where there are no metrics. `before_chunk` may
    raise."""
    last = await records.alatest_day(db, site, today)
    if last is None:
        return None
    window = Window(last, settings.window_days // WEEK)
    search, analytics = await records.acounted_days(db, site, window.year_before, last)
    known = Known(search, analytics)
    names = await records.alist_pages(db, site, window.first, last, settings.maximum_pages + 1)
    kept = names[: settings.maximum_pages]
    pages: list[PageData] = []
    for start in range(0, len(kept), PAGES_AT_ONCE):
        before_chunk()
        part = kept[start : start + PAGES_AT_ONCE]
        rows = await records.apage_metrics(db, site, part, window.year_before, last - YEAR)
        rows += await records.apage_metrics(db, site, part, window.first, last)
        pages += await asyncio.to_thread(_pages, rows, known, window)
    return SiteMetrics(window, tuple(pages), len(names) > len(kept))


def _pages(rows: list[MetricRow], known: Known, window: Window) -> list[PageData]:
    rows.sort(key=lambda row: (row.page, row.day))
    return [
        page_data(page, list(found), known, window) for page, found in groupby(rows, lambda row: row.page)
    ]


async def read_published(db: AsyncDatabase, site: str) -> dict[str, PublishedPage]:
    """Our own articles by the path they stand at."""
    found = await records.apublished_pages(db, site, MAX_PUBLISHED)
    return {path_of(page.url): page for page in found if page.url}


async def read_findings(db: AsyncDatabase, site: str) -> dict[str, list[str]]:
    """Rules that the SEO monitor has found broken, by the page's path."""
    found: dict[str, list[str]] = {}
    for url, rules in (await records.aopen_findings(db, site)).items():
        found.setdefault(path_of(url), []).extend(rules)
    return found


def path_of(url: str) -> str:
    """The path of an address, as metrics name a page."""
    try:
        return urlsplit(url).path.rstrip("/") or "/"
    except ValueError:
        return "/"


def mean_cost_usd(published: Sequence[PublishedPage]) -> float | None:
    """What an article has cost on average; None where none is known."""
    costs = [float(page.cost_usd) for page in published if page.cost_usd]
    return sum(costs) / len(costs) if costs else None
