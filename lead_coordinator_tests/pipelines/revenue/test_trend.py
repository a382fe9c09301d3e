"""Lines, seasons and verdicts: what is true of made-up pages is found, and chance is not."""

from __future__ import annotations

import math
import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.pipelines.revenue.decay import course_of
from lead_coordinator.pipelines.revenue.trend import Trend, discoveries, theil_sen
from lead_coordinator.pipelines.revenue.weeks import NO_SEASON, filled, season_of, weekly
from lead_coordinator_tests.pipelines.revenue.material import LAST, SETTINGS, pages_of, search_rows

WEEK = (1.3, 1.2, 1.1, 1.0, 0.9, 0.7, 0.8)
VALUES = st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=30)


def line(y: list[float]) -> Trend:
    return theil_sen(range(len(y)), y)


def test_a_straight_line_is_found_whatever_a_quarter_of_the_points_are() -> None:
    y = [3.0 + 0.5 * x for x in range(20)]
    y[3], y[9], y[14], y[17] = 1e6, -1e6, 500.0, -900.0
    found = line(y)
    assert found.slope == pytest.approx(0.5, abs=1e-9)
    assert found.at(10) == pytest.approx(8.0, abs=1e-9)
    assert found.p_rise < 0.001 < 0.5 < found.p_fall


def test_what_a_published_table_says_of_sens_slope() -> None:
    """scipy computes the same slope, and the same interval where neighbours are independent."""
    from scipy.stats import theilslopes

    source = random.Random(5)
    y = [source.gauss(0.1 * x, 1) for x in range(25)]
    theirs = theilslopes(y, range(25), 0.95)
    ours = line(y)
    assert ours.slope == pytest.approx(theirs[0])
    assert ours.low == pytest.approx(theirs[2], abs=0.02)
    assert ours.high == pytest.approx(theirs[3], abs=0.02)


@given(VALUES)
def test_the_slope_lies_within_its_interval_and_turns_with_the_data(y: list[float]) -> None:
    found, mirrored = line(y), line([-value for value in y])
    assert found.low <= found.slope <= found.high
    assert mirrored.slope == pytest.approx(-found.slope)
    assert (mirrored.p_fall, mirrored.p_rise) == pytest.approx((found.p_rise, found.p_fall))
    assert 0 <= found.p_fall <= 1


@given(VALUES, st.floats(-100, 100), st.floats(-100, 100))
def test_an_offset_and_a_slope_that_are_added_come_out_again(
    y: list[float], offset: float, slope: float
) -> None:
    moved = line([value + offset + slope * x for x, value in enumerate(y)])
    assert moved.slope == pytest.approx(line(y).slope + slope, abs=1e-6)


@pytest.mark.parametrize("neighbours", [0.0, 0.5])
def test_chance_falls_significantly_no_more_often_than_stated(neighbours: float) -> None:
    """Of 600 flat series of 17 weeks, at most 5 % with room for luck, also where weeks hang together."""
    source = random.Random(8)
    false = 0
    for _ in range(600):
        y, last = [], 0.0
        for _ in range(17):
            last = neighbours * last + source.gauss(0, 1)
            y.append(last)
        false += line(y).p_fall < 0.05
    # Five standard deviations of a binomial count. Resemblance is corrected for, not quite to the end.
    allowed = 0.05 if neighbours == 0 else 0.12
    assert false <= 600 * allowed + 5 * math.sqrt(600 * allowed)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="3 points given, 4 or more"):
        line([1, 2, 3])


def test_false_discoveries_are_bounded_and_the_textbook_case_comes_out() -> None:
    p = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, None]
    assert discoveries(p, 0.05) == [True, True, *[False] * 7]
    assert discoveries([], 0.05) == []
    assert discoveries([0.04], 0.05) == [True]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=50))
def test_discoveries_are_the_smallest_and_never_of_what_was_not_tested(p_values: list[float | None]) -> None:
    found = discoveries(p_values, 0.05)
    kept = [p for p, holds in zip(p_values, found, strict=True) if holds]
    left = [p for p, holds in zip(p_values, found, strict=True) if not holds and p is not None]
    assert None not in kept
    assert not kept or not left or max(kept) < min(left)
    assert all(p <= 0.05 for p in kept)


# ---- weeks --------------------------------------------------------------------------------------------


