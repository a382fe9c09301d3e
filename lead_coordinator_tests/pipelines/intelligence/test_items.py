"""An item is known again, and what repeats another is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lead_coordinator.pipelines.intelligence.items import Item, item_terms, make_item, new_items, plain_url
from lead_coordinator_tests.pipelines.intelligence.material import NOON, item, parsed

A, B = "https://a.example/feed", "https://b.example/feed"
LONG = " ".join(f"word{n} thing{n} place{n}" for n in range(40))


def found(*items: Item, known: tuple[Item, ...] = (), threshold: float = 0.8) -> list[tuple[str, str]]:
    """(feed, identity of what it repeats) of the new ones."""
    return [(one.feed_url, one.duplicate_of) for one in new_items(items, known, threshold)]


def test_an_item_polled_again_is_known() -> None:
    first = item("Peat ban", LONG)
    assert found(first, first) == [(A, "")]
    with_another_guid = make_item(parsed("Peat ban", LONG, guid="another"), A, NOON)
    assert found(with_another_guid, known=(first,)) == [], "nothing has happened"


def test_a_new_headline_of_the_same_feed_repeats_the_item() -> None:
    first = item("Peat ban", LONG)
    assert found(item("Peat ban, updated", LONG), known=(first,)) == [(A, first.identity)]


def test_what_two_feeds_say_word_for_word_is_one() -> None:
    first = item("Peat ban", LONG, hours=3)
    again = item("PEAT BAN!", LONG, feed=B, hours=1)
    assert found(again, first) == [(A, ""), (B, first.identity)], "the earlier one is the original"


def test_near_duplicates_are_found_under_another_headline() -> None:
    first = item("Seed library opens", LONG, hours=3)
    changed = item("Valley lends out seed", LONG.replace("word7", "other"), feed=B)
    assert found(first, changed) == [(A, ""), (B, first.identity)]
    assert found(first, item("Valley lends out seed", LONG[::-1], feed=B)) == [(A, ""), (B, "")]


def test_the_same_address_in_two_feeds_is_one_item() -> None:
    url = "https://news.example/one"
    first = make_item(parsed("One thing", url=url), A, NOON)
    other = make_item(parsed("Another headline", url=url + "?utm_source=b#x"), B, NOON)
    assert other.url == url
    assert found(first, other) in ([(A, ""), (B, first.identity)], [(B, ""), (A, other.identity)])


def test_a_feed_that_gives_every_item_one_address_keeps_its_items() -> None:
    url = "https://news.example/"
    listed = [make_item(parsed(f"Garden story number {n} of many", url=url), A, NOON) for n in range(5)]
    assert found(*listed) == [(A, "")] * 5


def test_short_texts_are_no_near_duplicates() -> None:
    assert found(item("Tram opens today", hours=2), item("Tram opens", feed=B)) == [(A, ""), (B, "")]


@pytest.mark.parametrize("hours", [-2, -24 * 365])
def test_what_is_dated_in_the_future_is_of_now(hours: float) -> None:
    assert item("Tomorrow's news", hours=hours).published == NOON


def test_an_undated_item_is_of_now() -> None:
    assert make_item(parsed("Undated", published=None), A, NOON).published == NOON


def test_terms_are_words_and_phrases_and_titles_count_more() -> None:
    terms = dict(item_terms("Peat compost ban", "The ban on peat compost bags."))
    assert terms["peat compost"] == 4
    assert terms["ban"] == 4
    assert terms["compost bag"] == 1
    assert "the" not in terms


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/x?utm_source=f&id=1#top", "https://a.example/x?id=1"),
        ("https://a.example/x?id=%C3%A4&b=", "https://a.example/x?id=%C3%A4&b="),
        ("", ""),
    ],
)
def test_plain_url(url: str, expected: str) -> None:
    assert plain_url(url) == expected


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([A, B]), st.integers(0, 3)), max_size=12))
def test_new_items_are_new_once_and_point_at_originals(listed: list[tuple[int, str, int]]) -> None:
    made = [item(f"Story number {n} about garden {n}", LONG * (n % 2), feed=f, hours=h) for n, f, h in listed]
    first = new_items(made, (), 0.8)
    originals = {one.identity for one in first if not one.duplicate_of}
    assert {one.duplicate_of for one in first if one.duplicate_of} <= originals
    assert len({one.identity for one in first}) == len(first)
    assert new_items(made, first, 0.8) == [], "polled again, nothing is new"
    assert [one.published for one in first] == sorted(one.published for one in first)
    later = [replace(one, published=one.published + timedelta(minutes=1)) for one in made]
    assert new_items(later, first, 0.8) == []
