"""What a process believes it did, one JSON line each, in an append-only file of its own.

A line is one write to a file opened with O_APPEND, without a buffer: a process that is killed leaves every
line it wrote, and at most a torn last one, which `read` leaves out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

SUFFIX = ".jsonl"


class Journal:
    """The file of one process. `name`: who writes, unique in a race."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        path = folder / f"{name}{SUFFIX}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, did: str, **facts: Any) -> None:
        """Writes a line: what was done, when (seconds since 1970), and what belongs to it."""
        line = json.dumps({"did": did, "at": time.time(), **facts}, default=_exactly)
        os.write(self._file, f"{line}\n".encode())


def _exactly(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"a journal holds no {type(value).__name__}")


@dataclass(frozen=True)
class Entry:
    """A line of a journal. `at`: seconds since 1970."""

    who: str
    did: str
    at: float
    facts: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]

    def dollars(self, name: str) -> Decimal:
        return Decimal(self.facts[name])


def read(folder: Path) -> list[Entry]:
    """All lines of all journals of a race, in order of time."""
    entries = [entry for path in sorted(folder.glob(f"*{SUFFIX}")) for entry in _read_one(path)]
    return sorted(entries, key=lambda entry: entry.at)


def _read_one(path: Path) -> Iterable[Entry]:
    return parse(path.stem, path.read_text().rpartition("\n")[0])


def parse(who: str, text: str) -> Iterable[Entry]:
    """The entries of whole lines."""
    for line in text.splitlines():
        facts = json.loads(line)
        yield Entry(who, facts.pop("did"), facts.pop("at"), facts)
