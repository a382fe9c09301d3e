"""What could be done about a page, what it is expected to bring within the horizon, and the evidence.

refresh         for a page that decays: the clicks it has lost to its worse position, at the demand of today
title_test      for a page that is clicked less often than others at its position
placement_test  for a page whose visitors convert less often than the site's: where the offer stands on it

Each gain is (what is missing a week) x (the share of it that such an action wins back) x weeks x (what a unit
is worth). The three factors are drawn independently from what is believed of them; the interval is that of
the product. A gain in dollars is claimed only where revenue is known.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lead_coordinator.pipelines.revenue.ctr import Curve
from lead_coordinator.pipelines.revenue.decay import Course
from lead_coordinator.pipelines.revenue.interval import Estimate, beta, simulated
from lead_coordinator.pipelines.revenue.page import RECENT_WEEKS, PageData
from lead_coordinator.pipelines.revenue.settings import ActionSettings, RevenueSettings
from lead_coordinator.pipelines.revenue.shortfall import Shortfall
from lead_coordinator.pipelines.revenue.trend import Trend
from lead_coordinator.pipelines.revenue.value import Value
from lead_coordinator.pipelines.revenue.weeks import WEEK

Kind = Literal["refresh", "title_test", "placement_test"]
RECENT_LEVELS = 4
# exp() of more says nothing any more.
LARGEST_LOG = 50.0


@dataclass(frozen=True)
class Opportunity:
    """`gain`: in `unit` (clicks or conversions) over the horizon; `gain_usd`: None where no dollars are
    known. `p_chance`: how likely the evidence is if nothing is wrong."""

    kind: Kind
    page: str
    reason: str
    evidence: tuple[str, ...]
    unit: Literal["clicks", "views", "conversions"]
    gain: Estimate
    gain_usd: Estimate | None
    p_chance: float
    cost_usd: float
    effort_hours: float

    @property
    def net_usd(self) -> float | None:
        return None if self.gain_usd is None else self.gain_usd.mean - self.cost_usd


def refresh(
    page: PageData, course: Course, value: Value | None, settings: RevenueSettings, cost_usd: float | None
) -> Opportunity:
    """For a page whose course is decay. `cost_usd`: what our articles have cost, None: as in the settings."""
    assert course.trend is not None
    assert course.fall is not None
    weekly_missing = _lost_clicks(page, course)
    evidence = [
        f"{page.demand_unit} per week {_level(course, 0):,.0f} → {_level(course, course.weeks - 1):,.0f}, "
        f"a fall of {course.fall[0]:.0%} (95 %: {course.fall[1]:.0%} to {course.fall[2]:.0%}) "
        f"in {course.weeks} weeks, Theil–Sen over {course.trend.points} weeks without the season of the week"
    ]
    if course.position_change is not None and course.click_rate is not None:
        start, end = course.position_change
        rates = [math.exp(course.click_rate.at(x)) for x in (0, course.weeks - 1)]
        evidence.append(f"position {start:.1f} → {end:.1f}, click rate {rates[0]:.2%} → {rates[1]:.2%}")
    return _opportunity(
        "refresh", page, course.why, evidence, page.demand_unit, weekly_missing, value, settings,
        course.p_decay or 0.0, settings.refresh, cost_usd,
    )  # fmt: skip


def title_test(
    page: PageData, found: Shortfall, curve: Curve, value: Value | None, settings: RevenueSettings
) -> Opportunity:
    """For a page that is clicked too seldom for where it stands."""
    seen = sum(page.by_position.impressions.values())
    place = sum(position * count for position, count in page.by_position.impressions.items()) / seen
    evidence = [
        f"{found.events:,.0f} clicks of {seen:,.0f} impressions in {RECENT_WEEKS} weeks at position "
        f"{place:.1f}: {found.events / seen:.2%} where {found.expected / seen:.2%} is usual there "
        f"(curve of the site's other pages, drawn towards Sistrix 2020)",
        f"pages of this site differ by ± {found.spread:.0%} at the same position",
    ]
    reason = f"it is clicked {1 - found.ratio:.0%} less often than others at position {place:.1f}"
    weeks = min(RECENT_WEEKS, page.weeks)
    return _opportunity(
        "title_test", page, reason, evidence, "clicks", lambda source: found.draw_missing(source) / weeks,
        value, settings, found.p_low, settings.title_test, None,
    )  # fmt: skip


def placement_test(
    page: PageData, found: Shortfall, value: Value | None, settings: RevenueSettings
) -> Opportunity:
    """For a page with visitors who convert too seldom."""
    evidence = [
        f"{found.events:,.1f} conversions of {page.recent_visits:,.0f} visits in {RECENT_WEEKS} weeks where "
        f"{found.expected:,.1f} are usual on this site",
        f"pages of this site differ by ± {found.spread:.0%} in their conversion rate",
    ]
    reason = f"its visitors convert {1 - found.ratio:.0%} less often than those of other pages"
    weeks = min(RECENT_WEEKS, page.weeks)
    return _opportunity(
        "placement_test", page, reason, evidence, "conversions",
        lambda source: found.draw_missing(source) / weeks,
        value, settings, found.p_low, settings.placement_test, None,
    )  # fmt: skip


def _opportunity(
    kind: Kind,
    page: PageData,
    reason: str,
    evidence: list[str],
    unit: str,
    weekly_missing: Callable[[random.Random], float],
    value: Value | None,
    settings: RevenueSettings,
    p_chance: float,
    action: ActionSettings,
    cost_usd: float | None,
) -> Opportunity:
    weeks = settings.horizon_days / WEEK
    seed = f"{kind} {page.page}"

    def units(source: random.Random) -> float:
        return weekly_missing(source) * beta(source, action.recovery_mean, action.recovery_strength) * weeks

    gain = simulated(seed, units, settings.interval)
    gain_usd = None
    if value is not None:
        worth = value
        gain_usd = simulated(seed, lambda source: units(source) * worth.draw(source), settings.interval)
    return Opportunity(
        kind=kind,
        page=page.page,
        reason=reason,
        evidence=tuple(evidence),
        unit=unit,  # type: ignore[arg-type]
        gain=gain,
        gain_usd=gain_usd,
        p_chance=p_chance,
        cost_usd=action.cost_usd if cost_usd is None else cost_usd,
        effort_hours=action.effort_hours,
    )


def _level(course: Course, x: float) -> float:
    assert course.trend is not None
    return math.exp(course.trend.at(x))


def _lost_clicks(page: PageData, course: Course) -> Callable[[random.Random], float]:
    """Clicks a week that the page would have beyond today's at its old click rate and today's impressions,
    but no more than it has lost. Without a click rate: what it has lost."""
    trend, rate, span = course.trend, course.click_rate, course.weeks - 1
    assert trend is not None
    assert page.demand is not None
    now, most = math.exp(trend.at(span)), max(page.demand.level)
    seen = page.impressions
    recent = 0.0
    if seen is not None and seen.level:
        levels = seen.level[-RECENT_LEVELS:]
        recent = sum(levels) / len(levels)

    def draw(source: random.Random) -> float:
        # Not more than the page ever had in a week, whatever a steep line says.
        lost = min(most, now * _grown(trend, source, span))
        if rate is None or recent <= 0:
            return lost
        return min(lost, recent * math.exp(rate.at(span)) * _grown(rate, source, span))

    return draw


def _grown(line: Trend, source: random.Random, span: int) -> float:
    """By how much a falling line stood higher at its beginning, as a share of its end; a draw."""
    return math.expm1(min(LARGEST_LOG, max(0.0, -source.gauss(line.slope, line.error) * span)))
