"""The site as the rules see it: every address with its state, who links to whom, and how deep each page lies.

Built from a stream of pages, of which it keeps a few short things each: a site of 20,000 pages fits.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from lead_coordinator.pipelines.seo.canonical import canonical_addresses, robots_words
from lead_coordinator.pipelines.seo.facts import Alternate, Kind, Page
from lead_coordinator.text.similarity import Signature

# A link with one of these can't be followed to a page by anybody.
_BROKEN_FAILURES = frozenset({"dns", "connection", "tls", "redirect_loop", "too_many_redirects", "timeout"})


@dataclass(frozen=True)
class Known:
    """The short of an address. `canonical`: what it names as its canonical address, None for nothing."""

    url: str
    kind: Kind
    status: int | None
    failure: str | None
    hops: int
    final_url: str
    bytes: int | None
    in_sitemap: bool
    intended: bool
    noindex: bool
    canonical: str | None
    is_html: bool
    title: str
    description: str
    words: int
    digest: str
    signature: str
    alternates: tuple[Alternate, ...]

    @property
    def ok(self) -> bool:
        """It answered 2xx by itself, without a redirect."""
        return self.status is not None and 200 <= self.status < 300 and not self.hops

    @property
    def is_broken(self) -> bool:
        """A link to it leads nowhere."""
        return self.failure in _BROKEN_FAILURES or (self.status is not None and self.status >= 400)

    @property
    def is_canonical(self) -> bool:
        """It stands for itself: no other address is named as canonical."""
        return self.canonical in (None, self.url)

    @property
    def is_indexable(self) -> bool:
        """A search engine may show it: a page that answers, may be indexed and stands for itself."""
        return self.is_html and self.ok and not self.noindex and self.is_canonical

    def sketch(self) -> Signature | None:
        """The signature of its main text."""
        return Signature.from_bytes(base64.b64decode(self.signature)) if self.signature else None


@dataclass
class SiteIndex:
    """`home`: canonical address of the home page (where its redirect ends). `complete`: the whole site was
    visited, so that what isn't here isn't there."""

    start: str
    complete: bool = True
    known: dict[str, Known] = field(default_factory=dict)
    _links: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _depths: dict[str, int] | None = None
    _linked: set[str] | None = None

    def add(self, page: Page) -> None:
        """Takes a page in."""
        known = short(page)
        self.known[page.url] = known
        if page.html is not None:
            # One string an address, however many pages link to it.
            targets = dict.fromkeys(link.url for link in page.html.links)
            self._links[known.url] = tuple(self._one(url) for url in targets)

    def _one(self, url: str) -> str:
        known = self.known.get(url)
        return url if known is None else known.url

    @property
    def home(self) -> str:
        known = self.known.get(self.start)
        return known.final_url if known is not None and known.hops and known.final_url else self.start

    def pages(self) -> Iterable[Known]:
        """The site's HTML pages."""
        return (known for known in self.known.values() if known.is_html)

    def depth(self, url: str) -> int | None:
        """Clicks from the home page, redirects not counted; None where no link leads there."""
        if self._depths is None:
            self._depths = self._walk()
        return self._depths.get(url)

    def is_linked(self, url: str) -> bool:
        """Whether another page of the site links to it, directly or over a redirect."""
        if self._linked is None:
            self._linked = {
                end
                for source, targets in self._links.items()
                for target in targets
                for end in (target, self._end(target))
                if end != source
            }
        return url in self._linked

    def _end(self, url: str) -> str:
        known = self.known.get(url)
        return known.final_url if known is not None and known.hops and known.final_url else url

    def _walk(self) -> dict[str, int]:
        depths = {self.home: 0}
        waiting = deque([self.home])
        while waiting:
            url = waiting.popleft()
            for target in self._links.get(url, ()):
                end = self._end(target)
                if end not in depths:
                    depths[end] = depths[url] + 1
                    waiting.append(end)
        return depths


def short(page: Page) -> Known:
    """What the index keeps of a page."""
    html, visit = page.html, page.visit
    canonicals = canonical_addresses(page)
    return Known(
        url=page.url,
        kind=page.kind,
        status=visit.status,
        failure=visit.failure,
        hops=len(visit.hops),
        final_url=visit.final_url or page.url,
        bytes=visit.bytes,
        in_sitemap=page.in_sitemap,
        intended=page.intended,
        noindex=is_noindex(page),
        canonical=canonicals[0] if canonicals else None,
        is_html=html is not None and not visit.hops,
        title=" ".join(html.titles[0].casefold().split()) if html is not None and html.titles else "",
        description=(
            " ".join(html.descriptions[0].casefold().split())
            if html is not None and html.descriptions
            else ""
        ),
        words=0 if html is None else html.words,
        digest="" if html is None else html.digest,
        signature="" if html is None else html.signature,
        alternates=() if html is None else html.alternates,
    )


def is_noindex(page: Page) -> bool:
    """Whether the page asks not to be indexed, in its head or in its header (for everybody)."""
    return bool({"noindex", "none"} & robots_words(page))
