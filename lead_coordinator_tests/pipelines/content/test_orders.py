"""What a task may ask the content pipeline for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.content.orders import (
    EVIDENCE_CHARACTERS,
    PublishOrder,
    UpdateOrder,
    VisibilityOrder,
    WriteOrder,
    parse_order,
)

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["title", "fix", "refresh", "publish", "unpublish", "republish", "site", "slug", "sources", "story"]


def test_a_proposal_of_the_intelligence_engine_is_a_brief() -> None:
    order = parse_order(
        {
            "title": "Heat pumps in old houses",
            "topic": "heat pumps",
            "keywords": ["heat pump", "old house"],
            "site": "energy",
            "sources": ["https://a.example/1", "https://b.example/2"],
            "story": 17,
            "angle": "what changed this week",
        }
    )
    assert isinstance(order, WriteOrder)
    brief = order.brief
    assert (order.site, brief.story, brief.main_keyword) == ("energy", "17", "heat pump")
    assert brief.sources == ("https://a.example/1", "https://b.example/2")
    assert brief.for_prompt() == {
        "title": "Heat pumps in old houses",
        "topic": "heat pumps",
        "keywords": ["heat pump", "old house"],
        "angle": "what changed this week",
        "language": "en",
    }, "a model is shown what to write about, not where the sources are"
    assert parse_order(brief.payload()) == order


def test_a_fix_and_a_refresh_say_why() -> None:
    fix = {
        "url": "https://x.example/articles/a.html",
        "slug": "a",
        "finding_id": 3,
        "rule": "title",
        "how_to_fix": "y",
    }
    assert parse_order({"fix": fix, "site": "shop"}) == UpdateOrder(
        "shop", "a", "fix", {"rule": "title", "how_to_fix": "y"}
    )
    refresh = {"slug": "a", "reason": "decay", "evidence": {"clicks": [9, 4]}}
    assert parse_order({"refresh": refresh}) == UpdateOrder(
        "main", "a", "refresh", {"reason": "decay", "evidence": "{'clicks': [9, 4]}"}
    )
    long = parse_order({"refresh": {"slug": "a", "reason": "x" * 9000, "evidence": "\u202e\x00y"}})
    assert isinstance(long, UpdateOrder)
    assert len(long.why["reason"]) == EVIDENCE_CHARACTERS
    assert long.why["evidence"] == "y"


def test_decisions_are_carried_out() -> None:
    assert parse_order({"publish": {"article_id": 5}, "site": "main"}) == PublishOrder("main", 5)
    asked = {"unpublish": {"publication_id": 2, "slug": "a"}, "site": "main"}
    assert parse_order(asked) == VisibilityOrder("main", 2, "a", "unpublish")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"fix": {"slug": "A b"}}, r"fix\.slug: 'A b' given"),
        ({"fix": "a"}, "fix: 'a' given, a JSON object allowed"),
        ({"fix": {"slug": "a", "url": "javascript:x"}}, r"fix\.url"),
        ({"refresh": {}}, r"refresh\.slug"),
        ({"refresh": {"slug": "a"}, "site": "../x"}, "site: '../x' given"),
        ({"publish": {"article_id": 0}}, r"publish\.article_id"),
        ({"publish": {"article_id": 1}, "fix": {"slug": "a"}}, "fix and publish given, one of them allowed"),
        ({"sources": ["ftp://x.example"], "title": "t"}, "sources"),
        (
            {"keywords": ["a"] + [str(n) for n in range(20)], "title": "t"},
            "keywords: 21 entries given, at most 10",
        ),
        ({}, "a title or a keyword is required"),
    ],
)
def test_what_is_wrong_is_named(payload: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        parse_order(payload)


@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4) | ANYTHING)
def test_any_payload_is_an_order_or_refused(payload: Any) -> None:
    try:
        said = parse_order(payload).site
    except InvalidInput as error:
        said = str(error)
    assert 0 < len(said) < 500
