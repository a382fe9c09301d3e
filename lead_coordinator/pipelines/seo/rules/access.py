"""Can a search engine get at the page: status, redirects, robots, noindex."""

from __future__ import annotations

from collections.abc import Iterable

from lead_coordinator.pipelines.seo.facts import Page
from lead_coordinator.pipelines.seo.index import is_noindex
from lead_coordinator.pipelines.seo.robots import robots_problems
from lead_coordinator.pipelines.seo.rules.base import Evidence, Rules, View, samples

RULES = Rules("access")
# Failures that have a rule of their own, or are our own choice.
_ELSEWHERE = frozenset(
    {"robots", "redirect_loop", "too_many_redirects", "too_large", "forbidden_address", "invalid_url"}
)


@RULES.visit(
    "http-status",
    "critical",
    "A page that is meant to be found doesn't answer with a 2xx status",
    "Bring the page back; or redirect its address (301) to the page that took its place, and take it out of "
    "the sitemap and the links.",
)
def http_status(page: Page, view: View) -> Evidence | None:
    visit = page.visit
    if page.kind != "page":
        return None
    if visit.failure is not None:
        asked = page.intended or visit.failure != "forbidden_scheme"
        if visit.failure in _ELSEWHERE or not asked:
            return None
        return {"failure": visit.failure, "reason": visit.reason}
    if visit.status is None or visit.ok:
        return None
    # A page that only a link leads to and that isn't there is that link's fault: broken-internal-link.
    return {"status": visit.status} if page.intended or visit.status >= 500 else None


@RULES.visit(
    "redirect-chain",
    "warning",
    "The address redirects more than once before a page answers",
    "Let the address, and each in between, redirect straight to the last one.",
)
def redirect_chain(page: Page, view: View) -> Evidence | None:
    hops = page.visit.hops
    if page.kind not in ("page", "link") or len(hops) < 2 or page.visit.failure is not None:
        return None
    return {"hops": [[url, status] for url, status, _ in hops[:10]], "ends_at": page.visit.final_url}


@RULES.visit(
    "redirect-loop",
    "critical",
    "The address redirects in a circle, or without end",
    "Find the rule that sends the address back, and let it end at a page.",
)
def redirect_loop(page: Page, view: View) -> Evidence | None:
    if page.kind not in ("page", "link"):
        return None
    if page.visit.failure not in ("redirect_loop", "too_many_redirects"):
        return None
    return {"hops": [[url, status] for url, status, _ in page.visit.hops[:10]]}


@RULES.visit(
    "noindex",
    "critical",
    "A page that is meant to be found asks not to be indexed",
    "Remove noindex from the robots meta tag or the X-Robots-Tag header; or, where it is meant, take the "
    "page out of the sitemap.",
)
def noindex(page: Page, view: View) -> Evidence | None:
    intended = page.intended or page.url == view.home
    if page.html is None or not intended or not is_noindex(page):
        return None
    return {"meta": list(page.html.robots[:5]), "header": page.visit.robots_header[:200]}


@RULES.visit(
    "robots-blocked",
    "critical",
    "A page that is meant to be found is blocked by robots.txt",
    "Allow the path in robots.txt; or, where the block is meant, take the page out of the sitemap.",
)
def robots_blocked(page: Page, view: View) -> Evidence | None:
    if page.visit.failure != "robots" or not page.intended:
        return None
    if view.robots is not None and view.robots.unreachable:
        return None  # robots-invalid says it once for the whole site
    return {"reason": page.visit.reason}


@RULES.site(
    "robots-invalid",
    "error",
    "robots.txt can't be read as it is meant",
    "Serve robots.txt as text/plain with status 200 (or 404), with `User-agent:`, `Allow:`, `Disallow:` and "
    "`Sitemap:` lines only, under 500 KiB; begin each group with a User-agent line.",
)
def robots_invalid(view: View) -> Iterable[tuple[str, Evidence]]:
    if view.robots is not None:
        evidence = samples(robots_problems(view.robots))
        if evidence is not None:
            yield view.robots.url, evidence
