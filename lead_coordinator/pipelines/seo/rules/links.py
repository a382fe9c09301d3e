"""Links: whether they lead somewhere, can be followed, and say where to."""

from __future__ import annotations

from lead_coordinator.pipelines.seo.facts import Page, PageFacts
from lead_coordinator.pipelines.seo.rules.base import MAX_SAMPLES, Evidence, Rules, View, samples

RULES = Rules("links")
_GONE = frozenset({404, 410})
_NOBODY = frozenset({"dns", "connection", "tls", "redirect_loop", "too_many_redirects"})


@RULES.html(
    "broken-internal-link",
    "error",
    "A link to a page of the site leads nowhere",
    "Link to the page that took its place, or take the link out.",
    needs="html",
)
def broken_internal_link(html: PageFacts, page: Page, view: View) -> Evidence | None:
    broken = []
    for url in dict.fromkeys(link.url for link in html.links):
        known = view.known(url)
        if known is not None and known.kind in ("page", "link") and known.is_broken:
            broken.append([url, known.status or known.failure])
    return samples(broken)


@RULES.html(
    "broken-external-link",
    "warning",
    "A link to another site leads nowhere",
    "Link to where it has moved, to another source, or take the link out.",
    needs="html",
)
def broken_external_link(html: PageFacts, page: Page, view: View) -> Evidence | None:
    broken = []
    for url in dict.fromkeys(link.url for link in html.links):
        known = view.known(url)
        if known is None or known.kind != "external":
            continue
        # Others (403, 429, 503) are how sites answer programs; the link may be fine for people.
        if known.status in _GONE or known.failure in _NOBODY:
            broken.append([url, known.status or known.failure])
    return samples(broken)


@RULES.html(
    "redirected-link",
    "warning",
    "A link leads to a page of the site over a redirect",
    "Link to the address that the redirect ends at.",
    needs="html",
)
def redirected_link(html: PageFacts, page: Page, view: View) -> Evidence | None:
    redirected = []
    for url in dict.fromkeys(link.url for link in html.links):
        known = view.known(url)
        if known is None or known.kind not in ("page", "link") or not known.hops:
            continue
        if known.failure is None and not known.is_broken:
            redirected.append([url, known.final_url])
    return samples(redirected)


@RULES.html(
    "uncrawlable-link",
    "warning",
    "A link can't be followed by a search engine",
    'Use <a href="…"> with an address; make what isn\'t a link a button.',
    needs="html",
)
def uncrawlable_link(html: PageFacts, page: Page, view: View) -> Evidence | None:
    if not html.bad_anchor_count:
        return None
    return {"count": html.bad_anchor_count, "samples": list(html.bad_anchors[:MAX_SAMPLES])}


@RULES.html(
    "generic-anchor",
    "notice",
    "A link's text doesn't say where it leads",
    "Let the text name what is found there: 'the watering table' instead of 'click here'.",
    needs="html",
)
def generic_anchor(html: PageFacts, page: Page, view: View) -> Evidence | None:
    generic = set(view.settings.generic_anchors)
    return samples(
        [
            [link.text, link.url]
            for link in html.links
            if " ".join(link.text.casefold().split()).strip(" .…»>→!") in generic
        ]
    )


@RULES.html(
    "too-many-links",
    "notice",
    "The page has more links than the settings allow",
    "Keep the links that help the reader of this page.",
    needs="html",
)
def too_many_links(html: PageFacts, page: Page, view: View) -> Evidence | None:
    if html.link_count <= view.settings.max_links:
        return None
    return {"links": html.link_count, "allowed": view.settings.max_links}


@RULES.html(
    "no-links",
    "warning",
    "The page has no link that leads on",
    "Link to related pages, so that readers and search engines can go on.",
)
def no_links(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return {} if not html.link_count and not html.cut else None
