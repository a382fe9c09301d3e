"""Publishing each revision of an article once, whatever dies in between.

The order is intent (a fenced, unique row) → the revision, stored → pages → confirmation → listings. Pages
are placed and confirmed while the page is held, and the lease is asked for again under it: a run that was
given up for dead in between, and still holds the page, comes before its successor and not after it, so page
and row are always of the same run. A revision that isn't to be published now (a draft, one that a person has
to approve, one with a date) ends after it was stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lead_coordinator.database import articles, publications
from lead_coordinator.database.articles import KeptArticle, Taken
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import Lease
from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.content.article import Article, as_json, from_json
from lead_coordinator.pipelines.content.targets import Showing, Target


@dataclass(frozen=True)
class Manuscript:
    """An article that passed the gate, with how it came about and how it is to be published."""

    article: Article
    provenance: Mapping[str, Any] = field(default_factory=dict)
    signature: bytes | None = None
    policy: str = "auto"
    publish_at: datetime | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a revision. `state`: published, draft, in_review, scheduled, rejected, unpublished …"""

    publication_id: int
    article_id: int | None
    revision: int
    site: str
    slug: str
    state: str
    url: str | None


class Publisher:
    """Publishes for one task of a run. `target_of(site)` gives the target of a site's name."""

    def __init__(
        self,
        db: AsyncDatabase,
        lease: Lease,
        task_id: int,
        target_of: Callable[[str], Target],
        *,
        sandbox: bool,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._db = db
        self._lease = lease
        self._task_id = task_id
        self._target_of = target_of
        self._sandbox = sandbox
        self._now = now

    async def publish(self, site: str, manuscript: Manuscript) -> Outcome:
        """A new article, under an address of its own. Raises StaleLease and DestinationDown."""
        article = manuscript.article
        row = await publications.begin_publication(
            self._db, self._lease, self._task_id, site, article.slug, article.title
        )
        if row.already_published:
            await self.refresh(site)
            return Outcome(row.publication_id, None, 1, site, row.slug, "published", row.url)
        return await self._keep_and_place(site, row.publication_id, row.slug, manuscript)

    async def update(self, site: str, publication_id: int, manuscript: Manuscript) -> Outcome:
        """Another revision at the same address. Raises StaleLease and DestinationDown."""
        taken = await articles.begin_update(self._db, self._lease, self._task_id, publication_id)
        return await self._keep_and_place(site, publication_id, taken.slug, manuscript)

    async def publish_stored(self, article_id: int) -> Outcome:
        """A revision that is stored: one that was approved, whose time has come, or that an earlier attempt
        of this task has written. One that is no longer to be published is left alone, and says so.
        """
        stored = await articles.aget_article(self._db, article_id)
        if stored["state"] in ("ready", "scheduled", "approved"):
            await articles.begin_update(self._db, self._lease, self._task_id, stored["publication_id"])
            return await self._place(stored)
        state = stored["state"] if stored["state"] != "current" else stored["status"]
        if state == "published":
            await self.refresh(stored["site"])
        return _outcome(stored, state, stored["url"])

    async def change(self, publication_id: int, wish: str) -> Outcome:
        """Takes a publication off its site, or puts it back as it was. Raises InvalidInput where there is no
        article to put back."""
        taken = await articles.begin_update(self._db, self._lease, self._task_id, publication_id)
        found = await articles.find_publication(self._db, taken.site, taken.slug) or {}
        if wish == "unpublish":
            return await self._take_down(taken, found)
        if found.get("article_id") is None:
            raise InvalidInput(f"publication {publication_id}: it has no article to put back")
        return await self._place(await articles.aget_article(self._db, found["article_id"]))

    async def refresh(self, site: str) -> None:
        """Brings the site's listings up to what is published now."""
        await self._target_of(site).refresh()

    async def _keep_and_place(
        self, site: str, publication_id: int, slug: str, manuscript: Manuscript
    ) -> Outcome:
        kept = await articles.keep_article(
            self._db,
            self._lease,
            self._task_id,
            publication_id,
            as_json(manuscript.article),
            dict(manuscript.provenance),
            signature=manuscript.signature,
            policy=manuscript.policy,
            publish_at=manuscript.publish_at,
        )
        if kept.state != "ready":
            return _kept_outcome(kept, publication_id, site, slug)
        return await self._place(await articles.aget_article(self._db, kept.article_id))

    async def _place(self, stored: Mapping[str, Any]) -> Outcome:
        article = from_json(stored["content"])
        target = self._target_of(stored["site"])
        async with target.hold(stored["slug"]):
            taken = await articles.begin_update(
                self._db, self._lease, self._task_id, stored["publication_id"]
            )
            now = self._now()
            placed = await target.put(
                Showing(
                    article=article,
                    publication_id=taken.publication_id,
                    task_id=stored["task_id"],
                    slug=taken.slug,
                    published_at=taken.published_at or now,
                    updated_at=now,
                    sandbox=self._sandbox,
                    provenance=stored["details"],
                    known=_known(taken.details),
                )
            )
            await publications.confirm_publication(
                self._db,
                self._lease,
                taken.publication_id,
                placed.url,
                placed.content_sha256,
                details={
                    "description": article.meta_description,
                    "words": article.words,
                    "language": article.language,
                    "score": article.score,
                    "sandbox": self._sandbox,
                    "revision": stored["revision"],
                    "target": dict(placed.known),
                },
                article_id=stored["article_id"],
            )
        await target.refresh()
        return _outcome(stored, "published", placed.url)

    async def _take_down(self, taken: Taken, found: Mapping[str, Any]) -> Outcome:
        target = self._target_of(taken.site)
        if taken.status == "published":
            async with target.hold(taken.slug):
                await articles.begin_update(self._db, self._lease, self._task_id, taken.publication_id)
                await target.take_down(taken.publication_id, taken.slug, _known(taken.details))
                await articles.confirm_unpublication(self._db, self._lease, taken.publication_id)
        else:
            await articles.confirm_unpublication(self._db, self._lease, taken.publication_id)
        await target.refresh()
        revision = int(found.get("revision") or 1)
        return Outcome(
            taken.publication_id,
            found.get("article_id"),
            revision,
            taken.site,
            taken.slug,
            "unpublished",
            taken.url,
        )


def _known(details: Mapping[str, Any]) -> Mapping[str, Any]:
    known = details.get("target")
    return known if isinstance(known, Mapping) else {}


def _outcome(stored: Mapping[str, Any], state: str, url: str | None) -> Outcome:
    return Outcome(
        publication_id=stored["publication_id"],
        article_id=stored["article_id"],
        revision=stored["revision"],
        site=stored["site"],
        slug=stored["slug"],
        state=state,
        url=url,
    )


def _kept_outcome(kept: KeptArticle, publication_id: int, site: str, slug: str) -> Outcome:
    return Outcome(publication_id, kept.article_id, kept.revision, site, slug, kept.state, None)
