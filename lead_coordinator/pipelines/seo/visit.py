"""One address visited: a page, a sitemap, or a resource that is only looked at.

Nothing here raises for what the other side does: a failure is what was found out about the address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from lead_coordinator.pipelines.seo.canonical import canonical_addresses, robots_words
from lead_coordinator.pipelines.seo.facts import Kind, Page, Visit, page_from_json
from lead_coordinator.pipelines.seo.parse import parse_page
from lead_coordinator.pipelines.seo.settings import SeoSettings
from lead_coordinator.pipelines.seo.sitemap import SitemapContent, read_sitemap
from lead_coordinator.web.fetch import Fetched, Fetcher, FetchFailed
from lead_coordinator.web.page import content_type, is_html, text_of
from lead_coordinator.web.urls import host_of, origin_of

# What a server answers that doesn't speak HEAD, or speaks it to browsers only.
_ASK_AGAIN = frozenset({400, 401, 403, 404, 405, 406, 410, 429, 500, 501, 502, 503})
_LOOKED_AT_BYTES = 16_384
# Before a slow page is asked again: what kept the machine busy may be over.
PAUSES_SECONDS = (0.1, 0.4, 1.0)
_MAX_HEADER = 1000


@dataclass(frozen=True)
class Waiting:
    """An address of the frontier. `etag`, `last_modified`, `earlier`: of the copy of an earlier audit."""

    page_id: int
    url: str
    kind: Kind
    depth: int
    etag: str | None = None
    last_modified: str | None = None
    earlier: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Found:
    """An address that a page or a sitemap led to."""

    url: str
    kind: Kind
    depth: int
    in_sitemap: bool = False
    wanted: bool = False


@dataclass(frozen=True)
class Visited:
    """What became of it, and where it leads."""

    waiting: Waiting
    page: Page
    found: tuple[Found, ...] = ()


@dataclass(frozen=True)
class Site:
    """The site that is audited: `origin` tells inner links from outer ones. `follow`: links lead on (a whole
    audit), or are only looked at."""

    origin: str
    settings: SeoSettings = field(default_factory=SeoSettings)
    follow: bool = True

    def is_inner(self, url: str) -> bool:
        """Whether the address belongs to the site: same host, http or https."""
        return host_of(url) == host_of(self.origin + "/") or origin_of(url) == self.origin

    def is_excluded(self, url: str) -> bool:
        path = urlsplit(url).path
        return any(path.startswith(start) for start in self.settings.exclude_paths)


async def visit(fetcher: Fetcher, site: Site, waiting: Waiting) -> Visited:
    """Visits one address of the frontier."""
    if waiting.kind == "sitemap":
        return await _visit_sitemap(fetcher, site, waiting)
    if waiting.kind == "page":
        return await _visit_page(fetcher, site, waiting)
    return await _look_at(fetcher, site, waiting)


# ---- pages -----------------------------------------------------------------------------------------------


async def _visit_page(fetcher: Fetcher, site: Site, waiting: Waiting) -> Visited:
    try:
        got = await fetcher.get(waiting.url, etag=waiting.etag, last_modified=waiting.last_modified)
    except FetchFailed as error:
        return Visited(waiting, Page(waiting.url, "page", _failed(waiting.url, error)))
    seen = _seen(waiting.url, got)
    if got.hops:
        # Who answered is visited by itself, under its own address.
        found = (Found(got.final_url, "page", waiting.depth),) if site.is_inner(got.final_url) else ()
        return Visited(waiting, Page(waiting.url, "page", seen), found)
    if got.ok and got.ttfb_ms > site.settings.max_ttfb_ms:
        seen = replace(seen, ttfb_ms=await _measured_again(fetcher, site, got))
    if got.not_modified and waiting.earlier is not None:
        page = _as_before(waiting, seen)
    elif not 200 <= got.status < 300 or not is_html(got.headers, got.body):
        page = Page(waiting.url, "page", seen)
    else:
        text = text_of(got.headers, got.body)
        page = Page(waiting.url, "page", seen, await asyncio.to_thread(parse_page, text, waiting.url))
    return Visited(waiting, page, tuple(discovered(site, page, waiting.depth)))


def _as_before(waiting: Waiting, seen: Visit) -> Page:
    """The facts of the copy that an earlier audit has, with what this visit told: a 304 says little more than
    that it came, and how fast."""
    assert waiting.earlier is not None
    page = page_from_json(waiting.url, "page", waiting.earlier)
    told = {
        name: value for name, value in vars(seen).items() if value not in ("", None, ()) and name != "bytes"
    }
    return replace(page, visit=replace(page.visit, **{**told, "ttfb_ms": seen.ttfb_ms, "status": 200}))


async def _measured_again(fetcher: Fetcher, site: Site, got: Fetched) -> int:
    """The lowest of up to four times to the first byte, until one is within the line: a slow answer may be
    chance, or this machine's own doing while it is busy."""
    lowest = got.ttfb_ms
    for pause in PAUSES_SECONDS:
        await asyncio.sleep(pause)
        try:
            again = await fetcher.get(got.final_url, max_bytes=_LOOKED_AT_BYTES, truncate=True)
        except FetchFailed:
            break
        lowest = min(lowest, again.ttfb_ms)
        if lowest <= site.settings.max_ttfb_ms:
            break
    return lowest


