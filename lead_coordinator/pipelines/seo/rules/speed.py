"""How long a reader waits."""

from __future__ import annotations

from lead_coordinator.pipelines.seo.facts import Page, PageFacts
from lead_coordinator.pipelines.seo.rules.base import Evidence, Rules, View

RULES = Rules("speed")


@RULES.html(
    "slow-response",
    "warning",
    "The server takes longer to answer than the settings allow",
    "Cache the page; look for slow database queries and for work that can wait until after the answer.",
    needs="html",
)
def slow_response(html: PageFacts, page: Page, view: View) -> Evidence | None:
    if page.visit.ttfb_ms <= view.settings.max_ttfb_ms:
        return None
    return {"ttfb_ms": page.visit.ttfb_ms, "allowed_ms": view.settings.max_ttfb_ms}


@RULES.html(
    "dom-size",
    "notice",
    "The page has more elements than the settings allow",
    "Show less at once: paging, fewer wrappers, menus that load when they are opened.",
    needs="html",
)
def dom_size(html: PageFacts, page: Page, view: View) -> Evidence | None:
    if html.nodes <= view.settings.max_dom_nodes:
        return None
    return {"elements": html.nodes, "allowed": view.settings.max_dom_nodes}


@RULES.visit(
    "page-weight",
    "warning",
    "The page and what it loads have more bytes than the settings allow",
    "Shrink images, split scripts, and load late what isn't seen at once.",
)
def page_weight(page: Page, view: View) -> Evidence | None:
    most = view.settings.max_weight_bytes
    if page.kind == "page" and page.visit.failure == "too_large":
        return {"bytes": page.visit.bytes, "allowed": most, "reason": "the page alone is more than is read"}
    if page.html is None:
        return None
    total = page.visit.bytes or 0
    heaviest = ("", 0)
    for url in {*(image.url for image in page.html.images), *page.html.assets}:
        known = view.known(url)
        size = (known.bytes or 0) if known is not None and known.status == 200 else 0
        total += size
        heaviest = max(heaviest, (url, size), key=lambda one: one[1])
    if total <= most:
        return None
    return {"bytes": total, "allowed": most, "heaviest": list(heaviest)}
