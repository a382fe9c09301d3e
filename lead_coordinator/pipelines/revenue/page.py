"""What is known of one page in the window: weeks, sums, and the figures that its value is reckoned from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from lead_coordinator.database.revenue import MetricRow
from lead_coordinator.pipelines.revenue.ctr import Clicks
from lead_coordinator.pipelines.revenue.weeks import WEEK, Weekly, filled, weekly

# A year in whole weeks, so that Mondays are compared with Mondays.
YEAR = timedelta(days=52 * WEEK)
# What judges a title: the last eight weeks, so that an old position is no excuse.
RECENT_WEEKS = 8


@dataclass(frozen=True)
class Window:
    """The days that are looked at: whole weeks that end on `last`."""

    last: date
    weeks: int

    @property
    def first(self) -> date:
        return self.last - timedelta(days=WEEK * self.weeks - 1)

    @property
    def year_before(self) -> date:
        return self.first - YEAR


@dataclass(frozen=True)
class Known:
    """The days of which a site has figures of the search engine, and of analytics."""

    search: frozenset[date]
    analytics: frozenset[date]


@dataclass(frozen=True, slots=True)
class PageData:
    """A page in the window. Weekly series are without the season of the week; None: not counted.

    `position_weeks`: (age of the week, mean position weighted by impressions); `click_rate_weeks`: (age,
    clicks, impressions). `by_position`: of the last eight weeks. `before`: clicks (or views) of the same
    weeks a year ago.
    """

    page: str
    weeks: int
    demand: Weekly | None
    demand_unit: str
    impressions: Weekly | None
    position_weeks: tuple[tuple[int, float], ...]
    click_rate_weeks: tuple[tuple[int, float, float], ...]
    by_position: Clicks
    before: Weekly | None
    clicks: float
    impression_count: float
    views: float
    visits: float
    conversions: float
    revenue_usd: float
    has_search: bool
    has_analytics: bool
    has_revenue: bool
    recent_visits: float
    recent_conversions: float


def page_data(page: str, rows: Sequence[MetricRow], known: Known, window: Window) -> PageData:
    """Sums a page's rows up. `rows`: of this page, from a year before the window to its last day."""
    inside = [row for row in rows if row.day >= window.first]
    recent = window.last - timedelta(days=WEEK * RECENT_WEEKS - 1)
    clicks = {row.day: float(row.clicks) for row in rows if row.clicks is not None}
    seen = {row.day: float(row.impressions) for row in rows if row.impressions is not None}
    views = {row.day: float(row.views) for row in rows if row.views is not None}
    visits = {row.day: float(row.sessions) for row in rows if row.sessions is not None} or views
    if clicks:
        unit, days = "clicks", filled(clicks, known.search)
    else:
        unit, days = "views", filled(views or visits, known.analytics)
    by_position = Clicks()
    for row in inside:
        if row.day >= recent and row.position is not None and row.impressions:
            by_position.add(row.position, float(row.clicks or 0), float(row.impressions))
    return PageData(
        page=page,
        weeks=window.weeks,
        demand=_in_window(days, window),
        demand_unit=unit,
        impressions=_in_window(filled(seen, known.search), window),
        position_weeks=_positions(inside, window),
        click_rate_weeks=_click_rates(inside, window),
        by_position=by_position,
        before=_year_before(days, window),
        clicks=_sum(clicks, window.first),
        impression_count=_sum(seen, window.first),
        views=_sum(views, window.first),
        visits=_sum(visits, window.first),
        conversions=sum(float(row.conversions or 0) for row in inside),
        revenue_usd=sum(float(row.revenue_usd or 0) for row in inside),
        has_search=bool(clicks),
        has_analytics=any(row.conversions is not None for row in inside),
        has_revenue=any(row.revenue_usd is not None for row in inside),
        recent_visits=_sum(visits, recent),
        recent_conversions=sum(float(row.conversions or 0) for row in inside if row.day >= recent),
    )


def _sum(values: Mapping[date, float], since: date) -> float:
    return sum(value for day, value in values.items() if day >= since)


def _in_window(days: Mapping[date, float], window: Window) -> Weekly | None:
    inside = {day: value for day, value in days.items() if day >= window.first}
    return weekly(inside, window.last, window.weeks) if inside else None


def _year_before(days: Mapping[date, float], window: Window) -> Weekly | None:
    last = window.last - YEAR
    inside = {day: value for day, value in days.items() if window.year_before <= day <= last}
    return weekly(inside, last, window.weeks) if inside else None


def _weeks(rows: Collection[MetricRow], window: Window) -> dict[int, list[MetricRow]]:
    """Rows with impressions by the age of their week, oldest first."""
    found: dict[int, list[MetricRow]] = {}
    for row in sorted(rows, key=lambda row: row.day):
        if row.impressions:
            found.setdefault((window.last - row.day).days // WEEK, []).append(row)
    return found


def _positions(rows: Collection[MetricRow], window: Window) -> tuple[tuple[int, float], ...]:
    found = []
    for age, of_week in _weeks(rows, window).items():
        placed = [(row.position, row.impressions or 0) for row in of_week if row.position is not None]
        seen = sum(weight for _, weight in placed)
        if seen:
            found.append((age, sum(position * weight for position, weight in placed) / seen))
    return tuple(found)


def _click_rates(rows: Collection[MetricRow], window: Window) -> tuple[tuple[int, float, float], ...]:
    return tuple(
        (age, float(sum(row.clicks or 0 for row in found)), float(sum(row.impressions or 0 for row in found)))
        for age, found in _weeks(rows, window).items()
    )
