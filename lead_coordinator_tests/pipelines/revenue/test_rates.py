"""The click-rate curve and pages below what is expected of them."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.pipelines.revenue.ctr import (
    LAST_POSITION,
    PRIOR_POINTS,
    Clicks,
    expected_clicks,
    fit_curve,
    non_increasing,
    prior_ctr,
)
from lead_coordinator.pipelines.revenue.shortfall import Rate, judged
from lead_coordinator.pipelines.revenue.trend import discoveries

COUNTS = st.dictionaries(
    st.integers(1, LAST_POSITION), st.tuples(st.integers(0, 10_000), st.integers(0, 100_000)), max_size=12
)


def clicks_of(counts: dict[int, tuple[int, int]]) -> Clicks:
    found = Clicks()
    for place, (hits, more) in counts.items():
        found.add(place, hits, hits + more)
    return found


def test_the_prior_is_the_published_curve() -> None:
    assert [prior_ctr(place) for place, _ in PRIOR_POINTS] == pytest.approx(
        [rate for _, rate in PRIOR_POINTS]
    )
    assert prior_ctr(0.5) == prior_ctr(1)
    assert prior_ctr(500) == prior_ctr(LAST_POSITION)


def test_without_data_the_curve_is_the_prior_and_with_much_it_is_the_data() -> None:
    nothing = fit_curve(Clicks(), 1000)
    assert [nothing.at(place) for place in (1, 4, 10)] == pytest.approx([0.285, 0.08, 0.025])
    much = Clicks()
    much.add(1, 1_000_000, 10_000_000)
    assert fit_curve(much, 1000).at(1) == pytest.approx(0.1, rel=0.01)
    as_much = Clicks()
    as_much.add(1, 200, 1000)
    assert fit_curve(as_much, 1000).at(1) == pytest.approx(0.2425), "as much data as prior: half way"


@given(COUNTS, st.floats(1, 1e5))
def test_a_curve_never_rises_and_stays_a_rate(counts: dict[int, tuple[int, int]], prior: float) -> None:
    curve = fit_curve(clicks_of(counts), prior)
    assert all(0 < rate < 1 for rate in curve.rate)
    assert all(left >= right - 1e-12 for left, right in zip(curve.rate, curve.rate[1:], strict=False))
    assert curve.at(3.5) <= curve.at(3.4) + 1e-12


@given(COUNTS, COUNTS)
def test_without_a_page_is_the_others_alone(
    page: dict[int, tuple[int, int]], others: dict[int, tuple[int, int]]
) -> None:
    together = clicks_of(page)
    together.merge(clicks_of(others))
    left = fit_curve(together.without(clicks_of(page)), 100)
    assert left.rate == pytest.approx(fit_curve(clicks_of(others), 100).rate)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 100)), min_size=1, max_size=30))
def test_pooling_keeps_the_weighted_sum_and_ends_without_a_rise(pairs: list[tuple[float, float]]) -> None:
    values, weights = zip(*pairs, strict=True)
    pooled = non_increasing(values, weights)
    assert all(left >= right for left, right in itertools.pairwise(pooled))
    assert sum(v * w for v, w in zip(pooled, weights, strict=True)) == pytest.approx(
        sum(v * w for v, w in pairs)
    )


def test_a_position_between_two_is_shared_out() -> None:
    found = Clicks()
    found.add(3.25, 4, 100)
    assert found.impressions == {3: 75.0, 4: 25.0}
    assert found.clicks == {3: 3.0, 4: 1.0}
    curve = fit_curve(Clicks(), 1)
    assert expected_clicks(curve, found.impressions) == pytest.approx(75 * 0.11 + 25 * 0.08)


def test_a_page_far_below_the_others_is_found_and_its_gap_is_believed_less_than_it_looks() -> None:
    rates = [Rate(f"/{n}", 200 + n, 205) for n in range(9)] + [Rate("/low", 60, 205)]
    (low,) = [found for found in judged(rates, 0.3, centred=False) if found.page == "/low"]
    assert low.p_low < 1e-4
    assert low.ratio == pytest.approx(60 / 205, rel=0.01)
    believed = math.exp(low.belief[0])
    assert low.ratio < believed < 0.5
    others = [found.p_low for found in judged(rates, 0.3, centred=False) if found.page != "/low"]
    assert min(others) > 0.2


def test_chance_is_reported_no_more_often_than_stated() -> None:
    """200 sites of 20 pages that differ as pages do: false reports on at most one site in ten."""
    source = random.Random(3)
    sites = 0
    for _ in range(200):
        rates = []
        for page in range(20):
            expected = 300.0
            events = source.gauss(expected, math.sqrt(expected)) * math.exp(source.gauss(0, 0.25))
            rates.append(Rate(f"/{page}", max(0.0, events), expected))
        found = judged(rates, 0.3, centred=False)
        sites += any(
            holds and one.ratio <= 0.7
            for one, holds in zip(found, discoveries([one.p_low for one in found], 0.05), strict=True)
        )
    assert sites <= 20


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0.1, 1e6)), min_size=1, max_size=30),
    st.booleans(),
)
def test_judging_is_finite_whatever_the_counts(counts: list[tuple[float, float]], centred: bool) -> None:
    rates = [Rate(str(n), events, expected) for n, (events, expected) in enumerate(counts)]
    for found in judged(rates, 0.3, centred=centred):
        assert 0 <= found.p_low <= 1
        assert math.isfinite(found.ratio)
        missing = found.draw_missing(random.Random(1))
        assert 0 <= missing <= found.expected
