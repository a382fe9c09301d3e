"""How hard a text is to read: Flesch's reading ease, computed from sentences, words and syllables.

English: 206.835 - 1.015 (words / sentences) - 84.6 (syllables / words), Flesch 1948, "A new readability
yardstick", Journal of Applied Psychology 32(3). German: 180 - (words / sentences) - 58.5 (syllables / words),
Amstad 1978, "Wie verständlich sind unsere Zeitungen?". 90 to 100 is very easy, 60 plain, 30 hard; other
languages have no score here.

Syllables are counted by groups of vowels, with the silent endings of English taken off: within some per cent
of a dictionary's count over a whole text, which is all that the formula needs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARACTERS = 200_000
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|\Z)|\n{2,}")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|approx|Dr|Mr|Mrs|Ms|St|No|z\.B|d\.h|bzw|ca)\.", re.I)
_VOWELS = re.compile(r"[aeiouyäöüáàâéèêíìîóòôúùû]+")
_ENGLISH_SILENT = re.compile(r"(?:[^laeiouy]es|[^dt]ed|[^l]e)\Z")


@dataclass(frozen=True)
class Readability:
    """Counts of a text, and its reading ease (None: too short, or a language without a formula)."""

    sentences: int
    words: int
    syllables: int
    ease: float | None

    @property
    def words_a_sentence(self) -> float:
        return self.words / self.sentences if self.sentences else 0.0


def readability(text: str, language: str = "en") -> Readability:
    """The readability of a plain text (of its first 200,000 characters); paragraphs end sentences."""
    text = _ABBREVIATION.sub(lambda found: found[0].replace(".", ""), text[:MAX_CHARACTERS])
    tongue = language.partition("-")[0].lower()
    sentences = words = syllables = 0
    for piece in _SENTENCE_END.split(text):
        found = _WORD.findall(piece)
        if found:
            sentences += 1
            words += len(found)
            syllables += sum(count_syllables(word, tongue) for word in found)
    return Readability(sentences, words, syllables, _ease(sentences, words, syllables, tongue))


def count_syllables(word: str, language: str = "en") -> int:
    """Syllables of one word, at least one."""
    word = word.casefold()
    count = len(_VOWELS.findall(word))
    if language == "en" and count > 1 and len(word) > 3 and _ENGLISH_SILENT.search(word):
        count -= 1
    return max(1, count)


def _ease(sentences: int, words: int, syllables: int, language: str) -> float | None:
    if not sentences or not words:
        return None
    length, weight = words / sentences, syllables / words
    match language:
        case "en":
            return 206.835 - 1.015 * length - 84.6 * weight
        case "de":
            return 180.0 - length - 58.5 * weight
    return None
