"""Which articles of a batch were updated in place, as the asset `refreshed_articles` shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from lead_coordinator import tags
from lead_coordinator.pipelines.content.refreshed import further
from lead_coordinator.pipelines.report import BatchReport, CompletedTask

URL = "https://example.org/articles/a.html"


def report(*results: dict[str, Any]) -> BatchReport:
    made = BatchReport("content-1", len(results), started_at=datetime.now(UTC))
    made.completed = [CompletedTask(number, result, 1.0) for number, result in enumerate(results)]
    return made


def test_new_articles_alone_are_no_update() -> None:
    new = {"title": "A", "url": URL, "kind": "new", "state": "published"}
    waits = {"title": "B", "url": URL, "kind": "refresh", "state": "review"}
    assert further(report(new, waits, new | {"kind": "publish"})) == {}
    assert further(report()) == {}


def test_updates_are_counted_by_why_and_shown_with_their_links() -> None:
    shown = further(
        report(
            {"title": "New", "url": URL, "state": "published"},
            {
                "title": "A [b](https://evil.example)",
                "url": URL,
                "kind": "fix",
                "state": "published",
                "cost_usd": Decimal("0.002"),
            },
            {"title": "C", "url": URL, "kind": "refresh", "state": "published", "cost_usd": Decimal("0.004")},
            {"title": "D", "url": URL, "kind": "refresh", "state": "published"},
        )
    )[tags.REFRESHED_ARTICLES]
    assert (shown["articles_updated"], shown["articles_fix"], shown["articles_refresh"]) == (3, 1, 2)
    assert shown["spend_usd"] == pytest.approx(0.006)
    table = shown["articles"].value
    assert table.count("\n") == 4
    assert f"| [A (b)(https://evil.example)]({URL}) | fix | 0.0020 |" in table
    assert "New" not in table
