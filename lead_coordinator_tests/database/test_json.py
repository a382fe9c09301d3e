"""JSON to and from jsonb: no digit is lost, nothing is guessed."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.database.connection import Database
from lead_coordinator.database.json import dumps, loads
from lead_coordinator.errors import InvalidInput

text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
amounts = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**10), max_value=10**10, places=10)
scalars = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | amounts | text
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20)


@given(values)
def test_what_is_written_is_read_back_equal(value: Any) -> None:
    assert loads(dumps(value)) == value


@given(values)
def test_what_is_written_is_json(value: Any) -> None:
    json.loads(dumps(value))


@given(amounts)
def test_money_is_a_number_with_all_its_digits(amount: Decimal) -> None:
    written = dumps({"usd": amount})
    assert "e" not in written.lower().replace("usd", "")
    assert Decimal(json.loads(written, parse_float=str, parse_int=str)["usd"]) == amount


def test_dates_paths_and_tuples_have_a_plain_form() -> None:
    moment = datetime(2026, 11, 24, 5, 30, tzinfo=UTC)
    value = {"at": moment, "on": date(2026, 11, 24), "to": Path("/srv/site"), "of": (1, 2)}
    assert loads(dumps(value)) == {
        "at": "2026-11-24T05:30:00+00:00",
        "on": "2026-11-24",
        "to": "/srv/site",
        "of": [1, 2],
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [1, float("nan")]}, r"value\.a\[1\] is nan"),
        ({"a": Decimal("Infinity")}, r"value\.a is Infinity"),
        ({"a": {"b": "x\x00y"}}, r"value\.a\.b holds a NUL"),
        ({"at": datetime(2026, 11, 24)}, r"value\.at .*without a time zone"),  # noqa: DTZ001
        ({1: "a"}, "the key 1"),
        ([b"bytes"], r"value\[0\] is of type bytes"),
        (object(), "value is of type object"),
    ],
)
def test_what_json_cant_hold_is_refused_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        dumps(value)


def test_postgresql_keeps_every_digit_of_money(empty_database_url: str) -> None:
    with Database(empty_database_url) as db:
        row = db.row("SELECT %s::jsonb AS back", [dumps({"usd": Decimal("0.1234567891"), "n": 10**15})])
    assert row == {"back": {"usd": Decimal("0.1234567891"), "n": 10**15}}
