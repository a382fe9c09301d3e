"""What a rule is, and what it is given.

A rule looks at one page (`Rules.visit`, `Rules.html`) or at the whole site (`Rules.site`). It returns what it
saw, small enough for a row, or None. What it is called, how grave it is and how to mend it stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

from lead_coordinator.pipelines.seo.facts import Page, PageFacts
from lead_coordinator.pipelines.seo.index import Known, SiteIndex
from lead_coordinator.pipelines.seo.settings import SeoSettings
from lead_coordinator.web.robots import Robots

Severity = Literal["critical", "error", "warning", "notice"]
SEVERITIES: tuple[Severity, ...] = ("critical", "error", "warning", "notice")
Evidence = Mapping[str, Any]
# What a rule needs of a page: that it was asked for at all, that its HTML could be read, or that a search
# engine may show it (texts of a page that nobody finds needn't be right).
Needs = Literal["visit", "html", "indexable"]

MAX_SAMPLES = 10


@dataclass(frozen=True)
class View:
    """What rules look at: the site, its robots.txt, and where lines are drawn."""

    index: SiteIndex
    settings: SeoSettings
    robots: Robots | None = None

    @cached_property
    def home(self) -> str:
        return self.index.home

    def known(self, url: str) -> Known | None:
        return self.index.known.get(url)


PageCheck = Callable[[Page, View], Evidence | None]
HtmlCheck = Callable[[PageFacts, Page, View], Evidence | None]
SiteCheck = Callable[[View], Iterable[tuple[str, Evidence]]]


@dataclass(frozen=True)
class Rule:
    """`id`: its name for ever, in findings and settings. `about`: what is wrong where it finds something."""

    id: str
    severity: Severity
    subject: str
    about: str
    fix: str
    needs: Needs = "visit"
    page_check: PageCheck | None = None
    site_check: SiteCheck | None = None


class Rules:
    """The rules of one subject, in the order in which they are written."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.rules: list[Rule] = []

    def visit(self, id: str, severity: Severity, about: str, fix: str) -> Callable[[PageCheck], PageCheck]:
        """A rule about how an address answers."""

        def register(check: PageCheck) -> PageCheck:
            self.rules.append(Rule(id, severity, self.subject, about, fix, "visit", page_check=check))
            return check

        return register

    def html(
        self, id: str, severity: Severity, about: str, fix: str, *, needs: Needs = "indexable"
    ) -> Callable[[HtmlCheck], HtmlCheck]:
        """A rule about what a page's HTML says."""

        def register(check: HtmlCheck) -> HtmlCheck:
            def page_check(page: Page, view: View) -> Evidence | None:
                return None if page.html is None else check(page.html, page, view)

            self.rules.append(Rule(id, severity, self.subject, about, fix, needs, page_check=page_check))
            return check

        return register

    def site(self, id: str, severity: Severity, about: str, fix: str) -> Callable[[SiteCheck], SiteCheck]:
        """A rule about pages beside each other."""

        def register(check: SiteCheck) -> SiteCheck:
            self.rules.append(Rule(id, severity, self.subject, about, fix, site_check=check))
            return check

        return register


def samples(found: Sequence[Any], **more: Any) -> Evidence | None:
    """The first ten of what was found and how many there are; None where there is nothing."""
    if not found:
        return None
    return {**more, "count": len(found), "samples": list(found[:MAX_SAMPLES])}


def is_local(url: str) -> bool:
    """Whether the address is this machine, which browsers trust without https (W3C, Secure Contexts, 3.1)."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def in_the_clear(url: str) -> bool:
    """Whether what goes there can be read on the way."""
    return url.startswith("http:") and not is_local(url)
