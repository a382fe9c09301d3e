"""One feed's bytes as items: RSS 0.9 to 2.0, Atom 0.3 and 1.0, JSON Feed 1 and 1.1, malformed ones too.

Nothing is fetched: external entities and document types are never loaded. Entities that a document declares
are dropped but for the few that stand for one character or a plain word (feedparser's `replace_doctype`), so
none expands into others. Sizes are cut before anything is kept; time and memory are bounded by reader.py,
which runs this in a process of its own.
"""

from __future__ import annotations

import calendar
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from lead_coordinator.text.plain import html_text, one_line
from lead_coordinator.web.failures import FetchFailed
from lead_coordinator.web.urls import resolve

Kind = Literal["rss", "atom", "json"]

MAX_TITLE = 300
MAX_TEXT = 10_000
MAX_URL = 2000
MAX_GUID = 500
MAX_CATEGORIES = 10
# Where an item ends; looked for in the bytes, so that items beyond the limit cost nothing.
_ITEM_END = re.compile(rb"</(?:[A-Za-z_][\w.-]{0,30}:)?(?:item|entry)\s{0,10}>", re.I)
_ROOT = re.compile(rb"<([A-Za-z_][\w.:-]{0,60})")
_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


class NotAFeed(ValueError):
    """The bytes aren't a feed; the sentence says what they look like."""


@dataclass(frozen=True)
class ParsedItem:
    """One item as plain text. `guid`: its identity within the feed, "" where it has none.

    `url` is absolute, http or https, or "". `published` is None where the feed says nothing usable.
    """

    guid: str
    url: str
    title: str
    text: str
    published: datetime | None
    categories: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "guid": self.guid,
            "url": self.url,
            "title": self.title,
            "text": self.text,
            "published": None if self.published is None else self.published.isoformat(),
            "categories": list(self.categories),
        }

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> ParsedItem:
        published = found["published"]
        return ParsedItem(
            found["guid"],
            found["url"],
            found["title"],
            found["text"],
            None if published is None else datetime.fromisoformat(published),
            tuple(found["categories"]),
        )


@dataclass(frozen=True)
class ParsedFeed:
    """A feed. `malformed`: what was wrong with it, "" where nothing was; its items were read all the same."""

    kind: Kind
    title: str
    items: tuple[ParsedItem, ...]
    malformed: str = ""


def parse_feed(body: bytes, url: str, *, content_type: str = "", max_items: int = 200) -> ParsedFeed:
    """The feed in `body`, which came from `url`: its first `max_items` items. Raises `NotAFeed`."""
    start = body.lstrip(_BOM + _SPACE)[:1]
    if not start:
        raise NotAFeed("the answer is empty")
    if start in (b"{", b"["):
        return _json_feed(body, url, max_items)
    return _xml_feed(body, url, content_type, max_items)


# ---- XML ---------------------------------------------------------------------------------------------------


def _xml_feed(body: bytes, url: str, content_type: str, max_items: int) -> ParsedFeed:
    import feedparser

    headers = {"content-location": url}
    if content_type:
        headers["content-type"] = content_type
    try:
        # Sanitising is for showing HTML, which we never do.
        found = feedparser.parse(
            _Bytes(_cut(body, max_items)),
            response_headers=headers,
            resolve_relative_uris=False,
            sanitize_html=False,
        )
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError, AssertionError) as error:
        raise NotAFeed(f"it can't be read as a feed ({type(error).__name__})") from None
    version, entries = str(found.get("version") or ""), found.get("entries") or []
    if not version and not entries:
        raise NotAFeed(_looks_like(body))
    channel = found.get("feed") or {}
    items = tuple(_xml_item(entry, url) for entry in entries[:max_items])
    return ParsedFeed(
        "atom" if version.startswith("atom") else "rss",
        _title(channel),
        tuple(item for item in items if item.title or item.text),
        _malformed(found),
    )