def discovered(site: Site, page: Page, depth: int) -> list[Found]:
    """The addresses that a page leads to, each once: pages of the site, what it loads, links to elsewhere."""
    facts, settings = page.html, site.settings
    if facts is None:
        return []
    found: dict[str, Found] = {}
    nofollow = bool({"nofollow", "none"} & robots_words(page))
    leads_on = site.follow and depth < settings.max_crawl_depth and not nofollow
    for link in facts.links:
        if site.is_inner(link.url):
            if not site.is_excluded(link.url):
                kind: Kind = "page" if leads_on else "link"
                found.setdefault(link.url, Found(link.url, kind, depth + 1))
        elif settings.check_external_links:
            found.setdefault(link.url, Found(link.url, "external", depth + 1))
    for url in [*canonical_addresses(page), *(one.url for one in facts.alternates)]:
        if url and site.is_inner(url):
            further = site.follow and depth < settings.max_crawl_depth
            found.setdefault(url, Found(url, "page" if further else "link", depth + 1))
    for image in facts.images:
        found.setdefault(image.url, Found(image.url, "image", depth + 1))
    for asset in facts.assets:
        found.setdefault(asset, Found(asset, "asset", depth + 1))
    return list(found.values())


# ---- sitemaps --------------------------------------------------------------------------------------------


async def _visit_sitemap(fetcher: Fetcher, site: Site, waiting: Waiting) -> Visited:
    limit = site.settings.sitemap_max_bytes
    try:
        got = await fetcher.get(waiting.url, max_bytes=limit + 1, truncate=True)
    except FetchFailed as error:
        return Visited(waiting, Page(waiting.url, "sitemap", _failed(waiting.url, error)))
    seen = _seen(waiting.url, got)
    if not got.ok:
        return Visited(waiting, Page(waiting.url, "sitemap", seen))
    content: SitemapContent = await asyncio.to_thread(
        read_sitemap,
        got.body,
        got.final_url,
        max_urls=site.settings.sitemap_max_urls,
        max_bytes=limit,
    )
    found = [Found(url, "sitemap", waiting.depth + 1, wanted=True) for url in content.sitemaps]
    found += [
        Found(url, "page", 1, in_sitemap=True)
        for url in content.pages
        if site.is_inner(url) and not site.is_excluded(url)
    ]
    return Visited(waiting, Page(waiting.url, "sitemap", seen, sitemap=content.facts), tuple(found))


# ---- what is only looked at ------------------------------------------------------------------------------


async def _look_at(fetcher: Fetcher, site: Site, waiting: Waiting) -> Visited:
    """Its status and size by HEAD; by the beginning of a GET where HEAD isn't understood or tells no size."""
    sized = waiting.kind in ("image", "asset")
    most = site.settings.max_image_bytes + 1 if sized else _LOOKED_AT_BYTES
    try:
        got = await fetcher.get(waiting.url, head=True)
        if got.status in _ASK_AGAIN or (sized and got.ok and "content-length" not in got.headers):
            got = await fetcher.get(waiting.url, max_bytes=most, truncate=True)
    except FetchFailed as error:
        return Visited(waiting, Page(waiting.url, waiting.kind, _failed(waiting.url, error)))
    return Visited(waiting, Page(waiting.url, waiting.kind, _seen(waiting.url, got)))


# ---- what was seen ---------------------------------------------------------------------------------------


def _seen(url: str, got: Fetched) -> Visit:
    headers = got.headers
    return Visit(
        url=url,
        final_url=got.final_url,
        status=got.status,
        hops=tuple((hop.url, hop.status, hop.location) for hop in got.hops),
        ttfb_ms=got.ttfb_ms,
        bytes=_size(got),
        content_type=content_type(headers)[:100],
        link_header=headers.get("link", "")[:_MAX_HEADER],
        robots_header=headers.get("x-robots-tag", "").lower()[:_MAX_HEADER],
        hsts=headers.get("strict-transport-security", "")[:200],
        etag=headers.get("etag", "")[:300],
        last_modified=headers.get("last-modified", "")[:100],
    )


def _failed(url: str, error: FetchFailed) -> Visit:
    return Visit(
        url=url,
        final_url=error.hops[-1].location if error.hops else url,
        status=error.status,
        failure=error.kind,
        reason=error.reason[:500],
        hops=tuple((hop.url, hop.status, hop.location) for hop in error.hops),
        bytes=error.declared_bytes,
    )


def _size(got: Fetched) -> int | None:
    """Bytes of the body: as unpacked where it was read, else as announced, else as far as it was read."""
    length = got.headers.get("content-length", "")
    if got.body and not got.truncated:
        return len(got.body)
    if length.isascii() and length.isdigit() and len(length) < 16:
        return int(length)
    return len(got.body) if got.truncated else None
