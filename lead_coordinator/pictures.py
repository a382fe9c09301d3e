"""Small pictures for Dagster's UI: PNG as a data URI under 30 kB, which Markdown metadata shows inline.

Labels are anybody's text: cut, printable, and never read as mathematics. Values that aren't finite, or are
beyond a million billions, are left out. matplotlib is loaded when a picture is drawn (about half a second),
without pyplot, which would keep every figure.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagster import MetadataValue
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_URI = 30_000
MAX_BARS = 20
MAX_SERIES = 6
MAX_POINTS = 1000
MAX_LABEL = 48
# Beyond it, and nearer to zero than its inverse, the arithmetic of axes overflows.
MAX_VALUE = 1e15
WIDTH_INCHES = 6.4
# The first that comes out small enough.
RESOLUTIONS = (90, 70, 50, 30)
# Okabe and Ito's colours, which colour-blind people tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

Number = float | Decimal
Point = tuple[Number | date | datetime, Number]


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds, low ≤ estimate ≤ high."""

    label: str
    low: Number
    estimate: Number
    high: Number


def bar(title: str, values: Mapping[str, Number], unit: str = "") -> str:
    """Horizontal bars, in the order given, each with its value; the first 20. `unit` names the axis."""
    shown = [(name, _number(value)) for name, value in values.items() if _fits(value)]
    figure, axes = _figure(title, 0.9 + 0.27 * max(2, min(len(shown), MAX_BARS)))
    if not shown:
        return _without_data(figure, axes)
    names, numbers = zip(*shown[:MAX_BARS], strict=True)
    places = range(len(names))
    bars = axes.barh(places, numbers, color=COLOURS[0], height=0.7)
    axes.bar_label(bars, labels=[f"{number:,.4g}" for number in numbers], padding=3, fontsize=8)
    _rows(axes, names, len(shown))
    axes.margins(x=0.12)
    axes.set_xlabel(label(unit), fontsize=8, parse_math=False)
    return _uri(figure)


def line(title: str, series: Mapping[str, Sequence[Point]], unit: str = "") -> str:
    """Lines over a common axis of numbers or days, points in order; the first 6 lines, the last 1,000 points
    of each. `unit` names the vertical axis."""
    figure, axes = _figure(title, 2.6)
    drawn = False
    of_days = any(isinstance(x, date) for points in series.values() for x, _ in points[:1])
    for number, (name, points) in enumerate(list(series.items())[:MAX_SERIES]):
        finite = [
            (x if isinstance(x, date) else _number(x), _number(y))
            for x, y in points[-MAX_POINTS:]
            if isinstance(x, date) == of_days and (of_days or _fits(x)) and _fits(y)
        ]
        if finite:
            xs, ys = zip(*finite, strict=True)
            marker = "o" if len(finite) < 3 else ""
            axes.plot(xs, ys, color=COLOURS[number], marker=marker, linewidth=1.4, label=label(name) or " ")
            drawn = True
    if not drawn:
        return _without_data(figure, axes)
    if len(series) > 1:
        axes.legend(fontsize=7, frameon=False)
    axes.set_ylabel(label(unit), fontsize=8, parse_math=False)
    if of_days:
        figure.autofmt_xdate(rotation=30)
    return _uri(figure)


def intervals(title: str, rows: Sequence[Interval], unit: str = "") -> str:
    """Estimates with their bounds, one below the other, and a line at zero; the first 20."""
    shown = [
        Interval(row.label, _number(row.low), _number(row.estimate), _number(row.high))
        for row in rows
        if _fits(row.low) and _fits(row.estimate) and _fits(row.high)
    ]
    figure, axes = _figure(title, 0.9 + 0.27 * max(2, min(len(shown), MAX_BARS)))
    if not shown:
        return _without_data(figure, axes)
    first = shown[:MAX_BARS]
    below = [max(0.0, float(row.estimate) - float(row.low)) for row in first]
    above = [max(0.0, float(row.high) - float(row.estimate)) for row in first]
    axes.errorbar(
        [float(row.estimate) for row in first],
        range(len(first)),
        xerr=[below, above],
        fmt="o",
        color=COLOURS[0],
        capsize=3,
        markersize=4,
    )
    axes.axvline(0, color="#888888", linewidth=0.8)
    _rows(axes, [row.label for row in first], len(shown))
    axes.set_xlabel(label(unit), fontsize=8, parse_math=False)
    return _uri(figure)


def markdown(title: str, uri: str) -> str:
    """The picture in Markdown. `title` is what a screen reader says."""
    said = "".join(c for c in label(title) if c not in "[]()<>\\!`")
    return f"![{said}]({uri})"


def metadata(title: str, uri: str) -> MetadataValue[Any]:
    """The picture as metadata of an asset."""
    from dagster import MetadataValue

    return MetadataValue.md(markdown(title, uri))


def label(text: str) -> str:
    """Text as it may stand in a picture: printable, one line, at most 48 characters."""
    clean = "".join(c if c.isprintable() else " " for c in str(text)[: 4 * MAX_LABEL])
    clean = " ".join(clean.split())
    return clean if len(clean) <= MAX_LABEL else clean[: MAX_LABEL - 1] + "…"


def _figure(title: str, height_inches: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(label(title), fontsize=9, loc="left", parse_math=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _rows(axes: Axes, names: Sequence[str], there_are: int) -> None:
    """A name for each row, the first on top, and how many were left out."""
    axes.set_yticks(range(len(names)), labels=[label(name) for name in names], parse_math=False)
    axes.invert_yaxis()
    if there_are > len(names):
        text = f"and {there_are - len(names)} more"
        axes.annotate(text, (1, 0), xycoords="axes fraction", ha="right", va="bottom", fontsize=7)


def _without_data(figure: Figure, axes: Axes) -> str:
    axes.set_axis_off()
    axes.annotate("no data", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=9)
    return _uri(figure)


def _fits(value: Number | date) -> bool:
    return not isinstance(value, date) and abs(float(value)) <= MAX_VALUE  # false for NaN, too


def _number(value: Number | date) -> float:
    assert not isinstance(value, date)
    number = float(value)
    return number if abs(number) >= 1 / MAX_VALUE else 0.0


def _uri(figure: Figure) -> str:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
    for resolution in RESOLUTIONS:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # A character that the font doesn't have becomes a box, which is all right.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(buffer, format="png", dpi=resolution)
        uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        if len(uri) < MAX_URI:
            return uri
    raise ValueError(f"the picture is {len(uri)} characters at {resolution} dpi, under {MAX_URI} are allowed")
