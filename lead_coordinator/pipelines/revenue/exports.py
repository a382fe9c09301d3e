"""A CSV export of Search Console or analytics to rows of `lead.page_metric`.

Understood: commas, semicolons and tabs; UTF-8 and UTF-16 with a byte-order mark; GA4's comment lines, of
which the dates are read; a row of sums at the foot; several rows of a page and day where another column
splits them. Refused, with row, column and value: everything that can't be read in one way only. Nothing of a
file is taken unless all of it is.

A page is its path: scheme, host, query, fragment and a slash at the end don't make another page. So pages of
two hosts in one file are refused, unless the site's host says which to leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from lead_coordinator.database.revenue import MetricRow
from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.revenue import numbers
from lead_coordinator.pipelines.revenue.columns import MEASURES, TOTALS, WHOLE, folded
from lead_coordinator.pipelines.revenue.header import Header, decimal_mark_of, header_of, single_day
from lead_coordinator.pipelines.revenue.numbers import NotANumber
from lead_coordinator.pipelines.revenue.table import (
    comments_of,
    decoded,
    lines_of,
    read_bytes,
    records_of,
    shown,
)

MAX_ROWS = 500_000
MAX_PAGE = 500
EARLIEST = date(2000, 1, 1)
# What GA4 writes where a page has no name, and for all beyond its limit.
NO_PAGE = frozenset({"(not set)", "(other)", "(andere)", "(autre)", "(sonstige)"})
LIMITS: Mapping[str, tuple[Decimal, Decimal]] = {
    **{name: (Decimal(0), Decimal(10**12)) for name in (*WHOLE, "conversions")},
    "position": (Decimal(0), Decimal(10_000)),
    "revenue_usd": (Decimal(-(10**9)), Decimal(10**9)),
    "ctr": (Decimal(0), Decimal(100)),
    "sum_position": (Decimal(0), Decimal(10**15)),
}


@dataclass(frozen=True)
class MetricsFile:
    """What a file holds. `left_out`: why and how many rows were not taken (sums, pages without a name or of
    another host)."""

    rows: tuple[MetricRow, ...]
    measures: tuple[str, ...]
    left_out: Mapping[str, int]

    @property
    def pages(self) -> int:
        return len({row.page for row in self.rows})

    @property
    def days(self) -> tuple[date, date]:
        return min(row.day for row in self.rows), max(row.day for row in self.rows)


def read_metrics(
    path: Path | str, *, day: date | None = None, host: str | None = None, today: date | None = None
) -> MetricsFile:
    """The rows of a file, or InvalidInput with row, column and value.

    `day`: the day of a file without a date column. `host`: the site's, so that pages of others are left out.
    `today`: no later day is taken.
    """
    return parse_metrics(decoded(read_bytes(Path(path))), day=day, host=host, today=today)


@dataclass(slots=True)
class _Sum:
    """A page's day, summed up over rows; positions are weighted by impressions."""

    values: dict[str, Decimal] = field(default_factory=dict)
    placed: Decimal = Decimal(0)
    weight: Decimal = Decimal(0)


def parse_metrics(
    text: str, *, day: date | None = None, host: str | None = None, today: date | None = None
) -> MetricsFile:
    """`read_metrics` of a text."""
    lines = lines_of(text)
    start, comments = comments_of(lines)
    records = records_of(lines, start)
    head = header_of(records)
    day = single_day(head, day, comments)
    body = _body(records, head)
    mark = decimal_mark_of(head, body)
    # What tells rows of a page and day apart, besides the page itself.
    apart = [*head.splitting, *(head.places[name] for name in ("hostname",) if name in head.places)]
    sums: dict[tuple[str, date], _Sum] = {}
    seen: dict[tuple[str, ...], int] = {}
    left_out: dict[str, int] = {}
    hosts: dict[str, int] = {}
    for line, cells in body:
        reason = _left_out(head, cells)
        page = None
        if reason is None:
            page, page_host = _page(line, head, cells)
            if host is not None and page_host and _bare(page_host) != _bare(host):
                reason = f"pages of another host than {_bare(host)}"
            elif page_host:
                hosts.setdefault(_bare(page_host), line)
        if page is None or reason is not None:
            reason = reason or "pages without a name"
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        on = _day(line, head, cells, day, today)
        key = (
            cells[head.places["page"]].strip(),
            on.isoformat(),
            *(cells[place] for place in apart),
        )
        if (first := seen.setdefault(key, line)) != line:
            raise InvalidInput(
                f"row {line}: {shown(page)} on {on} stands there twice, first in row {first}; which is right?"
            )
        found = _figures(line, head, cells, mark)
        if found:
            _add(sums.setdefault((page, on), _Sum()), found)
        else:
            left_out["rows without a figure"] = left_out.get("rows without a figure", 0) + 1
    if len(hosts) > 1:
        (one, first), (other, second) = list(hosts.items())[:2]
        raise InvalidInput(
            f"row {second}, {head.title('page')}: a page of {shown(other)} where row {first} is of "
            f"{shown(one)}; set the site's URL in its profile, or export one host alone"
        )
    if not sums:
        why = "; ".join(f"{count:,} {reason} are left out" for reason, count in left_out.items())
        raise InvalidInput(f"the file holds no rows with a page and figures{why and ': ' + why}")
    rows = tuple(_row(page, on, total) for (page, on), total in sorted(sums.items()))
    return MetricsFile(rows, tuple(name for name in MEASURES if name in head.measures), left_out)


