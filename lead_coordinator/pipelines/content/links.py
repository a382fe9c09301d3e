"""Links to our own articles: which fit a subject, and which links an article may hold at all.

A model may only link to what it was offered: every other link of its text becomes plain words. What was
offered and not used goes below the article as further reading, so that each article leads to its neighbours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from lead_coordinator.pipelines.content.text import LINK, outside_code
from lead_coordinator.text.words import content_words

# Words of a title say more about an article than those of its description.
TITLE_WEIGHT = 3.0


@dataclass(frozen=True)
class OwnArticle:
    """A published article that another may link to."""

    title: str
    url: str
    description: str = ""


def related(
    subject: str, articles: Sequence[OwnArticle], most: int, *, but: str | None = None
) -> list[OwnArticle]:
    """At most `most` articles that share words with `subject`, the nearest first; `but`: an address left out.

    Shared words count by their rarity among the articles (inverse document frequency).
    """
    wanted = set(content_words(subject))
    if not wanted or most < 1:
        return []
    texts = [(set(content_words(one.title)), set(content_words(one.description))) for one in articles]
    spread = Counter(word for title, description in texts for word in title | description)
    found: list[tuple[float, int]] = []
    for place, (article, (title, description)) in enumerate(zip(articles, texts, strict=True)):
        if article.url == but:
            continue
        score = sum(
            (TITLE_WEIGHT if word in title else 1.0) * math.log1p(len(articles) / spread[word])
            for word in sorted(wanted & (title | description))
        )
        if score > 0:
            found.append((-score, place))
    return [articles[place] for _, place in sorted(found)[:most]]


def keep_links(markdown: str, allowed: Collection[str]) -> tuple[str, int]:
    """The Markdown with every inline link to an address that isn't allowed replaced by its words, and how
    many there were.
    """
    removed = 0
    pieces: list[str] = []
    for is_code, piece in outside_code(markdown):
        if is_code:
            pieces.append(piece)
            continue
        end = 0
        for link in LINK.finditer(piece):
            if link[2] in allowed:
                continue
            removed += 1
            pieces += [piece[end : link.start()], link[1]]
            end = link.end()
        pieces.append(piece[end:])
    return "".join(pieces), removed


def linked(markdowns: Iterable[str]) -> set[str]:
    """The addresses that inline links outside code lead to."""
    return {
        link[2]
        for markdown in markdowns
        for is_code, piece in outside_code(markdown)
        if not is_code
        for link in LINK.finditer(piece)
    }
