"""What a fetched body is: its type, its text, the main text of a page."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping

from lead_coordinator.web.markup import INVISIBLE, bounded, visible_text

_META_SCAN = 4096
_META_CHARSET = re.compile(
    rb"<meta[^>]{0,300}?charset\s{0,10}=\s{0,10}[\"']?\s{0,10}([A-Za-z0-9_.:-]{1,40})", re.I
)
_XML_ENCODING = re.compile(rb"<\?xml[^>]{0,200}?encoding\s{0,10}=\s{0,10}[\"']([A-Za-z0-9_.:-]{1,40})", re.I)
_HEADER_CHARSET = re.compile(r"charset\s{0,10}=\s{0,10}[\"']?([A-Za-z0-9_.:-]{1,40})", re.I)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# As browsers read these labels (the WHATWG Encoding Standard); UTF-7 and the like aren't read by anybody.
_READ_AS = {
    "iso-8859-1": "cp1252",
    "latin-1": "cp1252",
    "latin1": "cp1252",
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "iso8859-1": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "utf-16": "utf-16-le",
}
_TEXT_CODECS = re.compile(
    r"(?:utf-?8|utf-16-[lb]e|cp\d{3,4}|windows-125\d|iso-?8859-\d{1,2}|gb18030|big5|euc-jp|iso-2022-jp|koi8-[ru]"
    r"|macintosh|tis-620)\Z"
)


def content_type(headers: Mapping[str, str]) -> str:
    """The media type in lower case without parameters, "" where there is none."""
    return headers.get("content-type", "").partition(";")[0].partition(",")[0].strip().lower()


def is_html(headers: Mapping[str, str], body: bytes = b"") -> bool:
    """Whether the answer is a page. Without a Content-Type, its beginning decides."""
    kind = content_type(headers)
    if kind:
        return kind in ("text/html", "application/xhtml+xml")
    start = body[:512].lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def charset(headers: Mapping[str, str], body: bytes) -> str:
    """The codec to read a page with: its byte order mark, else the header, else what the page says of itself
    in its first 4 kB, else UTF-8 where that fits, else Windows-1252.
    """
    for mark, name in _BOMS:
        if body.startswith(mark):
            return name
    found = _HEADER_CHARSET.search(headers.get("content-type", ""))
    known = _codec(found[1]) if found else None
    if known:
        return known
    start = body[:_META_SCAN]
    said = _META_CHARSET.search(start) or _XML_ENCODING.search(start)
    known = _codec(said[1].decode("ascii")) if said else None
    if known:
        # What was just read as ASCII can't be UTF-16.
        return "utf-8" if known.startswith("utf-16") else known
    return "utf-8" if _is_utf8(body) else "cp1252"


def text_of(headers: Mapping[str, str], body: bytes) -> str:
    """The body as text, never failing: what can't be read becomes U+FFFD, a byte order mark goes."""
    text = body.decode(charset(headers, body), "replace")
    return text.removeprefix("\ufeff")


def main_text(html: bytes | str, url: str) -> str:
    """The text that a page is about, without navigation and furniture: paragraphs in lines of their own.

    Bounded: of a page with more than 3 million characters, 60,000 tags or 1,000 levels the beginning counts.
    What the extractor can't cope with gives all its visible text instead. "" where there is none.
    """
    text, _ = bounded(html if isinstance(html, str) else text_of({}, html))
    if not text.strip():
        return ""
    return _extracted(text, url) or _visible(text)


def _extracted(text: str, url: str) -> str:
    import trafilatura

    try:
        found = trafilatura.extract(
            text, url=url, include_comments=False, include_tables=True, favor_recall=True, deduplicate=False
        )
    except (RecursionError, ValueError, LookupError, AttributeError, TypeError):
        return ""
    return found or ""


def _visible(text: str) -> str:
    from selectolax.lexbor import LexborHTMLParser

    body = LexborHTMLParser(text).body
    return "" if body is None else " ".join(visible_text(body, INVISIBLE).split())


def _codec(label: str) -> str | None:
    name = label.strip().lower()
    name = _READ_AS.get(name, name)
    if not _TEXT_CODECS.match(name):
        return None
    try:
        return codecs.lookup(name).name
    except LookupError:
        return None


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        # A body that was cut may end within a character.
        return error.start >= len(body) - 3
    return True
