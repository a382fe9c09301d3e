"""What is collected while a page is read, within the room that its facts have in a row."""

from __future__ import annotations

from dataclasses import dataclass, field

from lead_coordinator.pipelines.seo.facts import Alternate, Form, Image, Link
from lead_coordinator.web.failures import FetchFailed
from lead_coordinator.web.urls import resolve

# Characters of all addresses and texts that are kept of a page.
MAX_FACTS = 300_000
MAX_ENTRIES = 20


@dataclass
class Collected:
    """The parts of `PageFacts` that elements give. `base`: what addresses are relative to; `secure`: the page
    is served over https."""

    base: str
    secure: bool
    titles: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    robots: list[str] = field(default_factory=list)
    canonicals: list[str] = field(default_factory=list)
    alternates: list[Alternate] = field(default_factory=list)
    language: str | None = None
    viewport: str | None = None
    open_graph: set[str] = field(default_factory=set)
    headings: list[tuple[int, str]] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    link_count: int = 0
    bad_anchors: list[str] = field(default_factory=list)
    bad_anchor_count: int = 0
    images: list[Image] = field(default_factory=list)
    assets: list[str] = field(default_factory=list)
    forms: list[Form] = field(default_factory=list)
    insecure: list[str] = field(default_factory=list)
    unparsable: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    nodes: int = 0
    room: int = MAX_FACTS

    def fits(self, *texts: str) -> bool:
        """Whether there is room for these, which is then taken: a page's facts lie in one row."""
        size = sum(len(text) for text in texts)
        if size > self.room:
            return False
        self.room -= size
        return True

    def absolute(self, reference: str) -> str | None:
        try:
            return resolve(self.base, reference)
        except FetchFailed:
            return None

    def resource(self, reference: str | None) -> str | None:
        """The address of something that the page loads; noted where it goes over plain http."""
        if not reference or reference.strip().lower().startswith(("data:", "blob:", "about:", "javascript:")):
            return None
        url = self.absolute(reference)
        if url is not None and self.secure and url.startswith("http:"):
            keep(self.insecure, url, MAX_ENTRIES)
        return url


def keep(kept: list[str], value: str, most: int) -> None:
    if len(kept) < most:
        kept.append(value)
