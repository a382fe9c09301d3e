"""The shapes of the structured answers: outline, draft, edited article.

Both providers are sent these models as the schema of the answer, so they keep to what both accept: every
field required, no default, no union, no `additionalProperties` (Gemini's `response_schema` refuses it; the
OpenAI SDK adds it for its strict mode), nothing recursive. Lengths are asked for in the descriptions and not
enforced here: a title of 61 characters is no reason to throw away an answer that was paid for. `article.py`
brings them within bounds, and its quality check refuses what can't be repaired.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

SEO_TITLE_MAX = 60
META_DESCRIPTION_MIN = 80
META_DESCRIPTION_MAX = 160


class OutlineSection(BaseModel):
    """One planned section."""

    heading: str = Field(description="Heading of the section, plain text, no numbering")
    points: list[str] = Field(description="What the section says, in order: 3 to 5 concrete points")
    target_words: int = Field(description="Length to aim at, in words")


class Outline(BaseModel):
    """Answer of the step `outline`."""

    title: str = Field(description="Working title of the article, plain text")
    angle: str = Field(description="What the reader can do after reading, in one sentence")
    sections: list[OutlineSection] = Field(description="5 to 8 sections in reading order")


class Section(BaseModel):
    """One written section. `body` is Markdown without headings of level 1 or 2 and without HTML."""

    heading: str = Field(description="Heading of the section, plain text, no numbering")
    body: str = Field(description="Text of the section in Markdown: paragraphs, lists, tables; no HTML")


class Draft(BaseModel):
    """Answer of the step `draft`."""

    title: str = Field(description="Title of the article, plain text")
    introduction: str = Field(description="Opening of 60 to 120 words in Markdown, without a heading")
    sections: list[Section] = Field(description="Every section of the outline, written in full")


class Issue(BaseModel):
    """Something the editor found and couldn't put right alone."""

    severity: Literal["note", "warning", "blocker"] = Field(
        description="note: a matter of taste; warning: check it; blocker: must not be published like this"
    )
    text: str = Field(description="What is wrong and where, in one sentence")


class EditedArticle(BaseModel):
    """Answer of the step `edit_and_check`: the whole article after editing, with what search engines need."""

    title: str = Field(description="Final title, plain text")
    introduction: str = Field(description="Final opening in Markdown, without a heading")
    sections: list[Section] = Field(description="Every section after editing, in full")
    seo_title: str = Field(description=f"Title for search results, at most {SEO_TITLE_MAX} characters")
    meta_description: str = Field(
        description=f"Summary for search results, {META_DESCRIPTION_MIN} to {META_DESCRIPTION_MAX} characters"
    )
    slug: str = Field(
        description="Address of the page: 3 to 8 lower-case words of a-z and 0-9 joined by hyphens"
    )
    score: int = Field(ge=0, le=100, description="How good the edited article is, 0 to 100, judged strictly")
    unsupported_claims: list[str] = Field(
        description="Each sentence left in the article that states a fact which neither the notes nor "
        "general knowledge support, word for word; empty if there is none"
    )
    issues: list[Issue] = Field(description="What remains to be looked at by a person; empty if nothing")


STEP_SCHEMAS: dict[str, type[BaseModel]] = {
    "outline": Outline,
    "draft": Draft,
    "edit_and_check": EditedArticle,
    "revise": Draft,
    "check_again": EditedArticle,
    "update": Draft,
}
