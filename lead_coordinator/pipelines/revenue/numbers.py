"""Numbers and dates as spreadsheets and exports write them.

`1,234` is a thousand in English and a bit more than one in German. For whole numbers a separator can only
group; for others the file decides: a value in which the mark can't group (`3,4`; `1.234,5`) settles it for
all, and where none does it is the point.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from decimal import Decimal

MAX_LENGTH = 40
_SPACES = dict.fromkeys(map(ord, " \u00a0\u202f\u2009'’"), None)
_CURRENCY = re.compile(r"^(?:US\$|USD|EUR|GBP|CHF|[$€£¥])|(?:US\$|USD|EUR|GBP|CHF|[$€£¥])$")
_PLAIN = re.compile(r"^-?\d+$")
_GROUPED = re.compile(r"^-?\d{1,3}(?:,\d{3})+$|^-?\d{1,3}(?:\.\d{3})+$")
_DECIMAL = re.compile(r"^-?\d*[.,]?\d+$")
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan",
            "feb",
            "mar mär mrz",
            "apr",
            "may mai",
            "jun",
            "jul",
            "aug",
            "sep",
            "oct okt",
            "nov",
            "dec dez",
        ),
        1,
    )
    for name in names.split()
}


class NotANumber(ValueError):
    """What is wrong with a cell, in words that follow its value."""


def cleaned(text: str) -> str:
    """Without grouping spaces, currency, and the signs that stand for a minus."""
    if len(text) > MAX_LENGTH:
        raise NotANumber(f"is longer than {MAX_LENGTH} characters, which no number is")
    text = text.strip().translate(_SPACES).replace("\u2212", "-")
    negative = text.startswith("-")
    text = _CURRENCY.sub("", text.removeprefix("-"))
    return f"-{text}" if negative else text


def whole(text: str) -> int:
    """A count: `1234`, `1,234`, `1.234`, `1 234`, `12.0`."""
    value = cleaned(text)
    if not value.isascii():
        raise NotANumber("isn't a whole number")
    if _GROUPED.match(value):
        value = value.replace(",", "").replace(".", "")
    elif re.fullmatch(r"-?\d+[.,]0{1,6}", value):
        value = value.partition("." if "." in value else ",")[0]
    if not _PLAIN.match(value):
        raise NotANumber("isn't a whole number")
    return int(value)


def decimal_mark(texts: Iterable[str]) -> str | None:
    """The decimal mark that these cells settle, or None. Raises NotANumber where two settle it otherwise."""
    found: str | None = None
    for text in texts:
        try:
            value = cleaned(text.strip().removesuffix("%"))
        except NotANumber:
            continue
        mark = _mark_of(value)
        if mark is not None and found is not None and mark != found:
            raise NotANumber("uses another decimal mark than the rows before it")
        found = mark or found
    return found


def _mark_of(value: str) -> str | None:
    comma, point = value.rfind(","), value.rfind(".")
    if comma >= 0 and point >= 0:
        return "," if comma > point else "."
    mark = "," if comma >= 0 else "." if point >= 0 else ""
    if not mark or value.count(mark) > 1:
        return None
    head, _, tail = value.partition(mark)
    can_group = len(tail) == 3 and 1 <= len(head.lstrip("-")) <= 3 and head.lstrip("-") != "0"
    return None if can_group else mark


def number(text: str, mark: str) -> Decimal:
    """A number with this decimal mark; `1.2%` is 0.012."""
    value = text.strip()
    percent = value.endswith("%")
    value = cleaned(value.removesuffix("%"))
    group = "," if mark == "." else "."
    if group in value:
        if not re.fullmatch(rf"-?\d{{1,3}}(?:{re.escape(group)}\d{{3}})+(?:{re.escape(mark)}\d+)?", value):
            raise NotANumber("isn't a number")
        value = value.replace(group, "")
    value = value.replace(mark, ".")
    if not value.isascii() or not _DECIMAL.match(value):
        raise NotANumber("isn't a number")
    return Decimal(value) / 100 if percent else Decimal(value)


def day(text: str) -> date:
    """`2026-11-24`, `20261124`, `24.11.2026`, `Nov 24, 2026`, `24 Nov 2026`. What could be read in two ways
    (`03/04/2026`) is refused."""
    value = text.strip()
    try:
        if match := re.fullmatch(r"(\d{4})-?(\d{2})-?(\d{2})(?:[T ][0-9:.]{1,20}Z?)?", value, re.ASCII):
            return date(*map(int, match.groups()))
        if match := re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{4})", value, re.ASCII):
            return date(*reversed([int(part) for part in match.groups()]))
        if match := re.fullmatch(r"(\d{1,2})/(\d{1,2})/(\d{4})", value, re.ASCII):
            return _slashed(*(int(part) for part in match.groups()))
        if match := re.fullmatch(r"([A-Za-zäÄ]{3,9})\.? (\d{1,2}), (\d{4})", value):
            return date(int(match[3]), _month(match[1]), int(match[2]))
        if match := re.fullmatch(r"(\d{1,2})\.? ([A-Za-zäÄ]{3,9})\.? (\d{4})", value):
            return date(int(match[3]), _month(match[2]), int(match[1]))
    except (ValueError, KeyError) as error:
        if isinstance(error, NotANumber):
            raise
        raise NotANumber("is no date of the calendar") from None
    raise NotANumber("isn't a date; 2026-11-24 and 20261124 are understood")


def _month(name: str) -> int:
    return _MONTHS[name.lower()[:3]]


def _slashed(first: int, second: int, year: int) -> date:
    if first > 12 >= second:
        return date(year, second, first)
    if second > 12 >= first or first == second:
        return date(year, first, second)
    raise NotANumber("may be two days; write it as 2026-11-24")
