"""Writes what a fresh deployment has into `sql/testing-suite.sql` (lead.expected_objects).

Run `python -m lead_coordinator_tests.database.expected_objects` after a change to a table, index, trigger,
policy or view, or after adding or removing a function; `test_fingerprints.py` says when.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from lead_coordinator.database.connection import Database
from lead_coordinator.database.deploy import deploy, sql_files
from lead_coordinator.database.embedded import EmbeddedServer
from lead_coordinator.settings import Settings

BEGIN = "        -- generated from here\n"
END = "        -- generated up to here\n"
WIDTH = 126


def expected_lines(definitions: Iterable[tuple[str, str, str]]) -> list[str]:
    """The rows of the VALUES list for (kind, name, definition), in order."""
    entries = sorted(
        (kind, *_split(kind, name), "" if kind == "function" else ":" + _digits(definition))
        for kind, name, definition in definitions
    )
    lines: list[str] = []
    for (kind, prefix), group in groupby(entries, key=lambda entry: entry[:2]):
        objects = [name + digits for _, _, name, digits in group]
        head = f"('{kind}', '{prefix}', "
        lines.append(head)
        text = ""
        for number, item in enumerate(objects):
            piece = item + ("|" if number < len(objects) - 1 else "")
            if text and len(text) + len(piece) + 14 > WIDTH:
                lines.append(f"    '{text}'")
                text = ""
            text += piece
        lines.append(f"    '{text}'),")
    lines[-1] = lines[-1].removesuffix(",")
    return [f"        {line}".rstrip() + "\n" for line in lines]


def definitions(db: Database) -> list[tuple[str, str, str]]:
    rows = db.rows("SELECT kind, name, definition FROM lead.object_definitions()")
    return [(row["kind"], row["name"], row["definition"] or "") for row in rows]


def _split(kind: str, name: str) -> tuple[str, str]:
    """The table's name with its point, and the name within it."""
    head, point, rest = name.partition(".")
    if kind in ("column", "constraint", "trigger", "policy"):
        table, second, rest = rest.partition(".")
        return f"{head}{point}{table}{second}", rest
    return f"{head}{point}", rest


def _digits(definition: str) -> str:
    return hashlib.sha256(definition.encode()).hexdigest()[:12]


def main() -> None:
    file = sql_files()[3]
    with (
        tempfile.TemporaryDirectory(prefix="lc-pg-") as folder,
        EmbeddedServer(Path(folder) / "d", durable=False) as server,
        Database(server.url) as db,
    ):
        deploy(server.url, Settings.load({}))
        lines = expected_lines(definitions(db))
    text = file.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    file.write_text(before + BEGIN + "".join(lines) + END + after)


if __name__ == "__main__":
    main()
