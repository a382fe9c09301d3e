"""A brief: what a person asks an article to be. Validated once, wherever it comes from.

It comes from outside: from the payload of a task (anyone who can insert a row) or a line of a file. So every
field is bounded, and characters that don't print (controls, direction overrides, halves of surrogate pairs)
are refused; an error names the field, what was given and what is allowed. What a brief *says* is never
trusted: see prompts.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from lead_coordinator.errors import InvalidInput

TASK_TYPE = "content_generation"
DEFAULT_SITE = "main"

# Unicode's direction overrides and isolates: they make a line read differently from what it holds.
_DIRECTION_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SHOWN_CHARACTERS = 60
MAX_SOURCES = 10
MAX_KEYWORDS = 10


def _text(value: object, *, several_lines: bool) -> object:
    """Normalise text (NFC, outer space off, runs of space to one) and refuse what doesn't print."""
    if not isinstance(value, str):
        return value
    if several_lines:
        value = value.replace("\r\n", "\n").replace("\r", "\n")
    for character in value:
        if several_lines and character in "\n\t":
            continue
        if unicodedata.category(character) in ("Cc", "Cs") or character in _DIRECTION_CONTROLS:
            raise ValueError(
                f"holds the character U+{ord(character):04X}, and only printable text is allowed"
            )
    value = unicodedata.normalize("NFC", value).strip()
    return value if several_lines else " ".join(value.split())


def _line(value: object) -> object:
    value = _text(value, several_lines=False)
    return None if value == "" else value


def _lines(value: object) -> object:
    value = _text(value, several_lines=True)
    return None if value == "" else value


def _money(value: object) -> object:
    # A float would carry its binary error into the ledger; its shortest spelling doesn't. true is no dollar.
    if isinstance(value, bool):
        raise ValueError("a number of US dollars is expected, not true or false")
    if isinstance(value, float):
        return repr(value)
    return _line(value) if isinstance(value, str) else value


def _deadline(value: object) -> object:
    """An ISO date means the end of that day in UTC; a date with time needs its offset."""
    return _moment(value, time(23, 59, 59))


def _publish_at(value: object) -> object:
    """An ISO date means the beginning of that day in UTC; a date with time needs its offset."""
    return _moment(value, time())


def _moment(value: object, at: time) -> object:
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        try:
            if len(text) == 10:
                day = date.fromisoformat(text)
                return datetime.combine(day, at, tzinfo=UTC)
            value = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                "an ISO date (2030-06-30) or a time with its offset (2030-06-30T12:00:00Z) is expected"
            ) from None
    if not isinstance(value, datetime):
        return value if value is None else _refuse_moment()
    if value.tzinfo is None:
        raise ValueError("the time needs its offset from UTC, such as Z or +02:00")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is outside the calendar") from None


def _refuse_moment() -> object:
    raise ValueError("an ISO date or time as text is expected")


def _site(value: object) -> object:
    text = _line(value)
    return DEFAULT_SITE if text is None else text


def _language(value: object) -> object:
    text = _line(value)
    return "en" if text is None else text


def _listed(value: object) -> object:
    """A list of lines; text (the cell of a table) is taken apart at commas, semicolons and line ends."""
    if value is None:
        return ()
    if isinstance(value, str):
        value = [part for part in re.split(r"[,;\n]", value) if part.strip()]
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list of texts is expected")
    if len(value) > 1000 or not all(isinstance(one, str) for one in value):
        raise ValueError("a list of texts is expected")
    return tuple(dict.fromkeys(line for line in map(_line, value) if line is not None))


def _addresses(value: object) -> object:
    if isinstance(value, str):
        value = value.split()
    return _listed(value)


