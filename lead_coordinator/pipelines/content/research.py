"""Research notes: what the sources of a brief say, and which of our own articles are near its subject.

A source is anybody's page: it is fetched by the guarded fetcher (no private address, bounded size and time),
cut to its main text and bounded again; in a prompt it stands as data. A source that can't be read is left out
and named; an article whose sources all fail isn't written, because nothing would stand behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lead_coordinator.errors import TaskError
from lead_coordinator.pipelines.content.links import OwnArticle
from lead_coordinator.pipelines.content.settings import ResearchSettings
from lead_coordinator.pipelines.content.text import cut_at_word, printable

MAX_SOURCE_BYTES = 2_000_000
MIN_SOURCE_CHARACTERS = 100
_TEXT_TYPES = ("text/html", "application/xhtml+xml", "text/plain", "")


class Page(Protocol):
    """What a fetcher answers, of `web.fetch.Fetched`."""

    @property
    def final_url(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


class PageReader(Protocol):
    """What fetches pages: `web.fetch.Fetcher`."""

    async def get(self, url: str, *, max_bytes: int | None = None) -> Page: ...


@dataclass(frozen=True)
class SourceNote:
    """What a source says: its address after redirects, and the beginning of its main text."""

    url: str
    text: str


@dataclass(frozen=True)
class Notes:
    """What is known before an article is written. `unread`: address and reason of each source left out."""

    sources: tuple[SourceNote, ...] = ()
    links: tuple[OwnArticle, ...] = ()
    unread: tuple[tuple[str, str], ...] = field(default=())

    def for_prompt(self) -> dict[str, Any]:
        """What a model is shown: untrusted data."""
        return {
            "sources": [
                {"number": n, "url": s.url, "text": s.text} for n, s in enumerate(self.sources, start=1)
            ],
            "our_articles": [{"title": one.title, "url": one.url} for one in self.links],
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "sources": [[s.url, s.text] for s in self.sources],
            "links": [[one.title, one.url, one.description] for one in self.links],
            "unread": [list(one) for one in self.unread],
        }

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> Notes:
        """The notes that `as_json` made. Raises KeyError, TypeError or ValueError for anything else."""
        return Notes(
            tuple(SourceNote(str(url), str(text)) for url, text in kept["sources"]),
            tuple(OwnArticle(str(t), str(url), str(d)) for t, url, d in kept["links"]),
            tuple((str(url), str(why)) for url, why in kept["unread"]),
        )

    @property
    def text(self) -> str:
        """All that the sources say."""
        return "\n\n".join(source.text for source in self.sources)


class NoSource(TaskError):
    """Sources were named and none could be read; the sentence says why."""


async def read_sources(
    reader: PageReader, urls: Sequence[str], settings: ResearchSettings
) -> tuple[tuple[SourceNote, ...], tuple[tuple[str, str], ...]]:
    """(what the sources say, address and reason of those left out), in the order given. Raises NoSource."""
    wanted = list(dict.fromkeys(urls))[: settings.max_sources]
    if not wanted:
        return (), ()
    running = [asyncio.ensure_future(_read(reader, url, settings)) for url in wanted]
    try:
        await asyncio.wait(running, timeout=settings.seconds)
        found = [
            one.result() if one.done() else f"no answer within {settings.seconds:g} s" for one in running
        ]
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    notes = tuple(one for one in found if isinstance(one, SourceNote))
    unread = tuple((url, one) for url, one in zip(wanted, found, strict=True) if isinstance(one, str))
    if not notes:
        reasons = "; ".join(f"{url}: {why}" for url, why in unread)
        raise NoSource(f"sources: none of {len(wanted)} could be read ({reasons[:800]})")
    return notes, unread


async def _read(reader: PageReader, url: str, settings: ResearchSettings) -> SourceNote | str:
    """The note of one source, or why there is none."""
    from lead_coordinator.web.fetch import FetchFailed
    from lead_coordinator.web.page import content_type

    try:
        page = await reader.get(url, max_bytes=MAX_SOURCE_BYTES)
    except FetchFailed as error:
        return f"{error.kind}: {error}"[:300]
    if page.status != 200:
        return f"HTTP {page.status}"
    kind = content_type(page.headers)
    if kind not in _TEXT_TYPES:
        return f"{printable(kind)[:60]} is no text"
    text = await asyncio.to_thread(
        source_text, page.headers, page.body, page.final_url, settings.source_characters
    )
    if len(text) < MIN_SOURCE_CHARACTERS:
        return f"{len(text)} characters of text, at least {MIN_SOURCE_CHARACTERS} are needed"
    if not is_prose(text):
        return "no text that can be read"
    return SourceNote(page.final_url, text)


def is_prose(text: str) -> bool:
    """Whether most of what isn't space is letters and digits: the bytes of an image are not."""
    marks = "".join(text.split())
    return 2 * sum(mark.isalnum() for mark in marks) > len(marks)


def source_text(headers: Mapping[str, str], body: bytes, url: str, limit: int) -> str:
    """The main text of a page, printable, cut to `limit` characters; "" where there is none.

    Whatever the page holds, it doesn't fail.
    """
    from lead_coordinator.web.page import content_type, main_text, text_of

    html = text_of(headers, body[:MAX_SOURCE_BYTES])
    try:
        text = html if content_type(headers) == "text/plain" else main_text(html, url)
    except ImportError:  # the installation is broken, not the page
        raise
    except Exception:  # an extractor that a page trips up is no reason to lose the others
        return ""
    return cut_at_word(printable(text[: 4 * limit], several_lines=True), limit)
