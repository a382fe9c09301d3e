"""A whole site: every page's course, what could be done, and what is not claimed for want of data.

Tests are made page by page and reported together: for each kind, Benjamini and Hochberg keep the share of
false reports down, however many pages there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lead_coordinator.pipelines.revenue import opportunity
from lead_coordinator.pipelines.revenue.ctr import Clicks, Curve, expected_clicks, fit_curve
from lead_coordinator.pipelines.revenue.decay import Course, course_of
from lead_coordinator.pipelines.revenue.opportunity import Opportunity
from lead_coordinator.pipelines.revenue.page import PageData, Window
from lead_coordinator.pipelines.revenue.settings import RevenueSettings
from lead_coordinator.pipelines.revenue.shortfall import Rate, Shortfall, judged
from lead_coordinator.pipelines.revenue.trend import discoveries
from lead_coordinator.pipelines.revenue.value import (
    SiteTotals,
    margin,
    value_of_conversion,
    value_of_visit,
)

# A title says little about a page that nobody gets to see.
LAST_POSITION_FOR_TITLES = 20


@dataclass(frozen=True)
class PageReport:
    """One page: what it earned, how it does, what could be done, and what isn't claimed and why."""

    data: PageData
    course: Course
    cost_usd: float | None
    margin_usd: float | None
    opportunities: tuple[Opportunity, ...]
    not_claimed: tuple[str, ...]

    @property
    def page(self) -> str:
        return self.data.page


@dataclass(frozen=True)
class SiteReport:
    """All pages, those that earn most first, and what the site's figures are."""

    window: Window
    pages: tuple[PageReport, ...]
    totals: SiteTotals
    curve: Curve
    notes: tuple[str, ...]

    @property
    def opportunities(self) -> list[Opportunity]:
        return [found for page in self.pages for found in page.opportunities]


def analyse(
    pages: Sequence[PageData],
    window: Window,
    settings: RevenueSettings,
    *,
    costs: Mapping[str, float] | None = None,
    refresh_cost_usd: float | None = None,
    findings: Mapping[str, Sequence[str]] | None = None,
) -> SiteReport:
    """Judges every page.

    `costs`: dollars a page has cost, by page; `refresh_cost_usd`: what writing an article has cost, from the
    ledger; `findings`: rules that the SEO monitor has found broken, by page, as further evidence.
    """
    totals = SiteTotals.of(pages)
    courses = _courses(pages, settings)
    clicked = Clicks()
    for page in pages:
        clicked.merge(page.by_position)
    titles, title_notes = _titles(pages, clicked, settings)
    placements, placement_notes = _placements(pages, settings)
    curve = fit_curve(clicked, settings.prior_impressions)
    reports = []
    for page in pages:
        course = courses[page.page]
        value = value_of_visit(page, totals, settings)
        found: list[Opportunity] = []
        if course.verdict == "decay":
            found.append(opportunity.refresh(page, course, value, settings, refresh_cost_usd))
        if (title := titles.get(page.page)) is not None:
            found.append(opportunity.title_test(page, title, curve, value, settings))
        if (placement := placements.get(page.page)) is not None:
            worth = value_of_conversion(page, totals)
            found.append(opportunity.placement_test(page, placement, worth, settings))
        rules = (findings or {}).get(page.page, ())
        found = [_with_findings(one, rules) for one in found]
        cost = (costs or {}).get(page.page)
        unsaid = [
            note
            for note in (
                f"trend: {course.why}" if course.verdict in ("too little data", "falling") else None,
                title_notes.get(page.page),
                placement_notes.get(page.page),
                "margin: no revenue is counted" if not page.has_revenue else None,
                "margin: no cost is known" if page.has_revenue and cost is None else None,
            )
            if note is not None
        ]
        reports.append(PageReport(page, course, cost, margin(page, cost), tuple(found), tuple(unsaid)))
    reports.sort(key=lambda report: (-report.data.revenue_usd, -report.data.clicks, report.page))
    return SiteReport(window, tuple(reports), totals, curve, _site_notes(totals, settings))


# Rules of the SEO monitor whose breach speaks for an action, by the words in their names.
_SPEAKING = {
    "refresh": ("content", "heading", "h1", "link"),
    "title_test": ("title", "description", "open-graph"),
    "placement_test": ("slow", "weight", "dom", "viewport", "image", "deep", "orphan"),
}


def _with_findings(found: Opportunity, rules: Sequence[str]) -> Opportunity:
    speaking = [rule for rule in rules if any(word in rule for word in _SPEAKING[found.kind])]
    if not speaking:
        return found
    return replace(found, evidence=(*found.evidence, f"SEO monitor: {', '.join(speaking[:5])}"))


