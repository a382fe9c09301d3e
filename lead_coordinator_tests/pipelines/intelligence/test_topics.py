"""What is proposed, what it is said to be worth, and why."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lead_coordinator.pipelines.intelligence.bursts import Burst
from lead_coordinator.pipelines.intelligence.coverage import Article, Coverage, coverages
from lead_coordinator.pipelines.intelligence.items import Item
from lead_coordinator.pipelines.intelligence.settings import FeedSource, TopicSettings
from lead_coordinator.pipelines.intelligence.stories import group
from lead_coordinator.pipelines.intelligence.topics import (
    Proposal,
    earnings_of,
    propose,
    title_of,
    worth_submitting,
)
from lead_coordinator.pipelines.intelligence.vectors import DocumentFrequencies
from lead_coordinator_tests.pipelines.intelligence.material import NOON, item

A, B, C, OURS = (f"https://{name}.example/feed" for name in ("a", "b", "c", "ours"))
SOURCES = {
    A: FeedSource(url=A, name="Alpha"),
    B: FeedSource(url=B, name="Beta", competitor=True),
    C: FeedSource(url=C, name="Gamma"),
    OURS: FeedSource(url=OURS, name="Our own", ours=True),
}
PEAT = [
    item("Peat compost ban confirmed", feed=A, hours=3),
    item("Peat compost ban worries growers", feed=B, hours=2),
    item("Ban on peat compost in spring", feed=C, hours=1),
]
ALONE = [item("Tram line opens early", feed=A), item("Chess club wins a room", feed=C)]
ASSUMED = TopicSettings(assumed_value_usd=Decimal(3))


def covered(
    items: list[Item], articles: tuple[Article, ...] = ()
) -> tuple[list[Coverage], DocumentFrequencies]:
    frequencies = DocumentFrequencies()
    for one in items:
        frequencies.add(one.vector)
    found = group(items, (), {}, frequencies, similarity=0.28, active=timedelta(hours=96))
    listed = coverages(
        found.stories, found.items, SOURCES, articles, frequencies.weight, covered_similarity=0.3
    )
    return listed, frequencies


def proposals(
    items: list[Item],
    settings: TopicSettings = ASSUMED,
    articles: tuple[Article, ...] = (),
    bursts: tuple[Burst, ...] = (),
    **more: object,
) -> list[Proposal]:
    found, frequencies = covered(items, articles)
    names = {url: source.name for url, source in SOURCES.items()}
    return propose(found, bursts, articles, frequencies.weight, settings, NOON, names=names, **more)


def article(title: str, earned: float | None = None) -> Article:
    return Article(title, "https://ours.example/x", "", NOON, earned)


def test_a_story_of_several_feeds_is_proposed_with_its_evidence() -> None:
    (found,) = proposals([*PEAT, *ALONE])
    assert found.title == "Peat compost: what is known so far"
    assert found.keywords[:2] == ("peat compost", "compost ban")
    assert found.gap
    assert {one.feed_url for one in found.evidence} == {A, B, C}
    assert all(one.url.startswith("https://") for one in found.evidence)
    assert "3 feeds carry it in 3 items: Alpha, Beta and Gamma." in found.reasons
    assert "Competitors cover it and we don't: Beta." in found.reasons


def test_the_value_is_the_product_that_the_docstring_states() -> None:
    (found,) = proposals([*PEAT, *ALONE], article_cost_usd=Decimal("0.01"))
    mean_feeds = (3 + 1 + 1) / 3
    assert found.factors["attention"] == pytest.approx(3 / mean_feeds, abs=1e-4)
    assert found.factors["freshness"] == pytest.approx(0.5 ** (1 / 72), abs=1e-4)
    assert found.factors["novelty"] == 1.0
    expected = 3 * found.factors["attention"] * found.factors["freshness"] - 0.01
    assert float(found.value_usd or 0) == pytest.approx(expected, abs=0.01)
    assert "the profile assumes 3.00 USD" in found.basis
    assert (found.low_usd, found.high_usd) == (None, None), "an assumption has no interval"


def test_a_rising_term_in_the_story_raises_the_attention() -> None:
    burst = Burst("peat compost", 3, 0.1, 30.0, 1e-6, 1e-4, 1.0)
    (quiet,), (rising,) = proposals([*PEAT, *ALONE]), proposals([*PEAT, *ALONE], bursts=(burst,))
    assert rising.factors["attention"] == pytest.approx(1.5 * quiet.factors["attention"], abs=1e-3)
    assert any("“peat compost” rises" in reason for reason in rising.reasons)
    (other,) = proposals([*PEAT, *ALONE], bursts=(Burst("tram line", 3, 0.1, 30.0, 1e-6, 1e-4, 1.0),))
    assert other.factors == quiet.factors


def test_what_we_have_written_is_not_proposed() -> None:
    assert proposals([*PEAT, *ALONE], articles=(article("The peat compost ban and what it means"),)) == []
    (found, *_), _ = covered(PEAT, (article("The peat compost ban"),))
    assert (found.covered, found.gap) == (True, False)
    (other,) = proposals([*PEAT, *ALONE], articles=(article("Cycling to work in winter"),))
    assert other.gap


def test_what_our_own_feed_carries_is_covered() -> None:
    ours = item("We explain the peat compost ban", feed=OURS)
    assert proposals([*PEAT, ours, *ALONE]) == []


@pytest.mark.parametrize("hours", [97, 300])
def test_what_is_over_is_not_proposed(hours: float) -> None:
    old = [item(one.title, feed=one.feed_url, hours=hours + n) for n, one in enumerate(PEAT)]
    assert proposals(old) == []


def test_one_feed_alone_is_no_proposal() -> None:
    assert proposals(ALONE) == []
    assert len(proposals(ALONE, ASSUMED.model_copy(update={"min_feeds": 1}))) == 2


def test_too_little_data_says_so_and_is_worth_nothing() -> None:
    few = tuple(article(f"Page {n}", 9.0) for n in range(4))
    (found,) = proposals([*PEAT, *ALONE], TopicSettings(), few)
    assert found.value_usd is None
    assert found.basis.startswith("too little data: 4 of our pages have revenue figures, 5 are needed")
    assert not worth_submitting(found, TopicSettings(submit_above_usd=Decimal(0)))


def test_earnings_are_measured_where_there_are_pages() -> None:
    pages = tuple(article(f"Page number {n}", float(earned)) for n, earned in enumerate([2, 4, 4, 4, 6]))
    found = earnings_of({"peat": 1.0}, pages, lambda word: 1.0, ASSUMED)
    assert found.mean_usd == pytest.approx(4.0)
    # Student's t for 4 degrees of freedom, 2.776, times sqrt(2) / sqrt(5).
    assert found.high_usd == pytest.approx(4 + 2.776 * (2 / 5) ** 0.5, abs=0.001)
    assert found.low_usd == pytest.approx(4 - 2.776 * (2 / 5) ** 0.5, abs=0.001)
    assert found.basis == "5 of our pages earned 4.00 USD in 30 days on average"


def test_pages_about_the_subject_count_by_their_number() -> None:
    pages = (*(article(f"Page number {n}", 1.0) for n in range(5)), article("Peat in pots", 13.0))
    found = earnings_of({"peat": 1.0, "pot": 1.0}, pages, lambda word: 1.0, ASSUMED)
    mean = (5 * 1 + 13) / 6
    assert found.mean_usd == pytest.approx(13 / 6 + mean * 5 / 6)
    assert "1 of them about the subject 13.00" in found.basis


def test_the_threshold_decides_what_is_submitted() -> None:
    (found,) = proposals([*PEAT, *ALONE])
    value = found.value_usd or Decimal(0)
    assert worth_submitting(found, TopicSettings(submit_above_usd=value))
    assert not worth_submitting(found, TopicSettings(submit_above_usd=value + Decimal("0.01")))


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        (("peat compost", "ban"), "Peat compost: what is known so far"),
        (("peat", "ban", "spring", "x"), "Peat ban spring: what is known so far"),
        (("peat",), "Peat: what is known so far"),
        ((), "A headline"),
    ],
)
def test_titles_are_our_own(keywords: tuple[str, ...], expected: str) -> None:
    assert title_of(keywords, "A headline") == expected


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-5, 500), max_size=12),
    st.none() | st.decimals(0, 100, places=2),
    st.lists(st.sampled_from([*PEAT, *ALONE]), unique=True, max_size=5),
)
def test_values_are_money_or_nothing(earned: list[float], assumed: Decimal | None, items: list[Item]) -> None:
    pages = tuple(article(f"Page number {n}", money) for n, money in enumerate(earned))
    for found in proposals(items, TopicSettings(assumed_value_usd=assumed), pages):
        assert found.basis
        known = len(earned) >= 5 or assumed is not None
        assert (found.value_usd is not None) == known
        if found.low_usd is not None and found.high_usd is not None and found.value_usd is not None:
            assert found.low_usd <= found.value_usd <= found.high_usd
