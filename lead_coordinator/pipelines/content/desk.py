"""What the tasks of a run share: targets, the fetcher of sources, and what is published already."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from lead_coordinator.database import articles, publications
from lead_coordinator.errors import AuthError
from lead_coordinator.pipelines.content.likeness import PublishedTexts
from lead_coordinator.pipelines.content.links import OwnArticle
from lead_coordinator.pipelines.content.listings import Listings
from lead_coordinator.pipelines.content.settings import ContentSettings, site_password
from lead_coordinator.pipelines.content.site import StaticSite
from lead_coordinator.pipelines.content.targets import StaticTarget, Target
from lead_coordinator.pipelines.content.wordpress import WordPress
from lead_coordinator.pipelines.runtime import TaskRun

if TYPE_CHECKING:
    from lead_coordinator.web.fetch import Fetcher

# Links are looked for among the newest articles of a site.
MAX_LINKABLE = 2000


class Desk:
    """Opened by the first task that needs a thing, closed with the run."""

    def __init__(self, site: StaticSite) -> None:
        self._site = site
        self._targets: dict[str, Target] = {}
        self._fetchers: dict[bool, Fetcher] = {}
        self._texts: PublishedTexts | None = None
        # What is opened or read once: a second task waits for the first.
        self._once = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def close(self) -> None:
        """Ends what still runs; a file that is being written is finished first."""
        await asyncio.gather(*(target.close() for target in self._targets.values()))
        await self._stack.aclose()

    def static_site(self, name: str) -> StaticSite:
        return self._site.for_site(name)

    def target(self, run: TaskRun, name: str) -> Target:
        """The target of a site, as its profile says. Raises AuthError where its password isn't set."""
        found = self._targets.get(name)
        if found is None:
            found = self._targets[name] = self._open_target(run, name, run.profiles.of(name).content)
        return found

    def _open_target(self, run: TaskRun, name: str, settings: ContentSettings) -> Target:
        if settings.target == "wordpress" and settings.wordpress is not None:
            variable = run.settings.wordpress_application_password
            password = site_password(variable.get_secret_value(), name) if variable is not None else None
            if password is None:
                raise AuthError(
                    f"site {name}: WORDPRESS_APPLICATION_PASSWORD holds no password for it, and its "
                    f"articles go to {settings.wordpress.url}"
                )
            return WordPress(settings.wordpress, password)
        site = self._site.for_site(name)
        return StaticTarget(site, Listings(run.db, site))

    async def fetcher(self, *, private: bool) -> Fetcher:
        """The guarded fetcher; `private`: this machine and private networks may be read from."""
        async with self._once:
            found = self._fetchers.get(private)
            if found is None:
                from lead_coordinator.web.fetch import Fetcher, FetchPolicy

                found = Fetcher(FetchPolicy(allow_private_addresses=private))
                self._fetchers[private] = await self._stack.enter_async_context(found)
            return found

    async def texts(self, run: TaskRun) -> PublishedTexts:
        """The signatures of what is published, read once a run; what the run publishes is added."""
        async with self._once:
            if self._texts is None:
                self._texts = PublishedTexts(await articles.published_signatures(run.db))
            return self._texts

    async def own_articles(self, run: TaskRun, name: str) -> list[OwnArticle]:
        """The newest articles of a site, to link to."""
        rows = await publications.alist_publications(run.db, name, limit=MAX_LINKABLE)
        return [
            OwnArticle(row.title, row.url, str(row.details.get("description") or ""))
            for row in rows
            if row.url
        ]
