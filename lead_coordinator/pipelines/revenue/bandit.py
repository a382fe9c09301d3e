"""Beta-Bernoulli arms: the chance that each is the best, and evidence that one beats another.

Chance of being the best, under independent Beta(1 + successes, 1 + failures) posteriors, by numerical
integration. Giving each arm visitors in that proportion is Thompson sampling (Thompson 1933; Chapelle and Li
2011) for visitors who come in batches.

Evidence is the mean of two e-processes. Each is ever at least 1/a with probability at most a if the one arm
isn't better than the other (Ville 1939), however often one looks, so their mean is too. It doesn't matter
how visitors were shared out, as long as no batch's sharing knew its own outcomes.

- By batches: before a batch is seen, two rates are supposed that lie apart by some odds ratio around what
  both arms had until then. The batch's likelihood at the two, over that at their mean weighted by the
  batch's visitors, has an expectation of at most 1 (Turner, Ly and Grünwald, Generic E-variables for exact
  sequential k-sample tests, 2024; in short: a visitor's factor has the mean 1 + c (p - middle), the two c
  weighted by visitors cancel, and log(1 + x) <= x). Multiplied over batches, averaged over five odds
  ratios.
- In all: the Beta(½, ½) mixtures of both arms' likelihoods over the largest likelihood without a difference
  (Robbins 1970; for adaptive sampling Kaufmann and Koolen, Mixture martingales revisited, 2021). It needs
  twice the visitors, and no second batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

GRID = 2001
# The grid reaches so many standard deviations beyond every arm's mean.
REACH = 8.0
# Log odds ratios that are supposed: about 5, 10, 20, 50 and 120 % more successes.
ODDS = (0.05, 0.1, 0.2, 0.4, 0.8)

# What was recorded at once: (visitors, successes) by variant.
Batch = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Arm:
    """A variant's visitors and how many of them did what was hoped for. Raises ValueError for impossible
    counts."""

    name: str
    exposures: int
    successes: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.exposures:
            raise ValueError(f"{self.name}: {self.successes} successes of {self.exposures} exposures")

    @property
    def rate(self) -> float | None:
        return self.successes / self.exposures if self.exposures else None

    @property
    def mean(self) -> float:
        return (self.successes + 1) / (self.exposures + 2)

    @property
    def deviation(self) -> float:
        return math.sqrt(self.mean * (1 - self.mean) / (self.exposures + 3))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval of the rate."""
        if self.exposures == 0:
            return 0.0, 1.0
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        count, rate = self.exposures, self.successes / self.exposures
        middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
        return max(0.0, middle - half), min(1.0, middle + half)


def chances_of_best(arms: Sequence[Arm]) -> dict[str, float]:
    """The posterior probability of each arm to have the highest rate; together 1."""
    import numpy as np

    low = max(0.0, min(arm.mean - REACH * arm.deviation for arm in arms))
    high = min(1.0, max(arm.mean + REACH * arm.deviation for arm in arms))
    # A cell's middle holds its density: the ends of (0, 1), where logarithms fail, are never met.
    places = low + (np.arange(GRID) + 0.5) * ((high - low) / GRID)
    yes, no = np.log(places), np.log1p(-places)
    densities = []
    for arm in arms:
        heights = arm.successes * yes + (arm.exposures - arm.successes) * no
        density = np.exp(heights - heights.max())
        densities.append(density / density.sum())
    below = [np.cumsum(density) - density / 2 for density in densities]
    chances = []
    for number, density in enumerate(densities):
        product = density
        for other, reached in enumerate(below):
            if other != number:
                product = product * reached
        chances.append(float(product.sum()))
    whole = sum(chances)
    return {arm.name: chance / whole for arm, chance in zip(arms, chances, strict=True)}


