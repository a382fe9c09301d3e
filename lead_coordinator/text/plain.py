"""Hostile text as plain text: one printable line, or what a fragment of HTML shows."""

from __future__ import annotations

import unicodedata

MAX_HTML = 400_000
_HIDDEN = ["script", "style", "template", "noscript", "svg", "iframe", "object", "head"]
# Invisible, and used to reorder or hide what is shown.
_DROPPED = frozenset({"Cs", "Co", "Cn", "Cf"})
_KEPT_FORMATS = frozenset("\u200c\u200d")  # joiners that some scripts and emoji need


def one_line(text: str, limit: int) -> str:
    """`text` in NFC on one line, without control and formatting characters, at most `limit` characters.

    Cut at the end of a word, with an ellipsis, where it is longer.
    """
    # What is cut away here can't show; the factor leaves room for white space and marks.
    head = text[: 8 * limit + 64]
    kept = "".join(_shown(character) for character in head)
    line = " ".join(unicodedata.normalize("NFC", kept).split())
    if len(line) <= limit:
        return line
    cut = line[: limit - 1]
    at = cut.rfind(" ")
    return (cut[:at] if at > limit // 2 else cut).rstrip(" ,;:.-–—|/(&") + "…"


def html_text(html: str, limit: int) -> str:
    """What a fragment of HTML shows, on one line of at most `limit` characters. Never fails."""
    if "<" not in html and "&" not in html:
        return one_line(html, limit)
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(html[:MAX_HTML].replace("\0", " "))
    tree.strip_tags(_HIDDEN)
    body = tree.body
    return one_line("" if body is None else body.text(separator=" "), limit)


def _shown(character: str) -> str:
    if character <= "~":
        return character if character >= " " else " "
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    return character if category not in _DROPPED or character in _KEPT_FORMATS else ""
