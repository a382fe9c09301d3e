"""The scores, 0 (bad) to 100.

Page:  100 minus the weights of its findings, at least 0. A finding weighs 40 (critical), 15 (error),
       5 (warning) or 1 (notice), once a rule, however often it shows on the page.
Site:  the mean of its pages' scores, minus the weights of findings on what is no page (robots.txt, sitemaps),
       at least 0. An address that should be a page and isn't counts as a page, with its own score.

So the site score says what share of its quality a site has lost, and a fault on one page of a hundred costs a
hundredth of what it costs the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lead_coordinator.pipelines.seo.rules.base import Severity

WEIGHTS: Mapping[Severity, int] = {"critical": 40, "error": 15, "warning": 5, "notice": 1}


def page_score(severities: Iterable[Severity]) -> int:
    """The score of a page with findings of these severities."""
    return max(0, 100 - sum(WEIGHTS[severity] for severity in severities))


def site_score(pages: Mapping[str, int], elsewhere: Iterable[Severity] = ()) -> float | None:
    """The site's score from its pages' and from what was found on no page; None without a page."""
    if not pages:
        return None
    mean = sum(pages.values()) / len(pages)
    return round(max(0.0, mean - sum(WEIGHTS[severity] for severity in elsewhere)), 1)