def days(count: int, value: float = 100.0) -> dict:
    found = {}
    for back in range(count):
        day = LAST - timedelta(days=back)
        found[day] = value * WEEK[day.weekday()]
    return found


def test_the_season_of_the_week_is_found_and_taken_out() -> None:
    values = days(70)
    assert season_of(values) == pytest.approx(WEEK, abs=0.02)
    found = weekly(values, LAST, 10)
    assert found.level == pytest.approx([700.0] * 10, rel=1e-3)
    assert found.total == pytest.approx(7000)


@given(st.sets(st.integers(0, 69), max_size=12))
def test_missing_days_do_not_bend_the_level(missing: set[int]) -> None:
    values = {day: value for day, value in days(70).items() if (LAST - day).days not in missing}
    found = weekly(values, LAST, 10, season=WEEK)
    assert found.level == pytest.approx([700.0] * len(found.level), rel=1e-6)


def test_a_day_without_a_row_is_zero_only_where_the_site_has_figures() -> None:
    known = {LAST - timedelta(days=back) for back in (0, 1, 2, 3, 9)}
    values = {LAST: 5.0, LAST - timedelta(days=3): 2.0}
    assert list(filled(values, known).values()) == [2.0, 0.0, 0.0, 5.0]
    assert filled({}, known) == {}


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60))
def test_factors_are_positive_with_mean_one(counts: list[int]) -> None:
    values = {LAST - timedelta(days=back): float(count) for back, count in enumerate(counts)}
    season = season_of(values)
    assert all(factor > 0 for factor in season)
    assert sum(season) == pytest.approx(7)
    if len(counts) < 21:
        assert season == NO_SEASON


# ---- verdicts -----------------------------------------------------------------------------------------


def verdict(rows: list, **others: object) -> tuple[str, str]:
    (page,), _ = pages_of(rows)
    course = course_of(page, SETTINGS)
    return course.verdict, course.why


def falling(start: float, end: float, count: int = 119):
    return lambda number: start * (end / start) ** (number / (count - 1))


def test_decay_needs_clicks_position_and_click_rate_together() -> None:
    lost = falling(100, 40)
    rows = search_rows("/a", lost, position=falling(3, 7))
    assert verdict(rows)[0] == "decay"
    assert verdict(search_rows("/a", lost, impressions=lambda n: 10 * lost(n)))[0] == "fewer searches"
    more = search_rows("/a", lambda n: 100, impressions=falling(1000, 2000), position=falling(3, 7))
    assert verdict(more)[0] == "steady", "a page that is found for more, further down, loses nothing"
    assert verdict(search_rows("/a", falling(100, 93), position=falling(3, 4.5)))[0] == "steady"
    assert verdict(search_rows("/a", falling(100, 200)))[0] == "growing"


def views_only(level, count: int) -> list:
    from lead_coordinator.database.revenue import MetricRow

    return [
        MetricRow("/a", LAST - timedelta(days=count - 1 - number), views=round(level(number)))
        for number in range(count)
    ]


def test_without_positions_the_year_before_tells_a_season_from_a_fall() -> None:
    this_year = falling(200, 80)
    alone = verdict(views_only(this_year, 119))
    assert alone[0] == "falling"
    assert "no claim" in alone[1]
    days_in_all = 364 + 119

    def as_last_year(number: int) -> float:
        return this_year(number % 364) if number % 364 < 119 else 80

    assert verdict(views_only(as_last_year, days_in_all))[0] == "season"

    def not_last_year(number: int) -> float:
        return 200 if number < 364 else this_year(number - 364)

    assert verdict(views_only(not_last_year, days_in_all))[0] == "decay"


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (search_rows("/a", lambda n: 50, days=40), "6 weeks with figures, 8 are needed"),
        (search_rows("/a", lambda n: n % 2), "59 clicks in 17 weeks, 100 are needed"),
    ],
)
def test_too_little_data_says_what_is_missing(rows: list, why: str) -> None:
    assert verdict(rows) == ("too little data", why)


def test_noise_alone_is_never_decay() -> None:
    """200 pages of pure counting noise: none may be reported."""
    source = random.Random(11)
    found = 0
    for _ in range(200):
        rows = search_rows(
            "/a",
            lambda n: max(0, source.gauss(60, 60**0.5)),
            position=lambda n: max(1, source.gauss(4, 0.6)),
        )
        found += verdict(rows)[0] == "decay"
    assert found == 0
