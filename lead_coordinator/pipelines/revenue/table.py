"""The cells of a CSV file: bytes to lines, lines to records. What isn't a table of text is refused, with the
row where it stops being one.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.revenue import numbers
from lead_coordinator.pipelines.revenue.numbers import NotANumber

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_LINE = 100_000


def read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"file {path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput(f"file {path}: over {MAX_FILE_BYTES // 2**20} MB; split it")
    return data


def decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"byte {error.start}: the file begins as UTF-16 and isn't ({error.reason})"
            ) from None
    if data.startswith(b"PK\x03\x04"):
        raise InvalidInput("the file is a ZIP archive (Search Console's download, or XLSX): give a CSV of it")
    if (null := data.find(b"\x00")) >= 0:
        row = data.count(b"\n", 0, null) + 1
        raise InvalidInput(
            f"row {row}: byte 0x00; this is no text, or UTF-16 without its mark: save it as UTF-8"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            f"row {row}: byte 0x{data[error.start]:02x} isn't UTF-8; save the file as UTF-8"
        ) from None


def lines_of(text: str) -> list[str]:
    lines = list(io.StringIO(text, newline=""))
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE:
            raise InvalidInput(f"row {number}: {len(line):,} characters, {MAX_LINE:,} are allowed")
        if "\x00" in line:
            raise InvalidInput(f"row {number}: a NUL character; this is no text")
    return lines


def comments_of(lines: Sequence[str]) -> tuple[int, dict[str, date]]:
    """Lines before the header, and the dates that GA4's comments give."""
    dates: dict[str, date] = {}
    for place, line in enumerate(lines):
        text = line.strip().strip('"')
        if text and not text.startswith("#"):
            return place, dates
        if match := re.fullmatch(r"#\s*(start|end)\s*date:\s*(\d{8})\W*", text[:100], re.IGNORECASE):
            try:
                dates[match[1].lower()] = numbers.day(match[2])
            except NotANumber:
                raise InvalidInput(f"row {place + 1}: {shown(match[2])} is no date of the calendar") from None
    raise InvalidInput("the file is empty: a row of column names and rows of figures are needed")


def records_of(lines: Sequence[str], start: int) -> Iterator[tuple[int, list[str]]]:
    """(row on which the record begins, counted from 1; its cells)."""
    head = lines[start]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(iter(lines[start:]), delimiter=delimiter, strict=True)
    while True:
        row = start + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise InvalidInput(f"row {row}: a quotation mark is opened and never closed") from None
            raise InvalidInput(f"row {row}: {error}") from None
        yield row, cells


def shown(text: str) -> str:
    """A value of the file for a message: bounded, on one line, and visibly a quotation."""
    short = text if len(text) <= 80 else text[:79] + "…"
    return repr(short)
