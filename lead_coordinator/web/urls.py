"""Web addresses in one canonical form, so that two spellings of a page are one page.

`canonical` follows RFC 3986, section 6: scheme and host in lower case, the host in IDNA, no default port, no
dot segments, escapes in upper case and only where they are needed, no fragment. Double slashes, the order of
the query and the case of the path are kept: they may name something else.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit

from lead_coordinator.web.failures import failed

MAX_URL = 4096
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# What a browser drops from an address: control characters and spaces at its ends, and these anywhere.
_DROPPED = str.maketrans("", "", "\t\r\n")
_EDGES = "".join(map(chr, range(0x21)))
_HOST = re.compile(r"[a-z0-9._-]{1,253}\Z")


def canonical(url: str) -> str:
    """The canonical form of an absolute http or https address.

    Raises `FetchFailed`: `invalid_url` (no host, credentials, a bad port, over 4,096 characters), or
    `forbidden_scheme`.
    """
    text = _trimmed(url)
    parts = _split(text, url)
    if parts.scheme not in _DEFAULT_PORTS:
        raise failed("forbidden_scheme", url, f"the scheme is {parts.scheme!r}, allowed are http and https")
    if "@" in parts.netloc:
        raise failed("invalid_url", url, "an address with a user name in it isn't fetched")
    path = _escaped(_without_dots(parts.path) or "/", "/:@!$&'()*+,;=~")
    query = _escaped(parts.query, "/?:@!$&'()*+,;=~[]|")
    made = urlunsplit((parts.scheme, _authority(parts, url), path, query, ""))
    if len(made) > MAX_URL:
        raise failed("invalid_url", url, f"it has {len(made)} characters, at most {MAX_URL} are allowed")
    return made


def resolve(base: str, reference: str) -> str:
    """What `reference`, found on the page `base`, points to, in canonical form.

    Raises `FetchFailed` as `canonical` does.
    """
    try:
        joined = urljoin(base, _trimmed(reference))
    except ValueError as error:
        raise failed("invalid_url", reference, f"it is no address ({error})") from None
    return canonical(joined)


def host_of(url: str) -> str:
    """`host` or `host:port` of a canonical address: whom politeness counts by."""
    return urlsplit(url).netloc


def origin_of(url: str) -> str:
    """`scheme://host[:port]` of a canonical address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _trimmed(url: str) -> str:
    if len(url) > 4 * MAX_URL:
        raise failed("invalid_url", url, f"it has {len(url)} characters, at most {MAX_URL} are allowed")
    return url.strip(_EDGES).translate(_DROPPED)


def _split(text: str, url: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError as error:
        raise failed("invalid_url", url, f"it is no address ({error})") from None


def _authority(parts: SplitResult, url: str) -> str:
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise failed("invalid_url", url, "its port is no number from 1 to 65535") from None
    if not host:
        raise failed("invalid_url", url, "it has no host")
    if port == 0:
        raise failed("invalid_url", url, "its port is no number from 1 to 65535")
    host = f"[{host}]" if ":" in host else _ascii_host(host, url)
    return host if port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"


def _ascii_host(host: str, url: str) -> str:
    if not host.isascii():
        import idna

        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise failed("invalid_url", url, f"{host!r} is no host name") from None
    if not _HOST.match(host):
        raise failed("invalid_url", url, f"{host!r} is no host name")
    return host


def _escaped(text: str, safe: str) -> str:
    text = _STRAY_PERCENT.sub("%25", text)
    text = _ESCAPE.sub(_normal_escape, text)
    return quote(text, safe=safe + "%", errors="replace")


def _normal_escape(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else match[0].upper()


def _without_dots(path: str) -> str:
    """RFC 3986, 5.2.4, on a path that begins with a slash or is empty."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
