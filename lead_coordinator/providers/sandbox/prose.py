"""Paragraphs, lists and tables from the phrases: readable, varied, the same for the same source of chance."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lead_coordinator.providers.sandbox import phrases
from lead_coordinator.providers.sandbox.brief import PromptBrief

SENTENCES_A_PARAGRAPH = (3, 5)
# Another paragraph would miss the mark by more.
WORDS_TOO_FEW = 25


class Prose:
    """Writes about one brief. Sentences come from a shuffled pool and repeat only when it is used up (and are
    then spun anew)."""

    def __init__(self, brief: PromptBrief, source: random.Random) -> None:
        self.brief = brief
        self.source = source
        self._pool: list[str] = []
        self._points: list[str] = []
        self._notes = list(brief.notes)
        self._first_heading = source.randrange(len(phrases.HEADINGS))
        self._tabled = False
        self._marked = False

    def mark(self) -> str:
        """The notice that this is sandbox text, as a Markdown quotation; once, then nothing."""
        if self._marked:
            return ""
        self._marked = True
        return f"> {phrases.MARK}"

    def heading(self, index: int, count: int) -> str:
        """The heading of section `index` (from 0) of `count`."""
        if index == 0:
            template = self.source.choice(phrases.HEADINGS_FIRST)
        elif index == count - 1:
            template = self.source.choice(phrases.HEADINGS_LAST)
        else:
            # Five and twelve have no common divisor: the stride gives every index a heading of its own.
            template = phrases.HEADINGS[(self._first_heading + index * 5) % len(phrases.HEADINGS)]
        return _capital(self._fill(template, ()))

    def point(self) -> str:
        """A step as an imperative, without a full stop."""
        if not self._points:
            self._points = list(phrases.POINTS)
            self.source.shuffle(self._points)
        return _capital(phrases.spin(self._points.pop(), self.source))

    def sentence(self, points: Sequence[str] = ()) -> str:
        """One sentence, about one of the points where the template has a place for it."""
        while True:
            if not self._pool:
                self._pool = list(phrases.SENTENCES)
                self.source.shuffle(self._pool)
            template = self._pool.pop()
            if "<note>" in template and not self._notes:
                continue
            return _capital(self._fill(phrases.spin(template, self.source), points))

    def paragraph(self, points: Sequence[str] = ()) -> str:
        count = self.source.randint(*SENTENCES_A_PARAGRAPH)
        return " ".join(self.sentence(points) for _ in range(count))

    def body(self, words: int, points: Sequence[str] = ()) -> str:
        """Markdown of about `words` words: paragraphs, with a list or a small table where it is long
        enough."""
        parts: list[str] = [self.paragraph(points)]
        written = count_words(parts[0])
        extra = self.source.choice(("list", "list", "table", "none")) if words >= 90 else "none"
        if extra == "table" and self._tabled:
            extra = "list"
        while written < words - WORDS_TOO_FEW:
            if extra != "none" and written >= words * 0.35:
                part = self._list(points) if extra == "list" else self._table()
                extra = "none"
            else:
                part = self.paragraph(points)
            parts.append(part)
            written += count_words(part)
        return "\n\n".join(parts)

    def _list(self, points: Sequence[str]) -> str:
        items = list(points[:5]) if len(points) >= 3 else [self.point() for _ in range(3)]
        lead = _capital(phrases.spin(self.source.choice(phrases.LIST_LEADS), self.source))
        return lead + "\n\n" + "\n".join(f"- {_capital(item)}." for item in dict.fromkeys(items))

    def _table(self) -> str:
        self._tabled = True
        lead = _capital(phrases.spin(self.source.choice(phrases.TABLE_LEADS), self.source))
        rows = [" | ".join(phrases.spin(cell, self.source) for cell in row) for row in phrases.TABLE_ROWS]
        table = [
            "| Way | Cost | Time | What speaks for it |",
            "| --- | --- | --- | --- |",
            *(f"| {row} |" for row in rows),
        ]
        return lead + "\n\n" + "\n".join(table)

    def _fill(self, text: str, points: Sequence[str]) -> str:
        if "<point>" in text:
            # A point from an outline may be any phrase; ours are imperatives, which fit every template.
            text = text.replace("<point>", phrases.spin(self.source.choice(phrases.POINTS), self.source))
        if "<note>" in text:
            text = text.replace("<note>", self._notes.pop(0))
        return text.replace("<subject>", self.brief.subject).replace("<audience>", self.brief.audience)


def count_words(text: str) -> int:
    return len(text.split())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
