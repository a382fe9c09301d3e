"""Fills any JSON schema from a brief, by the names and descriptions of its fields.

- What the prompt already holds is kept: a draft in it is returned as it is where the schema asks for the same
  fields (an edit), the headings of an outline become the headings of the sections.
- Of a list of objects with ids that the prompt holds, an answer under the same name says something of each.
- Everything else is written by `prose`: what a field is for is told by its name (title, slug,
  meta_description, body, score, issues …), how long it may be by its bounds, as keywords or in words.
- The same seed and request give the same answer. The longest text that opens an article starts with the mark.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lead_coordinator.providers.sandbox import phrases
from lead_coordinator.providers.sandbox.brief import PromptBrief, Section, clean
from lead_coordinator.providers.sandbox.prose import Prose, count_words
from lead_coordinator.providers.sandbox.schema import BadSchema, Node, Range, SchemaReader

MAX_VALUES = 3000
MAX_ITEMS = 200
INTRODUCTION_WORDS = 90
_LONG = frozenset({"body", "markdown", "content", "article", "html", "text", "paragraph", "paragraphs"})
_OPENING = frozenset({"introduction", "intro", "opening", "lead", "lede"})
_HEADING = frozenset({"heading", "headline", "h2", "h3", "subheading"})
_SUMMARY = frozenset({"description", "summary", "abstract", "excerpt", "angle", "snippet"})


class Writer:
    """One answer. `prose` brings brief and chance."""

    def __init__(self, schema: Mapping[str, Any], prose: Prose) -> None:
        self._reader = SchemaReader(schema)
        self._schema = schema
        self._prose = prose
        self._brief: PromptBrief = prose.brief
        self._sections: tuple[Section, ...] = prose.brief.sections
        self._values = 0

    def answer(self) -> Any:
        """The value for the whole schema. Raises `BadSchema` where it can't be answered."""
        return self._value(self._schema, "", Range(), ("",), None, 0)

    def _value(
        self, raw: object, name: str, words: Range, path: tuple[str, ...], section: int | None, depth: int
    ) -> Any:
        node = self._reader.node(raw, depth)
        self._values += 1
        if self._values > MAX_VALUES:
            raise BadSchema(f"the schema asks for more than {MAX_VALUES} values")
        kept = self._brief.draft.get(name) if depth == 1 else None
        if kept is not None and (fitting := self._fit(kept, raw, depth)) is not None:
            return fitting
        if node.enum:
            return node.enum[0]
        match node.kind:
            case "object":
                return {
                    key: self._value(child, key, words, (*path, key), section, depth + 1)
                    for key, child in self._reader.properties(node).items()
                }
            case "array":
                return self._array(node, name, path, section, depth)
            case "integer" | "number":
                return self._number(node, name, section)
            case "boolean":
                return True
            case "null":
                return None
        return self._string(node, name, words, path, section)

    # -- lists and numbers -----------------------------------------------------------------------------------

    def _array(
        self, node: Node, name: str, path: tuple[str, ...], section: int | None, depth: int
    ) -> list[Any]:
        child = node.raw.get("items")
        if child is None:
            return []
        if depth == 1 and name in self._brief.given:
            return self._about_given(child, name, path, depth)
        is_sections = section is None and _last(name) in (
            "sections",
            "chapters",
            "headings",
            "outline",
            "parts",
        )
        count = self._count(node, name, is_sections)
        share = Range()
        if _last(name) == "paragraphs":
            share = Range(max(30, self._section_words(section) // max(count, 1)))
        return [
            self._value(child, name, share, (*path, str(i)), i if is_sections else section, depth + 1)
            for i in range(count)
        ]

    def _about_given(self, child: object, name: str, path: tuple[str, ...], depth: int) -> list[Any]:
        """An object for each that the prompt holds under this name; what they say already is kept."""
        brief, said = self._brief, []
        for number, row in enumerate(brief.given[name]):
            title = row.get("title")
            self._brief = replace(brief, title=clean(title, 140)) if isinstance(title, str) else brief
            made = self._value(child, name, Range(), (*path, str(number)), None, depth + 1)
            if isinstance(made, dict):
                made |= {key: row[key] for key in made if isinstance(row.get(key), str)}
            said.append(made)
        self._brief = brief
        return said

    def _count(self, node: Node, name: str, is_sections: bool) -> int:
        wanted = node.items
        low, high = wanted.low or 0, MAX_ITEMS if wanted.high is None else min(wanted.high, MAX_ITEMS)
        if is_sections and self._sections:
            natural = len(self._sections)
        elif "claim" in name:
            natural = 0
        elif "issue" in name or "warning" in name or "problem" in name:
            natural = self._prose.source.randint(0, 1)
        elif wanted.low is not None and wanted.high is not None:
            natural = self._prose.source.randint(low, min(high, max(low, low + 3)))
        else:
            natural = 6 if is_sections else 4
        count = max(low, min(natural, high))
        if is_sections and not self._sections:
            self._sections = tuple(
                Section(self._prose.heading(i, count), tuple(self._prose.point() for _ in range(4)))
                for i in range(count)
            )
        return count

    def _number(self, node: Node, name: str, section: int | None) -> int | float:
        limits = node.numbers
        if "words" in name:
            value: float = self._section_words(section)
        elif "score" in name or "quality" in name or "confidence" in name:
            value = (100 if limits.high is None else limits.high) * self._prose.source.uniform(0.86, 0.95)
        else:
            value = self._prose.source.uniform(1, 10)
        return limits.nearest(value, whole=node.kind == "integer")

    def _section_words(self, section: int | None) -> int:
        count = max(len(self._sections), 1)
        if section is not None and section < len(self._sections) and self._sections[section].target_words:
            planned = sum(one.target_words for one in self._sections) + INTRODUCTION_WORDS
            # An outline that plans too little is stretched: the words of the whole article come first.
            stretch = max(1.0, self._brief.words / max(planned, 1))
            return round(self._sections[section].target_words * stretch)
        return max(60, (self._brief.words - INTRODUCTION_WORDS) // count + 10)

    # -- texts -----------------------------------------------------------------------------------------------

    def _string(self, node: Node, name: str, words: Range, path: tuple[str, ...], section: int | None) -> str:
        if pattern := node.raw.get("pattern"):
            return self._patterned(str(pattern), node, name)
        limits = node.characters
        text = self._text(node, name.lower(), words, path, section)
        return self._sized(text, limits)

    def _text(self, node: Node, name: str, words: Range, path: tuple[str, ...], section: int | None) -> str:
        prose, brief = self._prose, self._brief
        last = _last(name)
        inside = any(part in ("issues", "warnings", "problems") for part in path)
        here = self._sections[section] if section is not None and section < len(self._sections) else None
        match last:
            case _ if inside:
                return phrases.spin(prose.source.choice(phrases.ISSUES), prose.source)
            case "slug":
                return slug(brief.title)
            case "url" | "link" | "href":
                return f"https://example.org/{slug(brief.title)}"
            case "language" | "lang" | "locale":
                return "en"
            case "keyword" | "keyphrase":
                return brief.subject
            case "keywords" | "tags" | "tag" | "topics":
                return prose.source.choice(brief.subject.split()) if " " in brief.subject else brief.subject
            case "audience":
                return brief.audience
            case "date" | "published":
                return "2026-01-01"
            case "title" | "name" if "seo" in name or "meta" in name:
                return self._seo_title(node)
            case "headline" | "title" if section is None:
                return brief.title
            case _ if last in _HEADING or (last == "title" and here is not None) or last == "headings":
                return here.heading if here else prose.heading(1, 3)
            case _ if last in _SUMMARY:
                return self._summary(node)
            case _ if last in _OPENING:
                return self._opening(node)
            case _ if last in _LONG:
                return self._long(node, words, section)
            case "conclusion" | "closing":
                return prose.body(max(words.low or 0, node.words.low or 60))
            case "points" | "point" | "steps" | "step" | "bullets" | "ideas":
                return prose.point()
        wanted = node.words
        return prose.body(wanted.low) if wanted.low and wanted.low > 25 else prose.sentence()

    def _long(self, node: Node, words: Range, section: int | None) -> str:
        """The text of a section, or of the whole article where there are no sections."""
        prose = self._prose
        here = self._sections[section] if section is not None and section < len(self._sections) else None
        wanted = node.words.low or words.low
        if here is not None:
            text = prose.body(wanted or self._section_words(section), here.points)
            return text if section else _joined(prose.mark(), text)
        if words.low or _last(node.description.lower()) == "paragraph":
            return _joined(prose.mark(), prose.paragraph())
        sections = self._sections or tuple(Section(prose.heading(i, 6)) for i in range(6))
        share = max(60, ((wanted or self._brief.words) - INTRODUCTION_WORDS) // len(sections) + 10)
        parts = [prose.mark(), prose.body(INTRODUCTION_WORDS)]
        for one in sections:
            parts += [f"## {one.heading}", prose.body(one.target_words or share, one.points)]
        return "\n\n".join(filter(None, parts))

    def _opening(self, node: Node) -> str:
        mark = self._prose.mark()
        wanted = node.words.low or INTRODUCTION_WORDS
        lead = f"This article is about {self._brief.subject}, for {self._brief.audience}."
        text = f"{lead} {self._prose.sentence()} {self._prose.sentence()}"
        rest = wanted + 10 - count_words(mark) - count_words(text)
        return _joined(mark, text, self._prose.body(rest) if rest > 20 else "")

    def _summary(self, node: Node) -> str:
        brief = self._brief
        text = (
            f"{brief.title}: what {brief.audience} need to know, in plain words and in the order that works."
        )
        low, high = node.characters.low or 0, node.characters.high or 300
        if len(text) > high:
            text = f"{clean(brief.title, max(high - 40, 20))}: what to know, in plain words."
        while len(text) < low:
            text = f"{text} Sandbox text, made to try the platform."
        return text

    def _seo_title(self, node: Node) -> str:
        high = node.characters.high or 60
        return clean(self._brief.title, high)

    def _sized(self, text: str, limits: Range) -> str:
        while limits.low is not None and len(text) < limits.low:
            text = f"{text} {self._prose.sentence()}"
        if limits.high is not None and len(text) > limits.high:
            cut = text[: limits.high]
            text = (
                cut.rsplit(" ", 1)[0]
                if " " in cut and len(cut.rsplit(" ", 1)[0]) >= (limits.low or 0)
                else cut
            )
            text = text.rstrip(" ,;:") if len(text.rstrip(" ,;:")) >= (limits.low or 0) else text
        return text

    def _patterned(self, pattern: str, node: Node, name: str) -> str:
        """A text for a pattern, out of the kinds that schemas use; the nearest guess where none matches."""
        title, low = slug(self._brief.title), node.characters.low or 1
        guesses = (
            self._sized(self._text(node, name.lower(), Range(), ("",), None), node.characters),
            *(
                self._sized(title, Range(None, node.characters.high)),
                title.split("-")[0],
                title.replace("-", "_"),
            ),
            *(
                "en",
                "en-US",
                "2026-01-01",
                "2026-01-01T00:00:00Z",
                "sandbox@example.org",
                "https://example.org/",
            ),
            *("1" * low, "a" * low, "A" * low, "#336699", "1.0", "1.0.0"),
        )
        for guess in guesses:
            try:
                if len(pattern) <= 200 and re.search(pattern, guess):
                    return guess
            except re.error:
                break
        return guesses[1]

    # -- keeping what the prompt holds -----------------------------------------------------------------------

    def _fit(self, value: Any, raw: object, depth: int) -> Any:
        """`value` cut to the fields that the schema asks for; None where it doesn't fit."""
        node = self._reader.node(raw, depth)
        if node.enum:
            return value if value in node.enum else None
        match node.kind:
            case "object" if isinstance(value, Mapping):
                fitted = {}
                for key, child in self._reader.properties(node).items():
                    part = self._fit(value[key], child, depth + 1) if key in value else None
                    if part is None:
                        return None
                    fitted[key] = part
                return fitted
            case "array" if isinstance(value, list) and node.raw.get("items") is not None:
                parts = [self._fit(one, node.raw["items"], depth + 1) for one in value[:MAX_ITEMS]]
                wanted = _range_of(node)
                fits = all(part is not None for part in parts) and _within(len(parts), wanted)
                return parts if fits and parts else None
            case "string" if isinstance(value, str) and value.strip():
                return value if _within(len(value), node.characters) else None
            case "integer" if isinstance(value, int) and not isinstance(value, bool):
                return value
            case "number" if isinstance(value, (int, float)) and not isinstance(value, bool):
                return value
            case "boolean" if isinstance(value, bool):
                return value
        return None


def slug(title: str) -> str:
    """3 to 8 lower-case words of a-z and 0-9 joined by hyphens."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)[:8]
    return "-".join([*words, "sandbox", "article", "text"][: max(3, len(words))])


def _last(name: str) -> str:
    """The word that says what a field is: `meta_description` → `description`, `bodyMarkdown` → `markdown`."""
    words = re.findall(r"[A-Za-z][a-z0-9]*", name.replace("_", " "))
    return words[-1].lower() if words else ""


def _joined(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def _range_of(node: Node) -> Range:
    low, high = node.raw.get("minItems"), node.raw.get("maxItems")
    return Range(
        int(low) if isinstance(low, (int, str)) else None,
        int(high) if isinstance(high, (int, str)) else None,
    )


def _within(size: int, wanted: Range) -> bool:
    return (wanted.low is None or size >= wanted.low) and (wanted.high is None or size <= wanted.high)
