"""The columns of an export: which hold what, of which day the file is, and which mark its decimals use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.revenue import numbers
from lead_coordinator.pipelines.revenue.columns import MEASURES, SPLITTING, Field, field_of, folded
from lead_coordinator.pipelines.revenue.numbers import NotANumber
from lead_coordinator.pipelines.revenue.table import shown

MAX_COLUMNS = 200


@dataclass(frozen=True)
class Header:
    titles: tuple[str, ...]
    places: Mapping[str, int]
    splitting: tuple[int, ...]
    line: int

    def title(self, name: Field) -> str:
        return shown(self.titles[self.places[name]].strip())

    @property
    def measures(self) -> tuple[Field, ...]:
        found = [name for name in MEASURES if name in self.places]
        return (*found, "position") if "sum_position" in self.places else tuple(found)


def header_of(records: Iterator[tuple[int, list[str]]]) -> Header:
    line, titles = next(records, (1, []))
    if len(titles) > MAX_COLUMNS:
        raise InvalidInput(f"row {line}: {len(titles):,} columns, {MAX_COLUMNS} are allowed")
    places: dict[str, int] = {}
    for place, title in enumerate(titles):
        name = field_of(title)
        if name is None:
            continue
        if name in places:
            raise InvalidInput(
                f"row {line}: the columns {shown(titles[places[name]].strip())} and "
                f"{shown(title.strip())} both "
                f"hold the {name}; keep one"
            )
        places[name] = place
    if "page" not in places:
        raise InvalidInput(
            f"row {line}: no column of pages (Page, Top pages, URL, Page path, Landing page) among "
            f"{shown(', '.join(title.strip() for title in titles))}"
        )
    head = Header(
        tuple(titles),
        places,
        tuple(place for place, title in enumerate(titles) if folded(title) in SPLITTING),
        line,
    )
    if not head.measures:
        raise InvalidInput(
            f"row {line}: no column of figures (Clicks, Impressions, Position, Views, Sessions, Conversions, "
            f"Key events, Total revenue) among {shown(', '.join(title.strip() for title in titles))}"
        )
    return head


def single_day(head: Header, day: date | None, comments: Mapping[str, date]) -> date | None:
    """The day of all rows, where no column gives it."""
    if "day" in head.places:
        return None
    if day is not None:
        return day
    start, end = comments.get("start"), comments.get("end")
    if start is not None and start == end:
        return start
    over = f" (it covers {start} to {end})" if start and end else ""
    raise InvalidInput(
        f"row {head.line}: no column of dates{over}; export pages by date, or say of which single day it is"
    )


def decimal_mark_of(head: Header, body: Sequence[tuple[int, list[str]]]) -> str:
    """The decimal mark of the file."""
    found: dict[str, Field] = {}
    for name in ("ctr", "position", "conversions", "revenue_usd", "sum_position"):
        if (place := head.places.get(name)) is None:
            continue
        try:
            mark = numbers.decimal_mark(cells[place] for _, cells in body)
        except NotANumber as error:
            raise InvalidInput(f"column {head.title(name)} {error}") from None
        if mark is not None:
            found[mark] = name
    if len(found) > 1:
        raise InvalidInput(
            f"the columns {head.title(found[','])} and {head.title(found['.'])} use different decimal marks"
        )
    return next(iter(found), ".")