def _word(value: object) -> object:
    """A caller's own reference: a number stands for its digits."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _line(value)


def web_page(value: str) -> str:
    """An address as it was given, if it is one of a page: http or https, with a host, without a password."""
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        good = False
    if not good:
        raise ValueError("an http or https address without a password is expected")
    return value


PageAddress = Annotated[str, StringConstraints(max_length=2000), AfterValidator(web_page)]


class Brief(BaseModel):
    """What is wanted. A title, a topic or a keyword is required; all else may be left out.

    `value_usd` (what the article is worth) and `deadline` steer when it is written, not what is written.
    `sources` are read before writing; what is written is checked against them. `publish_at`: not before.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    title: Annotated[Annotated[str, Field(max_length=200)] | None, BeforeValidator(_line)] = None
    topic: Annotated[Annotated[str, Field(max_length=200)] | None, BeforeValidator(_line)] = None
    keyword: Annotated[Annotated[str, Field(max_length=120)] | None, BeforeValidator(_line)] = None
    keywords: Annotated[
        tuple[Annotated[str, Field(max_length=120)], ...],
        BeforeValidator(_listed),
        Field(max_length=MAX_KEYWORDS),
    ] = ()
    angle: Annotated[Annotated[str, Field(max_length=500)] | None, BeforeValidator(_lines)] = None
    audience: Annotated[Annotated[str, Field(max_length=500)] | None, BeforeValidator(_lines)] = None
    notes: Annotated[Annotated[str, Field(max_length=4000)] | None, BeforeValidator(_lines)] = None
    sources: Annotated[
        tuple[PageAddress, ...], BeforeValidator(_addresses), Field(max_length=MAX_SOURCES)
    ] = ()
    story: Annotated[Annotated[str, Field(max_length=100)] | None, BeforeValidator(_word)] = None
    site: Annotated[
        str,
        BeforeValidator(_site),
        StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63),
    ] = DEFAULT_SITE
    language: Annotated[
        str,
        BeforeValidator(_language),
        StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$"),
    ] = "en"
    value_usd: Annotated[
        Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=17, decimal_places=10, allow_inf_nan=False)]
        | None,
        BeforeValidator(_money),
    ] = None
    deadline: Annotated[datetime | None, BeforeValidator(_deadline)] = None
    publish_at: Annotated[datetime | None, BeforeValidator(_publish_at)] = None

    @model_validator(mode="after")
    def _names_a_subject(self) -> Brief:
        if self.title is None and self.topic is None and self.main_keyword is None:
            raise ValueError("a title or a keyword is required")
        return self

    @property
    def subject(self) -> str:
        """The title, or the topic or keyword where there is none."""
        return self.title or self.topic or self.main_keyword or ""

    @property
    def main_keyword(self) -> str | None:
        """The keyword, or the first of several."""
        return self.keyword or (self.keywords[0] if self.keywords else None)

    def payload(self) -> dict[str, Any]:
        """The payload of a task: what the writer needs. Value and deadline are the task's own columns."""
        kept = self.model_dump(mode="json", exclude={"value_usd", "deadline"}, exclude_none=True)
        return {name: value for name, value in kept.items() if value != []}

    def for_prompt(self) -> dict[str, Any]:
        """What a model is shown."""
        names = {"title", "topic", "keyword", "keywords", "angle", "audience", "notes", "language"}
        shown = self.model_dump(mode="json", include=names, exclude_none=True)
        return {name: value for name, value in shown.items() if value != []}

    def idempotency_key(self) -> str:
        """The same for the same wanted article: site, language, title, keyword, audience, however spelt or
        spaced.

        Notes, value and deadline don't count: correcting them doesn't ask for a second article.
        """
        parts = [self.site, self.language, self.title, self.keyword, self.audience]
        if self.topic is not None:
            parts.append(self.topic)
        folded = [" ".join(unicodedata.normalize("NFKC", part or "").casefold().split()) for part in parts]
        digest = hashlib.sha256(json.dumps(folded, ensure_ascii=False).encode()).hexdigest()
        return f"content:{digest[:40]}"


def parse_brief(payload: object) -> Brief:
    """The brief in a task's payload (a JSON object). Raises InvalidInput naming field, value and what is
    allowed.

    Keys that aren't a brief's are left alone: callers keep their own references in a payload.
    """
    if not isinstance(payload, Mapping):
        raise InvalidInput(f"payload {shown(payload)}: a JSON object with a title or a keyword is expected")
    try:
        return Brief.model_validate(dict(payload))
    except ValidationError as error:
        field, reason = first_reason(error)
        raise InvalidInput(f"{field or 'brief'}: {reason}") from None


def first_reason(error: ValidationError) -> tuple[str | None, str]:
    """The first complaint of a validation as (field, sentence with the value and what is allowed)."""
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else None
    value = shown(first["input"])
    context = first.get("ctx", {})
    match first["type"]:
        case "too_long":
            reason = f"{len(first['input'])} entries given, at most {context['max_length']} allowed"
        case "string_too_long":
            reason = (
                f"{len(first['input'])} characters given ({value}), at most {context['max_length']} allowed"
            )
        case "string_pattern_mismatch" if field == "site":
            reason = f"{value} given, lower-case letters, digits and inner hyphens allowed"
        case "string_pattern_mismatch":
            reason = f"{value} given, a language tag such as en or pt-BR allowed"
        case "string_type":
            reason = f"{value} given, text allowed"
        case "value_error" if field is None:
            reason = str(context["error"])
        case "value_error":
            reason = f"{value} given: {context['error']}"
        case _ if field == "value_usd":
            reason = (
                f"{value} given, 0 to 1000000 US dollars allowed, written as a plain number such as 12.50"
            )
        case _:
            reason = f"{value} given: {first['msg']}"
    return field, reason


def shown(value: object) -> str:
    """A value as an error shows it: short, on one line, printable."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS] + "…"
    return repr(text) if isinstance(value, str) else text.encode("ascii", "backslashreplace").decode()