def _courses(pages: Sequence[PageData], settings: RevenueSettings) -> dict[str, Course]:
    """Courses, of which those that decay by too likely a chance are only said to fall."""
    courses = [course_of(page, settings) for page in pages]
    real = discoveries([course.p_decay for course in courses], settings.false_discovery_rate)
    kept = {}
    for page, course, holds in zip(pages, courses, real, strict=True):
        if course.verdict == "decay" and not holds:
            why = f"{course.why}; among so many pages that may be chance"
            course = replace(course, verdict="falling", why=why)
        kept[page.page] = course
    return kept


def _titles(
    pages: Sequence[PageData], site: Clicks, settings: RevenueSettings
) -> tuple[dict[str, Shortfall], dict[str, str]]:
    rates: list[Rate] = []
    notes: dict[str, str] = {}
    for page in pages:
        seen = sum(page.by_position.impressions.values())
        if not page.has_search or seen == 0:
            notes[page.page] = "title: no positions and impressions are known"
            continue
        place = sum(p * n for p, n in page.by_position.impressions.items()) / seen
        curve = fit_curve(site.without(page.by_position), settings.prior_impressions)
        expected = expected_clicks(curve, {float(p): n for p, n in page.by_position.impressions.items()})
        if seen < settings.minimum_impressions:
            notes[page.page] = f"title: {seen:,.0f} impressions, {settings.minimum_impressions:,} are needed"
        elif place > LAST_POSITION_FOR_TITLES:
            notes[page.page] = f"title: at position {place:.0f} hardly anybody sees it"
        elif expected < settings.minimum_expected:
            notes[page.page] = (
                f"title: {expected:.0f} clicks to be expected, {settings.minimum_expected} needed"
            )
        else:
            clicks = sum(page.by_position.clicks.values())
            rates.append(Rate(page.page, clicks, expected, curve.relative_error(place)))
    if not _enough_peers("title", rates, notes, settings):
        return {}, notes
    return _too_low(judged(rates, settings.prior_spread_ctr, centred=False), settings), notes


def _placements(
    pages: Sequence[PageData], settings: RevenueSettings
) -> tuple[dict[str, Shortfall], dict[str, str]]:
    notes: dict[str, str] = {}
    counted = []
    for page in pages:
        if not page.has_analytics or page.recent_visits == 0:
            notes[page.page] = "placement: no visits and conversions are known"
        else:
            counted.append(page)
    visits = sum(page.recent_visits for page in counted)
    conversions = sum(page.recent_conversions for page in counted)
    rates = []
    for page in counted:
        others = visits - page.recent_visits
        expected = (
            page.recent_visits * (conversions - page.recent_conversions) / others if others > 0 else 0.0
        )
        if expected < settings.minimum_expected:
            notes[page.page] = (
                f"placement: {expected:.1f} conversions to be expected, {settings.minimum_expected} needed"
            )
        else:
            rates.append(Rate(page.page, page.recent_conversions, expected))
    if not _enough_peers("placement", rates, notes, settings):
        return {}, notes
    return _too_low(judged(rates, settings.prior_spread_conversion, centred=True), settings), notes


def _enough_peers(kind: str, rates: Sequence[Rate], notes: dict[str, str], settings: RevenueSettings) -> bool:
    """Whether there are pages enough to compare; where not, each page's note says so."""
    if len(rates) >= settings.minimum_peers:
        return True
    for rate in rates:
        notes[rate.page] = (
            f"{kind}: {len(rates)} pages with enough data to compare, {settings.minimum_peers} needed"
        )
    return False


def _too_low(found: Sequence[Shortfall], settings: RevenueSettings) -> dict[str, Shortfall]:
    real = discoveries([one.p_low for one in found], settings.false_discovery_rate)
    return {
        one.page: one
        for one, holds in zip(found, real, strict=True)
        if holds and one.ratio <= 1 - settings.shortfall
    }


def _site_notes(totals: SiteTotals, settings: RevenueSettings) -> tuple[str, ...]:
    notes = []
    if not totals.has_revenue and settings.value_per_visit_usd is None:
        notes.append(
            "No revenue is counted and value_per_visit_usd isn't set: gains are in clicks and conversions, "
            "no dollars are claimed and nothing is ranked."
        )
    elif totals.has_revenue and totals.revenue_usd <= 0:
        notes.append("Revenue sums up to nothing or less: no dollars are claimed.")
    if totals.visits == 0:
        notes.append("No visits are counted.")
    return tuple(notes)