class _Bytes:
    """Bytes as a stream: feedparser would take a string for an address or the name of a file."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self) -> bytes:
        return self._body


def _cut(body: bytes, max_items: int) -> bytes:
    """The document up to the end of its last wanted item, its root closed."""
    ends = _ITEM_END.finditer(body)
    end = next((match.end() for number, match in enumerate(ends, 1) if number == max_items), None)
    if end is None or not _ITEM_END.search(body, end):
        return body
    root = _ROOT.search(body)
    if root is None:
        return body
    channel = b"</channel>" if root[1].lower() == b"rss" else b""
    return body[:end] + channel + b"</" + root[1] + b">"


def _xml_item(entry: Mapping[str, Any], base: str) -> ParsedItem:
    contents = [part.get("value") for part in entry.get("content") or () if isinstance(part, Mapping)]
    texts = [text for text in (*contents, entry.get("summary")) if isinstance(text, str)]
    tags = (tag.get("term") for tag in entry.get("tags") or () if isinstance(tag, Mapping))
    return ParsedItem(
        guid=one_line(_text(entry.get("id")), MAX_GUID),
        url=_absolute(base, _text(entry.get("link"))),
        title=_title(entry),
        text=html_text(max(texts, key=len, default=""), MAX_TEXT),
        published=_moment(entry.get("published_parsed")) or _moment(entry.get("updated_parsed")),
        categories=_categories(tags),
    )


def _title(holder: Mapping[str, Any]) -> str:
    title = _text(holder.get("title"))
    detail = holder.get("title_detail")
    plain = isinstance(detail, Mapping) and detail.get("type") == "text/plain"
    # Many feeds say plain text and write HTML; a tag in a title is never meant to be read.
    return one_line(title, MAX_TITLE) if plain and "<" not in title else html_text(title, MAX_TITLE)


def _moment(parsed: Any) -> datetime | None:
    """A struct_time in UTC as a moment of the years 1990 to 2199."""
    try:
        moment = datetime.fromtimestamp(calendar.timegm(parsed), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return _usable(moment)


def _usable(moment: datetime) -> datetime | None:
    return moment if 1990 <= moment.year < 2200 else None


def _malformed(found: Mapping[str, Any]) -> str:
    error = found.get("bozo_exception")
    if not found.get("bozo") or error is None:
        return ""
    # An encoding or media type that is declared wrongly was put right without harm.
    harmless = ("CharacterEncodingOverride", "NonXMLContentType")
    return "" if type(error).__name__ in harmless else one_line(str(error), 200)


def _looks_like(body: bytes) -> str:
    start = body[:2000].lstrip(_BOM + _SPACE).lower()
    if start.startswith((b"<!doctype html", b"<html")) or b"<body" in start:
        return "it is an HTML page, not a feed"
    if start.startswith(b"<"):
        return "it is XML, but neither RSS nor Atom"
    return "it is neither XML nor JSON"


# ---- JSON Feed ---------------------------------------------------------------------------------------------


def _json_feed(body: bytes, url: str, max_items: int) -> ParsedFeed:
    """By https://www.jsonfeed.org/version/1.1/, lenient about types."""
    try:
        found = json.loads(body.lstrip(_BOM).decode("utf-8", "replace"))
    except RecursionError:
        raise NotAFeed("it is JSON nested too deeply") from None
    except ValueError as error:
        raise NotAFeed(f"it begins like JSON and isn't ({one_line(str(error), 120)})") from None
    listed = found.get("items") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise NotAFeed("it is JSON without a list of items, so no JSON Feed")
    entries = [entry for entry in listed[:max_items] if isinstance(entry, dict)]
    items = tuple(_json_item(entry, url) for entry in entries)
    version = found.get("version")
    declared = isinstance(version, str) and "jsonfeed.org/version/" in version
    return ParsedFeed(
        "json",
        one_line(_text(found.get("title")), MAX_TITLE),
        tuple(item for item in items if item.title or item.text),
        "" if declared else "version is no address of a JSON Feed version",
    )


def _json_item(entry: Mapping[str, Any], base: str) -> ParsedItem:
    identity = entry.get("id")
    html = _text(entry.get("content_html"))
    text = _text(entry.get("content_text")) or _text(entry.get("summary"))
    tags = entry.get("tags")
    return ParsedItem(
        guid=one_line(str(identity) if isinstance(identity, (str, int)) else "", MAX_GUID),
        url=_absolute(base, _text(entry.get("url")) or _text(entry.get("external_url"))),
        title=html_text(_text(entry.get("title")), MAX_TITLE),
        text=html_text(html, MAX_TEXT) if html else one_line(text, MAX_TEXT),
        published=_iso(entry.get("date_published")) or _iso(entry.get("date_modified")),
        categories=_categories(iter(tags if isinstance(tags, list) else ())),
    )


def _iso(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(_text(value)[:40])
        return _usable(moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None


# ---- both --------------------------------------------------------------------------------------------------


def _categories(names: Iterator[Any]) -> tuple[str, ...]:
    """The first of an item's categories, each once."""
    kept: dict[str, None] = {}
    for name, _ in zip(names, range(5 * MAX_CATEGORIES), strict=False):
        line = one_line(_text(name), 60)
        if line and len(kept) < MAX_CATEGORIES:
            kept[line] = None
    return tuple(kept)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _absolute(base: str, link: str) -> str:
    """The link as an absolute http or https address in canonical form, else ""."""
    link = link.strip()
    if not link or len(link) > MAX_URL:
        return ""
    try:
        found = resolve(base, link)
    except FetchFailed:
        return ""
    return found if len(found) <= MAX_URL else ""
