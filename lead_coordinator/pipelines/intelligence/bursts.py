"""Terms that rise against their own history, with a false-alarm rate.

For each term there are the numbers y of items that held it on the days of its history, and the numbers N of
all items of those days; y0 and N0 are today's. If nothing has changed, each of the term's Y = y0 + Σy items
falls on today with the probability p = N0 / (N0 + ΣN). So y0 given Y is binomial, whatever the term's rate
and however busy the days were (the conditional test of two Poisson rates: Przyborowski and Wilenski 1940,
Biometrika 31). Its upper tail is the term's p-value.

Items come in clusters, so counts vary more than Poisson's: by a factor φ, the dispersion. With negative
binomial counts of variance φ times their mean (NB1: Cameron and Trivedi 1986), y0 given Y is beta-binomial
with the parameters Y p / (φ - 1) and Y (1 - p) / (φ - 1). φ comes from the history alone: Pearson's χ² of a
term with T items over D days has under that model the mean (D - 1) T φ / (φ - 1 + T), which is solved for all
terms together; a term that was more restless than that gets the mean of both.

All terms with enough items in all (Y, which by itself says nothing about today: independent filtering,
Bourgon, Gentleman, Huber 2010, PNAS 107) are tested at once, and the procedure of Benjamini and Hochberg
(1995) picks those that may be called rising. On a day on which nothing rises, the chance of any false alarm
is at most the rate given; on others, it is the expected share of false ones among those reported.
`test_bursts.py` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

# A term with fewer items in all can't be told from chance, whatever they did.
MIN_TOTAL = 4
MAX_DISPERSION = 50.0
# Below that the beta-binomial tail can't be told from the binomial one, and its parameters overflow.
ALMOST_POISSON = 1.001


@dataclass(frozen=True)
class TermDays:
    """How many items held a term: today, and on each day of the history, oldest first."""

    term: str
    today: int
    history: tuple[int, ...]
    feeds_today: int = 1


@dataclass(frozen=True)
class Burst:
    """A rising term. `expected`: items of today if nothing had changed; `lift`: today over expected (over
    half an item of the history where it had none).

    `p_value`: the chance of as many or more without a change; `q_value`: the smallest false-alarm rate at
    which the term would still be reported (Benjamini-Hochberg).
    """

    term: str
    today: int
    expected: float
    lift: float
    p_value: float
    q_value: float
    dispersion: float
    history: tuple[int, ...] = ()


@dataclass(frozen=True)
class BurstReport:
    """The rising terms, strongest first; or why nothing can be said."""

    bursts: tuple[Burst, ...]
    tested: int
    history_days: int
    documents_today: int
    too_little: str = ""


def find_bursts(
    terms: Sequence[TermDays],
    documents: Sequence[int],
    documents_today: int,
    *,
    false_alarm_rate: float,
    min_history_days: int = 7,
    min_documents: int = 3,
    min_feeds: int = 1,
) -> BurstReport:
    """The terms that rise today.

    `documents`: all items of each history day, in the order of `TermDays.history`. Says so, and claims
    nothing, where fewer than `min_history_days` days had any item, or today has none.
    """
    days = sum(1 for count in documents if count)
    if days < min_history_days:
        reason = f"{days} days of history with items, at least {min_history_days} are needed"
        return BurstReport((), 0, days, documents_today, reason)
    if not documents_today:
        return BurstReport((), 0, days, 0, "no item of today")
    tested = [term for term in terms if term.today + sum(term.history) >= MIN_TOTAL]
    if not tested:
        return BurstReport((), 0, days, documents_today)
    spread = dispersions([term.history for term in tested], documents)
    share = documents_today / (documents_today + sum(documents))
    totals = [term.today + sum(term.history) for term in tested]
    p_values = upper_tails([term.today for term in tested], totals, share, spread)
    q_values = benjamini_hochberg(p_values)
    rising = [
        _burst(term, documents, documents_today, p, q, phi)
        for term, p, q, phi in zip(tested, p_values, q_values, spread, strict=True)
        if q <= false_alarm_rate and term.today >= min_documents and term.feeds_today >= min_feeds
    ]
    rising.sort(key=lambda burst: (burst.p_value, -burst.today, burst.term))
    return BurstReport(tuple(rising), len(tested), days, documents_today)


def upper_tails(
    today: Sequence[int], totals: Sequence[int], share: float, spread: Sequence[float]
) -> list[float]:
    """For each term the chance of `today` or more of its `totals` items, where one falls on today with the
    chance `share`: binomial where its dispersion in `spread` is 1, beta-binomial where it is over."""
    import numpy as np
    from scipy.stats import betabinom, binom

    if not today:
        return []
    k, n, phi = np.array(today), np.array(totals), np.array(spread, dtype=float)
    tails = binom.sf(k - 1, n, share)
    restless = (phi > ALMOST_POISSON) & (k > 0)
    if restless.any():
        size = n[restless] / (phi[restless] - 1)
        found = betabinom.sf(k[restless] - 1, n[restless], size * share, size * (1 - share))
        tails[restless] = np.maximum(found, tails[restless])
    return [float(tail) for tail in np.clip(np.where(k > 0, tails, 1.0), 0.0, 1.0)]


def dispersions(histories: Sequence[Sequence[int]], documents: Sequence[int]) -> list[float]:
    """φ of each term, at least 1: that of all terms together, or the mean of it and the term's own where that
    is higher. `histories`: terms × days; `documents`: all items of each day."""
    import numpy as np

    counts = np.array(histories, dtype=float)
    exposure = np.array(documents, dtype=float)
    busy = exposure > 0
    freedom = int(busy.sum()) - 1
    totals = counts[:, busy].sum(axis=1) if counts.size else np.zeros(len(histories))
    # One item has no spread.
    telling = totals > 1
    if freedom < 1 or not telling.any():
        return [1.0] * len(histories)
    expected = totals[telling, None] * exposure[busy] / exposure[busy].sum()
    scaled = ((counts[telling][:, busy] - expected) ** 2 / expected).sum(axis=1) / freedom
    pooled = _pooled(scaled.tolist(), totals[telling].tolist())
    spread = np.full(len(histories), pooled)
    spread[telling] = np.maximum(pooled, (scaled + pooled) / 2)
    return [float(phi) for phi in spread]


def _pooled(scaled: Sequence[float], totals: Sequence[float]) -> float:
    """The φ, from 1 to `MAX_DISPERSION`, under which χ² over its degrees of freedom has the mean seen."""
    seen = math.fsum(scaled)

    def mean(phi: float) -> float:
        return math.fsum(total * phi / (phi - 1 + total) for total in totals)

    low, high = 1.0, MAX_DISPERSION
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < seen else (low, middle)
    return low


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """The adjusted p-values (q-values) in the order given: reject those at or under the rate wanted."""
    count = len(p_values)
    ordered = sorted(range(count), key=lambda place: p_values[place], reverse=True)
    adjusted = [1.0] * count
    lowest = 1.0
    for rank, place in zip(range(count, 0, -1), ordered, strict=True):
        lowest = min(lowest, p_values[place] * (count / rank))
        adjusted[place] = lowest
    return adjusted


def term_days(
    counts: Mapping[str, Mapping[date, int]],
    documents: Mapping[date, int],
    today: date,
    history_days: int,
    feeds_today: Mapping[str, int],
) -> tuple[list[TermDays], list[int], int]:
    """Counts by day as what `find_bursts` takes: terms, items of the history days, items of today."""
    days = [today - timedelta(days=back) for back in range(history_days, 0, -1)]
    series = [
        TermDays(
            term,
            by_day.get(today, 0),
            tuple(by_day.get(day, 0) for day in days),
            feeds_today.get(term, 0),
        )
        for term, by_day in sorted(counts.items())
    ]
    return series, [documents.get(day, 0) for day in days], documents.get(today, 0)


def _burst(
    term: TermDays, documents: Sequence[int], documents_today: int, p: float, q: float, phi: float
) -> Burst:
    expected = sum(term.history) * documents_today / sum(documents)
    # Half an item is what a term never seen before may be said to have had.
    lift = term.today / max(expected, 0.5 * documents_today / sum(documents))
    return Burst(term.term, term.today, expected, lift, p, q, phi, term.history)


def without_parts(bursts: Sequence[Burst]) -> list[Burst]:
    """The bursts without single words that rise only within a rising phrase (in no more items than it)."""
    phrases = [burst for burst in bursts if " " in burst.term]
    return [
        burst
        for burst in bursts
        if " " in burst.term
        or not any(burst.term in phrase.term.split() and burst.today <= phrase.today for phrase in phrases)
    ]
