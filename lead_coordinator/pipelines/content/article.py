"""The finished article: a model's last answer, cleaned, brought within bounds, and checked.

`build_article` never fails: whatever the model wrote becomes an article that is harmless to publish. Whether
it is good enough to be published is what `quality_problems` says; a problem is a sentence for a person and
for the model's next attempt.
"""

from __future__ import annotations

from dataclasses import dataclass

from lead_coordinator.pipelines.content.brief import Brief
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

    `slug` is the wish; the database makes it unique. `repairs` says what was brought within bounds, `dangers`
    what the model wrote that could have harmed a reader (it is disarmed here, and still a reason not to
    publish).
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

    @property
    def characters(self) -> int:
        return len(self.introduction) + sum(len(s.heading) + len(s.body) for s in self.sections)


@dataclass(frozen=True)
class QualityPolicy:
    """What an article must reach before it is published. Words are counted over introduction, headings and
    bodies."""

    min_words: int = 1200
    min_sections: int = 3
    max_sections: int = 20
    min_score: int = 60


def build_article(brief: Brief, edited: EditedArticle) -> Article:
    """The article of an edited answer. Never raises for what a model wrote."""
    repairs: list[str] = []
    title = cut_at_word(clean_line(edited.title), TITLE_MAX)
    if not title:
        title = clean_line(brief.subject)
        repairs.append("title: it was empty; the brief's is used")
    introduction = clean_markdown(edited.introduction[:CHARACTERS_MAX])
    sections = tuple(
        ArticleSection(
            cut_at_word(clean_line(section.heading), TITLE_MAX),
            # One more than is allowed, so that the quality check sees what was too long.
            clean_markdown(section.body[: SECTION_CHARACTERS_MAX + 1]),
        )
        for section in edited.sections[:100]
    )
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
        keyword=brief.keyword,
        words=_words(introduction, sections),
        repairs=tuple(repairs),
        dangers=tuple(_dangers(edited)),
    )


def quality_problems(article: Article, policy: QualityPolicy | None = None) -> list[str]:
    """Why the article must not be published as it is, a sentence each; empty when it may."""
    policy = policy or QualityPolicy()
    problems = [f"holds {danger}, which no article needs" for danger in article.dangers]
    if article.words < policy.min_words:
        problems.append(f"has {article.words} words, at least {policy.min_words} are asked for")
    if article.characters > CHARACTERS_MAX:
        problems.append(f"has {article.characters} characters, at most {CHARACTERS_MAX} are allowed")
    if not policy.min_sections <= len(article.sections) <= policy.max_sections:
        problems.append(
            f"has {len(article.sections)} sections, "
            f"{policy.min_sections} to {policy.max_sections} are asked for"
        )
    if not article.introduction:
        problems.append("has no introduction")
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
    if article.score < policy.min_score:
        problems.append(f"is scored {article.score} by its editor, at least {policy.min_score} are asked for")
    problems += [f"is stopped by its editor: {i.text}" for i in article.issues if i.severity == "blocker"]
    return problems


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
