"""Hostile text becomes one printable line."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.text.plain import html_text, one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  two \r\n words\t", "two words"),
        ("a\x00b\x1bc", "a b c"),
        ("safe\u202egnp.exe", "safegnp.exe"),
        ("half \ud800 pair", "half pair"),
        ("e\u0301", "é"),
        ("👩\u200d🌾 farm", "👩\u200d🌾 farm"),
        ("", ""),
    ],
)
def test_one_line(text: str, expected: str) -> None:
    assert one_line(text, 100) == expected


def test_a_long_line_is_cut_at_a_word() -> None:
    assert one_line("one two three four", 14) == "one two three…"
    assert one_line("one two three, four", 15) == "one two three…"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"


@given(st.text(max_size=300), st.integers(5, 80))
def test_a_line_is_printable_and_short(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line == " ".join(line.split())
    assert all(unicodedata.category(c) not in ("Cc", "Cs") for c in line)
    assert one_line(line, limit) == line, "a clean line stays as it is"


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>One</p><p>two &amp; three</p>", "One two & three"),
        ("a<script>alert(1)</script>b<style>p{}</style>", "a b"),
        ("&lt;b&gt; is a tag", "<b> is a tag"),
        ("plain < 3", "plain < 3"),
        ("no markup", "no markup"),
        ("<p>unclosed <b>bold", "unclosed bold"),
        ("<!-- hidden -->", ""),
    ],
)
def test_html_text(html: str, expected: str) -> None:
    assert html_text(html, 100) == expected


@given(st.text(alphabet="<>/&;abc\"'= ![]-", max_size=200))
def test_html_text_never_fails(html: str) -> None:
    assert len(html_text(html, 50)) <= 50
