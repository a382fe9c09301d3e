"""The finished article: a model's last answer, cleaned and brought within bounds.

`build_article` never fails: whatever the model wrote becomes an article that is harmless to publish. Whether
it is good enough to be published is for quality.py to say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.content.brief import Brief
from lead_coordinator.pipelines.content.links import OwnArticle, keep_links, linked
from lead_coordinator.pipelines.content.schemas import (
    META_DESCRIPTION_MAX,
    META_DESCRIPTION_MIN,
    SEO_TITLE_MAX,
    EditedArticle,
)
from lead_coordinator.pipelines.content.text import (
    clean_line,
    clean_markdown,
    count_words,
    cut_at_word,
    dangers,
    plain_text,
    slugify,
)

TITLE_MAX = 200
# A page of 60,000 characters is some 9,000 words: what is longer isn't the article that was asked for.
CHARACTERS_MAX = 60_000
SECTION_CHARACTERS_MAX = 20_000


@dataclass(frozen=True)
class ArticleSection:
    """One section: heading as plain text, body as clean Markdown."""

    heading: str
    body: str


@dataclass(frozen=True)
class ArticleIssue:
    """What the editor found: severity note, warning or blocker, and a sentence."""

    severity: str
    text: str


@dataclass(frozen=True)
class Article:
    """An article that is safe to publish.

    `slug` is the wish; the database makes it unique. `further`: articles of ours to read next, `sources`:
    the addresses of what it rests on, `unsupported_claims`: what the check found no support for. `repairs`
    says what was brought within bounds, `dangers` what the model wrote that could have harmed a reader (it
    is disarmed here, and still a reason not to publish).
    """

    title: str
    introduction: str
    sections: tuple[ArticleSection, ...]
    seo_title: str
    meta_description: str
    slug: str
    score: int
    issues: tuple[ArticleIssue, ...]
    language: str
    keyword: str | None
    words: int
    repairs: tuple[str, ...]
    dangers: tuple[str, ...]
    unsupported_claims: tuple[str, ...] = ()
    further: tuple[OwnArticle, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def characters(self) -> int:
        return len(self.introduction) + sum(len(s.heading) + len(s.body) for s in self.sections)


def build_article(
    brief: Brief,
    edited: EditedArticle,
    *,
    links: Sequence[OwnArticle] = (),
    sources: Collection[str] = (),
) -> Article:
    """The article of an edited answer. Never raises for what a model wrote.

    `links`: our articles that were offered, `sources`: addresses of the notes. No other link is kept.
    """
    repairs: list[str] = []
    allowed = {one.url for one in links} | set(sources)
    removed = 0

    def body(text: str, limit: int) -> str:
        nonlocal removed
        kept, count = keep_links(clean_markdown(text[:limit]), allowed)
        removed += count
        return kept

    title = cut_at_word(clean_line(edited.title), TITLE_MAX)
    if not title:
        title = clean_line(brief.subject)
        repairs.append("title: it was empty; the brief's is used")
    introduction = body(edited.introduction, CHARACTERS_MAX)
    sections = tuple(
        ArticleSection(
            cut_at_word(clean_line(section.heading), TITLE_MAX),
            # One more than is allowed, so that the quality check sees what was too long.
            body(section.body, SECTION_CHARACTERS_MAX + 1),
        )
        for section in edited.sections[:100]
    )
    if removed:
        repairs.append(f"links: {removed} to addresses that weren't offered became plain words")
    used = linked([introduction, *(section.body for section in sections)])
    return Article(
        title=title,
        introduction=introduction,
        sections=sections,
        seo_title=_seo_title(edited.seo_title, title, repairs),
        meta_description=_meta_description(edited.meta_description, introduction, repairs),
        slug=_slug(edited.slug, title),
        score=edited.score,
        issues=tuple(ArticleIssue(i.severity, clean_line(i.text)[:500]) for i in edited.issues[:50]),
        language=brief.language,
        keyword=brief.main_keyword,
        words=_words(introduction, sections),
        repairs=tuple(repairs),
        dangers=tuple(_dangers(edited)),
        unsupported_claims=tuple(clean_line(claim)[:500] for claim in edited.unsupported_claims[:50]),
        further=tuple(one for one in links if one.url not in used),
        sources=tuple(sources),
    )


def plain(article: Article) -> str:
    """The whole article as plain text: title, introduction, headings, bodies, a paragraph each."""
    parts = [article.introduction, *(part for s in article.sections for part in (s.heading, s.body))]
    lines = [line for part in parts for line in re.split(r"\n\s*\n", part)]
    return "\n\n".join(filter(None, [article.title, *map(plain_text, lines)]))


def as_json(article: Article) -> dict[str, Any]:
    """The article as it is stored."""
    return asdict(article)


def from_json(stored: Mapping[str, Any]) -> Article:
    """The article that `as_json` stored. Raises InvalidInput where it is none."""
    try:
        return _adapter().validate_python(stored)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"stored article, {place}: {first['msg']}") from None


@cache
def _adapter() -> TypeAdapter[Article]:
    return TypeAdapter(Article)


def _words(introduction: str, sections: tuple[ArticleSection, ...]) -> int:
    texts = [introduction, *(part for s in sections for part in (s.heading, s.body))]
    return sum(count_words(plain_text(text)) for text in texts)


def _seo_title(answer: str, title: str, repairs: list[str]) -> str:
    wish = clean_line(answer)
    if not wish:
        repairs.append("seo_title: it was empty; the title is used")
        wish = title
    if len(wish) > SEO_TITLE_MAX:
        repairs.append(f"seo_title: {len(wish)} characters cut to {SEO_TITLE_MAX}")
    return cut_at_word(wish, SEO_TITLE_MAX)


def _meta_description(answer: str, introduction: str, repairs: list[str]) -> str:
    wish = clean_line(answer)
    if len(wish) < META_DESCRIPTION_MIN:
        repairs.append(f"meta_description: {len(wish)} characters, continued from the introduction")
        wish = f"{wish} {plain_text(introduction[:2000])}".strip()
    if len(wish) <= META_DESCRIPTION_MAX:
        return wish
    repairs.append(f"meta_description: {len(wish)} characters cut to {META_DESCRIPTION_MAX}")
    sentence_end = max(
        wish.rfind(mark, META_DESCRIPTION_MIN, META_DESCRIPTION_MAX) for mark in (". ", "! ", "? ")
    )
    if sentence_end >= 0:
        return wish[: sentence_end + 1]
    return cut_at_word(wish, META_DESCRIPTION_MAX - 1) + "…"


def _slug(answer: str, title: str) -> str:
    # A path is no slug: of "../../etc/passwd" only words are left, so take the title's instead.
    wish = answer.strip()
    return slugify(title if not wish or "/" in wish or "\\" in wish or ".." in wish else wish)


def _dangers(edited: EditedArticle) -> list[str]:
    texts = [edited.title, edited.seo_title, edited.meta_description, edited.introduction]
    texts += [
        part for s in edited.sections[:100] for part in (s.heading, s.body[: SECTION_CHARACTERS_MAX + 1])
    ]
    return sorted({danger for text in texts for danger in dangers(text[:CHARACTERS_MAX])})
