"""What a prompt asks for: the brief, an outline and a draft, wherever they stand in it.

The sandbox doesn't know the prompts of the pipelines, so it looks for JSON objects (bare, fenced or between
tags) and for lines such as `Title: …`. The prompt is untrusted text: it is only searched, within bounds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_PROMPT_CHARS = 400_000
MAX_BLOCKS = 20
MAX_AUDIENCE_CHARS = 60
MAX_GIVEN = 50
_DECODER = json.JSONDecoder()
_LINE = re.compile(
    r"^[\s*-]*(title|keyword|audience|notes|topic)\*{0,2}\s*:\s*(\S.{0,400})$", re.IGNORECASE | re.MULTILINE
)
_AT_LEAST = re.compile(r"at least ([\d,]{2,6}) words", re.IGNORECASE)
_AIM_AT = re.compile(r"(?:aim at|about|around|come to) ([\d,]{2,6}) words", re.IGNORECASE)
_QUESTION = re.compile(
    r"^(how (do|to|can|should) (i |you |we )?|what (is|are) (an? |the )?|why (do |does |is |are )?|"
    r"when to |where to |which |"
    r"an? (\w+ )?guide to |the best |best |\d+ (ways|tips|steps|reasons|ideas)( to| for)? )",
    re.IGNORECASE,
)
DEFAULT_WORDS = 1300


@dataclass(frozen=True)
class Section:
    """A section of an outline: heading, points, and the words it should have (0: not said)."""

    heading: str
    points: tuple[str, ...] = ()
    target_words: int = 0


@dataclass(frozen=True)
class PromptBrief:
    """What was found. Texts are one line each, without markup. `given`: lists of objects with an id, by their
    name: an answer under that name says something of each."""

    title: str
    subject: str
    audience: str
    notes: tuple[str, ...]
    words: int
    sections: tuple[Section, ...] = ()
    draft: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)


def read_prompt(texts: list[str]) -> PromptBrief:
    """The brief in the texts of a request. Never fails: what isn't there is replaced by something neutral."""
    prompt = "\n".join(texts)[:MAX_PROMPT_CHARS]
    blocks = list(_json_objects(prompt))
    said = {match.group(1).lower(): match.group(2) for match in _LINE.finditer(prompt)}
    for block in blocks:
        for name in ("title", "keyword", "audience", "notes", "topic"):
            if isinstance(block.get(name), str) and block[name].strip():
                said.setdefault(name, block[name])
        for key in ("brief", "task", "payload"):
            if isinstance(block.get(key), Mapping):
                said.update({k: v for k, v in block[key].items() if isinstance(v, str) and v.strip()})
    keyword = clean(said.get("keyword", ""), 80)
    title = clean(said.get("title") or said.get("topic") or "", 140)
    title = title or (
        f"{keyword[:1].upper()}{keyword[1:]}: what to know" if keyword else "An article without a title"
    )
    notes = tuple(
        filter(None, (clean(part, 160) for part in re.split(r"[.;\n]+", said.get("notes", "")[:2000])))
    )
    sections, draft = _structure(blocks)
    return PromptBrief(
        title=title,
        subject=keyword or _subject(title),
        audience=_audience(said.get("audience", "")),
        notes=notes[:6],
        words=_words(prompt),
        sections=sections,
        draft=draft,
        given=_given(blocks),
    )


def clean(text: str, limit: int) -> str:
    """One line without markup, at most `limit` characters, cut between words."""
    line = " ".join(re.sub(r"[<>`*_#\[\]|{}\\]", " ", text).split()).strip(" .,:;")
    if len(line) <= limit:
        return line
    return line[:limit].rsplit(" ", 1)[0].strip(" .,:;")


def _subject(title: str) -> str:
    head = re.split(r"[:?–—]", title, maxsplit=1)[0]
    head = _QUESTION.sub("", head).strip() or title
    return clean(_lower_first(head), 80)


def _audience(text: str) -> str:
    """The people a brief is for, as a noun phrase for a sentence: what is long is cut at a clause."""
    line = clean(re.split(r"[,;.\n]", text.strip()[:500], maxsplit=1)[0], 200)
    if len(line) > MAX_AUDIENCE_CHARS:
        line, *clauses = re.split(r" (?=(?:who|that|whose|with|and|but) )", line)
        for clause in clauses:
            if len(line) + len(clause) + 1 > MAX_AUDIENCE_CHARS:
                break
            line = f"{line} {clause}"
        line = clean(line, MAX_AUDIENCE_CHARS)
    return _lower_first(line) or "readers"


def _lower_first(text: str) -> str:
    """Fit for the middle of a sentence; an acronym or a name with capitals inside stays as it is."""
    first = text.partition(" ")[0]
    return text if first[1:] != first[1:].lower() or first == "I" else text[:1].lower() + text[1:]


def _words(prompt: str) -> int:
    floor = max((_number(found) for found in _AT_LEAST.findall(prompt)), default=0)
    aim = max((_number(found) for found in _AIM_AT.findall(prompt)), default=0)
    return min(max(aim, round(floor * 1.08), 0) or DEFAULT_WORDS, 6000)


def _number(text: str) -> int:
    digits = text.replace(",", "")
    return int(digits) if digits else 0


def _json_objects(prompt: str) -> Iterator[dict[str, Any]]:
    position = found = misses = 0
    # A prompt full of lone braces isn't worth searching to its end.
    while found < MAX_BLOCKS and misses < MAX_BLOCKS * 10:
        position = prompt.find("{", position)
        if position < 0:
            return
        try:
            value, end = _DECODER.raw_decode(prompt, position)
        except (ValueError, RecursionError):
            position += 1
            misses += 1
            continue
        if isinstance(value, dict):
            found += 1
            yield value
        position = end


def _structure(blocks: list[dict[str, Any]]) -> tuple[tuple[Section, ...], Mapping[str, Any]]:
    """The sections of the last outline, and the last block whose sections hold text (a draft)."""
    sections: tuple[Section, ...] = ()
    draft: Mapping[str, Any] = {}
    for block in blocks:
        listed = block.get("sections")
        if not isinstance(listed, list):
            continue
        rows = [
            row for row in listed[:30] if isinstance(row, Mapping) and isinstance(row.get("heading"), str)
        ]
        if not rows:
            continue
        if any(isinstance(row.get(name), (str, list)) and row[name] for row in rows for name in _BODY_NAMES):
            draft = block
        sections = tuple(
            Section(clean(row["heading"], 110), _points(row.get("points")), _target(row.get("target_words")))
            for row in rows
        )
    return sections, draft


_BODY_NAMES = ("body", "markdown", "text", "content", "paragraphs")


def _given(blocks: list[dict[str, Any]]) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """The lists of a prompt whose elements have an id, by name; the first of each name."""
    found: dict[str, tuple[Mapping[str, Any], ...]] = {}
    for block in blocks:
        for name, value in block.items():
            rows = value[:MAX_GIVEN] if isinstance(value, list) else []
            if rows and all(isinstance(row, Mapping) and isinstance(row.get("id"), str) for row in rows):
                found.setdefault(name, tuple(rows))
    return found


def _points(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(filter(None, (clean(point, 140) for point in value[:8] if isinstance(point, str))))


def _target(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 3000 else 0
