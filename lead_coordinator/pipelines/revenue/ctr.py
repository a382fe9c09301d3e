"""How often a result is clicked at a position: a published curve, bent by the site's own data.

Prior: Sistrix, 80 million keywords, July 2020: 28.5 % at 1, 15.7 % at 2, 11.0 % at 3, 8.0 % at 4, 2.5 % at
10, under 1 % on the second page; between these points the logarithm is linear. Own data: clicks and
impressions by whole position; each position is a Beta distribution with the prior's mean and a weight of
`prior_impressions` (empirical-Bayes shrinkage), then made non-increasing by pooling adjacent violators
(Ayer et al. 1955). A page is judged by the curve of the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

LAST_POSITION = 30
PRIOR_POINTS = ((1, 0.285), (2, 0.157), (3, 0.110), (4, 0.080), (10, 0.025), (11, 0.009), (30, 0.002))


def prior_ctr(position: float) -> float:
    """The published curve at any position from 1 on; flat after 30."""
    place = min(max(position, 1.0), float(LAST_POSITION))
    for (left, low), (right, high) in itertools.pairwise(PRIOR_POINTS):
        if place <= right:
            part = (place - left) / (right - left)
            return math.exp(math.log(low) * (1 - part) + math.log(high) * part)
    return PRIOR_POINTS[-1][1]


@dataclass(slots=True)
class Clicks:
    """Clicks and impressions by whole position, of a page or of a site."""

    clicks: dict[int, float] = field(default_factory=dict)
    impressions: dict[int, float] = field(default_factory=dict)

    def add(self, position: float, clicks: float, impressions: float) -> None:
        """A position between two whole ones is shared out between them."""
        place = min(max(position, 1.0), float(LAST_POSITION))
        left = int(place)
        for whole, part in ((left, left + 1 - place), (left + 1, place - left)):
            if part > 0:
                self.clicks[whole] = self.clicks.get(whole, 0.0) + part * clicks
                self.impressions[whole] = self.impressions.get(whole, 0.0) + part * impressions

    def merge(self, other: Clicks) -> None:
        for place, count in other.impressions.items():
            self.add(place, other.clicks[place], count)

    def without(self, other: Clicks) -> Clicks:
        return Clicks(
            {place: max(0.0, n - other.clicks.get(place, 0.0)) for place, n in self.clicks.items()},
            {place: max(0.0, n - other.impressions.get(place, 0.0)) for place, n in self.impressions.items()},
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """`rate[i]`: the click rate at position i + 1, non-increasing; `weight[i]`: what it rests on, prior
    included, in impressions."""

    rate: tuple[float, ...]
    weight: tuple[float, ...]

    def at(self, position: float) -> float:
        """The rate at a position, log-linear between whole ones."""
        place = min(max(position, 1.0), float(LAST_POSITION))
        left = min(int(place), LAST_POSITION - 1)
        low, high = self.rate[left - 1], self.rate[left]
        return math.exp(math.log(low) * (left + 1 - place) + math.log(high) * (place - left))

    def relative_error(self, position: float) -> float:
        """Standard error of the logarithm of the rate near a position, from counting alone."""
        place = min(max(round(position), 1), LAST_POSITION) - 1
        return 1 / math.sqrt(max(1.0, self.rate[place] * self.weight[place]))


def fit_curve(counts: Clicks, prior_impressions: float) -> Curve:
    """The curve of these counts. With none it is the prior's."""
    rates: list[float] = []
    weights: list[float] = []
    for place in range(1, LAST_POSITION + 1):
        weight = counts.impressions.get(place, 0.0) + prior_impressions
        clicks = counts.clicks.get(place, 0.0) + prior_impressions * prior_ctr(place)
        rates.append(clicks / weight)
        weights.append(weight)
    return Curve(tuple(non_increasing(rates, weights)), tuple(weights))


def non_increasing(values: Iterable[float], weights: Iterable[float]) -> list[float]:
    """The non-increasing values nearest to these by weighted squares: neighbours in the wrong order become
    their mean."""
    blocks: list[list[float]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-1][0] > blocks[-2][0]:
            mean, more, length = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + mean * more) / (last[1] + more)
            last[1] += more
            last[2] += length
    return [mean for mean, _, length in blocks for _ in range(int(length))]


def expected_clicks(curve: Curve, counts: Mapping[float, float]) -> float:
    """Clicks to be expected of impressions by position."""
    return sum(curve.at(position) * seen for position, seen in counts.items())
