"""Bags of words, how much each word says, and how alike two bags are.

A word's weight is its count times its inverse document frequency, log((1 + N) / (1 + n)) + 1 for a word in n
of N documents (Spärck Jones 1972; the smoothed form, under which every word of an unknown collection weighs
the same). Two bags are compared by the cosine of the angle between them (Salton, Wong, Yang 1975), 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

Weight = Callable[[str], float]


class DocumentFrequencies:
    """In how many of how many documents each word was seen."""

    def __init__(self, documents: int = 0, counts: Mapping[str, int] | None = None) -> None:
        self._documents = documents
        self._counts: dict[str, int] = dict(counts or {})

    def add(self, words: Iterable[str]) -> None:
        """One more document, with these words."""
        self._documents += 1
        for word in set(words):
            self._counts[word] = self._counts.get(word, 0) + 1

    def weight(self, word: str) -> float:
        """The word's inverse document frequency, over 0."""
        seen = min(self._counts.get(word, 0), self._documents)
        return math.log((1 + self._documents) / (1 + seen)) + 1


def cosine(a: Mapping[str, float], b: Mapping[str, float], weight: Weight) -> float:
    """The similarity of two bags of words, 0 to 1; 0 where one is empty."""
    if len(b) < len(a):
        a, b = b, a
    dot = math.fsum(count * b[word] * weight(word) ** 2 for word, count in a.items() if word in b)
    if not dot:
        return 0.0
    return min(1.0, dot / (length(a, weight) * length(b, weight)))


def length(bag: Mapping[str, float], weight: Weight) -> float:
    """The Euclidean length of a bag of words."""
    return math.sqrt(math.fsum((count * weight(word)) ** 2 for word, count in bag.items()))
