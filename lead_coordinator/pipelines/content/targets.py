"""Where articles are published: what a target can do, and the static site as one.

A target is told what to show under which address; whether that is allowed, and that it happens once, is the
publisher's business (publish.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from lead_coordinator.errors import DestinationDown
from lead_coordinator.pipelines.content.article import Article
from lead_coordinator.pipelines.content.listings import Listings
from lead_coordinator.pipelines.content.site import StaticSite, in_thread


@dataclass(frozen=True)
class Showing:
    """An article for a target. `known`: what the target told when the publication was placed before.

    `publication_id` marks what is ours where a target holds other things too.
    """

    article: Article
    publication_id: int
    task_id: int
    slug: str
    published_at: datetime
    updated_at: datetime
    sandbox: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)
    known: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Placed:
    """Where an article is, the SHA-256 (hex) of what was placed, and what to know for the next time."""

    url: str
    content_sha256: str
    known: Mapping[str, Any] = field(default_factory=dict)


class Target(Protocol):
    """A place to publish to. Every method raises `DestinationDown` where it can't be reached now."""

    def hold(self, slug: str) -> AbstractAsyncContextManager[None]:
        """The right to write that page, where processes could write it at once."""
        ...

    async def put(self, showing: Showing) -> Placed:
        """Shows the article: new, or in place of what is there of the same publication."""
        ...

    async def take_down(self, publication_id: int, slug: str, known: Mapping[str, Any]) -> None:
        """Takes the article off; no failure where it isn't there."""
        ...

    async def refresh(self) -> None:
        """Brings whatever lists the articles up to what is published now."""
        ...

    async def close(self) -> None: ...


class StaticTarget:
    """The static site: pages and Markdown in a folder, and their listings."""

    def __init__(self, site: StaticSite, listings: Listings) -> None:
        self._site = site
        self._listings = listings

    @asynccontextmanager
    async def hold(self, slug: str) -> AsyncIterator[None]:
        try:
            lock = self._site.lock_article(slug)
        except OSError as error:
            raise unwritable(self._site, error) from error
        if lock is None:
            raise DestinationDown(f"site {self._site.name}: another process is writing the page {slug}")
        try:
            yield
        finally:
            lock.release()

    async def put(self, showing: Showing) -> Placed:
        # jinja2, Markdown and nh3 are loaded where pages are made, in a thread.
        markdown, html = await in_thread(rendered, self._site, showing)
        try:
            page = await in_thread(self._site.write_article, showing.slug, markdown, html)
        except OSError as error:
            raise unwritable(self._site, error) from error
        return Placed(page.url, page.content_sha256)

    async def take_down(self, publication_id: int, slug: str, known: Mapping[str, Any]) -> None:
        try:
            await in_thread(self._site.remove_article, slug)
        except OSError as error:
            raise unwritable(self._site, error) from error

    async def refresh(self) -> None:
        try:
            await self._listings.refresh()
        except OSError as error:
            raise unwritable(self._site, error) from error

    async def close(self) -> None:
        await self._listings.close()


def rendered(site: StaticSite, showing: Showing) -> tuple[str, str]:
    """(Markdown with front matter, page of HTML)."""
    from lead_coordinator.pipelines.content.render import Page, render_html, render_markdown

    page = Page(
        article=showing.article,
        task_id=showing.task_id,
        slug=showing.slug,
        url=site.url(showing.slug),
        site_title=site.title,
        home="../",
        published_at=showing.published_at,
        updated_at=showing.updated_at,
        sandbox=showing.sandbox,
        provenance=showing.provenance,
    )
    return render_markdown(page), render_html(page)


def unwritable(site: StaticSite, error: OSError) -> DestinationDown:
    return DestinationDown(f"site {site.name}: {error.strerror or error} ({error.filename or site.root})")
