"""All rules over all pages: two passes over a stream, so that a large site needs little memory.

The first builds the index, the second asks the rules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lead_coordinator.pipelines.seo.facts import Page
from lead_coordinator.pipelines.seo.index import SiteIndex
from lead_coordinator.pipelines.seo.rules import BY_ID, RULES, Evidence, Rule, Severity, View
from lead_coordinator.pipelines.seo.score import page_score, site_score
from lead_coordinator.pipelines.seo.settings import SeoSettings
from lead_coordinator.web.robots import Robots


@dataclass(frozen=True, order=True)
class Finding:
    """What a rule found on an address."""

    url: str
    rule: str
    severity: Severity
    evidence: Evidence = field(compare=False)


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an audit's rules. `scores`: of each page, and of each address that should be one.

    `unread`: addresses that gave no page this time for a reason that may pass. What was found on them before
    is neither confirmed nor mended, and what only they lead to isn't gone either. `reason`: why no page could
    be read, where none could.
    """

    findings: tuple[Finding, ...]
    scores: dict[str, int]
    site_score: float | None
    pages: int
    unread: tuple[str, ...]
    reason: str = ""


class Evaluator:
    """Takes pages twice: `add` each, then `check` each, then `finish`."""

    def __init__(
        self,
        start: str,
        settings: SeoSettings,
        *,
        robots: Robots | None = None,
        complete: bool = True,
        whole_site: bool = True,
    ) -> None:
        disabled = set(settings.disabled_rules)
        self._rules: Sequence[Rule] = [rule for rule in RULES if rule.id not in disabled]
        self._index = SiteIndex(start, complete=complete)
        self._view = View(self._index, settings, robots if whole_site else None)
        self._whole_site = whole_site
        self._findings: list[Finding] = []
        self._scored: set[str] = set()
        self._unread: list[str] = []
        self._reason = ""

    def add(self, page: Page) -> None:
        """First pass."""
        self._index.add(page)

    def check(self, page: Page) -> None:
        """Second pass, when all are added."""
        known = self._index.known[page.url]
        if known.is_html:
            self._scored.add(page.url)
        elif page.kind in ("page", "sitemap") and _may_pass(page, self._view.robots):
            self._unread.append(page.url)
        if page.kind == "page" and page.visit.failure is not None:
            self._reason = self._reason or page.visit.reason
        for rule in self._rules:
            if rule.page_check is None or (not self._whole_site and not page.wanted and page.kind == "page"):
                continue
            if rule.needs != "visit" and not known.is_html:
                continue
            if rule.needs == "indexable" and known.noindex:
                continue
            evidence = rule.page_check(page, self._view)
            if evidence is not None:
                self._findings.append(Finding(page.url, rule.id, rule.severity, evidence))

    def finish(self) -> Evaluation:
        """The site's rules, and the scores."""
        if self._whole_site:
            for rule in self._rules:
                if rule.site_check is not None:
                    self._findings += [
                        Finding(url, rule.id, rule.severity, evidence)
                        for url, evidence in rule.site_check(self._view)
                    ]
        by_url: dict[str, list[Severity]] = defaultdict(list)
        elsewhere: list[Severity] = []
        for finding in self._findings:
            known = self._index.known.get(finding.url)
            if known is not None and known.kind in ("page", "link"):
                by_url[finding.url].append(finding.severity)
            else:
                elsewhere.append(finding.severity)
        scores = {url: page_score(by_url.get(url, ())) for url in {*self._scored, *by_url}}
        return Evaluation(
            tuple(sorted(self._findings)),
            scores,
            site_score(scores, elsewhere),
            len(self._scored),
            tuple(sorted(self._unread)),
            "" if self._scored else self._reason,
        )


def _may_pass(page: Page, robots: Robots | None) -> bool:
    """Whether the address may well answer another time, so that nothing follows from its silence."""
    visit = page.visit
    if visit.failure == "robots":
        # That a part of a site is blocked is meant to last; that its home page is, is a mishap.
        return page.wanted or (robots is not None and robots.unreachable)
    if visit.failure is not None:
        return visit.failure in ("timeout", "connection", "dns", "tls", "decoding", "forbidden_address")
    return visit.status is not None and (visit.status >= 500 or visit.status == 429)


def evaluate(
    pages: Callable[[], Iterable[Page]],
    start: str,
    settings: SeoSettings | None = None,
    *,
    robots: Robots | None = None,
    complete: bool = True,
) -> Evaluation:
    """The whole of it for pages that can be gone through twice."""
    evaluator = Evaluator(start, settings or SeoSettings(), robots=robots, complete=complete)
    for page in pages():
        evaluator.add(page)
    for page in pages():
        evaluator.check(page)
    return evaluator.finish()


def how_to_fix(rule: str) -> str:
    """How to mend what a rule found; "" for a rule that is no more."""
    known = BY_ID.get(rule)
    return "" if known is None else known.fix
