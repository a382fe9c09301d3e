"""JSON-LD: whether it can be read, and whether each thing has what a search engine asks of its type.

The required fields are those of Google's structured data documentation (developers.google.com/search/docs/
appearance/structured-data), and for articles the three that make one usable: headline, author and date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

MAX_CHARACTERS = 200_000
_MAX_THINGS = 200
_MAX_DEPTH = 20

_ARTICLE = ("headline", "author", "datePublished")
# A tuple within stands for alternatives, of which one is needed.
REQUIRED: Mapping[str, tuple[str | tuple[str, ...], ...]] = {
    "Article": _ARTICLE,
    "BlogPosting": _ARTICLE,
    "NewsArticle": _ARTICLE,
    "BreadcrumbList": ("itemListElement",),
    "Event": ("name", "startDate", "location"),
    "FAQPage": ("mainEntity",),
    "HowTo": ("name", "step"),
    "JobPosting": ("title", "description", "datePosted", "hiringOrganization"),
    "LocalBusiness": ("name", "address"),
    "Organization": ("name", "url"),
    "Product": ("name", ("offers", "review", "aggregateRating")),
    "Recipe": ("name", "image"),
    "VideoObject": ("name", "thumbnailUrl", "uploadDate"),
    "WebSite": ("name", "url"),
}


def problems(script: str) -> tuple[str | None, list[str]]:
    """What is wrong with one script: why it can't be read (or None), and what its things lack."""
    if len(script) > MAX_CHARACTERS:
        return f"it has {len(script):,} characters, read are up to {MAX_CHARACTERS:,}", []
    try:
        value = json.loads(script)
    except RecursionError:
        return "it is nested too deeply", []
    except ValueError as error:
        return str(error)[:200], []
    things = list(_things(value))
    if not things:
        return "it holds no object with an @type", []
    lacking = (_lacking(kind, thing) for kind, thing in things)
    return None, [sentence for sentence in lacking if sentence]


def _things(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects at the top: of a list, of an @graph, or the one; each with the types it says it has."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    given = 0
    while waiting and given < _MAX_THINGS:
        one, depth = waiting.pop(0)
        if depth > _MAX_DEPTH:
            continue
        if isinstance(one, list):
            waiting += [(part, depth + 1) for part in one[:_MAX_THINGS]]
        elif isinstance(one, dict):
            if "@graph" in one:
                waiting.append((one["@graph"], depth + 1))
            kinds = one.get("@type")
            for kind in kinds[:5] if isinstance(kinds, list) else [kinds]:
                if isinstance(kind, str):
                    given += 1
                    yield kind.rpartition("/")[2], one


def _lacking(kind: str, thing: Mapping[str, Any]) -> str | None:
    missing = [
        field if isinstance(field, str) else " or ".join(field)
        for field in REQUIRED.get(kind, ())
        if not any(thing.get(name) for name in ((field,) if isinstance(field, str) else field))
    ]
    # An @id alone refers to a thing described elsewhere.
    return f"{kind} lacks {', '.join(missing)}" if missing and set(thing) - {"@id", "@type"} else None
