"""Figures that an article gives as somebody's finding and that no note holds: a check that needs no model.

A sentence that names a study, a survey or experts and gives a percentage, a share or an amount has to have
that number in the notes. Numbers of everyday advice (two weeks, 20 % more stock) are left alone.
"""

from __future__ import annotations

import re

MAX_CLAIMS = 20
MAX_CHARACTERS = 200_000
_SENTENCE = re.compile(r"[^\n.!?]+(?:[.!?](?=\S)[^\n.!?]*)*[.!?]?")
_AUTHORITY = re.compile(
    r"\b(?:stud(?:y|ies)|survey(?:s|ed)?|research(?:ers)?|scientists|experts|analysts|polls?|"
    r"reports? (?:by|from)|"
    r"according to|statistics|Studien?|Umfragen?|laut|Forscher(?:innen)?)\b",
    re.I,
)
_FIGURE = re.compile(
    r"(?:[$€£]\s?(\d[\d.,]{0,15})|(\d[\d.,]{0,15})\s?(?:%|percent|per cent|Prozent|million|billion|"
    r"(?:out )?of (?:every )?\d+))",
    re.I,
)


def figures_without_source(text: str, notes: str) -> list[str]:
    """The sentences with such figures, word for word, at most 20."""
    known = set(_numbers(notes[:MAX_CHARACTERS]))
    found: list[str] = []
    for sentence in _SENTENCE.findall(text[:MAX_CHARACTERS]):
        if len(found) == MAX_CLAIMS:
            break
        if _AUTHORITY.search(sentence) is None:
            continue
        given = [_plain(one[1] or one[2]) for one in _FIGURE.finditer(sentence)]
        if any(number not in known for number in given):
            found.append(" ".join(sentence.split()))
    return found


def _numbers(text: str) -> list[str]:
    return [_plain(number) for number in re.findall(r"\d[\d.,]{0,15}", text)]


def _plain(number: str) -> str:
    return number.rstrip(".,").replace(",", ".")
