"""A brief from anywhere: taken when it is good, else refused by field, value and what is allowed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.content.brief import Brief, parse_brief

TEXT = st.text(max_size=300)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def test_a_whole_brief() -> None:
    brief = parse_brief(
        {
            "title": "  Two   weeks by train ",
            "keyword": "rail trip",
            "audience": "couples",
            "notes": "first line\r\nsecond line",
            "value_usd": 12.1,
            "deadline": "2030-06-30",
            "site": "travel",
            "language": "pt-BR",
            "crm_id": 7,
        }
    )
    assert brief.title == "Two weeks by train"
    assert brief.notes == "first line\nsecond line"
    assert brief.value_usd == Decimal("12.1"), "a float's shortest spelling counts, not its binary value"
    assert brief.deadline == datetime(2030, 6, 30, 23, 59, 59, tzinfo=UTC), (
        "a date means the end of that day in UTC"
    )
    assert brief.payload() == {
        "title": "Two weeks by train",
        "keyword": "rail trip",
        "audience": "couples",
        "notes": "first line\nsecond line",
        "site": "travel",
        "language": "pt-BR",
    }, "value and deadline are the task's columns, unknown keys are the caller's"


def test_only_a_keyword_is_enough() -> None:
    brief = parse_brief({"keyword": "heat pump sizing", "title": "", "audience": None})
    assert (brief.title, brief.subject, brief.site, brief.language) == (
        None,
        "heat pump sizing",
        "main",
        "en",
    )


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({}, "brief: a title or a keyword is required"),
        ([1], "payload [1]: a JSON object"),
        ("text", "payload 'text': a JSON object"),
        ({"title": " \t "}, "U+0009"),
        ({"title": "  "}, "a title or a keyword is required"),
        ({"title": 5}, "title: 5 given, text allowed"),
        ({"title": 0}, "title: 0 given, text allowed"),
        ({"title": "x" * 201}, "title: 201 characters given"),
        ({"title": "two\nlines"}, "U+000A"),
        ({"title": "nul\x00"}, "U+0000"),
        ({"title": "turned \u202earound"}, "U+202E"),
        ({"title": "half \ud83d"}, "U+D83D"),
        ({"title": "t", "notes": "n" * 4001}, "notes: 4001 characters given"),
        ({"title": "t", "site": "../etc"}, "site: '../etc' given, lower-case letters"),
        ({"title": "t", "site": "Travel"}, "site: 'Travel' given"),
        ({"title": "t", "language": "english!"}, "language: 'english!' given, a language tag"),
        ({"title": "t", "value_usd": -1}, "value_usd: -1 given, 0 to 1000000"),
        ({"title": "t", "value_usd": True}, "value_usd: True given"),
        ({"title": "t", "value_usd": "nan"}, "value_usd: 'nan' given, 0 to 1000000"),
        ({"title": "t", "value_usd": "12,50"}, "value_usd: '12,50' given"),
        ({"title": "t", "value_usd": "1e7"}, "0 to 1000000"),
        ({"title": "t", "deadline": "next week"}, "deadline: 'next week' given: an ISO date"),
        ({"title": "t", "deadline": "2030-02-30"}, "an ISO date"),
        ({"title": "t", "deadline": "2030-02-03T10:00:00"}, "offset"),
        ({"title": "t", "deadline": 1893456000}, "deadline: 1893456000 given"),
        ({"title": "t", "deadline": "0001-01-01T00:00:00+14:00"}, "outside the calendar"),
    ],
)
def test_what_is_refused(payload: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_brief(payload)
    message = str(refused.value)
    assert said in message, f"the message names field, value and what is allowed; it was {message!r}"
    assert len(message) < 300, "a message is short, whatever was given"
    assert message.isprintable(), "a message is one printable line"


@given(
    st.dictionaries(st.sampled_from([*Brief.model_fields, "other"]), ANYTHING | TEXT, max_size=6) | ANYTHING
)
def test_any_payload_is_a_brief_or_refused(payload: Any) -> None:
    try:
        brief = parse_brief(payload)
    except InvalidInput:
        return
    assert brief.subject
    assert parse_brief(json.loads(json.dumps(brief.payload()))) == brief.model_copy(
        update={"value_usd": None, "deadline": None}
    ), "a payload is read back as the brief it came from"


@given(TEXT)
def test_the_key_is_blind_to_case_and_space(title: str) -> None:
    try:
        brief = Brief(title=title)
        other = Brief(title=f"  {title}\u00a0".replace(" ", "  "))
    except ValueError:
        return
    assert brief.idempotency_key() == other.idempotency_key()


def test_what_the_key_tells_apart() -> None:
    brief = Brief(title="Raised beds", keyword="raised beds", audience="beginners")
    same = Brief(
        title="RAISED  beds", keyword="Raised Beds", audience="Beginners", notes="more", value_usd=Decimal(9)
    )
    others = [
        Brief(title="Raised beds", keyword="raised beds"),
        Brief(title="raised beds raised beds", audience="beginners"),
        brief.model_copy(update={"site": "garden"}),
        brief.model_copy(update={"language": "de"}),
    ]
    keys = {one.idempotency_key() for one in [brief, *others]}
    assert brief.idempotency_key() == same.idempotency_key(), "notes and value don't ask for a second article"
    assert len(keys) == 1 + len(others), "another site, language, audience or subject is another article"
    assert brief.idempotency_key() == "content:b643f446c40162600b40d0e99af51c2adabda04d", (
        "a key stays the same from release to release"
    )
