"""A JSON schema as the wire brings it, made uniform: Gemini's upper-case types and snake_case bounds,
OpenAI's nullable type lists, `$ref`, and bounds that are only said in a description ("80 to 160 characters",
"5 to 8 sections")."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 12

_SNAKE = {
    "min_items": "minItems",
    "max_items": "maxItems",
    "min_length": "minLength",
    "max_length": "maxLength",
    "any_of": "anyOf",
    "property_ordering": "propertyOrdering",
}
_COUNT = r"(?P<low>\d[\d,]*)(?: (?:to|and|or) (?P<high>\d[\d,]*)|\s*[-–]\s*(?P<high2>\d[\d,]*))?"
_SAID = re.compile(
    rf"(?P<kind>at most|at least|up to|no more than|exactly|between)?\s*{_COUNT}"
    r"\s+(?:[a-z-]+ ){0,2}?(?P<unit>[a-z-]+)",
    re.IGNORECASE,
)
_BEYOND = re.compile(r"\b(?P<kind>over|under) (?P<number>-?\d+(?:\.\d+)?)", re.IGNORECASE)
_BETWEEN = re.compile(r"(?P<low>-?\d+(?:\.\d+)?) (?:to|and) (?P<high>-?\d+(?:\.\d+)?)")
_ONE_OF = re.compile(r"\bone of (?P<values>[\w., -]+)")
_CHARACTERS = frozenset({"characters", "character", "chars", "letters"})
_WORDS = frozenset({"words", "word"})


class BadSchema(ValueError):
    """The schema can't be answered; the sentence says where."""


@dataclass(frozen=True)
class Range:
    """An inclusive range; None: open."""

    low: int | None = None
    high: int | None = None

    def narrowed(self, other: Range) -> Range:
        """Both at once; where they contradict each other, the first counts."""
        low = max((v for v in (self.low, other.low) if v is not None), default=None)
        high = min((v for v in (self.high, other.high) if v is not None), default=None)
        return self if low is not None and high is not None and low > high else Range(low, high)


@dataclass(frozen=True)
class Numbers:
    """Where a number may lie; None: open."""

    low: float | None
    high: float | None
    low_excluded: bool = False
    high_excluded: bool = False

    def nearest(self, value: float, whole: bool) -> int | float:
        """The value, or what comes closest to it within the bounds."""
        low, high = self.low, self.high
        if whole:
            lowest = None if low is None else math.floor(low) + 1 if self.low_excluded else math.ceil(low)
            highest = (
                None if high is None else math.ceil(high) - 1 if self.high_excluded else math.floor(high)
            )
            number = round(value)
            number = number if lowest is None else max(number, lowest)
            return number if highest is None else min(number, highest)
        if low is not None and (value < low or (self.low_excluded and value == low)):
            value = low + ((1.0 if high is None else (high - low) / 2) if self.low_excluded else 0.0)
        if high is not None and (value > high or (self.high_excluded and value == high)):
            value = high - ((1.0 if low is None else (high - low) / 2) if self.high_excluded else 0.0)
        return round(value, 6)


@dataclass(frozen=True)
class Node:
    """One place of a schema. `kind`: object, array, string, integer, number, boolean, null."""

    kind: str
    description: str
    raw: Mapping[str, Any]
    enum: tuple[Any, ...] = ()

    def said(self, units: frozenset[str] | None = None) -> Range:
        """The range that the description says in one of `units`; without units: in any that isn't characters
        or words."""
        for match in _SAID.finditer(self.description):
            unit = match["unit"].lower()
            fits = unit in units if units is not None else unit not in _CHARACTERS | _WORDS
            if fits:
                return _range(match)
        return Range()

    @property
    def characters(self) -> Range:
        return _bounds(self.raw, "minLength", "maxLength").narrowed(self.said(_CHARACTERS))

    @property
    def numbers(self) -> Numbers:
        """The bounds of a number: keywords, or "over 0", "under 1" and "0 to 100" in the description."""
        over, under = _float(self.raw.get("exclusiveMinimum")), _float(self.raw.get("exclusiveMaximum"))
        low, high = _float(self.raw.get("minimum")), _float(self.raw.get("maximum"))
        for match in _BEYOND.finditer(self.description):
            if match["kind"].lower() == "over" and over is None:
                over = float(match["number"])
            elif match["kind"].lower() == "under" and under is None:
                under = float(match["number"])
        between = _BETWEEN.search(self.description)
        if between and low is None and high is None and over is None and under is None:
            low, high = float(between["low"]), float(between["high"])
        return Numbers(
            over if over is not None and (low is None or over >= low) else low,
            under if under is not None and (high is None or under <= high) else high,
            over is not None and (low is None or over >= low),
            under is not None and (high is None or under <= high),
        )

    @property
    def words(self) -> Range:
        return self.said(_WORDS)

    @property
    def items(self) -> Range:
        return _bounds(self.raw, "minItems", "maxItems").narrowed(self.said())


