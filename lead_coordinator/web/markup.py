"""HTML before and beside its parsing: cut to what can be parsed at a bounded cost, and its visible text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

MAX_CHARACTERS = 3_000_000
# Some of the parser's work grows with tags times levels.
MAX_TAGS = 60_000
MAX_DEPTH = 1000
MAX_MAIN_TEXT = 200_000
INVISIBLE = frozenset({"script", "style", "noscript", "template", "svg", "iframe"})
_FURNITURE = INVISIBLE | {"nav", "footer", "aside", "header"}
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]{0,20})")
# Elements that need no end tag: they don't nest by being left open.
_WITHOUT_END = frozenset(
    [
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "source",
        "track",
        "wbr",
        "p",
        "li",
        "dt",
        "dd",
        "tr",
        "td",
        "th",
        "option",
        "thead",
        "tbody",
        "tfoot",
        "rp",
        "rt",
        "optgroup",
        "colgroup",
    ]
)


def bounded(html: str) -> tuple[str, bool]:
    """The page without null characters, cut where it has too many tags or nests them too deeply."""
    text = html[:MAX_CHARACTERS].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    cut = len(html) > MAX_CHARACTERS
    depth = 0
    for number, tag in enumerate(_TAG.finditer(text)):
        if tag[2].lower() not in _WITHOUT_END:
            depth = max(0, depth - 1) if tag[1] else depth + 1
        if number >= MAX_TAGS or depth > MAX_DEPTH:
            return text[: tag.start()], True
    return text, cut


def main_text(tree: LexborHTMLParser) -> str:
    """The text of <main>, or else of the body without navigation and furniture."""
    main = tree.css_first("main") or tree.css_first("[role=main]")
    node = main or tree.body
    if node is None:
        return ""
    return visible_text(node, INVISIBLE if main is not None else _FURNITURE)


def visible_text(top: LexborNode, skipped: frozenset[str]) -> str:
    """The text below a node, without the elements named. Without recursion: depth is the page's choice."""
    pieces: list[str] = []
    length = 0
    node: LexborNode | None = top.first_child
    depth = 1
    while node is not None and length < MAX_MAIN_TEXT:
        if node.tag == "-text":
            piece = node.text_content or ""
            pieces.append(piece)
            length += len(piece) + 1
        child = node.first_child if node.tag not in skipped else None
        if child is not None:
            node, depth = child, depth + 1
            continue
        while node is not None and node.next is None:
            depth -= 1
            node = node.parent if depth else None
        node = None if node is None else node.next
    return " ".join(pieces)[:MAX_MAIN_TEXT]
