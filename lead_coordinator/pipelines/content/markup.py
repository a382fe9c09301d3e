"""Is a page of HTML valid enough to publish? What a validator would say about structure, in sentences.

A reader of its own rather than a parser that repairs: what a repairing parser makes good silently is what has
to be found. Bounded: the page is cut, and only the first problems are told.
"""

from __future__ import annotations

from html.parser import HTMLParser

MAX_CHARACTERS = 2_000_000
MAX_PROBLEMS = 20
_VOID = frozenset(
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
        "param",
        "source",
        "track",
        "wbr",
    ]
)
# What a paragraph may not hold (the HTML standard, 4.4.1: its end tag is implied before them).
_ENDS_PARAGRAPH = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "details",
        "div",
        "dl",
        "fieldset",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "table",
        "ul",
    ]
)
_OBSOLETE = frozenset(
    [
        "acronym",
        "applet",
        "basefont",
        "big",
        "blink",
        "center",
        "dir",
        "font",
        "frame",
        "frameset",
        "marquee",
        "strike",
        "tt",
    ]
)
_PARENTS = {
    "li": {"ul", "ol", "menu"},
    "tr": {"table", "thead", "tbody", "tfoot"},
    "td": {"tr"},
    "th": {"tr"},
    "thead": {"table"},
    "tbody": {"table"},
}


def html_problems(html: str, *, whole_page: bool = True) -> list[str]:
    """What is wrong with a page (or, not `whole_page`, a piece of one), a sentence each; empty: nothing."""
    reader = _Reader()
    reader.feed(html[:MAX_CHARACTERS])
    reader.close()
    reader.end(whole_page)
    if len(html) > MAX_CHARACTERS:
        reader.problems.append(f"the page has over {MAX_CHARACTERS} characters")
    return reader.problems[:MAX_PROBLEMS]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self._open: list[str] = []
        self._ids: set[str] = set()
        self._headings: list[int] = []
        self._text: list[bool] = []
        self._titles = 0
        self._doctype = False

    def handle_decl(self, decl: str) -> None:
        self._doctype = self._doctype or decl.lower() == "doctype html"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._start(tag, attrs)
        if tag not in _VOID and "svg" not in self._open:
            self.handle_endtag(tag)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._start(tag, attrs)

    def _start(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(tag, attrs)
        if tag in _OBSOLETE:
            self._say(f"<{tag}> is obsolete")
        if tag in _ENDS_PARAGRAPH and "p" in self._open:
            self._say(f"<{tag}> stands inside <p>")
        parents = _PARENTS.get(tag)
        if parents is not None and (not self._open or self._open[-1] not in parents):
            self._say(f"<{tag}> stands outside {' or '.join(f'<{one}>' for one in sorted(parents))}")
        if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            self._headings.append(int(tag[1]))
        self._titles += tag == "title"
        if tag not in _VOID:
            self._open.append(tag)
            self._text.append(False)

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            self._say(f"</{tag}> ends an element that has no end")
            return
        if tag not in self._open:
            self._say(f"</{tag}> ends nothing")
            return
        while self._open:
            ended = self._open.pop()
            filled = self._text.pop()
            if filled and self._text:
                self._text[-1] = True
            if not filled and (
                ended in ("a", "title") or (len(ended) == 2 and ended[0] == "h" and ended != "hr")
            ):
                self._say(f"<{ended}> is empty")
            if ended == tag:
                return
            self._say(f"<{ended}> isn't closed before </{tag}>")

    def handle_data(self, data: str) -> None:
        if self._text and data.strip():
            self._text[-1] = True

    def end(self, whole_page: bool) -> None:
        """What can be said only once all of it was read."""
        for tag in self._open:
            self._say(f"<{tag}> is never closed")
        if not whole_page:
            return
        if not self._doctype:
            self._say("it doesn't begin with <!doctype html>")
        if self._titles != 1:
            self._say(f"it has {self._titles} <title>, one is needed")
        if self._headings.count(1) != 1:
            self._say(f"it has {self._headings.count(1)} <h1>, one is needed")
        before = 0
        for level in self._headings:
            if level > before + 1:
                self._say(
                    f"<h{level}> follows <h{before}>: a level is left out"
                    if before
                    else f"<h{level}> is the first heading, <h1> is needed"
                )
            before = level

    def _attributes(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        for name in {name for name in names if names.count(name) > 1}:
            self._say(f"<{tag}> has {name} twice")
        found = dict(attrs)
        if (given := found.get("id")) is not None:
            if not given or given in self._ids:
                self._say(f"the id {given!r} stands there twice" if given else f"<{tag}> has an empty id")
            self._ids.add(given)
        if tag == "img" and "alt" not in found:
            self._say("<img> has no alt")
        if any(name.startswith("on") for name in names):
            self._say(f"<{tag}> has an event handler")

    def _say(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
