"""What is wrong with a robots.txt (RFC 9309), for whoever has to mend it."""

from __future__ import annotations

from urllib.parse import urlsplit

from lead_coordinator.web.robots import MAX_ROBOTS_BYTES, Robots

_DIRECTIVES = frozenset(
    {
        "user-agent",
        "allow",
        "disallow",
        "sitemap",
        "crawl-delay",
        "host",
        "clean-param",
        "request-rate",
        "visit-time",
        "noindex",
        "content-signal",
    }
)
_MAX_LINES = 20_000


def robots_problems(robots: Robots) -> list[str]:
    """What is wrong with it, a sentence each, at most twenty; none where there is no robots.txt (4xx)."""
    if robots.failure is not None or robots.status is None:
        reason = robots.failure.reason if robots.failure is not None else "nothing answered"
        return [f"it can't be read: {reason}"]
    if robots.status >= 500:
        return [f"its status is {robots.status}, so search engines stop visiting the whole site"]
    if not 200 <= robots.status < 300:
        return []
    problems = []
    kind = robots.content_type.partition(";")[0].strip().lower()
    if kind and kind != "text/plain":
        problems.append(f"its Content-Type is {kind[:60]!r}, text/plain is expected")
    if robots.truncated:
        problems.append(f"it has more than {MAX_ROBOTS_BYTES // 1024} KiB, of which the rest isn't read")
    return (problems + _line_problems(robots.text))[:20]


def _line_problems(text: str) -> list[str]:
    problems: list[str] = []
    in_group = False
    for number, line in enumerate(text.splitlines()[:_MAX_LINES], 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        name, colon, value = content.partition(":")
        directive = name.strip().lower()
        if not colon or directive not in _DIRECTIVES:
            problems.append(f"line {number} is no directive: {content[:60]!r}")
        elif directive == "user-agent":
            in_group = True
        elif directive in ("allow", "disallow"):
            if not in_group:
                problems.append(f"line {number} stands before any User-agent: {content[:60]!r}")
            elif value.strip() and not value.strip().startswith(("/", "*", "$")):
                problems.append(f"line {number}: a path begins with / or *: {content[:60]!r}")
        elif directive == "sitemap" and not _is_absolute(value.strip()):
            problems.append(f"line {number}: a sitemap's address is written in full: {content[:60]!r}")
        if len(problems) >= 20:
            break
    return problems


def _is_absolute(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)
