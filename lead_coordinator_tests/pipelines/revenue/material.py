"""Made-up metrics for the tests: pages whose truth is known."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from lead_coordinator.database.revenue import MetricRow, joined_rows
from lead_coordinator.pipelines.revenue.exports import read_metrics
from lead_coordinator.pipelines.revenue.page import Known, PageData, Window, page_data
from lead_coordinator.pipelines.revenue.settings import RevenueSettings

EXAMPLES = Path(__file__).parents[3] / "examples"
LAST = date(2026, 11, 22)
SETTINGS = RevenueSettings()


def make_examples(into: Path, last_day: date) -> tuple[Path, Path, Path]:
    """Runs examples/make_metrics.py."""
    made: Callable[..., Any] = runpy.run_path(str(EXAMPLES / "make_metrics.py"))["make"]
    search, analytics, truth = made(into, last_day)
    return search, analytics, truth


def pages_of(
    rows: Sequence[MetricRow], settings: RevenueSettings = SETTINGS
) -> tuple[list[PageData], Window]:
    """Rows as the handler reads them."""
    rows = sorted(rows, key=lambda row: (row.page, row.day))
    last = max(row.day for row in rows)
    window = Window(last, settings.window_days // 7)
    known = Known(
        frozenset(row.day for row in rows if row.clicks is not None),
        frozenset(row.day for row in rows if row.views is not None or row.sessions is not None),
    )
    pages = [
        page_data(page, list(found), known, window) for page, found in groupby(rows, lambda row: row.page)
    ]
    return pages, window


def example_pages(folder: Path) -> tuple[list[PageData], Window]:
    files = [read_metrics(folder / f"metrics-{name}.csv") for name in ("search-console", "analytics")]
    return pages_of(joined_rows(row for file in files for row in file.rows))


def search_rows(
    page: str,
    clicks: Callable[[int], float],
    *,
    days: int = 119,
    impressions: Callable[[int], float] = lambda day: 1000,
    position: Callable[[int], float] = lambda day: 4.0,
    last: date = LAST,
    **analytics: Any,
) -> list[MetricRow]:
    """A page's days; the functions take the day's number, 0 for the first."""
    return [
        MetricRow(
            page,
            last - timedelta(days=days - 1 - number),
            clicks=min(round(clicks(number)), round(impressions(number))),
            impressions=round(impressions(number)),
            position=position(number),
            **analytics,
        )
        for number in range(days)
    ]
