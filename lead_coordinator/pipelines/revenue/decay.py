"""Whether a page decays: it loses clicks because it loses its place, and not because fewer people search.

A fall of clicks alone proves nothing: the season of the year does the same. So a page decays when, within the
window, its clicks fall, its position worsens, and so does its click rate; each by a Theil–Sen line over weeks
(the season of the week taken out), each by a least amount. The probability that it is chance is the largest
of the three (an intersection-union test, Berger 1982). Without positions, the same weeks of the year before
stand in for the season of the year; without either, nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lead_coordinator.pipelines.revenue.page import PageData
from lead_coordinator.pipelines.revenue.settings import RevenueSettings
from lead_coordinator.pipelines.revenue.trend import Trend, theil_sen

Verdict = Literal["decay", "season", "fewer searches", "steady", "growing", "falling", "too little data"]

# A level of zero has no logarithm; half a count a week is the customary stand-in.
HALF = 0.5
# Impressions a week's click rate rests on, at least.
LEAST_IMPRESSIONS = 20


@dataclass(frozen=True, slots=True)
class Course:
    """How a page does. `trend`: of the logarithm of clicks (or views) a week; `fall`: the share lost within
    the window (below zero: won), with its 95 % interval. `p_decay`: None where decay can't be judged."""

    verdict: Verdict
    why: str
    trend: Trend | None = None
    fall: tuple[float, float, float] | None = None
    p_decay: float | None = None
    position: Trend | None = None
    click_rate: Trend | None = None
    weeks: int = 0

    @property
    def position_change(self) -> tuple[float, float] | None:
        """Fitted position at the beginning and at the end of the window."""
        if self.position is None:
            return None
        return self.position.at(0), self.position.at(self.weeks - 1)


def course_of(page: PageData, settings: RevenueSettings) -> Course:
    """The page's course. The verdict `decay` is provisional until `discoveries` has seen all pages."""
    demand = page.demand
    usable = 0 if demand is None else len(demand.level)
    if demand is None or usable < settings.minimum_weeks:
        return Course("too little data", f"{usable} weeks with figures, {settings.minimum_weeks} are needed")
    if demand.total < settings.minimum_clicks:
        return Course(
            "too little data",
            f"{demand.total:.0f} {page.demand_unit} in {usable} weeks, {settings.minimum_clicks} are needed",
        )
    weeks = page.weeks
    trend = _line(demand.age, [math.log(level + HALF) for level in demand.level], weeks)
    span = weeks - 1
    change, low, high = trend.change(span)
    fall = (-math.expm1(change), -math.expm1(high), -math.expm1(low))
    position = _position_line(page, settings)
    click_rate = _click_rate_line(page, settings)
    course = Course("steady", "", trend, fall, None, position, click_rate, weeks)
    falls = trend.high < 0 and fall[0] >= settings.decay_fall
    if position is not None and click_rate is not None:
        lost_places = position.change(span)[0]
        lost_rate = -math.expm1(click_rate.change(span)[0])
        enough = falls and lost_places >= settings.position_loss and lost_rate > 0
        p_decay = max(trend.p_fall, position.p_rise, click_rate.p_fall) if enough else 1.0
        if enough and position.low > 0 and click_rate.high < 0:
            start, end = position.at(0), position.at(span)
            why = f"clicks fell by {fall[0]:.0%} while its position went from {start:.1f} to {end:.1f}"
            return _with(course, "decay", why, p_decay)
        if falls:
            why = (
                f"clicks fell by {fall[0]:.0%} at a position that changed by {lost_places:+.1f}: fewer "
                "searches, as the season of the year brings them, and nothing that a refresh wins back"
            )
            return _with(course, "fewer searches", why, p_decay)
        return _steady_or_growing(course, page.demand_unit, p_decay, settings.decay_fall)
    if not falls:
        return _steady_or_growing(course, page.demand_unit, None, settings.decay_fall)
    return _beside_last_year(course, page, settings)


def _beside_last_year(course: Course, page: PageData, settings: RevenueSettings) -> Course:
    """Without positions: the logarithm of this year's weeks over last year's."""
    assert page.demand is not None
    assert course.fall is not None
    before = page.before
    shared = [] if before is None else sorted({*page.demand.age} & {*before.age}, reverse=True)
    said = f"{page.demand_unit} fell by {course.fall[0]:.0%}"
    if before is None or len(shared) < settings.minimum_weeks or before.total < settings.minimum_clicks:
        why = f"{said}, and without positions or the year before this may be the season: no claim"
        return _with(course, "falling", why, None)
    now = dict(zip(page.demand.age, page.demand.level, strict=True))
    then = dict(zip(before.age, before.level, strict=True))
    ratio = [math.log((now[age] + HALF) / (then[age] + HALF)) for age in shared]
    line = _line(shared, ratio, course.weeks)
    lost = -math.expm1(line.change(course.weeks - 1)[0])
    if line.high < 0 and lost >= settings.decay_fall:
        why = f"{said}; beside the same weeks of the year before the fall is {lost:.0%}"
        assert course.trend is not None
        return _with(course, "decay", why, max(line.p_fall, course.trend.p_fall))
    return _with(course, "season", f"{said}, as in the same weeks of the year before", 1.0)


def _steady_or_growing(course: Course, unit: str, p_decay: float | None, least: float) -> Course:
    assert course.trend is not None
    assert course.fall is not None
    if course.trend.low > 0 and -course.fall[0] >= least:
        return _with(course, "growing", f"{unit} grew by {-course.fall[0]:.0%}", p_decay)
    return _with(
        course, "steady", f"{unit} changed by {-course.fall[0]:+.0%}, within chance or little", p_decay
    )


def _with(course: Course, verdict: Verdict, why: str, p_decay: float | None) -> Course:
    return Course(
        verdict, why, course.trend, course.fall, p_decay, course.position, course.click_rate, course.weeks
    )


def _line(ages: Sequence[int], values: Sequence[float], weeks: int) -> Trend:
    """The line over weeks counted from the window's beginning."""
    return theil_sen([weeks - 1 - age for age in ages], values)


def _position_line(page: PageData, settings: RevenueSettings) -> Trend | None:
    if len(page.position_weeks) < settings.minimum_weeks:
        return None
    ages, positions = zip(*page.position_weeks, strict=True)
    return _line(ages, positions, page.weeks)


def _click_rate_line(page: PageData, settings: RevenueSettings) -> Trend | None:
    usable = [week for week in page.click_rate_weeks if week[2] >= LEAST_IMPRESSIONS]
    if len(usable) < settings.minimum_weeks:
        return None
    rates = [math.log((clicks + HALF) / (seen + 2 * HALF)) for _, clicks, seen in usable]
    return _line([age for age, _, _ in usable], rates, page.weeks)
