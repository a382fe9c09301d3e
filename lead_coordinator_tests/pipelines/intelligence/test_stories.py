"""Items about the same come together, over days; others don't."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lead_coordinator.pipelines.intelligence.items import Item
from lead_coordinator.pipelines.intelligence.stories import CENTROID_WORDS, Grouped, Story, group
from lead_coordinator.pipelines.intelligence.vectors import DocumentFrequencies, cosine
from lead_coordinator_tests.pipelines.intelligence.material import item

PEAT = [
    "Peat compost ban confirmed by the minister",
    "What the peat compost ban means for growers",
    "Shops prepare for the ban on peat compost",
]
SOLAR = ["Balcony solar allowed without a permit", "No permit needed for balcony solar panels"]
OTHERS = ["Tram line opens early", "Chess club wins a room", "Night market returns to the basin"]


def grouped(
    items: list[Item],
    stories: tuple[Story, ...] = (),
    known: dict[str, str] | None = None,
    active_hours: float = 96,
) -> Grouped:
    frequencies = DocumentFrequencies()
    for one in items:
        frequencies.add(one.vector)
    active = timedelta(hours=active_hours)
    return group(items, stories, known or {}, frequencies, similarity=0.28, active=active)


def titles(found: Grouped) -> set[frozenset[str]]:
    stories: dict[str, set[str]] = {}
    for one in found.items:
        stories.setdefault(one.story, set()).add(one.title)
    return {frozenset(group) for group in stories.values()}


def test_items_about_the_same_are_one_story() -> None:
    listed = [item(title, hours=n) for n, title in enumerate([*PEAT, *SOLAR, *OTHERS])]
    found = grouped(listed)
    assert titles(found) == {frozenset(PEAT), frozenset(SOLAR), *(frozenset([one]) for one in OTHERS)}
    assert len(found.stories) == 5
    peat = next(story for story in found.stories if story.items == 3)
    assert peat.words[0] in ("peat", "compost", "ban")
    assert (peat.first_at, peat.last_at) == (listed[2].published, listed[0].published)


def test_a_story_takes_items_of_later_rounds() -> None:
    first = grouped([item(PEAT[0], hours=50)])
    later = grouped([item(PEAT[1], hours=2)], first.stories)
    assert later.items[0].story == first.items[0].story
    assert [story.items for story in later.stories] == [2]


def test_a_story_that_is_over_takes_no_more() -> None:
    first = grouped([item(PEAT[0], hours=200)])
    later = grouped([item(PEAT[1], hours=2)], first.stories)
    assert later.items[0].story != first.items[0].story


def test_a_duplicate_goes_where_its_original_is() -> None:
    from dataclasses import replace

    original = item(PEAT[0], hours=5)
    first = grouped([original])
    copy = replace(item("Something else said", feed="https://b.example/f"), duplicate_of=original.identity)
    later = grouped([copy], first.stories, {original.identity: first.items[0].story})
    assert later.items[0].story == first.items[0].story
    assert later.stories == (), "a copy says nothing new about the story"


def test_one_shared_name_is_not_enough() -> None:
    found = grouped([item("Harrow"), item("Harrow", "", feed="https://b.example/f", hours=2)])
    assert len(titles(found)) == 1
    assert len(found.stories) == 2


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([*PEAT, *SOLAR, *OTHERS]), unique=True), st.randoms(use_true_random=False))
def test_the_order_in_which_items_are_given_makes_no_difference(listed: list[str], source) -> None:
    items = [item(title, hours=n) for n, title in enumerate(listed)]
    shuffled = list(items)
    source.shuffle(shuffled)
    assert grouped(items) == grouped(shuffled)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=6), max_size=15))
def test_every_item_is_in_one_story_and_centroids_are_bounded(listed: list[list[str]]) -> None:
    items = [
        item(" ".join(f"{letter}word" for letter in words), hours=n, feed=f"https://{n}.example/f")
        for n, words in enumerate(listed)
    ]
    found = grouped(items)
    assert {one.identity for one in found.items} == {one.identity for one in items}
    assert {one.story for one in found.items} == {story.story_id for story in found.stories}
    assert sum(story.items for story in found.stories) == len(items)
    for story in found.stories:
        assert len(story.centroid) <= CENTROID_WORDS
        assert all(value > 0 and math.isfinite(value) for value in story.centroid.values())
        assert story.first_at <= story.last_at


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"x": 1.0}, {"x": 3.0}, 1.0),
        ({"x": 1.0}, {"y": 1.0}, 0.0),
        ({}, {"x": 1.0}, 0.0),
        ({"x": 1.0, "y": 1.0}, {"x": 1.0}, 1 / math.sqrt(2)),
    ],
)
def test_cosine(a: dict[str, float], b: dict[str, float], expected: float) -> None:
    assert cosine(a, b, lambda word: 1.0) == pytest.approx(expected)
    assert cosine(b, a, lambda word: 1.0) == pytest.approx(expected)


def test_a_rare_word_weighs_more() -> None:
    frequencies = DocumentFrequencies()
    for words in (["common", "rare"], ["common"], ["common"]):
        frequencies.add(words)
    assert frequencies.weight("unseen") > frequencies.weight("rare") > frequencies.weight("common") > 0
