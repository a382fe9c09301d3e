"""Sitemaps and sitemap indexes (sitemaps.org), read as a stream and within bounds.

A document type declaration is refused before the parser could expand anything (a billion laughs), and reading
stops at the limit of addresses. A plain text file with an address a line is a sitemap too.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from lead_coordinator.pipelines.seo.facts import SitemapFacts
from lead_coordinator.web.failures import FetchFailed
from lead_coordinator.web.urls import canonical, host_of

_PIECE = 64 * 1024
_DEEPEST = 20
_GZIP = b"\x1f\x8b"


@dataclass
class SitemapContent:
    """What was read: `pages` and `sitemaps` (canonical addresses of this host), and the facts of the file."""

    facts: SitemapFacts = field(default_factory=SitemapFacts)
    pages: list[str] = field(default_factory=list)
    sitemaps: list[str] = field(default_factory=list)


def read_sitemap(body: bytes, url: str, *, max_urls: int, max_bytes: int) -> SitemapContent:
    """The sitemap at `url`. Never raises for what the body is: `facts.problem` says what is wrong with it.

    Of more than `max_urls` addresses the first are taken, and `facts.urls` is `max_urls` + 1.
    """
    body, problem = _unpacked(body, max_bytes)
    start = body[:1000].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start.startswith(b"<"):
        return _read_text(body, url, max_urls, problem)
    return _read_xml(body, url, max_urls, problem)


def _unpacked(body: bytes, max_bytes: int) -> tuple[bytes, str]:
    """A .xml.gz as it lies on the disk is unpacked, up to one byte over the limit."""
    if not body.startswith(_GZIP):
        return body, ""
    unpacker = zlib.decompressobj(31)
    try:
        return unpacker.decompress(body, max_bytes + 1), ""
    except zlib.error:
        return b"", "it is no gzip file"


def _read_text(body: bytes, url: str, max_urls: int, problem: str) -> SitemapContent:
    lines = [line.strip() for line in body.decode("utf-8", "replace").splitlines()]
    found = [line for line in lines if line.startswith(("http://", "https://"))]
    if not problem and (not found or len(found) < len([line for line in lines if line])):
        problem = "it is neither XML nor a list of addresses"
    return _content(found if not problem else [], False, len(body), url, max_urls, problem)


def _read_xml(body: bytes, url: str, max_urls: int, problem: str) -> SitemapContent:
    from lxml import etree

    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        reason = "it has a document type declaration, which a sitemap needn't and mustn't have"
        return _content([], False, len(body), url, max_urls, reason)
    parser = etree.XMLPullParser(
        events=("start", "end"), resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    locations: list[str] = []
    is_index, depth, root = False, 0, ""
    try:
        for start in range(0, len(body), _PIECE):
            parser.feed(body[start : start + _PIECE])
            for event, element in parser.read_events():
                name = _local(element.tag)
                if event == "start":
                    depth += 1
                    root = root or name
                    if depth > _DEEPEST:
                        raise _TooDeep
                    continue
                depth -= 1
                if name == "loc" and depth == 2 and len(locations) <= max_urls:
                    locations.append((element.text or "").strip())
                if depth == 1:
                    # What has been read is forgotten at once: memory stays flat over fifty thousand entries.
                    element.clear()
                    while element.getprevious() is not None:
                        del element.getparent()[0]
            if len(locations) > max_urls:
                break
        else:
            parser.close()
    except etree.XMLSyntaxError as error:
        problem = f"it is no well-formed XML ({str(error)[:150]})"
    except _TooDeep:
        problem = f"its elements are nested over {_DEEPEST} levels"
    is_index = root == "sitemapindex"
    if not problem and root not in ("urlset", "sitemapindex"):
        problem = f"its root element is <{root[:40]}>, <urlset> or <sitemapindex> is expected"
    return _content(locations, is_index, len(body), url, max_urls, problem)


class _TooDeep(Exception):
    """The elements are nested more deeply than any sitemap's."""


def _content(
    locations: list[str], is_index: bool, size: int, url: str, max_urls: int, problem: str
) -> SitemapContent:
    host, kept, foreign = host_of(url), [], 0
    for location in locations[:max_urls]:
        try:
            address = canonical(location)
        except FetchFailed:
            foreign += 1
            continue
        # A sitemap speaks for its own host only (sitemaps.org, "Sitemap file location").
        if host_of(address) == host and urlsplit(address).scheme in ("http", "https"):
            kept.append(address)
        else:
            foreign += 1
    kept = list(dict.fromkeys(kept))
    facts = SitemapFacts(len(locations), size, is_index, problem, foreign)
    return SitemapContent(facts, [] if is_index else kept, kept if is_index else [])


def _local(tag: object) -> str:
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""
