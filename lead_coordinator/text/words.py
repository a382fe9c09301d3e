"""Text as words: one way of cutting it for shingles, term counts and comparisons.

The input may be hostile: it is cut to `MAX_CHARS` first, and every pattern matches in linear time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

MAX_CHARS = 200_000
MAX_WORD = 64
# Scripts that put no space between words: each character stands for itself.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0e7f"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W_{_IDEOGRAPHS}]+(?:['’][^\W_{_IDEOGRAPHS}]+)*")
_POSSESSIVE = re.compile(r"['’]s?$")

# The commonest words of English, which say nothing about a subject. A list, because a frequency cut-off would
# take the subject itself out of a small collection about one thing.
_ENGLISH = """
    a about above after again against all almost along already also although always am among an and
    another any anyone anything are aren't around as at away back be became because become been before
    began begin begins begun being below between both but by came can can't cannot come could couldn't day
    did didn't do does doesn't doing don't done down during each either else enough even ever every
    everyone everything few first for from further get gets getting give given gives go goes going gone
    got had hadn't has hasn't have haven't having he he'd he'll he's her here here's hers herself him
    himself his how however i i'd i'll i'm i've if in indeed instead into is isn't it it's its itself just
    keep know last least less let let's like look made make makes making many may maybe me might mine more
    most much must my myself near need needs neither never new next no nobody none nor not nothing now of
    off often on once one only onto or other others our ours ourselves out over own per perhaps put quite
    rather really said same say says see seem seems set shall she she'd she'll she's should shouldn't
    since so some someone something still such take takes than that that's the their theirs them
    themselves then there there's therefore these they they'd they'll they're they've thing things this
    those though three through thus to today together too took toward towards two under until up upon us
    use used uses using very via want wants was wasn't way we we'd we'll we're we've well were weren't
    what what's when where whether which while who who's whole whom whose why will with within without
    won't would wouldn't yes yet you you'd you'll you're you've your yours yourself
"""
STOP_WORDS = frozenset(_ENGLISH.split())


def words(text: str) -> list[str]:
    """The words of a plain text, in order: NFKC, case folded, without punctuation and possessive endings.

    A character of a script without spaces counts as a word. A word longer than `MAX_WORD` is cut.
    """
    return _words(text)


def content_words(text: str) -> list[str]:
    """The words that can say what a text is about: without stop words, bare numbers and single letters, and
    English plurals as singulars."""
    return [
        singular(word)
        for word in _words(text)
        if word not in STOP_WORDS and not word.isdigit() and _long(word)
    ]


def phrases(terms: Iterable[str]) -> Iterator[str]:
    """Pairs of neighbouring terms, joined by a space."""
    before = None
    for term in terms:
        if before is not None:
            yield f"{before} {term}"
        before = term


def singular(word: str) -> str:
    """An English plural as its singular, by the three rules of the S stemmer (Harman 1991, "How effective is
    suffixing?", Journal of the American Society for Information Science 42(1)); other words as they are."""
    if len(word) <= 3 or not word.isascii():
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")):
        return word[:-1]
    return word


def _long(word: str) -> bool:
    return len(word) > 1 or not word.isascii()


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text[:MAX_CHARS]).casefold()
    found: list[str] = _WORD.findall(folded)
    if "'" in folded or "’" in folded:
        found = [_POSSESSIVE.sub("", word).replace("’", "'") for word in found]
    return [word[:MAX_WORD] for word in found if word]
