"""Days to weeks: what a page had each day, without the season of the week.

A day of which the site has figures and the page has none counts as zero; a day of which the site has none is
unknown and left out, as are the days before the page's first. The season is estimated by the ratio to the
centred moving mean of seven days (Macaulay 1931; Makridakis, Wheelwright, Hyndman, Forecasting, 1998, ch. 3),
its median for each day of the week, drawn towards 1 where counts are small.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median

WEEK = 7
# A week of which fewer days are known says too little about its weekend.
LEAST_DAYS = 4
# Counts that a season must rest on to be believed by half.
SEASON_PRIOR = 200.0
LEAST_FACTOR = 0.05


@dataclass(frozen=True, slots=True)
class Weekly:
    """`level[i]`: of the week that ends `age[i]` weeks before the window's last day, per seven days, without
    season; oldest first. `season`: factors Monday to Sunday, mean 1. `total`: counted in all, as it is."""

    age: tuple[int, ...]
    level: tuple[float, ...]
    season: tuple[float, ...]
    total: float

    @property
    def season_range(self) -> float:
        """How many times as strong the best day of the week is as the weakest."""
        return max(self.season) / max(min(self.season), LEAST_FACTOR)


NO_SEASON = (1.0,) * WEEK


def filled(values: Mapping[date, float], known: Collection[date]) -> dict[date, float]:
    """The page's days in order: from its first on, zero where it has none and the site does."""
    if not values:
        return {}
    first = min(values)
    return {day: values.get(day, 0.0) for day in sorted({*known, *values}) if day >= first}


def season_of(values: Mapping[date, float]) -> tuple[float, ...]:
    """Factors Monday to Sunday of filled days; 1 where there is nothing to learn."""
    ratios: list[list[float]] = [[] for _ in range(WEEK)]
    for day, value in values.items():
        around = [values.get(day + timedelta(days=shift)) for shift in range(-3, 4)]
        known = [near for near in around if near is not None]
        mean = sum(known) / WEEK
        if len(known) == WEEK and mean > 0:
            ratios[day.weekday()].append(value / mean)
    total = sum(values.values())
    if total <= 0 or any(len(found) < 3 for found in ratios):
        return NO_SEASON
    belief = total / (total + SEASON_PRIOR)
    raw = [max(LEAST_FACTOR, 1 + belief * (median(found) - 1)) for found in ratios]
    scale = WEEK / sum(raw)
    return tuple(factor * scale for factor in raw)


def weekly(
    values: Mapping[date, float], last: date, weeks: int, *, season: tuple[float, ...] | None = None
) -> Weekly:
    """Levels of the `weeks` weeks up to `last` (included), from filled days; weeks with too few days are left
    out. The level is the ratio of what was counted to what the days' factors add up to: the
    maximum-likelihood estimate for Poisson counts, and right for weeks with days missing."""
    factors = season_of(values) if season is None else season
    ages: list[int] = []
    levels: list[float] = []
    for age in range(weeks - 1, -1, -1):
        end = last - timedelta(days=WEEK * age)
        days = [end - timedelta(days=shift) for shift in range(WEEK)]
        known = [day for day in days if day in values]
        if len(known) >= LEAST_DAYS:
            expected = sum(factors[day.weekday()] for day in known)
            ages.append(age)
            levels.append(WEEK * sum(values[day] for day in known) / expected)
    first = last - timedelta(days=WEEK * weeks - 1)
    total = sum(value for day, value in values.items() if first <= day <= last)
    return Weekly(tuple(ages), tuple(levels), factors, total)
