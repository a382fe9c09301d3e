"""Pages whose rate lies below what is to be expected of them: the click rate for its position, the conversion
rate among the site's pages.

Pages differ without anything being wrong, so a page is judged by x = log(observed / expected) against the
spread of all pages: z = x / sqrt(spread² + 1 / events). The spread is robust (median absolute deviation, less
what counting explains), drawn towards a prior by four pages' worth. Chance is kept down over all pages
together by Benjamini and Hochberg. What is believed of the page itself is drawn towards the others
(normal-normal shrinkage), so a gain is never reckoned from the raw gap.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

_NORMAL = NormalDist()
PRIOR_PAGES = 4.0
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True)
class Rate:
    """Events that a page had, and how many were to be expected, with the relative error of the latter."""

    page: str
    events: float
    expected: float
    relative_error: float = 0.0

    @property
    def x(self) -> float:
        return math.log((self.events + 0.5) / (self.expected + 0.5))

    @property
    def noise(self) -> float:
        """Variance of x by counting alone: the smaller of the counts says how much."""
        return 1 / (min(self.events, self.expected) + 0.5) + self.relative_error**2


@dataclass(frozen=True, slots=True)
class Shortfall:
    """How a page stands: `ratio` observed to expected, the chance of so low a one, and what is believed of
    the logarithm of its true ratio (mean, standard deviation)."""

    page: str
    events: float
    expected: float
    ratio: float
    p_low: float
    belief: tuple[float, float]
    spread: float

    def draw_missing(self, source: random.Random) -> float:
        """Events missing to what is expected, of a true ratio that is believed; never below zero."""
        return max(0.0, self.expected * -math.expm1(source.gauss(*self.belief)))


def judged(rates: Sequence[Rate], prior_spread: float, *, centred: bool) -> list[Shortfall]:
    """Judges each page by the spread of all. `centred`: the others' median, not the expectation, is normal
    (for rates whose expectation is no more than a mean that a few pages may pull)."""
    if not rates:
        return []
    middle = median([rate.x for rate in rates]) if centred else 0.0
    spread = _spread(rates, prior_spread)
    found = []
    for rate in rates:
        x, variance = rate.x - middle, spread**2 + rate.noise
        weight = spread**2 / variance
        found.append(
            Shortfall(
                page=rate.page,
                events=rate.events,
                expected=rate.expected * math.exp(middle),
                ratio=math.exp(x),
                p_low=_NORMAL.cdf(x / math.sqrt(variance)),
                belief=(weight * x, math.sqrt(weight * rate.noise)),
                spread=spread,
            )
        )
    return found


def _spread(rates: Sequence[Rate], prior: float) -> float:
    """Around the pages' own middle: where all lie off together, that isn't spread but a site of its own."""
    centre = median([rate.x for rate in rates])
    deviation = MAD_TO_SIGMA * median([abs(rate.x - centre) for rate in rates])
    own = max(0.0, deviation**2 - median([rate.noise for rate in rates]))
    count = len(rates) - 1
    return math.sqrt((PRIOR_PAGES * prior**2 + count * own) / (PRIOR_PAGES + count))
