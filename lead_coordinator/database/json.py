"""JSON to and from jsonb without losing a digit: money is Decimal in Python and numeric in SQL, never a
float.

`dumps` writes a Decimal as the JSON number it is (the standard encoder can't), and `loads` reads every number
with a point or an exponent back as Decimal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

from lead_coordinator.errors import InvalidInput

__all__ = ["dumps", "loads"]


def loads(text: str | bytes) -> Any:
    """Parsed JSON; numbers that aren't whole are Decimal."""
    return json.loads(text, parse_float=Decimal)


def dumps(value: object) -> str:
    """JSON text that PostgreSQL's jsonb takes.

    Raises `InvalidInput`, naming the place (`value.items[2]`), for what JSON can't hold: NaN and infinities,
    NUL in a string, a datetime without time zone, and types that have no meaning in JSON.
    """
    return "".join(_parts(value, "value"))


def _parts(value: object, place: str) -> list[str]:
    if value is None or isinstance(value, bool):
        return [{None: "null", True: "true", False: "false"}[value]]
    if isinstance(value, Enum):
        return _parts(value.value, place)
    if isinstance(value, str):
        return [_string(value, place)]
    if isinstance(value, int):
        return [str(int(value))]
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise InvalidInput(f"{place} is {value}: JSON holds finite numbers only.")
        return [format(value, "f")]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"{place} is {value}: JSON holds finite numbers only.")
        return [repr(float(value))]
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidInput(
                f"{place} is {value.isoformat()}, without a time zone: give an aware datetime."
            )
        return [json.dumps(value.isoformat())]
    if isinstance(value, date):
        return [json.dumps(value.isoformat())]
    if isinstance(value, PurePath):
        return [_string(str(value), place)]
    if isinstance(value, Mapping):
        return _object(value, place)
    if isinstance(value, (Sequence, Set)) and not isinstance(value, (bytes, bytearray, memoryview)):
        return _array(value, place)
    raise InvalidInput(f"{place} is of type {type(value).__name__}, which JSON can't hold.")


def _string(value: str, place: str) -> str:
    if "\x00" in value:
        raise InvalidInput(f"{place} holds a NUL character, which PostgreSQL can't store.")
    return json.dumps(value)


def _object(value: Mapping[Any, object], place: str) -> list[str]:
    parts = ["{"]
    for number, (key, item) in enumerate(value.items()):
        if not isinstance(key, str):
            raise InvalidInput(f"{place} has the key {key!r}: keys must be text.")
        parts += [", " if number else "", _string(key, f"{place}'s key {key!r}"), ": "]
        parts += _parts(item, f"{place}.{key}")
    return [*parts, "}"]


def _array(value: Sequence[object] | Set[object], place: str) -> list[str]:
    parts = ["["]
    for number, item in enumerate(value):
        parts += [", " if number else "", *_parts(item, f"{place}[{number}]")]
    return [*parts, "]"]
