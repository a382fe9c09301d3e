"""Publishing an article once, whatever dies in between.

The order is intent (a fenced, unique row) → files → confirmation → listings. The files are written and
confirmed under the page's lock, and the lease is asked for again under it: a run that was given up for dead
in between, and still holds the lock, comes before its successor and not after it, so page and row are always
of the same run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from lead_coordinator.database import publications
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import Lease
from lead_coordinator.errors import DestinationDown
from lead_coordinator.pipelines.content.article import Article
from lead_coordinator.pipelines.content.site import PublishedRow, StaticSite, in_thread

# All of a site: a sitemap that left something out would be wrong.
MAX_LISTED = 1_000_000


class Publisher:
    """Publishes the articles of one run. Close it at the end of the run."""

    def __init__(
        self,
        db: AsyncDatabase,
        lease: Lease,
        site: StaticSite,
        *,
        sandbox: bool,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._db = db
        self._lease = lease
        self._site = site
        self._sandbox = sandbox
        self._now = now
        self._listings: dict[str, _Listings] = {}

    async def publish(
        self, task_id: int, site_name: str, article: Article, provenance: Mapping[str, Any]
    ) -> publications.Publication:
        """Brings the article out and returns its row, with the address in `url`.

        Raises StaleLease, and DestinationDown where the site can't be written or another process is at this
        page.
        """
        site = self._site.for_site(site_name)
        wished = (self._db, self._lease, task_id, site.name, article.slug, article.title)
        row = await publications.begin_publication(*wished)
        if not row.already_published:
            try:
                row = await self._write(site, row, wished, article, provenance)
            except OSError as error:
                raise _unwritable(site, error) from error
        await self.refresh(site_name)
        return row

    async def refresh(self, site_name: str) -> None:
        """Brings the site's listings up to what is published now. DestinationDown where they can't be
        written."""
        listings = self._listings.get(site_name)
        if listings is None:
            listings = self._listings[site_name] = _Listings(self._db, self._site.for_site(site_name))
        try:
            await listings.refresh()
        except OSError as error:
            raise _unwritable(self._site.for_site(site_name), error) from error

    async def close(self) -> None:
        """Ends what still runs; a file that is being written is finished first."""
        await asyncio.gather(*(listings.close() for listings in self._listings.values()))

    async def _write(
        self,
        site: StaticSite,
        row: publications.Publication,
        wished: tuple[AsyncDatabase, Lease, int, str, str, str],
        article: Article,
        provenance: Mapping[str, Any],
    ) -> publications.Publication:
        # jinja2, Markdown and nh3 are loaded where pages are made, in a thread.
        markdown, html = await in_thread(self._render, site, row.slug, wished[2], article, provenance)
        lock = site.lock_article(row.slug)
        if lock is None:
            raise DestinationDown(f"site {site.name}: another process is writing the page {row.slug}")
        try:
            row = await publications.begin_publication(*wished)
            if row.already_published:
                return row
            page = await in_thread(site.write_article, row.slug, markdown, html)
            await publications.confirm_publication(
                self._db,
                self._lease,
                row.publication_id,
                page.url,
                page.content_sha256,
                details={
                    "description": article.meta_description,
                    "words": article.words,
                    "language": article.language,
                    "score": article.score,
                    "sandbox": self._sandbox,
                },
            )
            return publications.Publication(row.publication_id, row.slug, True, page.url)
        finally:
            lock.release()

    def _render(
        self, site: StaticSite, slug: str, task_id: int, article: Article, provenance: Mapping[str, Any]
    ) -> tuple[str, str]:
        from lead_coordinator.pipelines.content.render import Page, render_html, render_markdown

        page = Page(
            article=article,
            task_id=task_id,
            slug=slug,
            url=site.url(slug),
            site_title=site.title,
            home="../",
            published_at=self._now(),
            sandbox=self._sandbox,
            provenance=provenance,
        )
        return render_markdown(page), render_html(page)


class _Listings:
    """The listings of one site, made by one task at a time. Who asks while one runs may have come too late
    for its rows: it waits for the next, which all who ask meanwhile share."""

    def __init__(self, db: AsyncDatabase, site: StaticSite) -> None:
        self._db = db
        self._site = site
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        if self._next is None:
            self._next = asyncio.create_task(self._rebuild_after(self._running))
        await asyncio.shield(self._next)

    async def close(self) -> None:
        tasks = [task for task in (self._running, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _rebuild_after(self, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait({earlier})
        self._running, self._next = self._next, None
        await self._site.rebuild_index_async(self._rows)

    async def _rows(self) -> list[PublishedRow]:
        found = await publications.alist_publications(self._db, self._site.name, limit=MAX_LISTED)
        return [published_row(row) for row in found]


def published_row(row: publications.Published) -> PublishedRow:
    """A row of the database as the listings show it; details that are missing or of another kind are left
    out."""
    details = row.details
    description, words, language = (details.get(key) for key in ("description", "words", "language"))
    return PublishedRow(
        publication_id=row.publication_id,
        slug=row.slug,
        title=row.title,
        published_at=row.published_at,
        description=description if isinstance(description, str) else "",
        words=words if isinstance(words, int) else 0,
        language=language if isinstance(language, str) else "en",
    )


def _unwritable(site: StaticSite, error: OSError) -> DestinationDown:
    return DestinationDown(f"site {site.name}: {error.strerror or error} ({error.filename or site.root})")
