"""The quality gate: why an article must not be published as it is. Pure; a reason is a sentence for a person
and for the model's one revision, and completes "the article …".

What it looks at: harm, length, structure, how hard it reads, repetition, the keyword (used, not stuffed), the
subject (the article is about what was asked for), the language, links to our own articles, claims without
support, forbidden phrases, traces of our own instructions, a page of valid HTML, and likeness to what is out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from lead_coordinator.pipelines.content.article import (
    CHARACTERS_MAX,
    SECTION_CHARACTERS_MAX,
    Article,
    plain,
)
from lead_coordinator.pipelines.content.claims import figures_without_source
from lead_coordinator.pipelines.content.language import language_problem
from lead_coordinator.pipelines.content.links import linked
from lead_coordinator.pipelines.content.readability import readability
from lead_coordinator.pipelines.content.schemas import META_DESCRIPTION_MIN
from lead_coordinator.pipelines.content.settings import QualitySettings
from lead_coordinator.text.words import content_words, words

MAX_PROBLEMS = 40
# Shorter texts have neither a style nor repetitions.
MIN_SENTENCES = 8
_TRACE_WORDS = 10
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")


@dataclass(frozen=True)
class Likeness:
    """The published article that is nearest to this one: where it is, and how similar (0 to 1)."""

    where: str
    similarity: float


@dataclass(frozen=True)
class Evidence:
    """What an article is judged against.

    `subject`: what was asked for, in the brief's words. `notes`: what the sources say. `instructions`: the
    system parts of our prompts. `html_problems`: of its page. `offered`: how many of our articles it could
    link to, `wanted_links`: to how many it should. `avoid`: what the brand doesn't say.
    """

    subject: str = ""
    notes: str = ""
    instructions: str = ""
    html_problems: tuple[str, ...] = ()
    likeness: Likeness | None = None
    offered: int = 0
    wanted_links: int = 0
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """`problems`: empty where the article may be published. `figures`: what was measured, by name."""

    problems: tuple[str, ...]
    figures: Mapping[str, float | int | None]


def judge(
    article: Article, settings: QualitySettings | None = None, evidence: Evidence | None = None
) -> Judgement:
    """Looks at everything, and says all that is wrong (at most 40 sentences)."""
    settings, evidence = settings or QualitySettings(), evidence or Evidence()
    text = plain(article)
    counted = words(text)
    figures: dict[str, float | int | None] = {"words": article.words, "editor_score": article.score}
    figures["similarity"] = None if evidence.likeness is None else round(evidence.likeness.similarity, 3)
    problems = [
        *_harm(article),
        *_length(article, settings),
        *_structure(article),
        *_reading(text, article.language, settings, figures),
        *_keyword(article, counted, settings, figures),
        *_subject(evidence.subject, text, figures),
        *language_problem(text, article.language),
        *_links(article, evidence, figures),
        *_claims(article, text, evidence, settings, figures),
        *_phrases(article, text, settings, evidence),
        *_traces(counted, evidence.instructions),
        *(f"makes a page in which {problem}" for problem in evidence.html_problems),
        *likeness_problem(evidence.likeness, settings),
        *_verdict(article, settings),
    ]
    return Judgement(tuple(problems[:MAX_PROBLEMS]), figures)


def quality_problems(
    article: Article, settings: QualitySettings | None = None, evidence: Evidence | None = None
) -> list[str]:
    """The problems alone."""
    return list(judge(article, settings, evidence).problems)


def _harm(article: Article) -> list[str]:
    return [f"holds {danger}, which no article needs" for danger in article.dangers]


def _length(article: Article, settings: QualitySettings) -> list[str]:
    problems = []
    if article.words < settings.min_words:
        problems.append(f"has {article.words} words, at least {settings.min_words} are asked for")
    if article.characters > CHARACTERS_MAX:
        problems.append(f"has {article.characters} characters, at most {CHARACTERS_MAX} are allowed")
    if not settings.min_sections <= len(article.sections) <= settings.max_sections:
        problems.append(
            f"has {len(article.sections)} sections, "
            f"{settings.min_sections} to {settings.max_sections} are asked for"
        )
    return problems


def _structure(article: Article) -> list[str]:
    problems = [] if article.introduction else ["has no introduction"]
    seen: set[str] = set()
    for number, section in enumerate(article.sections, start=1):
        if not section.heading:
            problems.append(f"section {number} has no heading")
        elif (heading := section.heading.casefold()) in seen:
            problems.append(f"section {number} repeats the heading {section.heading!r}")
        else:
            seen.add(heading)
        if not section.body:
            problems.append(f"section {number} is empty")
        elif len(section.body) > SECTION_CHARACTERS_MAX:
            problems.append(f"section {number} has over {SECTION_CHARACTERS_MAX} characters")
    if len(article.meta_description) < META_DESCRIPTION_MIN:
        problems.append(
            f"has a description of {len(article.meta_description)} characters, "
            f"at least {META_DESCRIPTION_MIN} are asked for"
        )
    return problems


def _reading(
    text: str, language: str, settings: QualitySettings, figures: dict[str, float | int | None]
) -> list[str]:
    problems = []
    read = readability(text, language)
    figures["words_a_sentence"] = round(read.words_a_sentence, 1)
    figures["reading_ease"] = None if read.ease is None else round(read.ease, 1)
    if read.sentences >= MIN_SENTENCES:
        if read.ease is not None and read.ease < settings.min_reading_ease:
            problems.append(
                f"has a reading ease of {read.ease:.0f}, at least {settings.min_reading_ease:.0f} is asked "
                "for: shorter sentences and plainer words"
            )
        if read.words_a_sentence > settings.max_sentence_words:
            problems.append(
                f"has {read.words_a_sentence:.0f} words a sentence, at most "
                f"{settings.max_sentence_words:.0f} are asked for"
            )
    sentences = [" ".join(words(one)) for one in _SENTENCE.findall(text)]
    long = [one for one in sentences if one.count(" ") >= 4]
    repeated = sum(count - 1 for count in Counter(long).values())
    share = 100 * repeated / len(long) if long else 0.0
    figures["repeated_percent"] = round(share, 1)
    if len(long) >= MIN_SENTENCES and share > settings.max_repeated_percent:
        problems.append(
            f"repeats itself: {share:.0f} % of its sentences stand there before, at most "
            f"{settings.max_repeated_percent:.0f} % may"
        )
    return problems


def _keyword(
    article: Article,
    counted: list[str],
    settings: QualitySettings,
    figures: dict[str, float | int | None],
) -> list[str]:
    keyword = words(article.keyword or "")
    if not keyword or not counted:
        return []
    uses = occurrences(counted, keyword)
    # Share of the text that are words of the keyword that say something ("dried beans" of "how to cook …").
    carrying = len(content_words(article.keyword or "")) or len(keyword)
    share = 100 * uses * carrying / len(counted)
    figures["keyword_uses"], figures["keyword_percent"] = uses, round(share, 2)
    if share > settings.max_keyword_percent and uses > 3:
        return [
            f"stuffs the keyword {article.keyword!r}: it is {share:.1f} % of the words, at most "
            f"{settings.max_keyword_percent:g} % may be"
        ]
    opening = set(content_words(f"{article.title} {article.seo_title} {article.introduction}"))
    if not uses and not set(content_words(article.keyword or "")) <= opening:
        return [f"never uses the keyword {article.keyword!r}"]
    return []


def occurrences(text: list[str], phrase: list[str]) -> int:
    """How often a run of words stands in a text; runs that overlap count once."""
    count = place = 0
    while place <= len(text) - len(phrase):
        if text[place : place + len(phrase)] == phrase:
            count += 1
            place += len(phrase)
        else:
            place += 1
    return count


def _subject(subject: str, text: str, figures: dict[str, float | int | None]) -> list[str]:
    """The words of the brief have to turn up: a text talked into another subject holds few of them."""
    asked = set(content_words(subject))
    if not asked:
        return []
    share = len(asked & set(content_words(text))) / len(asked)
    figures["subject_covered"] = round(share, 2)
    if share < 0.4:
        return [f"isn't about what was asked for: it holds {share:.0%} of the words of {subject[:100]!r}"]
    return []


def _links(article: Article, evidence: Evidence, figures: dict[str, float | int | None]) -> list[str]:
    found = linked([article.introduction, *(section.body for section in article.sections)])
    inside = len(found - set(article.sources))
    figures["internal_links"] = inside + len(article.further)
    wanted = min(evidence.wanted_links, evidence.offered)
    if inside + len(article.further) < wanted:
        return [f"links to {inside + len(article.further)} of our articles, {wanted} are asked for"]
    return []


def _claims(
    article: Article,
    text: str,
    evidence: Evidence,
    settings: QualitySettings,
    figures: dict[str, float | int | None],
) -> list[str]:
    claims = list(dict.fromkeys([*article.unsupported_claims, *figures_without_source(text, evidence.notes)]))
    figures["unsupported_claims"] = len(claims)
    if len(claims) <= settings.max_unsupported_claims:
        return []
    return [f"claims without support: {claim[:300]}" for claim in claims]


def _phrases(article: Article, text: str, settings: QualitySettings, evidence: Evidence) -> list[str]:
    folded = f"{text}\n{article.seo_title}\n{article.meta_description}".casefold().replace("’", "'")
    problems = [f"holds the forbidden phrase {p!r}" for p in settings.forbidden if p.casefold() in folded]
    counted = words(folded)
    problems += [
        f"uses {p!r}, which the brand avoids" for p in evidence.avoid if occurrences(counted, words(p))
    ]
    return problems


def _traces(counted: list[str], instructions: str) -> list[str]:
    """Ten words in a row of our own instructions: the text was made to tell them."""
    told = words(instructions)
    runs = {tuple(told[at : at + _TRACE_WORDS]) for at in range(len(told) - _TRACE_WORDS + 1)}
    for at in range(len(counted) - _TRACE_WORDS + 1):
        if tuple(counted[at : at + _TRACE_WORDS]) in runs:
            return ["repeats the instructions that it was written with"]
    return []


def likeness_problem(likeness: Likeness | None, settings: QualitySettings) -> list[str]:
    """A sentence where a text is nearly the same as one that is out."""
    if likeness is None or likeness.similarity < settings.max_similarity:
        return []
    return [
        f"is {likeness.similarity:.0%} the same as {likeness.where}, which is out already; less than "
        f"{settings.max_similarity:.0%} is allowed"
    ]


def _verdict(article: Article, settings: QualitySettings) -> list[str]:
    problems = []
    if article.score < settings.min_score:
        problems.append(
            f"is scored {article.score} by its editor, at least {settings.min_score} are asked for"
        )
    return problems + [
        f"is stopped by its editor: {i.text}" for i in article.issues if i.severity == "blocker"
    ]