class SchemaReader:
    """Reads the nodes of one schema."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def node(self, raw: object, depth: int = 0) -> Node:
        """The uniform view of a place; unions become their first branch that isn't null."""
        if depth > MAX_DEPTH:
            raise BadSchema(f"the schema is nested deeper than {MAX_DEPTH} levels")
        if not isinstance(raw, Mapping):
            raise BadSchema(f"a schema must be an object, not {type(raw).__name__}")
        raw = {_SNAKE.get(str(key), str(key)): value for key, value in raw.items()}
        if isinstance(raw.get("$ref"), str):
            beside = {key: value for key, value in raw.items() if key != "$ref"}
            return self.node({**self._target(raw["$ref"]), **beside}, depth + 1)
        for union in ("anyOf", "oneOf", "allOf"):
            branches = raw.get(union)
            if isinstance(branches, list) and branches:
                real = [
                    b for b in branches if isinstance(b, Mapping) and str(b.get("type")).lower() != "null"
                ]
                beside = {key: value for key, value in raw.items() if key not in (union, "type")}
                return self.node({**(real or branches)[0], **beside}, depth + 1)
        description = raw.get("description")
        description = description if isinstance(description, str) else ""
        enum = (
            raw.get("enum") if isinstance(raw.get("enum"), list) else [raw["const"]] if "const" in raw else []
        )
        kind = self._kind(raw)
        return Node(kind, description, raw, tuple(enum or _said_values(kind, description)))

    def properties(self, node: Node) -> dict[str, Any]:
        """Name → schema of the properties of an object, in the order asked for."""
        properties = node.raw.get("properties")
        if not isinstance(properties, Mapping):
            return {}
        order = node.raw.get("propertyOrdering")
        names = [n for n in order if n in properties] if isinstance(order, list) else []
        return {name: properties[name] for name in [*names, *(n for n in properties if n not in names)]}

    def _target(self, ref: str) -> Mapping[str, Any]:
        place: Any = self._root
        for part in ref.lstrip("#").strip("/").split("/"):
            place = (
                place.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(place, Mapping) else None
            )
        if not isinstance(place, Mapping):
            raise BadSchema(f"$ref {ref} points nowhere")
        return place

    @staticmethod
    def _kind(raw: Mapping[str, Any]) -> str:
        kind = raw.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if str(one).lower() != "null"), "null")
        if isinstance(kind, str) and kind.lower() != "type_unspecified":
            return kind.lower()
        if "properties" in raw:
            return "object"
        return "array" if "items" in raw else "string"


def _said_values(kind: str, description: str) -> list[Any]:
    """The values of "one of 1, 2, 3": Gemini's enumerations hold text only."""
    found = _ONE_OF.search(description) if kind in ("integer", "number", "boolean") else None
    if found is None:
        return []
    values = [value.strip() for value in found["values"].split(",")]
    if kind == "boolean":
        return [value == "True" for value in values if value in ("True", "False")]
    numbers = [value for value in values if re.fullmatch(r"-?\d+(\.\d+)?", value)]
    return [
        int(value) if kind == "integer" else float(value)
        for value in numbers
        if kind == "number" or "." not in value
    ]


def _bounds(raw: Mapping[str, Any], low: str, high: str) -> Range:
    return Range(_integer(raw.get(low)), _integer(raw.get(high)))


def _integer(value: object) -> int | None:
    # Gemini's SDK sends 64-bit numbers as text.
    if isinstance(value, str) and value.isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _range(match: re.Match[str]) -> Range:
    low = int(match["low"].replace(",", ""))
    high_text = match["high"] or match["high2"]
    if high_text:
        return Range(low, int(high_text.replace(",", "")))
    match (match["kind"] or "").lower():
        case "at most" | "up to" | "no more than":
            return Range(None, low)
        case "at least":
            return Range(low, None)
    return Range(low, low)