def log_evidence(better: str, worse: str, batches: Sequence[Batch]) -> float:
    """Logarithm of the evidence against `better` not being better than `worse`; -inf where the sums point the
    other way. At least log(1/a) with probability at most a, ever, if it is not better.

    Batches are in the order of time. One that holds visitors of one arm only is joined with those after it.
    """
    ahead, behind = _summed(better, batches), _summed(worse, batches)
    if ahead.successes * behind.exposures <= behind.successes * ahead.exposures:
        return -math.inf
    logs = [0.0] * len(ODDS)
    visitors = hits = 0
    for (ours, our_hits), (theirs, their_hits) in _joined(better, worse, batches):
        # The first batch only says where the rates lie.
        if visitors:
            middle = (hits + 0.5) / (visitors + 1)
            middle = math.log(middle / (1 - middle))
            for place, odds in enumerate(ODDS):
                high, low = _logistic(middle + odds / 2), _logistic(middle - odds / 2)
                mean = (ours * high + theirs * low) / (ours + theirs)
                logs[place] += our_hits * math.log(high / mean) + their_hits * math.log(low / mean)
                logs[place] += (ours - our_hits) * math.log((1 - high) / (1 - mean))
                logs[place] += (theirs - their_hits) * math.log((1 - low) / (1 - mean))
        visitors += ours + theirs
        hits += our_hits + their_hits
    by_batches = _log_mean(logs)
    return _log_mean([by_batches, _log_evidence_in_all(ahead, behind)])


def _joined(
    better: str, worse: str, batches: Sequence[Batch]
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Both arms' (visitors, successes), batch by batch, each with visitors of both."""
    ours = our_hits = theirs = their_hits = 0
    for batch in batches:
        seen, hits = batch.get(better, (0, 0))
        others, other_hits = batch.get(worse, (0, 0))
        ours, our_hits = ours + seen, our_hits + hits
        theirs, their_hits = theirs + others, their_hits + other_hits
        if ours and theirs:
            yield (ours, our_hits), (theirs, their_hits)
            ours = our_hits = theirs = their_hits = 0


def _summed(name: str, batches: Sequence[Batch]) -> Arm:
    found = [batch.get(name, (0, 0)) for batch in batches]
    return Arm(name, sum(seen for seen, _ in found), sum(hits for _, hits in found))


def _log_evidence_in_all(better: Arm, worse: Arm) -> float:
    pooled = Arm("", better.exposures + worse.exposures, better.successes + worse.successes)
    return _log_mixture(better) + _log_mixture(worse) - _log_likelihood(pooled)


def _log_mixture(arm: Arm) -> float:
    """log of the integral of the likelihood over Beta(½, ½), whose own constant is pi."""
    hits, misses = arm.successes + 0.5, arm.exposures - arm.successes + 0.5
    return math.lgamma(hits) + math.lgamma(misses) - math.lgamma(arm.exposures + 1) - math.log(math.pi)


def _log_likelihood(arm: Arm) -> float:
    """log likelihood at the arm's own rate."""
    hits, misses = arm.successes, arm.exposures - arm.successes
    log = 0.0
    if hits:
        log += hits * math.log(hits / arm.exposures)
    if misses:
        log += misses * math.log(misses / arm.exposures)
    return log


def _log_mean(logs: Sequence[float]) -> float:
    """Logarithm of the mean of what these are the logarithms of."""
    top = max(logs)
    return top + math.log(sum(math.exp(log - top) for log in logs) / len(logs))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def with_floor(chances: Mapping[str, float], floor: float) -> dict[str, float]:
    """Shares in proportion to the chances, none below `floor`; together 1. A floor that leaves nothing to
    share out makes all equal."""
    count = len(chances)
    if floor * count >= 1:
        return dict.fromkeys(chances, 1 / count)
    shares = dict(chances)
    fixed: set[str] = set()
    while True:
        low = {name for name, share in shares.items() if name not in fixed and share < floor}
        if not low:
            return shares
        fixed |= low
        rest = 1 - floor * len(fixed)
        weight = sum(chances[name] for name in chances if name not in fixed)
        shares = {name: floor if name in fixed else chances[name] / weight * rest for name in chances}