def _body(records: Iterator[tuple[int, list[str]]], head: Header) -> list[tuple[int, list[str]]]:
    """Rows with as many cells as there are columns."""
    body: list[tuple[int, list[str]]] = []
    width = len(head.titles)
    for line, cells in records:
        if not any(cell.strip() for cell in cells):
            continue
        if cells[0].lstrip().startswith("#") and not cells[0].lstrip().startswith("#/"):
            raise InvalidInput(f"row {line}: a second table begins here; give each table a file of its own")
        if len(cells) < width and len(cells) <= head.places["page"]:
            raise InvalidInput(f"row {line}: {len(cells)} cells where the first row names {width} columns")
        if any(cell.strip() for cell in cells[width:]) and not _is_total(cells):
            raise InvalidInput(f"row {line}: {len(cells)} cells where the first row names {width} columns")
        if len(body) >= MAX_ROWS:
            raise InvalidInput(f"row {line}: over {MAX_ROWS:,} rows; split the file")
        body.append((line, cells[:width] + [""] * (width - len(cells)) + cells[width:]))
    return body


def _is_total(cells: Sequence[str]) -> bool:
    return any(folded(cell) in TOTALS for cell in cells if len(cell) < 40)


def _left_out(head: Header, cells: Sequence[str]) -> str | None:
    """Why a row isn't one of a page, or None."""
    page = cells[head.places["page"]].strip()
    if (not page or folded(page) in TOTALS) and _is_total(cells):
        return "rows of sums"
    if page.lower() in NO_PAGE:
        return "pages without a name"
    place = head.places.get("day")
    if not page and place is not None and not cells[place].strip():
        return "rows of sums"
    return None


def _page(line: int, head: Header, cells: Sequence[str]) -> tuple[str, str]:
    """Path and host of the row's page."""
    text = cells[head.places["page"]].strip()
    where = f"row {line}, {head.title('page')}"
    if len(text) > 4 * MAX_PAGE:
        raise InvalidInput(f"{where}: {shown(text)} has {len(text):,} characters; {MAX_PAGE} are allowed")
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
    except ValueError:
        raise InvalidInput(f"{where}: {shown(text)} is no address") from None
    if text.startswith("/") and not text.startswith("//"):
        path = text.partition("?")[0].partition("#")[0]
    elif parts.scheme in ("http", "https") and host:
        path = parts.path or "/"
    else:
        raise InvalidInput(f"{where}: {shown(text)} is neither an address (https://…) nor a path (/…)")
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in path):
        raise InvalidInput(f"{where}: {shown(text)} holds a control character")
    path = path.rstrip("/") or "/"
    if len(path) > MAX_PAGE:
        raise InvalidInput(f"{where}: {shown(path)} has {len(path):,} characters; {MAX_PAGE} are allowed")
    if not host and (place := head.places.get("hostname")) is not None:
        host = cells[place].strip()[:255].lower()
    return path, host


def _bare(host: str) -> str:
    return host.lower().removeprefix("www.")


def _day(line: int, head: Header, cells: Sequence[str], single: date | None, today: date | None) -> date:
    if single is not None:
        found, where, text = single, f"row {line}", single.isoformat()
    else:
        text = cells[head.places["day"]]
        where = f"row {line}, {head.title('day')}"
        try:
            found = numbers.day(text[:100])
        except NotANumber as error:
            raise InvalidInput(f"{where}: {shown(text)} {error}") from None
    if found < EARLIEST or (today is not None and found > today):
        allowed = f"{EARLIEST} to {today}" if today else f"{EARLIEST} or later"
        raise InvalidInput(f"{where}: {shown(text)} is out of range; {allowed} is allowed")
    return found


def _figures(line: int, head: Header, cells: Sequence[str], mark: str) -> dict[str, Decimal]:
    """What a row gives, each within its bounds."""
    values: dict[str, Decimal] = {}
    for name, (least, most) in LIMITS.items():
        place = head.places.get(name)
        text = "" if place is None else cells[place].strip()
        if not text or text in ("-", "–", "--", "n/a"):
            continue
        where = f"row {line}, {shown(head.titles[place or 0].strip())}"
        try:
            value = Decimal(numbers.whole(text)) if name in WHOLE else numbers.number(text, mark)
        except NotANumber as error:
            raise InvalidInput(f"{where}: {shown(text)} {error}") from None
        if not least <= value <= most:
            raise InvalidInput(f"{where}: {shown(text)} is out of range; {least:,} to {most:,} are allowed")
        values[name] = value
    clicks, impressions, position = (values.get(name) for name in ("clicks", "impressions", "position"))
    if clicks is not None and impressions is not None and clicks > impressions:
        raise InvalidInput(
            f"row {line}, {head.title('clicks')}: {clicks} is more than the impressions, {impressions}"
        )
    if position and position < 1:
        raise InvalidInput(
            f"row {line}, {head.title('position')}: {position} is out of range; 1 to 10,000 are allowed"
        )
    if impressions and (placed := values.get("sum_position")) is not None:
        values["position"] = placed / impressions + 1  # BigQuery counts positions from 0
    # A position of 0 stands for none.
    return {
        name: value for name, value in values.items() if name in MEASURES and (value or name != "position")
    }


def _add(total: _Sum, figures: Mapping[str, Decimal]) -> None:
    if position := figures.get("position"):
        weight = figures.get("impressions", Decimal(1))
        total.placed += position * weight
        total.weight += weight
    for name, value in figures.items():
        if name != "position":
            total.values[name] = total.values.get(name, Decimal(0)) + value


def _row(page: str, on: date, total: _Sum) -> MetricRow:
    whole = {name: int(total.values[name]) for name in WHOLE if name in total.values}
    return MetricRow(
        page,
        on,
        position=round(float(total.placed / total.weight), 3) if total.weight else None,
        conversions=total.values.get("conversions"),
        revenue_usd=total.values.get("revenue_usd"),
        **whole,
    )
