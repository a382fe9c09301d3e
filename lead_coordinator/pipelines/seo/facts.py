"""What is known of a page, as plain data: what fetching it told (`Visit`), and what its HTML says.

Both become JSON and come back from it (`to_json`, `page_from_json`), so that a page which hasn't changed
needn't be read again. Every list is bounded by the parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

# Which parser made the facts: those of another one aren't taken over from the audit before.
FACTS_VERSION = 1

Kind = Literal["sitemap", "page", "link", "external", "image", "asset"]


class Link(NamedTuple):
    """An anchor that leads somewhere: canonical address, text (or the alternative text of its image)."""

    url: str
    text: str


class Image(NamedTuple):
    """An image. `alt`: None where the attribute is missing ("" says that it is decoration)."""

    url: str
    alt: str | None
    has_dimensions: bool


class Alternate(NamedTuple):
    """A translation that the page names: language code as written, canonical address ("" for none)."""

    language: str
    url: str


class Form(NamedTuple):
    """A form: where it sends to, and whether it asks for a password."""

    url: str
    has_password: bool


@dataclass(frozen=True)
class PageFacts:
    """What a page's HTML says. Counts are of the whole page, lists may be cut (`cut`: the HTML itself was).

    `canonicals`: as written. `digest`: SHA-256 of the main text's words; `signature`: its MinHash in base64.
    `bad_anchors`: anchors that no crawler can follow. `insecure`: resources over plain http.
    `jsonld_problems`: a sentence each.
    """

    titles: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    robots: tuple[str, ...] = ()
    canonicals: tuple[str, ...] = ()
    alternates: tuple[Alternate, ...] = ()
    language: str | None = None
    viewport: str | None = None
    open_graph: tuple[str, ...] = ()
    headings: tuple[tuple[int, str], ...] = ()
    words: int = 0
    digest: str = ""
    signature: str = ""
    links: tuple[Link, ...] = ()
    link_count: int = 0
    bad_anchors: tuple[str, ...] = ()
    bad_anchor_count: int = 0
    images: tuple[Image, ...] = ()
    assets: tuple[str, ...] = ()
    forms: tuple[Form, ...] = ()
    insecure: tuple[str, ...] = ()
    jsonld_unparsable: tuple[str, ...] = ()
    jsonld_incomplete: tuple[str, ...] = ()
    nodes: int = 0
    cut: bool = False


@dataclass(frozen=True)
class Visit:
    """What asking for an address told.

    `status`: of the last answer, None where there was none; then `failure` says why (`robots`, `timeout`, …)
    and `reason` in a sentence. `hops`: (address, status, where to). `bytes`: as unpacked, or as announced.
    `link_header`, `robots_header`, `hsts`: of the answer. `ttfb_ms`: the lowest of several where it was slow.
    """

    url: str
    final_url: str = ""
    status: int | None = None
    failure: str | None = None
    reason: str = ""
    hops: tuple[tuple[str, int, str], ...] = ()
    ttfb_ms: int = 0
    bytes: int | None = None
    content_type: str = ""
    link_header: str = ""
    robots_header: str = ""
    hsts: str = ""
    etag: str = ""
    last_modified: str = ""

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True)
class SitemapFacts:
    """What a sitemap holds. `urls`: addresses in it (counted up to the limit and one more); `problem`: why it
    can't be read to its end."""

    urls: int = 0
    bytes: int = 0
    is_index: bool = False
    problem: str = ""
    foreign: int = 0


@dataclass(frozen=True)
class Page:
    """An address with all that is known of it. `html`: None where it isn't a page that could be read."""

    url: str
    kind: Kind
    visit: Visit
    html: PageFacts | None = None
    sitemap: SitemapFacts | None = None
    in_sitemap: bool = False
    wanted: bool = False

    @property
    def intended(self) -> bool:
        """Whether it is to be found: the sitemap lists it, it is the home page, or it was asked for."""
        return self.in_sitemap or self.wanted


def to_json(page: Page) -> dict[str, Any]:
    """The visit and the facts, without what the database has in columns."""
    made: dict[str, Any] = {"version": FACTS_VERSION, "visit": _sparse(page.visit, Visit(""))}
    if page.html is not None:
        made["html"] = _sparse(page.html, PageFacts())
    if page.sitemap is not None:
        made["sitemap"] = asdict(page.sitemap)
    return made


def page_from_json(
    url: str, kind: Kind, facts: Mapping[str, Any], *, in_sitemap: bool = False, wanted: bool = False
) -> Page:
    """The page that `to_json` made; what an older version didn't know has its default."""
    html, sitemap = facts.get("html"), facts.get("sitemap")
    return Page(
        url=url,
        kind=kind,
        visit=_visit(url, facts.get("visit") or {}),
        html=None if html is None else _html(html),
        sitemap=None if sitemap is None else SitemapFacts(**_known(SitemapFacts, sitemap)),
        in_sitemap=in_sitemap,
        wanted=wanted,
    )


def _sparse(value: PageFacts | Visit, empty: PageFacts | Visit) -> dict[str, Any]:
    """Only what differs from nothing: most pages lack most things."""
    default = vars(empty)
    return {name: one for name, one in vars(value).items() if one != default[name] and name != "url"}


def _known(of: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in of.__dataclass_fields__}


def _visit(url: str, values: Mapping[str, Any]) -> Visit:
    known = _known(Visit, values)
    known["hops"] = tuple((str(a), int(b), str(c)) for a, b, c in known.get("hops", ()))
    return Visit(**{**known, "url": url})


def _html(values: Mapping[str, Any]) -> PageFacts:
    known = _known(PageFacts, values)
    shapes: dict[str, Any] = {"links": Link, "images": Image, "alternates": Alternate, "forms": Form}
    for name, value in known.items():
        if name in shapes:
            known[name] = tuple(shapes[name](*one) for one in value)
        elif name == "headings":
            known[name] = tuple((int(level), str(text)) for level, text in value)
        elif isinstance(value, list):
            known[name] = tuple(value)
    return PageFacts(**known)
