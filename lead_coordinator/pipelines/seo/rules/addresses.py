"""Addresses: canonical ones, those in sitemaps, how they are written and how deep they lie."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from lead_coordinator.pipelines.seo.canonical import canonical_addresses, header_canonicals
from lead_coordinator.pipelines.seo.facts import Page, PageFacts
from lead_coordinator.pipelines.seo.index import Known
from lead_coordinator.pipelines.seo.rules.base import Evidence, Rules, View

RULES = Rules("addresses")
_ABSOLUTE = re.compile(r"https?://[^/]", re.I)


@RULES.html(
    "canonical-missing",
    "warning",
    "The page names no canonical address",
    'Add <link rel="canonical" href="…"> with the page\'s own full address to its head.',
)
def canonical_missing(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return {} if not html.canonicals and not header_canonicals(page.visit) else None


@RULES.html(
    "canonical-multiple",
    "error",
    "The page names several canonical addresses",
    "Keep one canonical link; several make search engines ignore all of them.",
    needs="html",
)
def canonical_multiple(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return {"canonicals": list(html.canonicals[:5])} if len(html.canonicals) > 1 else None


@RULES.html(
    "canonical-relative",
    "warning",
    "The canonical address is written without scheme and host",
    "Write the canonical address in full, beginning with https://.",
    needs="html",
)
def canonical_relative(html: PageFacts, page: Page, view: View) -> Evidence | None:
    relative = [one for one in html.canonicals if not _ABSOLUTE.match(one)]
    return {"canonicals": relative[:5]} if relative else None


@RULES.html(
    "canonical-target",
    "error",
    "The canonical address is a redirect, an error, not to be indexed, or names another one itself",
    "Name an address that answers 200, may be indexed and names itself.",
    needs="html",
)
def canonical_target(html: PageFacts, page: Page, view: View) -> Evidence | None:
    named = canonical_addresses(page)
    if not named or named[0] == page.url:
        return None
    target = view.known(named[0])
    reason = None if target is None else _no_canonical(target)
    return None if reason is None else {"canonical": named[0], "reason": reason}


def _no_canonical(target: Known) -> str | None:
    if target.failure is not None:
        return f"it can't be fetched ({target.failure})" if target.failure != "forbidden_address" else None
    if target.hops:
        return f"it redirects to {target.final_url}"
    if target.status is not None and not target.ok:
        return f"its status is {target.status}"
    if target.noindex:
        return "it isn't to be indexed"
    return None if target.is_canonical else f"it names {target.canonical} itself"


@RULES.html(
    "canonical-conflict",
    "error",
    "The canonical address in the HTML and the one in the Link header differ",
    "Name the same address in both, or leave one out.",
    needs="html",
)
def canonical_conflict(html: PageFacts, page: Page, view: View) -> Evidence | None:
    headers = header_canonicals(page.visit)
    if not html.canonicals or not headers:
        return None
    named = canonical_addresses(page)
    if len(set(named)) < 2:
        return None
    return {"html": html.canonicals[0], "header": headers[0]}


@RULES.visit(
    "sitemap-non-indexable",
    "error",
    "The sitemap lists an address that can't be indexed",
    "List only addresses that answer 200, may be indexed, and are canonical.",
)
def sitemap_non_indexable(page: Page, view: View) -> Evidence | None:
    known = view.known(page.url)
    if known is None or not known.in_sitemap:
        return None
    if known.failure is not None:
        ours = known.failure in ("forbidden_address", "too_large", "timeout")
        return None if ours else {"reason": f"it can't be fetched ({known.failure})"}
    if known.hops:
        return {"reason": f"it redirects to {known.final_url}"}
    if not known.ok:
        return {"reason": f"its status is {known.status}"}
    if known.noindex:
        return {"reason": "it isn't to be indexed"}
    return None if known.is_canonical else {"reason": f"it names {known.canonical} as canonical"}


@RULES.visit(
    "sitemap-too-large",
    "error",
    "The sitemap has more addresses or bytes than search engines read",
    "Split it into several of at most 50,000 addresses and 50 MB each, and list them in a sitemap index.",
)
def sitemap_too_large(page: Page, view: View) -> Evidence | None:
    facts = page.sitemap
    if facts is None:
        return None
    urls, size = facts.urls, max(facts.bytes, page.visit.bytes or 0)
    if urls <= view.settings.sitemap_max_urls and size <= view.settings.sitemap_max_bytes:
        return None
    return {
        "urls": f"over {view.settings.sitemap_max_urls:,}" if urls > view.settings.sitemap_max_urls else urls,
        "bytes": size,
    }


@RULES.visit(
    "sitemap-invalid",
    "error",
    "The sitemap can't be read",
    "Serve it with status 200 as well-formed XML by sitemaps.org, without a document type declaration.",
)
def sitemap_invalid(page: Page, view: View) -> Evidence | None:
    if page.kind != "sitemap":
        return None
    if page.sitemap is not None:
        return {"reason": page.sitemap.problem} if page.sitemap.problem else None
    # Nobody needs one: that it isn't there is a fault where robots.txt or an index names it.
    if not page.wanted or (
        page.visit.failure == "robots" and view.robots is not None and view.robots.unreachable
    ):
        return None
    return {"reason": page.visit.reason or f"its status is {page.visit.status}"}


@RULES.site(
    "orphan",
    "warning",
    "No page of the site links to the page, only the sitemap knows it",
    "Link to it from a page that readers visit; or, where nobody needs it, take it out.",
)
def orphan(view: View) -> Iterable[tuple[str, Evidence]]:
    if not view.index.complete:
        return
    for page in view.index.pages():
        if page.in_sitemap and page.ok and page.url != view.home and not view.index.is_linked(page.url):
            yield page.url, {}


@RULES.site(
    "deep-page",
    "warning",
    "The page lies too many clicks from the home page",
    "Link to it from a page nearer to the home page: a hub, a category, related articles.",
)
def deep_page(view: View) -> Iterable[tuple[str, Evidence]]:
    for page in view.index.pages():
        depth = view.index.depth(page.url)
        if page.is_indexable and depth is not None and depth > view.settings.max_depth:
            yield page.url, {"depth": depth, "allowed": view.settings.max_depth}


@RULES.visit(
    "url-format",
    "notice",
    "The address has underscores, spaces or double slashes",
    "Write words with hyphens and single slashes, and redirect (301) the old address.",
)
def url_format(page: Page, view: View) -> Evidence | None:
    if page.html is None:
        return None
    path = urlsplit(page.url).path
    found = [
        name
        for name, there in (
            ("underscore", "_" in path),
            ("space", "%20" in path or "+" in path),
            ("double slash", "//" in path),
        )
        if there
    ]
    return {"has": found} if found else None
