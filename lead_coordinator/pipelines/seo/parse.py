"""A page's HTML, parsed once (selectolax) into `PageFacts`.

What comes in is hostile: it is cut before it is parsed (web/markup.py), every list to a number of entries and
every text to a length, so that a page of any shape costs a bounded amount.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

from lead_coordinator.pipelines.seo import jsonld
from lead_coordinator.pipelines.seo.collected import MAX_ENTRIES, Collected, keep
from lead_coordinator.pipelines.seo.facts import Alternate, Form, Image, Link, PageFacts
from lead_coordinator.text import similarity
from lead_coordinator.text.words import words
from lead_coordinator.web.failures import FetchFailed
from lead_coordinator.web.markup import bounded, main_text
from lead_coordinator.web.urls import resolve

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

MAX_LINKS = 1000
MAX_IMAGES = 300
MAX_ASSETS = 100
MAX_HEADINGS = 100
MAX_ALTERNATES = 200
MAX_TEXT = 500
MAX_ANCHOR = 120
_NOT_FOLLOWED = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,30}:")
_HARMLESS_SCHEMES = ("http:", "https:", "mailto:", "tel:", "sms:", "whatsapp:", "geo:", "webcal:")


def parse_page(html: str, url: str) -> PageFacts:
    """The facts of a page whose (final, canonical) address is `url`. Never raises for what the HTML is."""
    from selectolax.lexbor import LexborHTMLParser

    text, cut = bounded(html)
    tree = LexborHTMLParser(text)
    found = Collected(base=_base(tree, url), secure=url.startswith("https:"))
    root = tree.root
    if root is not None:
        for node in root.traverse():
            found.nodes += 1
            reader = _READERS.get(node.tag or "")
            if reader is not None:
                reader(found, node)
    main = main_text(tree)
    return PageFacts(
        titles=tuple(found.titles),
        descriptions=tuple(found.descriptions),
        robots=tuple(found.robots),
        canonicals=tuple(found.canonicals),
        alternates=tuple(found.alternates),
        language=found.language,
        viewport=found.viewport,
        open_graph=tuple(sorted(found.open_graph)[:MAX_ENTRIES]),
        headings=tuple(found.headings),
        words=len(words(main)),
        digest=similarity.digest(main) if main else "",
        signature=base64.b64encode(similarity.signature(main).to_bytes()).decode() if main else "",
        links=tuple(found.links),
        link_count=found.link_count,
        bad_anchors=tuple(found.bad_anchors),
        bad_anchor_count=found.bad_anchor_count,
        images=tuple(found.images),
        assets=tuple(found.assets),
        forms=tuple(found.forms),
        insecure=tuple(found.insecure),
        jsonld_unparsable=tuple(found.unparsable),
        jsonld_incomplete=tuple(found.incomplete),
        nodes=found.nodes,
        cut=cut,
    )


# ---- readers of elements ---------------------------------------------------------------------------------


def _read_html(found: Collected, node: LexborNode) -> None:
    if found.language is None:
        found.language = _attribute(node, "lang")


def _read_title(found: Collected, node: LexborNode) -> None:
    if _inside_svg(node):
        return
    keep(found.titles, _text(node, MAX_TEXT), MAX_ENTRIES)


def _read_meta(found: Collected, node: LexborNode) -> None:
    name = (_attribute(node, "name") or "").strip().lower()
    content = (_attribute(node, "content") or "").strip()
    if name == "description":
        keep(found.descriptions, " ".join(content.split())[: 4 * MAX_TEXT], MAX_ENTRIES)
    elif name in ("robots", "googlebot"):
        keep(found.robots, content.lower()[:MAX_TEXT], MAX_ENTRIES)
    elif name == "viewport" and found.viewport is None:
        found.viewport = content[:MAX_TEXT]
    named = (_attribute(node, "property") or name).strip().lower()
    if named.startswith("og:") and content and len(found.open_graph) < 100:
        found.open_graph.add(named[:40])


def _read_link(found: Collected, node: LexborNode) -> None:
    kinds = (_attribute(node, "rel") or "").lower().split()
    href = (_attribute(node, "href") or "").strip()
    if "canonical" in kinds:
        keep(found.canonicals, href[:2000], MAX_ENTRIES)
    elif "alternate" in kinds and node.attributes.get("hreflang") is not None:
        language = (_attribute(node, "hreflang") or "").strip()[:40]
        if len(found.alternates) < MAX_ALTERNATES:
            target = (found.absolute(href) or "") if href else ""
            if found.fits(target, language):
                found.alternates.append(Alternate(language, target))
    elif {"stylesheet", "preload", "icon", "modulepreload"} & set(kinds):
        url = found.resource(href)
        if url is not None and "icon" not in kinds and found.fits(url):
            keep(found.assets, url, MAX_ASSETS)


def _read_anchor(found: Collected, node: LexborNode) -> None:
    attributes = node.attributes
    if "href" not in attributes:
        # Without a name or an id it isn't the target of a link either: it only looks like one.
        if "name" not in attributes and "id" not in attributes:
            _bad(found, f"<a> without href: {_text(node, MAX_ANCHOR)}")
        return
    raw = (attributes["href"] or "").strip()
    if not raw or (raw == "#" and "onclick" in attributes):
        if raw:
            _bad(found, f'href="#" with onclick: {_text(node, MAX_ANCHOR)}')
        return
    scheme = _NOT_FOLLOWED.match(raw)
    if scheme is not None and not raw.lower().startswith(_HARMLESS_SCHEMES):
        _bad(found, raw)
        return
    if raw.startswith("#") or (scheme is not None and not raw.lower().startswith(("http:", "https:"))):
        return
    url = found.absolute(raw)
    if url is None:
        _bad(found, raw)
        return
    found.link_count += 1
    if len(found.links) < MAX_LINKS:
        text = _anchor_text(node)
        if found.fits(url, text):
            found.links.append(Link(url, text))


def _read_image(found: Collected, node: LexborNode) -> None:
    attributes = node.attributes
    url = found.resource(attributes.get("src"))
    if url is None or len(found.images) >= MAX_IMAGES:
        return
    alt = None if "alt" not in attributes else " ".join((attributes["alt"] or "").split())[:MAX_TEXT]
    has = bool(attributes.get("width") and attributes.get("height")) or "aspect-ratio" in (
        attributes.get("style") or ""
    )
    if found.fits(url, alt or ""):
        found.images.append(Image(url, alt, has))


def _read_script(found: Collected, node: LexborNode) -> None:
    kind = (_attribute(node, "type") or "").strip().lower()
    if kind == "application/ld+json":
        if len(found.unparsable) + len(found.incomplete) < MAX_ENTRIES:
            unparsable, lacking = jsonld.problems(node.text(deep=True))
            if unparsable is not None:
                found.unparsable.append(unparsable)
            found.incomplete += lacking[: MAX_ENTRIES - len(found.incomplete)]
        return
    url = found.resource(_attribute(node, "src"))
    if url is not None and found.fits(url):
        keep(found.assets, url, MAX_ASSETS)


def _read_frame(found: Collected, node: LexborNode) -> None:
    found.resource(_attribute(node, "src"))


def _read_heading(found: Collected, node: LexborNode) -> None:
    if len(found.headings) < MAX_HEADINGS and node.tag is not None:
        found.headings.append((int(node.tag[1]), _text(node, MAX_ANCHOR)))


def _read_form(found: Collected, node: LexborNode) -> None:
    if len(found.forms) >= MAX_ENTRIES:
        return
    action = (_attribute(node, "action") or "").strip()
    url = found.absolute(action) if action else found.base
    if url is not None:
        has_password = node.css_first('input[type="password" i]') is not None
        found.forms.append(Form(url, has_password))


_READERS = {
    "html": _read_html,
    "title": _read_title,
    "meta": _read_meta,
    "link": _read_link,
    "a": _read_anchor,
    "img": _read_image,
    "script": _read_script,
    "iframe": _read_frame,
    "video": _read_frame,
    "audio": _read_frame,
    "source": _read_frame,
    "embed": _read_frame,
    "form": _read_form,
    **{f"h{level}": _read_heading for level in range(1, 7)},
}


# ---- small things ----------------------------------------------------------------------------------------


def _base(tree: LexborHTMLParser, url: str) -> str:
    node = tree.css_first("base[href]")
    if node is not None:
        try:
            return resolve(url, _attribute(node, "href") or "")
        except FetchFailed:
            pass
    return url


def _anchor_text(node: LexborNode) -> str:
    text = _text(node, MAX_ANCHOR)
    if text:
        return text
    for name in ("aria-label", "title"):
        if label := (_attribute(node, name) or "").strip():
            return label[:MAX_ANCHOR]
    image = node.css_first("img[alt]")
    return "" if image is None else " ".join((_attribute(image, "alt") or "").split())[:MAX_ANCHOR]


def _text(node: LexborNode, most: int) -> str:
    return " ".join(node.text(deep=True, separator=" ")[: 8 * most].split())[:most]


def _attribute(node: LexborNode, name: str) -> str | None:
    return node.attributes.get(name)


def _inside_svg(node: LexborNode) -> bool:
    parent = node.parent
    return parent is not None and parent.tag not in ("head", "html", "body", "-document")


def _bad(found: Collected, raw: str) -> None:
    found.bad_anchor_count += 1
    keep(found.bad_anchors, raw[:MAX_ANCHOR], MAX_ENTRIES)
