"""What rises is found, and the false-alarm rate is what it is said to be."""

from __future__ import annotations

import math
from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lead_coordinator.pipelines.intelligence.bursts import (
    Burst,
    BurstReport,
    TermDays,
    benjamini_hochberg,
    dispersions,
    find_bursts,
    term_days,
    upper_tails,
    without_parts,
)

RATE = 0.05
ROUNDS = 400


def quiet_days(dispersion: float, seed: int, *, days: int = 28, terms: int = 120) -> list[BurstReport]:
    """Reports of days on which nothing has changed: each term has its own constant share of the items, days
    are more and less busy, and counts vary by `dispersion` times Poisson's variance."""
    random = np.random.default_rng(seed)
    rates = np.minimum(0.5, 0.5 / np.arange(1, terms + 1))
    reports = []
    for _ in range(ROUNDS):
        documents = random.poisson(60, days + 1) + 1
        means = rates[:, None] * documents[None, :]
        if dispersion == 1:
            counts = random.poisson(means)
        else:
            counts = random.negative_binomial(means / (dispersion - 1), 1 / dispersion)
        listed = [TermDays(f"t{n}", int(row[-1]), tuple(map(int, row[:-1]))) for n, row in enumerate(counts)]
        history = [int(count) for count in documents[:-1]]
        reports.append(
            find_bursts(listed, history, int(documents[-1]), false_alarm_rate=RATE, min_documents=2)
        )
    return reports


@pytest.mark.parametrize("dispersion", [1.0, 1.5, 2.0])
def test_on_quiet_days_alarms_are_no_more_frequent_than_said(dispersion: float) -> None:
    """400 simulated quiet days: at a true rate of 5 %, more than 31 false alarms (three standard deviations)
    would be seen once in a thousand. The seed is fixed, so that the test says the same each time."""
    alarms = sum(bool(report.bursts) for report in quiet_days(dispersion, seed=7))
    allowed = RATE * ROUNDS + 3 * math.sqrt(RATE * (1 - RATE) * ROUNDS)
    assert alarms <= allowed, f"{alarms} of {ROUNDS} quiet days had a false alarm"


def test_clustered_counts_would_raise_false_alarms_without_the_dispersion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The measurement above can fail: with Poisson's variance assumed for clustered counts, it does."""
    monkeypatch.setattr(
        "lead_coordinator.pipelines.intelligence.bursts.dispersions",
        lambda histories, documents: [1.0] * len(histories),
    )
    alarms = sum(bool(report.bursts) for report in quiet_days(2.0, seed=7))
    assert alarms > 0.3 * ROUNDS


def report_of(today: int, history: list[int], documents: list[int], documents_today: int) -> BurstReport:
    others = [TermDays(f"quiet {n}", 1, tuple([1] * len(history))) for n in range(30)]
    listed = [TermDays("peat", today, tuple(history), 3), *others]
    return find_bursts(listed, documents, documents_today, false_alarm_rate=RATE)


def test_a_planted_burst_is_found() -> None:
    report = report_of(12, [1, 0, 2, 1, 0, 1, 1, 0, 2, 1], [30] * 10, 30)
    (burst,) = report.bursts
    assert (burst.term, burst.today) == ("peat", 12)
    assert burst.expected == pytest.approx(0.9)
    assert burst.lift == pytest.approx(12 / 0.9)
    assert burst.q_value < 0.001
    assert (report.tested, report.history_days, report.too_little) == (31, 10, "")


def test_a_busy_day_is_no_burst() -> None:
    assert report_of(12, [4] * 10, [30] * 10, 90).bursts == ()


def test_a_term_that_was_always_restless_needs_more() -> None:
    restless = [0, 9, 0, 0, 10, 0, 0, 11, 0, 0]
    assert report_of(12, restless, [30] * 10, 30).bursts == ()


def test_a_new_term_can_rise() -> None:
    (burst,) = report_of(6, [0] * 10, [30] * 10, 30).bursts
    assert burst.expected == 0
    assert math.isfinite(burst.lift)


