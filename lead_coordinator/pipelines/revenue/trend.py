"""Theil–Sen slope, its interval, and the probability that a fall is chance.

Slope: the median of the slopes of all pairs (Theil 1950; Sen 1968); up to 29 % of the points may be anything.
Interval and probability come from Kendall's S with its normal approximation and correction for ties (Sen
1968). Weeks resemble their neighbours, so the variance of S is raised as Hamed and Rao (1998) do, from the
autocorrelation of the ranks at lag 1 where that is significant.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

_NORMAL = NormalDist()
LEAST_POINTS = 4


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through (x, y): `slope` per step of x with its interval, `intercept` at x = 0, and the one-sided
    probabilities of such a rise or fall by chance."""

    slope: float
    low: float
    high: float
    intercept: float
    p_fall: float
    p_rise: float
    points: int

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x

    def change(self, span: float) -> tuple[float, float, float]:
        """What the line gains over `span` steps: its middle, low and high."""
        return self.slope * span, self.low * span, self.high * span

    @property
    def error(self) -> float:
        """Standard error of the slope, as if its 95 % interval were normal."""
        return (self.high - self.low) / (2 * 1.959964)


def theil_sen(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> Trend:
    """The line through at least four points with rising x. Raises ValueError for fewer."""
    count = len(x)
    if count != len(y) or count < LEAST_POINTS:
        raise ValueError(f"{count} points given, {LEAST_POINTS} or more are needed")
    slopes: list[float] = []
    score = 0
    for later in range(1, count):
        for earlier in range(later):
            rise = y[later] - y[earlier]
            slopes.append(rise / (x[later] - x[earlier]))
            score += (rise > 0) - (rise < 0)
    slopes.sort()
    slope = median(slopes)
    intercept = median([value - slope * place for place, value in zip(x, y, strict=True)])
    variance = _variance(y, [value - slope * place for place, value in zip(x, y, strict=True)])
    spread = math.sqrt(variance)
    half = _NORMAL.inv_cdf(0.5 + confidence / 2) * spread
    pairs = len(slopes)
    low = slopes[max(0, math.floor((pairs - half) / 2))]
    high = slopes[min(pairs - 1, math.ceil((pairs + half) / 2))]
    if spread == 0:
        p_fall = p_rise = 1.0
    else:
        # S is a whole number: half a step (of two) is taken off, as for every discrete statistic.
        p_fall = _NORMAL.cdf((score + 1) / spread)
        p_rise = _NORMAL.cdf((1 - score) / spread)
    return Trend(slope, low, high, intercept, min(1.0, p_fall), min(1.0, p_rise), count)


def _variance(y: Sequence[float], residuals: Sequence[float]) -> float:
    count = len(y)
    ties = sum(t * (t - 1) * (2 * t + 5) for t in Counter(y).values())
    plain = (count * (count - 1) * (2 * count + 5) - ties) / 18
    return plain * _inflation(_ranks(residuals))


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    for rank, place in enumerate(order):
        ranks[place] = float(rank)
    return ranks


def _inflation(ranks: Sequence[float]) -> float:
    """Hamed and Rao's n / n*, with the autocorrelation of lag 1 only, and never below 1."""
    count = len(ranks)
    mean = sum(ranks) / count
    power = sum((rank - mean) ** 2 for rank in ranks)
    if power == 0:
        return 1.0
    lagged = sum((a - mean) * (b - mean) for a, b in itertools.pairwise(ranks)) / power
    if lagged <= 1.644854 / math.sqrt(count):
        return 1.0
    return 1.0 + 2.0 * (count - 1) * (count - 2) * (count - 3) * lagged / (count * (count - 1) * (count - 2))


def discoveries(p_values: Sequence[float | None], rate: float) -> list[bool]:
    """Which of the tests that were made (not None) are taken for real, so that at most a share `rate` of them
    is chance in expectation (Benjamini and Hochberg 1995; they also hold for tests that hang together
    positively)."""
    made = sorted(p for p in p_values if p is not None)
    bound = -1.0
    for rank, p in enumerate(made, start=1):
        if p <= rate * rank / len(made):
            bound = p
    return [p is not None and p <= bound for p in p_values]
