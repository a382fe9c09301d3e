"""A recorded feed stands at another moment as it stood at its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.pipelines.intelligence.parse import parse_feed
from lead_coordinator.pipelines.intelligence.replay import as_of, moved
from lead_coordinator_tests.pipelines.intelligence.material import FEEDS, NOON

MIDNIGHT = datetime(2027, 3, 1, tzinfo=UTC)


def test_dates_of_both_kinds_are_moved() -> None:
    text = "Mon, 23 Nov 2026 10:00:00 GMT and 2026-11-20T06:30:00Z, not 2026-11-20"
    now = datetime(2027, 3, 1, 9, 0, tzinfo=UTC)
    assert as_of(text, NOON, now) == "Sun, 28 Feb 2027 10:00:00 GMT and 2027-02-25T06:30:00Z, not 2026-11-20"


@pytest.mark.parametrize("now", [MIDNIGHT + timedelta(minutes=2), MIDNIGHT + timedelta(hours=23.99)])
@pytest.mark.parametrize("name", sorted(path.name for path in FEEDS.iterdir()))
def test_the_examples_keep_their_days(name: str, now: datetime) -> None:
    before = parse_feed((FEEDS / name).read_bytes(), "https://a.example/")
    text = as_of((FEEDS / name).read_text(), NOON, now)
    after = parse_feed(text.encode(), "https://a.example/")
    assert len(after.items) == len(before.items)
    for old, new in zip(before.items, after.items, strict=True):
        assert old.published is not None
        assert new.published is not None
        assert now.date() - new.published.date() == NOON.date() - old.published.date()
        assert new.published <= now


@given(st.integers(0, 30 * 86400), st.floats(0, 365))
def test_days_and_order_stay(seconds: int, days: float) -> None:
    now = MIDNIGHT + timedelta(days=days)
    moment = NOON - timedelta(seconds=seconds)
    found = moved(moment, NOON, now)
    assert now.date() - found.date() == NOON.date() - moment.date()
    assert found <= now
    assert moved(moment - timedelta(minutes=1), NOON, now) <= found
