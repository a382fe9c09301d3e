"""The static site: a folder that any web server can serve, and a person can open.

    index.html             the newest hundred articles
    page/1.html …          all older ones, a hundred a page; page 1 is the oldest, so a full page never
                           changes again
    articles/<slug>.html   an article, and its Markdown beside it
    feed.xml               Atom, the latest fifty
    sitemap.xml            every page; past 50,000 an index of sitemap-1.xml …
    sites/<name>/          the same again for every other site than the main one

Many processes publish at once. An article is written by whoever holds its lock; a page is replaced whole.
Index, feed and sitemap are made by one process at a time from rows that are read *while it holds the lock*:
so a slow process can't put an older list over a newer one. They hold only what the database says is
published.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree

from lead_coordinator.errors import DestinationDown, InvalidInput
from lead_coordinator.pipelines.content.brief import DEFAULT_SITE
from lead_coordinator.pipelines.content.files import (
    FileLock,
    acquire,
    replace_file,
    replace_if_changed,
    sweep,
    tail,
)

PAGE_SIZE = 100
FEED_SIZE = 50
SITEMAP_SIZE = 50_000  # sitemaps.org allows no more URLs in one file
DEFAULT_TITLE = "Lead Coordinator"
# flock has no timeout, and a thread blocked in it can't be cancelled: so the lock is asked for again and
# again.
_LOCK_POLL_SECONDS = 0.05
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_SLUG_MAX = 120  # text.SLUG_MAX and the -2, -3 … that the database may add
_SITE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

R = TypeVar("R")


@dataclass(frozen=True)
class PublishedRow:
    """A published article as the listings show it. `published_at` is aware."""

    publication_id: int
    slug: str
    title: str
    published_at: datetime
    description: str = ""
    words: int = 0
    language: str = "en"

    @property
    def path(self) -> str:
        return f"articles/{self.slug}.html"


@dataclass(frozen=True)
class WrittenPage:
    """Where an article was written, and the SHA-256 of its HTML."""

    url: str
    html_path: Path
    markdown_path: Path
    content_sha256: str


class StaticSite:
    """One site: `root` is its folder, `base_url` the address under which the folder is served.

    Nothing is written until something is published. An OSError of the file system comes out as it is.
    """

    def __init__(
        self, root: Path, base_url: str, title: str = DEFAULT_TITLE, *, name: str = DEFAULT_SITE
    ) -> None:
        self.root = Path(root)
        self.base_url = base_url.rstrip("/") + "/"
        self.title = title
        self.name = name

    def for_site(self, name: str) -> StaticSite:
        """The site of that name: this one for its own name, else one under `sites/<name>/`."""
        if name == self.name:
            return self
        if not _SITE.match(name):
            raise InvalidInput(
                f"site {name!r}: lower-case letters, digits and inner hyphens allowed, at most 63"
            )
        return StaticSite(self.root / "sites" / name, f"{self.base_url}sites/{name}/", name, name=name)

    def url(self, slug: str) -> str:
        """The public address of an article."""
        return self._article_url(_checked(slug))

    def _article_url(self, slug: str) -> str:
        return f"{self.base_url}articles/{slug}.html"  # a slug is safe in an address as it is

    def has_article(self, slug: str) -> bool:
        return (self.root / "articles" / f"{_checked(slug)}.html").is_file()

    # ---- articles ------------------------------------------------------------------------------------------

    def lock_article(self, slug: str) -> FileLock | None:
        """The right to write that article; None while another process holds it."""
        return acquire(self.root / ".locks" / f"article-{_checked(slug)}", wait=False)

    def write_article(self, slug: str, markdown: str, html: str) -> WrittenPage:
        """Writes both files of an article, each atomically, the page last. InvalidInput for a slug that is
        none."""
        folder = self.root / "articles"
        page = folder / f"{_checked(slug)}.html"
        source = folder / f"{slug}.md"
        data = html.encode()
        replace_file(source, markdown.encode(), self._scratch)
        replace_file(page, data, self._scratch)
        return WrittenPage(self.url(slug), page, source, hashlib.sha256(data).hexdigest())

    def remove_article(self, slug: str) -> bool:
        """Removes both files of an article, the page first; False where there was no page."""
        folder = self.root / "articles"
        page = folder / f"{_checked(slug)}.html"
        found = page.is_file()
        page.unlink(missing_ok=True)
        (folder / f"{slug}.md").unlink(missing_ok=True)
        return found

    # ---- listings ------------------------------------------------------------------------------------------

    def rebuild_index(self, rows: Callable[[], Sequence[PublishedRow]]) -> int:
        """Makes the listings of what `rows()` returns, which is called under the lock. Says how many files
        changed."""
        lock = acquire(self._index_lock, wait=True)
        assert lock is not None
        try:
            return self._write_listings(rows())
        finally:
            lock.release()

    async def rebuild_index_async(
        self, rows: Callable[[], Awaitable[Sequence[PublishedRow]]], *, timeout_seconds: float = 30
    ) -> int:
        """As `rebuild_index`, without blocking the event loop; cancelled, it releases the lock once no thread
        of it writes any more. DestinationDown where another process holds the lock for longer than the
        timeout."""
        lock = await self._wait_for_index_lock(timeout_seconds)
        try:
            found = await rows()
            return await in_thread(self._write_listings, found)
        finally:
            lock.release()

    async def _wait_for_index_lock(self, timeout_seconds: float) -> FileLock:
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while (lock := acquire(self._index_lock, wait=False)) is None:
            if asyncio.get_running_loop().time() > deadline:
                raise DestinationDown(
                    f"site {self.name}: another process has held its index for {timeout_seconds:g} s"
                )
            await asyncio.sleep(_LOCK_POLL_SECONDS)
        return lock

    @property
    def _scratch(self) -> Path:
        return self.root / ".tmp"

    @property
    def _index_lock(self) -> Path:
        return self.root / ".locks" / "index"

    def _write_listings(self, rows: Sequence[PublishedRow]) -> int:
        ordered = sorted(rows, key=lambda row: row.publication_id)
        for row in ordered:
            _checked(row.slug)
        sweep(self._scratch)
        changed = self._write_archive(ordered)
        changed += self._write("feed.xml", self._feed(ordered[-FEED_SIZE:][::-1]))
        changed += self._write_sitemaps(ordered)
        return changed

    def _write_archive(self, ordered: Sequence[PublishedRow]) -> int:
        # The newest hundred stand on the first page; what is older fills whole archive pages (their newest
        # entries may stand on both). So each is written once, and once more when it is no longer the last.
        pages = -(-max(0, len(ordered) - PAGE_SIZE) // PAGE_SIZE)
        changed = 0
        for number in range(1, pages + 1):
            changed += self._write_index_page(
                f"page/{number}.html",
                ordered[(number - 1) * PAGE_SIZE : number * PAGE_SIZE][::-1],
                title=f"{self.title}: articles, page {number}",
                description=f"Articles {(number - 1) * PAGE_SIZE + 1} to {number * PAGE_SIZE}, oldest first",
                home="../",
                newer=f"page/{number + 1}.html" if number < pages else "index.html",
                older=f"page/{number - 1}.html" if number > 1 else "",
            )
        changed += self._write_index_page(
            "index.html",
            ordered[-PAGE_SIZE:][::-1],
            title=self.title,
            description=f"{len(ordered)} article{'' if len(ordered) == 1 else 's'}",
            home="",
            newer="",
            older=f"page/{pages}.html" if pages else "",
        )
        return changed + self._remove_numbered("page", "", pages)

    def _write_index_page(
        self,
        path: str,
        rows: Sequence[PublishedRow],
        *,
        title: str,
        description: str,
        home: str,
        newer: str,
        older: str,
    ) -> int:
        from lead_coordinator.pipelines.content.render import environment, template_version

        values = {
            "title": title,
            "description": description,
            "site_title": self.title,
            "url": self.base_url + ("" if path == "index.html" else path),
            "home": home,
            "newer": newer,
            "older": older,
        }

        def make() -> str:
            return environment().get_template("index.html.j2").render(rows=rows, **values)

        return self._write_unless_of(path, [template_version("index.html.j2"), values, rows], make)

    def _write_sitemaps(self, ordered: Sequence[PublishedRow]) -> int:
        # The first page stands first and without a time: so a full part never changes again.
        entries: list[tuple[str, datetime | None]] = [(self.base_url, None)]
        entries += [(self._article_url(row.slug), row.published_at) for row in ordered]
        if len(entries) <= SITEMAP_SIZE:
            changed = self._write_sitemap("sitemap.xml", "urlset", "url", entries)
            return changed + self._remove_numbered("", "sitemap-", 0, ".xml")
        parts = [entries[start : start + SITEMAP_SIZE] for start in range(0, len(entries), SITEMAP_SIZE)]
        changed = 0
        listed: list[tuple[str, datetime | None]] = []
        for number, part in enumerate(parts, start=1):
            changed += self._write_sitemap(f"sitemap-{number}.xml", "urlset", "url", part)
            listed.append((f"{self.base_url}sitemap-{number}.xml", part[-1][1]))
        changed += self._write_sitemap("sitemap.xml", "sitemapindex", "sitemap", listed)
        return changed + self._remove_numbered("", "sitemap-", len(parts), ".xml")

    def _write_sitemap(
        self, path: str, root_tag: str, tag: str, entries: Sequence[tuple[str, datetime | None]]
    ) -> int:
        return self._write_unless_of(path, [root_tag, entries], lambda: _sitemap(root_tag, tag, entries))

    def _feed(self, newest_first: Sequence[PublishedRow]) -> str:
        feed = ElementTree.Element("feed", {"xmlns": "http://www.w3.org/2005/Atom"})
        _child(feed, "title", self.title)
        _child(feed, "id", self.base_url)
        ElementTree.SubElement(feed, "link", {"rel": "self", "href": f"{self.base_url}feed.xml"})
        ElementTree.SubElement(feed, "link", {"rel": "alternate", "href": self.base_url})
        _child(feed, "updated", _moment(max((row.published_at for row in newest_first), default=_EPOCH)))
        _child(ElementTree.SubElement(feed, "author"), "name", self.title)
        for row in newest_first:
            entry = ElementTree.SubElement(feed, "entry")
            _child(entry, "title", row.title)
            _child(entry, "id", self.url(row.slug))
            ElementTree.SubElement(
                entry, "link", {"rel": "alternate", "type": "text/html", "href": self.url(row.slug)}
            )
            _child(entry, "published", _moment(row.published_at))
            _child(entry, "updated", _moment(row.published_at))
            if row.description:
                _child(entry, "summary", row.description)
        return _document(feed)

    def _write_unless_of(self, path: str, source: object, make: Callable[[], str]) -> int:
        """Writes what `make()` returns unless the file was made of the same `source`, which its last line
        tells.

        Most pages of a large site are as they were: they are neither rendered nor read in full."""
        mark = f"<!-- made of {hashlib.sha256(repr(source).encode()).hexdigest()} -->\n"
        if tail(self.root / path, len(mark)) == mark.encode():
            return 0
        replace_file(self.root / path, (make() + mark).encode(), self._scratch)
        return 1

    def _write(self, path: str, text: str) -> int:
        return int(replace_if_changed(self.root / path, text.encode(), self._scratch))

    def _remove_numbered(self, folder: str, prefix: str, keep: int, suffix: str = ".html") -> int:
        """Removes the pages past `keep` that a longer list once needed."""
        removed = 0
        number = keep + 1
        while (path := self.root / folder / f"{prefix}{number}{suffix}").is_file():
            with suppress(FileNotFoundError):
                path.unlink()
                removed += 1
            number += 1
        return removed


async def in_thread(work: Callable[..., R], *args: object) -> R:
    """`asyncio.to_thread` that no cancellation leaves behind: it is raised once the thread has ended."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        raise


def _checked(slug: str) -> str:
    if len(slug) > _SLUG_MAX or not _SLUG.match(slug):
        raise InvalidInput(
            f"slug {slug[:60]!r}: words of a-z and 0-9 joined by single hyphens allowed, at most {_SLUG_MAX}"
        )
    return slug


def _sitemap(root_tag: str, tag: str, entries: Sequence[tuple[str, datetime | None]]) -> str:
    root = ElementTree.Element(root_tag, {"xmlns": "http://www.sitemaps.org/schemas/sitemap/0.9"})
    for address, moment in entries:
        entry = ElementTree.SubElement(root, tag)
        _child(entry, "loc", address)
        if moment is not None:
            _child(entry, "lastmod", _moment(moment))
    return _document(root)


def _child(parent: ElementTree.Element, tag: str, text: str) -> None:
    # XML 1.0 can't hold most control characters, not even escaped.
    ElementTree.SubElement(parent, tag).text = re.sub(
        r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text
    )


def _document(root: ElementTree.Element) -> str:
    ElementTree.indent(root, space=" ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
