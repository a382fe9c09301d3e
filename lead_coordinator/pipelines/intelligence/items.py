"""An item as the engine keeps it, and which items are the same: exactly, or nearly by MinHash.

An item's identity is a digest of its feed and of what the feed calls it (its GUID, else its address, else its
title and date), so that the same item polled again is known. Items of different feeds are exact duplicates
where their addresses or their words are the same; near duplicates where the Jaccard similarity of their word
5-shingles is estimated at or over a threshold. The first of them stands for all.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit

from lead_coordinator.pipelines.intelligence.parse import ParsedItem
from lead_coordinator.text.similarity import NearDuplicates, Signature, digest, signature
from lead_coordinator.text.words import content_words, phrases

SUMMARY_CHARS = 600
# Words of an item that are looked at: its title, and the beginning of its text, where news says what it is.
TEXT_WORDS = 60
TEXT_CHARS = 1500
TITLE_WEIGHT = 3
MAX_TERMS = 80
# A text shorter than this shares its few shingles with too many others to be judged by them.
MIN_SHINGLES = 12
# From so many words on, the text is judged without its headline: who takes over a text writes another one.
BODY_WORDS = 30
# A clock may be wrong by so much; what is dated later than that has no usable date.
FUTURE = timedelta(hours=1)
_TRACKING = ("utm_", "fbclid", "gclid", "mc_cid", "mc_eid", "ref_src")


@dataclass(frozen=True)
class Item:
    """One item. `terms`: content words and two-word phrases with their weights (a word of the title counts
    three).

    `published`: as the feed says, or when it was first seen. `story` and `duplicate_of` (an identity) are
    filled in by grouping.
    """

    identity: str
    feed_url: str
    url: str
    title: str
    summary: str
    published: datetime
    words: str
    signature: Signature
    terms: tuple[tuple[str, int], ...]
    duplicate_of: str = ""
    story: str = ""

    @property
    def vector(self) -> Counter[str]:
        """Single words with their weights: what stories are compared by."""
        return Counter({term: weight for term, weight in self.terms if " " not in term})


def identity_of(parsed: ParsedItem, feed_url: str) -> str:
    """What the item is known by: 32 hexadecimal digits."""
    name = parsed.guid or parsed.url or f"{parsed.title}\n{parsed.published}"
    return hashlib.sha256(f"{feed_url}\n{name}".encode("utf-8", "replace")).hexdigest()[:32]


def make_item(parsed: ParsedItem, feed_url: str, now: datetime) -> Item:
    """The item that a feed's entry stands for."""
    text = f"{parsed.title}. {parsed.text}"
    judged = parsed.text if len(parsed.text.split(None, BODY_WORDS)) >= BODY_WORDS else text
    published = parsed.published
    if published is None or published > now + FUTURE:
        published = now
    return Item(
        identity=identity_of(parsed, feed_url),
        feed_url=feed_url,
        url=plain_url(parsed.url),
        title=parsed.title or parsed.text[:120],
        summary=parsed.text[:SUMMARY_CHARS],
        published=min(published, now),
        words=digest(text),
        signature=signature(judged),
        terms=item_terms(parsed.title, parsed.text),
    )


def item_terms(title: str, text: str) -> tuple[tuple[str, int], ...]:
    """Content words and two-word phrases of title and beginning, with weights, at most `MAX_TERMS`."""
    counts: Counter[str] = Counter()
    for part, weight, limit in ((title, TITLE_WEIGHT, 40), (text[:TEXT_CHARS], 1, TEXT_WORDS)):
        listed = content_words(part)[:limit]
        for term in (*listed, *phrases(listed)):
            counts[term] += weight
    return tuple(counts.most_common(MAX_TERMS))


def plain_url(url: str) -> str:
    """The address without fragment and without what only tracks readers."""
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return url
    kept = [(name, value) for name, value in query if not name.lower().startswith(_TRACKING)]
    changed = urlencode(kept) if len(kept) != len(query) else parts.query
    return parts._replace(query=changed, fragment="").geturl()


class KnownItems:
    """What has been seen, to tell what is new and what repeats it."""

    def __init__(self, threshold: float, known: Iterable[Item] = ()) -> None:
        self._near = NearDuplicates(threshold)
        self._identities: set[str] = set()
        self._by_url: dict[str, str] = {}
        self._by_words: dict[str, str] = {}
        self._feed_of: dict[str, str] = {}
        for item in known:
            self._add(item)

    def sort_in(self, item: Item) -> Item | None:
        """The item with `duplicate_of` filled in; None where it is known, or its own feed repeats itself."""
        if item.identity in self._identities:
            return None
        # An address alone says little: some feeds give every item the same. The words must agree as well.
        exact = self._by_words.get(item.words, "")
        if exact and self._feed_of[exact] == item.feed_url:
            # The feed gave it a new GUID: nothing has happened.
            self._identities.add(item.identity)
            return None
        original = exact or self._near_original(item)
        found = replace(item, duplicate_of=original) if original else item
        self._add(found)
        return found

    def _near_original(self, item: Item) -> str:
        """What another feed's item with the same address, or with nearly the same words, is known as."""
        same = self._by_url.get(item.url, "") if item.url else ""
        if same and self._feed_of[same] != item.feed_url:
            return same
        if item.signature.shingles < MIN_SHINGLES:
            return ""
        near = self._near.find(item.signature)
        return near[0].key if near else ""

    def _add(self, item: Item) -> None:
        self._identities.add(item.identity)
        if item.duplicate_of:
            return
        self._feed_of[item.identity] = item.feed_url
        self._by_words.setdefault(item.words, item.identity)
        if item.url:
            self._by_url.setdefault(item.url, item.identity)
        if item.signature.shingles >= MIN_SHINGLES:
            self._near.add(item.identity, item.signature)


def new_items(items: Sequence[Item], known: Iterable[Item], threshold: float) -> list[Item]:
    """Those of `items` that aren't known, oldest first, with what they duplicate."""
    seen = KnownItems(threshold, known)
    ordered = sorted(items, key=lambda item: (item.published, item.identity))
    return [found for found in map(seen.sort_in, ordered) if found is not None]
