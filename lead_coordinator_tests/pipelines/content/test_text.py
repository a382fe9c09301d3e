"""Text that a model wrote: cleaned, counted, cut, made into addresses."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.pipelines.content.text import (
    clean_line,
    clean_markdown,
    count_words,
    cut_at_word,
    dangers,
    outside_code,
    plain_text,
    printable,
    slugify,
)

# Text full of what Markdown and HTML are made of.
PIECES = st.sampled_from(
    [
        "<script>",
        "</script>",
        "<b>",
        "<img src=x onerror=alert(1)>",
        "<a href='javascript:x'>",
        "`",
        "```\n",
        "\n",
        "[",
        "]",
        "](javascript:x)",
        "](http://a.b/c)",
        "![",
        "](data:x)",
        "# ",
        "## ",
        "> ",
        "- ",
        "\\",
        "<!--",
        "-->",
        "&lt;",
        "<https://a.b>",
        "word ",
        "[1]: javascript:x\n",
        "[a][1]",
        "| a | b |\n",
        "~~~\n",
        "\t",
        "\u202e",
        "é",
    ]
)
MARKUP = st.lists(PIECES | st.text(max_size=5), max_size=40).map("".join)


@given(st.text(max_size=300))
def test_a_slug_is_always_a_slug(text: str) -> None:
    slug = slugify(text)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)
    assert len(slug) <= 80
    assert slugify(slug) == slug


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Crème brûlée: l'art du caramel", "creme-brulee-lart-du-caramel"),
        ("Straße & Łódź", "strasse-lodz"),
        ("../../etc/passwd", "etc-passwd"),
        ("  ---  A__B  ", "a-b"),
        ("C++ & C#", "c-c"),
        ("x" * 200, "x" * 80),
        ("one-two " * 30, "one-two-one-two-one-two-one-two-one-two-one-two-one-two-one-two-one-two-one-two"),
    ],
)
def test_slugs(text: str, slug: str) -> None:
    assert slugify(text) == slug


def test_texts_without_latin_letters_have_addresses_of_their_own() -> None:
    assert slugify("自宅の断熱") != slugify("家庭菜園")
    assert slugify("自宅の断熱").startswith("article-")


@given(MARKUP)
def test_clean_markdown_holds_no_html_outside_code(text: str) -> None:
    cleaned = clean_markdown(text)
    prose = "".join(piece for is_code, piece in outside_code(cleaned) if not is_code)
    assert not re.search(r"<[a-zA-Z/!?]", prose), f"no tag is left outside code: {cleaned!r}"


@given(MARKUP | st.text(max_size=200))
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(piece for _, piece in outside_code(text)) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a <b>bold</b> word<br>next", "a bold word\nnext"),
        ("`<b>` stays, <b>this</b> goes", "`<b>` stays, this goes"),
        ("```html\n<script>x</script>\n```", "```html\n<script>x</script>\n```"),
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("5 < 6 and a<b", "5 < 6 and a&lt;b"),
        ("![a chart](http://x.y/z.png) shows", "a chart shows"),
        ("[ok](https://a.b/c_(d)) [bad](javascript:x) [rel](../x)", "[ok](https://a.b/c_(d)) bad rel"),
        ("[r][1]\n\n[1]: javascript:x", "r"),
        ("1. Run\n\n   ```bash\n   a < b\n   ```\n2. Stop", "1. Run\n\n```bash\na < b\n```\n2. Stop"),
        ("```\n<script>never closed", "\\`\\`\\`\n&lt;script>never closed"),
        ("`a\n- <script> ` b", "\\`a\n- &lt;script> \\` b"),
        ("\\`<script>`", "\\`&lt;script>\\`"),
        ("# Big\n## Second\n### Third", "### Big\n### Second\n### Third"),
        ("- [ ] to do", "- \\[ ] to do"),
        ("<a href='x'>text</a> <https://a.b>", "text https://a.b"),
        ("one\r\ntwo\x00\x1b[31m", "one\ntwo  \\[31m"),
    ],
)
def test_clean_markdown(text: str, cleaned: str) -> None:
    assert clean_markdown(text) == cleaned


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<ScRiPt src=x>", ["the HTML tag <script>"]),
        ("< script>", ["the HTML tag <script>"]),
        ("<p onclick = 'x'>", ["the HTML event handler onclick"]),
        ("[x]( JavaScript:alert(1))", ["a link to javascript:"]),
        ("[x](data:text/html;base64,AA)", ["a link to data:"]),
        ("[1]: vbscript:x", ["a link to vbscript:"]),
        ("Use `<script>` sparingly, and an <img> with a size. Set data: none.", []),
        ("```\n<iframe>\n```", []),
    ],
)
def test_dangers(text: str, found: list[str]) -> None:
    assert dangers(text) == found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("## **A title**", "A title"),
        ('"Quoted"', "Quoted"),
        ("**a** and **b**", "**a** and **b**"),
        ("The <b>bold</b>\n title\u202e", "The bold title"),
        ("The <picture> element", "The <picture> element"),
    ],
)
def test_clean_line(text: str, line: str) -> None:
    assert clean_line(text) == line


@given(st.text(max_size=200), st.integers(min_value=1, max_value=80))
def test_cut_at_word(text: str, limit: int) -> None:
    cut = cut_at_word(text, limit)
    assert len(cut) <= limit
    assert text.startswith(cut)


@given(st.text(max_size=200))
def test_printable_is_printable(text: str) -> None:
    assert all(ord(c) >= 32 and not 0xD800 <= ord(c) <= 0xDFFF for c in printable(text))


def test_words_are_counted_as_people_count_them() -> None:
    assert count_words("It's a well-known fact: 1,200 words.") == 6
    assert count_words("自宅の断熱を見直す") == 4, "scripts without spaces count two characters as a word"
    assert (
        count_words(plain_text("| a | b |\n|---|---|\n| 1 | 2 |\n\n1. [link](http://x.y/z)\n- **two** words"))
        == 7
    )
