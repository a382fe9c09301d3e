"""Plain functions over text that a model wrote: cleaning, counting, cutting, slugs.

What comes in is hostile until proved otherwise. These functions don't make HTML; render.py does, behind its
own walls. Here the Markdown itself is brought to a harmless form, because it is published as a file too.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
import unicodedata

SLUG_MAX = 80
# Letters that Unicode doesn't take apart into a Latin one and a mark.
_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
)
# A closed fenced block, at most indented; or a code span within one line. Only what every Markdown parser
# takes for code.
_CODE = re.compile(
    r"^(?P<indent>[ \t]{0,12})(?P<fence>`{3,9}|~{3,9})[ \t]*(?P<info>[\w+#.-]{0,30})[^`\n]*\n"
    r"(?P<block>.*?)^[ \t]{0,12}(?P=fence)[ \t]*$"
    r"|(?<![`\\])(?P<ticks>`{1,2})(?!`)[^`\n]{1,1000}(?P=ticks)(?!`)",
    re.M | re.S,
)
_HARMLESS_TAG = re.compile(
    r"</?(?:b|i|u|em|strong|p|span|div|h[1-6]|small|mark|sub|sup|ul|ol|li|section|article|center|font)"
    r"(?:\s+[a-z-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'))*\s*>",
    re.I,
)
_ANCHOR_TAG = re.compile(r"</?a(?:\s[^<>]{0,2000})?>", re.I)
_LINE_BREAK_TAG = re.compile(r"<br\s*/?>", re.I)
_TAG_START = re.compile(r"<(?=[a-zA-Z/!?])")
_AUTOLINK = re.compile(r"<(https?://[^\s<>]{1,2000})>")
_IMAGE = re.compile(r"!\[([^\[\]\n]{0,500})\](?:\([^()\n]{0,2000}\)|\[[^\[\]\n]{0,200}\])?")
LINK = re.compile(
    r"\[([^\[\]\n]{0,500})\]\(\s*([^()\s]{0,2000}(?:\([^()\s]{0,500}\)[^()\s]{0,500})?)([^()\n]{0,500})\)"
)
_REFERENCE = re.compile(r"\[([^\[\]\n]{1,500})\]\[[^\[\]\n]{0,200}\]")
_LINK_DEFINITION = re.compile(r"^[ \t]{0,3}\[[^\[\]\n]{1,200}\]:[^\n]*$", re.M)
_ESCAPE_OR_MARK = re.compile(r"\\[^\n]|[\[`]")
_TILDES = re.compile(r"~{3,}")
_SAFE_TARGET = re.compile(r"(?:https?://|mailto:)[^\s<>\"'`\\]+\Z", re.I)
_BIG_HEADING = re.compile(r"^[ \t]{0,3}#{1,2}(?=[ \t])", re.M)
_WORD = re.compile(r"[^\W_]+(?:['’.,-][^\W_]+)*")
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0e7f]")
_DANGEROUS = (
    (
        # What only an attack or an accident writes. Others (<img>, <link>) an article about the web may name;
        # they are shown as text.
        re.compile(
            r"<\s*/?\s*(script|iframe|object|embed|applet|form|style|base|svg|frame|frameset)\b", re.I
        ),
        "the HTML tag <{0}>",
    ),
    (re.compile(r"<[^>]{0,500}\s(on[a-z]{3,30})\s*=", re.I), "the HTML event handler {0}"),
    (
        re.compile(r"(?:\]\(|\]:|href\s*=|src\s*=)[\s\"'<]*(javascript|data|vbscript|file)\s*:", re.I),
        "a link to {0}:",
    ),
)


def safe_link(target: str) -> bool:
    """Whether an address may stand in a link: http, https or mailto, nothing in it that ends an attribute."""
    return _SAFE_TARGET.match(target) is not None


def printable(text: str, *, several_lines: bool = False) -> str:
    """`text` in NFC without control characters, direction overrides and lone surrogates.

    One line: every run of white space becomes one space. Several: line ends become \\n, and \\n and tab stay.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if category == "Cc":
            kept.append(character if several_lines and character in "\n\t" else " ")
        elif (
            category != "Cs"
            and not "\u202a" <= character <= "\u202e"
            and not "\u2066" <= character <= "\u2069"
        ):
            kept.append(character)
    text = unicodedata.normalize("NFC", "".join(kept))
    return text.strip() if several_lines else " ".join(text.split())


def outside_code(text: str) -> list[tuple[bool, str]]:
    """`text` in pieces: (is code, piece). Fenced blocks and code spans are code; joined, the pieces are
    `text`."""
    pieces = []
    end = 0
    for match in _CODE.finditer(text):
        is_code = match["block"] is None or not re.search("```|~~~", match["block"])
        pieces += [(False, text[end : match.start()]), (is_code, match[0])]
        end = match.end()
    return [*pieces, (False, text[end:])]


def dangers(text: str) -> list[str]:
    """What in `text`, outside code, could harm a reader's browser: named, each once."""
    prose = " ".join(piece for is_code, piece in outside_code(text) if not is_code)
    found = {
        label.format(match[1].lower()) for pattern, label in _DANGEROUS for match in pattern.finditer(prose)
    }
    return sorted(found)