@pytest.mark.parametrize(
    ("documents", "today", "reason"),
    [
        ([5] * 6, 9, "6 days of history with items, at least 7 are needed"),
        ([5, 0] * 6, 9, "6 days of history with items, at least 7 are needed"),
        ([], 9, "0 days of history with items, at least 7 are needed"),
        ([5] * 10, 0, "no item of today"),
    ],
)
def test_too_little_data_claims_nothing(documents: list[int], today: int, reason: str) -> None:
    term = TermDays("peat", 9, tuple([0] * len(documents)))
    report = find_bursts([term], documents, today, false_alarm_rate=RATE)
    assert (report.bursts, report.too_little) == ((), reason)


def test_a_burst_needs_several_items_and_feeds() -> None:
    history = tuple([0] * 10)
    for term in (TermDays("one feed", 9, history, 1), TermDays("two feeds", 9, history, 2)):
        report = find_bursts([term], [90] * 10, 90, false_alarm_rate=RATE, min_feeds=2)
        assert [burst.term for burst in report.bursts] == (["two feeds"] if term.feeds_today == 2 else [])
    term = TermDays("two items", 2, (1, 1), 2)
    report = find_bursts([term], [900] * 2, 1, false_alarm_rate=0.5, min_history_days=2, min_documents=3)
    assert report.bursts == ()


def test_the_tail_is_binomial_without_dispersion() -> None:
    (tail,) = upper_tails([3], [4], 0.5, [1.0])
    assert tail == pytest.approx(5 / 16)
    assert upper_tails([0], [4], 0.5, [2.0]) == [1.0]
    assert upper_tails([], [], 0.5, []) == []


@given(
    st.integers(0, 60),
    st.integers(0, 60),
    st.floats(0.01, 0.99),
    st.floats(1, 20),
)
@settings(deadline=None)
def test_tails_are_probabilities_and_fall_with_the_count(
    today: int, before: int, share: float, dispersion: float
) -> None:
    total = today + before
    tails = [upper_tails([k], [total], share, [dispersion])[0] for k in range(total + 1)]
    assert all(0 <= tail <= 1 for tail in tails)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(tails))
    assert tails[today] >= upper_tails([today], [total], share, [1.0])[0] - 1e-9, "dispersion only weakens"


def test_benjamini_hochberg_as_in_the_paper() -> None:
    """The fifteen p-values of Benjamini and Hochberg (1995), 4.1: four are rejected at 5 %."""
    p_values = [
        *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459),
        *(0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000),
    ]
    assert sum(q <= 0.05 for q in benjamini_hochberg(p_values)) == 4


@given(st.lists(st.floats(0, 1), max_size=40))
def test_q_values_are_monotonous_and_never_below_p(p_values: list[float]) -> None:
    q_values = benjamini_hochberg(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, q_values, strict=True))
    ordered = sorted(zip(p_values, q_values, strict=True))
    assert all(a[1] <= b[1] for a, b in pairwise(ordered))


@settings(deadline=None)
@given(
    st.integers(2, 12).flatmap(
        lambda days: st.tuples(
            st.lists(st.lists(st.integers(0, 30), min_size=days, max_size=days), max_size=8),
            st.lists(st.integers(0, 50), min_size=days, max_size=days),
        )
    )
)
def test_dispersions_are_finite_and_at_least_one(given_: tuple[list[list[int]], list[int]]) -> None:
    histories, documents = given_
    spread = dispersions(histories, documents)
    assert len(spread) == len(histories)
    assert all(phi >= 1 and math.isfinite(phi) for phi in spread)


def test_single_words_that_only_rise_in_a_phrase_are_left_out() -> None:
    def burst(term: str, today: int) -> Burst:
        return Burst(term, today, 1.0, 2.0, 0.001, 0.01, 1.0)

    kept = without_parts([burst("peat compost", 8), burst("peat", 8), burst("compost", 9), burst("ban", 3)])
    assert [one.term for one in kept] == ["peat compost", "compost", "ban"]


def test_counts_become_series() -> None:
    today = date(2026, 11, 24)
    yesterday = today - timedelta(days=1)
    counts = {"peat": {today: 3, yesterday: 1, date(2026, 1, 1): 9}}
    documents = {today: 7, yesterday: 5}
    series, history, documents_today = term_days(counts, documents, today, 3, {"peat": 2})
    assert series == [TermDays("peat", 3, (0, 0, 1), 2)]
    assert (history, documents_today) == ([0, 0, 5], 7)
