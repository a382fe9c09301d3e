"""Pictures come out small and whole, whatever is drawn and however it is labelled."""

from __future__ import annotations

import base64
import io
import math
import subprocess
import sys
from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lead_coordinator import pictures
from lead_coordinator.pictures import Interval, bar, intervals, line

HOSTILE = [
    "$\\frac{",
    "$x$",
    "_hidden",
    "a" * 5000,
    "line\nbreak\x00",
    "![x](y)",
    "水の庭",
    "💥",
    "",
    "%d {} %s",
]
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=80))
numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)


def opened(uri: str) -> Image.Image:
    """The picture in a data URI. Fails where it isn't a whole PNG under the limit."""
    assert len(uri) < pictures.MAX_URI
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    assert image.format == "PNG"
    return image.convert("RGB")


def coloured(image: Image.Image, colour: str) -> int:
    """How many pixels have about this colour."""
    wanted = tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return sum(
        count
        for count, found in image.getcolors(maxcolors=image.width * image.height)
        if sum(abs(one - other) for one, other in zip(found, wanted, strict=True)) < 90
    )


def test_a_longer_bar_has_more_ink() -> None:
    short, long = opened(bar("a", {"x": 1, "y": 4})), opened(bar("a", {"x": 4, "y": 4}))
    assert coloured(long, pictures.COLOURS[0]) > 1.3 * coloured(short, pictures.COLOURS[0]) > 0


def test_each_line_has_its_colour() -> None:
    days = [date(2026, 11, 1) + timedelta(days=n) for n in range(30)]
    series = {
        name: [(day, height + n % 7) for n, day in enumerate(days)] for name, height in (("a", 1), ("b", 20))
    }
    image = opened(line("Views", series, "views a day"))
    assert all(coloured(image, colour) > 30 for colour in pictures.COLOURS[:2])
    assert coloured(image, pictures.COLOURS[2]) == 0


def test_a_wider_interval_has_more_ink() -> None:
    narrow = opened(intervals("gain", [Interval("a", 9, 10, 11), Interval("b", 0, 10, 20)]))
    wide = opened(intervals("gain", [Interval("a", 0, 10, 20), Interval("b", 0, 10, 20)]))
    assert coloured(wide, pictures.COLOURS[0]) > coloured(narrow, pictures.COLOURS[0]) > 0


@pytest.mark.parametrize(
    "uri",
    [
        lambda: bar("t", {}),
        lambda: bar("t", {"a": math.nan, "b": math.inf}),
        lambda: line("t", {}),
        lambda: line("t", {"a": [], "b": [(1, math.nan), (math.inf, 1)]}),
        lambda: intervals("t", []),
        lambda: intervals("t", [Interval("a", -math.inf, 0, 1)]),
    ],
)
def test_without_data_it_says_so_instead_of_failing(uri) -> None:
    image = opened(uri())
    assert coloured(image, pictures.COLOURS[0]) == 0
    assert len(image.getcolors(maxcolors=100_000)) > 1, "there is text on it"


def test_what_is_long_is_cut_and_says_how_much_is_missing() -> None:
    many = {f"page number {n}": float(n) for n in range(500)}
    first = dict(list(many.items())[:20])
    assert opened(bar("t", many)).size == opened(bar("t", first)).size
    assert bar("t", many) != bar("t", first), "it says that there are 480 more"
    opened(line("t", {str(n): [(x, x % 97 * n) for x in range(5000)] for n in range(1, 40)}))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    title=texts,
    rows=st.dictionaries(texts, numbers, max_size=25),
    ends=st.lists(st.tuples(texts, numbers, numbers, numbers), max_size=25),
)
def test_no_text_and_no_number_breaks_it(title: str, rows: dict[str, float], ends: list) -> None:
    opened(bar(title, rows, title))
    opened(line(title, {name: [(number, number), (1.0, 2.0)] for name, number in rows.items()}, title))
    opened(intervals(title, [Interval(*one) for one in ends], title))


def test_a_title_can_not_break_out_of_its_markdown() -> None:
    assert (
        pictures.markdown("a](x) ![b\n<i>", "data:image/png;base64,AA")
        == "![ax b i](data:image/png;base64,AA)"
    )


def test_importing_it_is_cheap() -> None:
    program = "import sys, lead_coordinator.pictures; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
