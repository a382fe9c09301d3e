"""What a page tells search engines in its HTML and in its header: its canonical address, and robots words."""

from __future__ import annotations

from lead_coordinator.pipelines.seo.facts import Page, Visit
from lead_coordinator.web.failures import FetchFailed
from lead_coordinator.web.urls import resolve

_MAX_NAMED = 20


def canonical_addresses(page: Page) -> list[str]:
    """What a page names as its canonical address, in its HTML, then in its header, resolved; at most 20."""
    named = [*(page.html.canonicals if page.html is not None else ()), *header_canonicals(page.visit)]
    base = page.visit.final_url or page.url
    resolved = (_resolved(base, name) for name in named[:_MAX_NAMED])
    return [url for url in resolved if url is not None]


def header_canonicals(visit: Visit) -> list[str]:
    """The canonical addresses that a Link header names (RFC 8288), as written."""
    found = []
    for part in visit.link_header.split(",")[:50]:
        target, _, parameters = part.strip().partition(">")
        relations = (one.partition("=") for one in parameters.split(";"))
        if target.startswith("<") and any(
            name.strip().lower() == "rel" and "canonical" in value.strip().strip('"').lower().split()
            for name, _, value in relations
        ):
            found.append(target[1:].strip())
    return found


def _resolved(base: str, reference: str) -> str | None:
    try:
        return resolve(base, reference) if reference else None
    except FetchFailed:
        return None


def robots_words(page: Page) -> set[str]:
    """The words of its robots meta elements and of its X-Robots-Tag, for whichever robot they are meant."""
    said = [*(page.html.robots if page.html is not None else ()), page.visit.robots_header]
    return {word for one in said for word in one.replace(",", " ").replace(":", " ").split()}
