"""Is a text in the language that was asked for? By its commonest words, for languages that we know them of.

In running text of these languages a quarter to a half of the words are among the forty commonest; in another
language hardly any are. A language that isn't listed is only asked for its script, where that is known.
"""

from __future__ import annotations

import re

MIN_WORDS = 60
MIN_SHARE = 0.12
MAX_CHARACTERS = 60_000
_WORD = re.compile(r"[^\W\d_]+")
_COMMON = {
    "en": """
        the of and to a in is that it for you are on with as be this not or your what from by have an
        can will if they which do at one when than how so there before we them but its has
    """,
    "de": """
        der die das und in zu den ist nicht von sie mit es sich auf für ein eine als auch an dem im so
        wie man oder aus bei wenn nur werden kann wird zum einen hat noch nach einer sind
    """,
    "fr": """
        le la les de des et un une à en est que pour dans qui sur pas au plus par ce il vous ne avec ou
        se du son sont cette être votre mais comme on si aux ces leur
    """,
    "es": """
        el la los las de y en que un una es por con para se del lo no su al como más o pero sus le si
        este esta ser son cuando muy sin sobre también hay puede
    """,
    "it": """
        il la le di e un una che in è per non con si da del della i gli al come più o ma se sono questo
        anche nel alla lo dei su quando può ci essere delle
    """,
    "pt": """
        o a os as de e um uma que em é para com não se do da por mais ou como mas ao no na seu sua são
        quando isso pode ser dos das você muito também
    """,
    "nl": """
        de het een en van in is dat op te voor met niet zijn je die aan er als ook maar of om bij dan
        naar wat kan uit wordt hoe deze door over meer
    """,
}
_COMMON_WORDS = {language: frozenset(text.split()) for language, text in _COMMON.items()}


def common_share(text: str, language: str) -> float | None:
    """Share of the words of a text that are among the commonest of a language; None: we don't know them."""
    common = _COMMON_WORDS.get(language.partition("-")[0].lower())
    if common is None:
        return None
    found = [word.casefold() for word in _WORD.findall(text[:MAX_CHARACTERS])]
    return sum(word in common for word in found) / len(found) if found else 0.0


def language_problem(text: str, language: str) -> list[str]:
    """A sentence where a text of some length isn't in the language."""
    if len(_WORD.findall(text[:MAX_CHARACTERS])) < MIN_WORDS:
        return []
    share = common_share(text, language)
    if share is None or share >= MIN_SHARE:
        return []
    shares = {other: common_share(text, other) or 0.0 for other in _COMMON_WORDS}
    likely = max(shares, key=lambda other: shares[other])
    looks = f", it looks like {likely}" if shares[likely] >= MIN_SHARE else ""
    return [f"isn't written in {language}{looks}"]
