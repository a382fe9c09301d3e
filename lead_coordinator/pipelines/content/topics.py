"""Reading a file of topics: CSV (also with semicolons or tabs) or JSON lines, one brief a row.

Good rows are taken and bad rows are reported with line, field and reason; one bad row never costs a good one.
A file may come from a spreadsheet: a byte-order mark, UTF-16, other delimiters, CRLF and trailing empty cells
are understood. Bytes that aren't UTF-8 spoil only their row. What is no topics file at all (a directory, too
large, an unknown extension, no known column) is refused with InvalidInput.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.content.brief import TASK_TYPE, Brief, first_reason, shown

# A row is bounded by its fields (under 6 kB), so this is tens of thousands of topics.
MAX_FILE_BYTES = 64 * 1024 * 1024
COLUMNS = (*Brief.model_fields, "priority")
_CSV_SUFFIXES = (".csv", ".tsv", ".txt")
_JSON_SUFFIXES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class TopicRow:
    """A good row: where it stood, what it asks for, and the priority (0 to 100) if it names one."""

    line: int
    brief: Brief
    priority: int | None = None

    @property
    def idempotency_key(self) -> str:
        return self.brief.idempotency_key()

    def task(self) -> dict[str, Any]:
        """The row as an element of `submit_tasks`: only the keys it has something to say about."""
        task: dict[str, Any] = {
            "task_type": TASK_TYPE,
            "payload": self.brief.payload(),
            "idempotency_key": self.idempotency_key,
        }
        if self.priority is not None:
            task["priority"] = self.priority
        if self.brief.value_usd is not None:
            task["value_usd"] = str(self.brief.value_usd)
        if self.brief.deadline is not None:
            task["deadline"] = self.brief.deadline.isoformat()
        return task


@dataclass(frozen=True)
class BadRow:
    """A row that wasn't taken, or a column that wasn't read (line 1). `field` is None where the row as such
    is bad."""

    line: int
    field: str | None
    reason: str

    def __str__(self) -> str:
        return (
            f"line {self.line}, {self.field}: {self.reason}"
            if self.field
            else f"line {self.line}: {self.reason}"
        )


def read_topics(path: Path | str) -> tuple[list[TopicRow], list[BadRow]]:
    """The good and the bad rows of a file, each in the file's order. A brief that stands twice is taken once.

    Raises InvalidInput where the file can't be read as topics at all.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _CSV_SUFFIXES + _JSON_SUFFIXES:
        raise InvalidInput(
            f"file {path.name}: its name must end in {', '.join(_CSV_SUFFIXES + _JSON_SUFFIXES)}"
        )
    text = _decode(_read(path))
    bad: list[BadRow] = []
    rows = _csv_rows(text, bad) if suffix in _CSV_SUFFIXES else _json_rows(text, bad)
    good: list[TopicRow] = []
    seen: dict[str, int] = {}
    for line, values in rows:
        topic = _topic(line, values, bad)
        if topic is None:
            continue
        first = seen.setdefault(topic.idempotency_key, line)
        if first != line:
            bad.append(BadRow(line, None, f"asks for the same article as line {first}; it is taken once"))
            continue
        good.append(topic)
    bad.sort(key=lambda row: row.line)
    return good, bad


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"file {path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput(f"file {path}: over {MAX_FILE_BYTES // 2**20} MB; split it")
    return data


def _decode(data: bytes) -> str:
    """Text in which a byte that isn't UTF-8 stands as a lone surrogate: the row that holds it is refused
    later."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="surrogateescape")


def _topic(line: int, values: Mapping[str, Any], bad: list[BadRow]) -> TopicRow | None:
    values = dict(values)
    for field, value in values.items():
        if isinstance(value, str) and (wrong := _undecodable(value)) is not None:
            bad.append(BadRow(line, field, f"byte 0x{wrong:02x} isn't UTF-8; save the file as UTF-8"))
            return None
    try:
        priority = _priority(values.pop("priority", None))
    except ValueError as error:
        bad.append(BadRow(line, "priority", str(error)))
        return None
    try:
        return TopicRow(line, Brief.model_validate(values), priority)
    except ValidationError as error:
        bad.append(BadRow(line, *first_reason(error)))
        return None


def _undecodable(text: str) -> int | None:
    """The first byte that surrogateescape kept, or None."""
    return next((ord(c) - 0xDC00 for c in text if 0xDC80 <= ord(c) <= 0xDCFF), None)


def _priority(value: object) -> int | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not (
        text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 100
    ):
        raise ValueError(f"{shown(value)} given, a whole number from 0 to 100 allowed")
    return int(text)


# ---- CSV ---------------------------------------------------------------------------------------------------


def _csv_rows(text: str, bad: list[BadRow]) -> Iterator[tuple[int, dict[str, Any]]]:
    records = _csv_records(text, bad)
    line, header = next(records, (1, []))
    columns = [cell.strip().lower().replace(" ", "_") for cell in header]
    if not {"title", "keyword"} & set(columns):
        raise InvalidInput(
            f"line {line}: the first row names the columns, and a title or keyword column is required; "
            f"known columns: {', '.join(COLUMNS)}"
        )
    for place, column in enumerate(columns):
        if column in columns[:place] and column:
            raise InvalidInput(f"line {line}, {column}: the column stands there twice")
        if column and column not in COLUMNS:
            bad.append(
                BadRow(line, shown(column), f"unknown column, not read; known columns: {', '.join(COLUMNS)}")
            )
    for line, cells in records:
        if not any(cell.strip() for cell in cells):
            continue
        if any(cell.strip() for cell in cells[len(columns) :]):
            bad.append(
                BadRow(line, None, f"{len(cells)} cells where the first row names {len(columns)} columns")
            )
            continue
        yield line, {c: cell for c, cell in zip(columns, cells, strict=False) if c in COLUMNS}


def _csv_records(text: str, bad: list[BadRow]) -> Iterator[tuple[int, list[str]]]:
    """(line on which the record begins, cells). A record that csv refuses is reported, and reading goes on
    after it."""
    lines = list(io.StringIO(text, newline=""))  # str.splitlines would also split at U+2028 and its like
    reader = csv.reader(iter(lines), delimiter=_delimiter(text), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num >= len(lines) and "unexpected end" in str(error):
                reason = (
                    f"a quotation mark opened here is never closed; lines {line} to {len(lines)} weren't read"
                )
            else:
                reason = str(error)
            bad.append(BadRow(line, None, reason))


def _delimiter(text: str) -> str:
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)


# ---- JSON lines --------------------------------------------------------------------------------------------


def _json_rows(text: str, bad: list[BadRow]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            value = json.loads(row, parse_float=Decimal)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or str(error)
            bad.append(BadRow(line, None, f"not JSON ({reason}); one object a line is expected"))
            continue
        if not isinstance(value, dict):
            bad.append(BadRow(line, None, f"{shown(value)} given, one JSON object a line is expected"))
            continue
        unknown = next((key for key in value if key not in COLUMNS), None)
        if unknown is not None:
            bad.append(BadRow(line, shown(unknown), f"unknown field; known fields: {', '.join(COLUMNS)}"))
            continue
        yield line, value