def clean_line(text: str) -> str:
    """A title or heading: one printable line, without formatting tags and Markdown marks around it."""
    text = _HARMLESS_TAG.sub("", _LINE_BREAK_TAG.sub(" ", printable(text)))
    text = re.sub(r"^#{1,6}\s+", "", text.strip())
    for mark in ("**", "__", '"', "“"):
        close = "”" if mark == "“" else mark
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(close):
            inner = text[len(mark) : -len(mark)]
            text = inner if mark not in inner and close not in inner else text
    return " ".join(text.split())


def clean_markdown(text: str) -> str:
    """Markdown with nothing in it that is HTML, for any parser that knows fenced code.

    Code stays as written, in a form that leaves no doubt where it ends. Elsewhere formatting tags are
    dropped, other tags escaped, images replaced by their description, inline links kept only to http, https
    and mailto, and headings of level 1 and 2 lowered to 3 (the page's own are above). A backtick that is part
    of no code and a bracket that opens no link are escaped: the first could make code of something else, and
    thousands of the second keep a parser busy for minutes.
    """
    cleaned = ""
    for is_code, piece in outside_code(printable(text, several_lines=True)):
        if not is_code:
            cleaned += _clean_prose(piece)
            continue
        trailing = len(cleaned) - len(cleaned.rstrip("\\"))
        cleaned += ("\\" if trailing % 2 else "") + _clean_code(piece)
    return cleaned.strip()


def _clean_code(code: str) -> str:
    match = _CODE.fullmatch(code)
    if match is None or match["block"] is None:
        return code
    block = textwrap.dedent(match["block"].expandtabs(4)) if match["indent"] else match["block"]
    return f"```{match['info']}\n{block}```"


def _clean_prose(text: str) -> str:
    text = _LINE_BREAK_TAG.sub("\n", text)
    text = _ANCHOR_TAG.sub("", _HARMLESS_TAG.sub("", text))
    text = _AUTOLINK.sub(r"\1", text)
    text = _IMAGE.sub(r"\1", text)
    text = _REFERENCE.sub(r"\1", _LINK_DEFINITION.sub("", text))
    text = _TILDES.sub("~", _BIG_HEADING.sub("###", text))
    pieces = []
    end = 0
    for link in LINK.finditer(text):
        words = _escape_marks(link[1])
        target = link[2]
        kept = f"[{words}]({target})" if _SAFE_TARGET.match(target) and not words.endswith("\\") else words
        before = _escape_marks(text[end : link.start()])
        # Directly after an exclamation mark a link would be an image.
        pieces += [before, " " if before.endswith("!") else "", kept]
        end = link.end()
    return _TAG_START.sub("&lt;", "".join([*pieces, _escape_marks(text[end:])]))


def _escape_marks(text: str) -> str:
    return _ESCAPE_OR_MARK.sub(lambda found: found[0] if found[0][0] == "\\" else "\\" + found[0], text)


def plain_text(markdown: str) -> str:
    """Markdown as one line of running text, for counting words and making descriptions."""
    text = LINK.sub(r"\1", _IMAGE.sub(r"\1", markdown))
    text = re.sub(r"^[ \t]*(?:[-*+>]|#{1,6}|\d{1,3}[.)])[ \t]+", "", text, flags=re.M)
    text = re.sub(r"^[ \t]*\|?[ \t:|-]+\|[ \t:|-]*$", "", text, flags=re.M)  # the rule under a table's head
    text = re.sub(r"[*_`~|]", " ", text).replace("&lt;", "<").replace("&amp;", "&")
    return " ".join(text.split())


def count_words(text: str) -> int:
    """Words in plain text. Scripts that put no space between words count two characters as one."""
    ideographs = len(_IDEOGRAPH.findall(text))
    return len(_WORD.findall(_IDEOGRAPH.sub(" ", text))) + ideographs // 2


def cut_at_word(text: str, limit: int) -> str:
    """`text` cut to at most `limit` characters, at the end of a word, without trailing punctuation."""
    if len(text) <= limit:
        return text
    head = text[: limit + 1]
    head = head[: head.rindex(" ")] if " " in head[1:] else text[:limit]
    return head.rstrip(" ,;:.-–—|/(&")


def slugify(text: str, *, limit: int = SLUG_MAX) -> str:
    """An address made of a-z, 0-9 and single inner hyphens, 1 to `limit` characters, cut at a hyphen where
    possible.

    Accents are dropped. Text with nothing to keep (another script, only signs) gives `article-` and a digest
    of it, so different texts still get different addresses.
    """
    letters = text.lower().translate(_LETTERS)
    plain = unicodedata.normalize("NFKD", letters).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")
    if not slug:
        return f"article-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
    if len(slug) > limit:
        head, _, _ = slug[: limit + 1].rpartition("-")
        slug = (head if len(head) >= limit // 2 else slug[:limit]).strip("-")
    return slug
