"""The listings of a static site (index, feed, sitemap), renewed from what the database says is published.

They are made by one task at a time. Who asks while one runs may have come too late for its rows: it waits for
the next, which all who ask meanwhile share.
"""

from __future__ import annotations

import asyncio

from lead_coordinator.database import publications
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.pipelines.content.site import PublishedRow, StaticSite

# All of a site: a sitemap that left something out would be wrong.
MAX_LISTED = 1_000_000


class Listings:
    """The listings of one site, for one run. Close them at its end."""

    def __init__(self, db: AsyncDatabase, site: StaticSite) -> None:
        self._db = db
        self._site = site
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Ends once the listings hold all that was published before it was called. Raises OSError."""
        if self._next is None:
            self._next = asyncio.create_task(self._rebuild_after(self._running))
        await asyncio.shield(self._next)

    async def close(self) -> None:
        """Ends what still runs; a file that is being written is finished first."""
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
