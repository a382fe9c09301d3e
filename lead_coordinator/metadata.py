"""Turning answers of the database into Dagster metadata.

Numbers stay numbers (the UI plots a key that is numeric in each materialisation), so a key has one meaning
and one unit, which its name ends in where it isn't a count: `spend_usd`, `duration_seconds`, `queue_depth`.
"""

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from dagster import MetadataValue


def number(value: Decimal | int | float | str | None) -> float | int | None:
    """What Dagster can plot. Money is exact up to here and in the database; a plot needs no more than a
    float.
    """
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return float(value)


def numbers(values: Mapping[str, Decimal | int | float | str | None]) -> dict[str, float | int]:
    """The same mapping with plottable numbers; what is unknown is left out rather than shown as zero."""
    plotted = {key: number(value) for key, value in values.items()}
    return {key: value for key, value in plotted.items() if value is not None}


def json_value(value: Any) -> MetadataValue:
    """A folded-up JSON view of an answer, for whoever wants everything. Decimals are shown as they are, in
    text.
    """
    plain = json.loads(json.dumps(value, default=str))
    return MetadataValue.json(plain if isinstance(plain, dict | list) else {"value": plain})


def sentences(lines: Iterable[str], nothing: str) -> MetadataValue:
    """A list of reasons as Markdown; `nothing` is what is said when there are none."""
    text = "\n".join(f"- {line}" for line in lines)
    return MetadataValue.md(text or nothing)


def markdown_table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> MetadataValue:
    """A small table: `columns` maps keys of the rows to the headings shown. Texts are escaped."""
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in columns) + " |" for row in rows]
    return MetadataValue.md("\n".join(lines))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        value = f"{value:.4f}"
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
