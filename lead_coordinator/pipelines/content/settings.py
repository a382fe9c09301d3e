"""What a site may set for its articles: voice, quality, gate, target, models. One typed place.

Every knob has a default: `ContentSettings()` is a site that publishes in English, at once, as static pages.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from lead_coordinator.settings_values import web_address

Policy = Literal["auto", "review", "draft"]
WRITING_STEPS = ("outline", "draft", "edit_and_check", "revise", "check_again", "update")

_Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=200)]
_Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=600)]
_Model = Annotated[str, StringConstraints(pattern=r"^(gemini|openai):[A-Za-z0-9._-]{1,100}$")]
_Address = Annotated[str, AfterValidator(web_address)]

# Whoever reads these in an article knows that nobody read it before it was published.
FORBIDDEN = (
    "as an ai language model",
    "as a large language model",
    "as an ai assistant",
    "i cannot fulfill",
    "i can't assist with",
    "my knowledge cutoff",
    "ignore previous instructions",
    "ignore all previous instructions",
    "lorem ipsum",
    "[insert",
)


class Knobs(BaseModel):
    """Base of a group of settings: frozen, and a name that is none is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Voice(Knobs):
    """How a site speaks. Goes into the prompts as data."""

    name: _Line = Field("", description="Name of the brand, as it stands in texts")
    tone: _Line = Field(
        "plain and friendly, without hype", description="How it sounds, in one sentence, up to 600 characters"
    )
    audience: _Line = Field("", description="Whom the site is for, where a brief doesn't say")
    address: Literal["you", "we", "neutral"] = Field("you", description="How readers are addressed")
    spelling: _Line = Field("", description="Such as British spelling, metric units, 24-hour times")
    prefer: tuple[_Phrase, ...] = Field((), max_length=50, description="Words and terms to use")
    avoid: tuple[_Phrase, ...] = Field((), max_length=50, description="Words and terms not to use")

    def for_prompt(self) -> dict[str, Any]:
        """What a model is shown: what is set."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value}


class QualitySettings(Knobs):
    """What an article must reach before it is published."""

    min_words: int = Field(1200, ge=50, le=6000, description="Words, over introduction, headings and bodies")
    min_sections: int = Field(3, ge=1, le=20, description="Sections at least")
    max_sections: int = Field(20, ge=1, le=50, description="Sections at most")
    min_score: int = Field(60, ge=0, le=100, description="The editor's own score, 0 to 100")
    min_reading_ease: float = Field(
        30.0, ge=-100, le=100, description="Flesch reading ease; 60 is plain English, 30 is hard"
    )
    max_sentence_words: float = Field(28.0, ge=5, le=100, description="Words a sentence, on average")
    max_keyword_percent: float = Field(
        3.5, ge=0.1, le=20, description="Share of an article's words that the keyword may be"
    )
    max_repeated_percent: float = Field(
        30.0, ge=0, le=100, description="Share of sentences that may stand there word for word before"
    )
    max_similarity: float = Field(
        0.7, ge=0.1, le=1, description="Jaccard similarity of word 5-shingles with anything published, 0 to 1"
    )
    max_unsupported_claims: int = Field(
        0, ge=0, le=50, description="Claims that neither the notes nor general knowledge support"
    )
    forbidden: tuple[_Phrase, ...] = Field(
        FORBIDDEN, max_length=200, description="Phrases that no article may hold, whatever their case"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_sections > self.max_sections:
            raise ValueError(
                f"min_sections={self.min_sections} must not be over max_sections={self.max_sections}"
            )
        return self


class ResearchSettings(Knobs):
    """How much is read before an article is written."""

    max_sources: int = Field(4, ge=0, le=10, description="Sources of a brief that are read")
    source_characters: int = Field(
        3000, ge=200, le=20_000, description="Characters of a source's text that a model is shown"
    )
    seconds: float = Field(20.0, ge=1, le=60, description="Seconds for all sources together")
    allow_private_addresses: bool = Field(
        False, description="true: sources on this machine and in private networks are read"
    )
    max_links: int = Field(5, ge=0, le=10, description="Links to our own articles that are offered")
    internal_links: int = Field(
        2, ge=0, le=10, description="Links to our own articles at least, where there are"
    )


class WordPressTarget(Knobs):
    """A WordPress site. The application password is the variable WORDPRESS_APPLICATION_PASSWORD."""

    url: _Address = Field(description="Address of the site, such as https://blog.example.org/")
    user: Annotated[str, StringConstraints(pattern=r"^[^\s:]{1,60}$")] = Field(
        description="The user whose application password is used"
    )
    category_ids: tuple[int, ...] = Field((), max_length=20, description="Ids of the categories of a post")
    timeout_seconds: float = Field(20.0, ge=1, le=60, description="Seconds for one request")
    allow_http: bool = Field(
        False,
        description="true: without TLS, which sends the password in the clear; for tests and local sites",
    )

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if not self.allow_http and not self.url.startswith("https://"):
            raise ValueError(f"url={self.url} must begin with https:// (or set allow_http)")
        return self


class ContentSettings(Knobs):
    """The content pipeline's section of a site profile."""

    voice: Voice = Field(default_factory=Voice, description="How the site speaks")
    quality: QualitySettings = Field(
        default_factory=QualitySettings, description="What an article must reach"
    )
    research: ResearchSettings = Field(
        default_factory=ResearchSettings, description="How much is read before"
    )
    policy: Policy = Field(
        "auto",
        description="auto: published at once; review: a person approves it; draft: kept, nobody is asked",
    )
    target: Literal["static", "wordpress"] = Field("static", description="Where articles are published")
    wordpress: WordPressTarget | None = Field(None, description="Needed where target is wordpress")
    models: dict[str, tuple[_Model, ...]] = Field(
        default_factory=dict,
        description="Adequate models by step, as provider:model; the cheapest is asked first, the others "
        "where it fails. A step that isn't named: the providers' default models",
    )
    cost_cap_usd: Decimal = Field(
        Decimal("0.09"),
        gt=0,
        le=10,
        description="Most that one article may cost, over all its attempts, US dollars",
    )

    @field_validator("models")
    @classmethod
    def _known_steps(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for step, models in value.items():
            if step not in WRITING_STEPS:
                raise ValueError(f"models: step {step!r} given, {', '.join(WRITING_STEPS)} allowed")
            if not 1 <= len(models) <= 10:
                raise ValueError(f"models.{step}: {len(models)} models given, 1 to 10 allowed")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.target == "wordpress" and self.wordpress is None:
            raise ValueError("target=wordpress needs wordpress.url and wordpress.user beside it")
        return self

    def candidates(self, step: str) -> tuple[tuple[str, str], ...]:
        """(provider, model) that may be asked in a step; empty: the providers' default models."""
        pairs = (name.split(":", 1) for name in self.models.get(step, ()))
        return tuple((provider, model) for provider, model in pairs)


def site_password(variable: str, site: str) -> str | None:
    """A site's part of WORDPRESS_APPLICATION_PASSWORD: one password for all sites, or
    `main=abcd efgh; shop=ijkl mnop` (an application password holds letters, digits and spaces only)."""
    if "=" not in variable:
        return variable.strip() or None
    for part in re.split(r"[;,]", variable):
        name, _, password = part.partition("=")
        if name.strip() == site:
            return password.strip() or None
    return None
