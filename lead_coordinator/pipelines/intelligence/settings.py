"""What a site may set for its intelligence: feeds, competitors, thresholds. One typed place.

Every knob has a default: `IntelligenceSettings()` watches nothing, and says so when it is asked to.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from lead_coordinator.settings_values import web_address

MAX_FEEDS = 200
_Address = Annotated[
    str, StringConstraints(max_length=1500, pattern=r"^[\x21-\x7e]*$"), AfterValidator(web_address)
]
_Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]


class Knobs(BaseModel):
    """Base of a group of settings: frozen, and a name that is none is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FeedSource(Knobs):
    """One feed to watch."""

    url: _Address = Field(description="Address of the feed (RSS, Atom or JSON Feed)")
    name: _Line = Field("", description="Name to show; unset: the feed's own title")
    competitor: bool = Field(False, description="true: what it covers and we don't is a gap")
    ours: bool = Field(False, description="true: our own feed; its items count as covered by us")

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if self.competitor and self.ours:
            raise ValueError(f"{self.url}: competitor and ours can't both be true")
        return self

    @property
    def label(self) -> str:
        """The name, or the host."""
        return self.name or urlsplit(self.url).hostname or self.url


class PollSettings(Knobs):
    """How feeds are fetched and how much of them is read."""

    every_minutes: int = Field(30, ge=1, le=10_080, description="Minutes between two polls of a feed")
    seconds: float = Field(90.0, ge=5, le=240, description="Seconds for all feeds of a round together")
    concurrency: int = Field(6, ge=1, le=32, description="Feeds fetched at once")
    max_bytes: int = Field(5_000_000, ge=10_000, le=20_000_000, description="Bytes of a feed at most")
    max_items: int = Field(200, ge=1, le=2000, description="Items read of a feed, the first in it")
    parse_seconds: float = Field(15.0, ge=1, le=60, description="Seconds for reading one feed")
    parse_memory_mb: int = Field(512, ge=128, le=1024, description="Memory for reading one feed, MB")
    page_texts: int = Field(
        0, ge=0, le=100, description="Pages a round whose text is fetched where a feed says only a title"
    )
    page_seconds: float = Field(20.0, ge=1, le=120, description="Seconds for these pages together")
    allow_private_addresses: bool = Field(
        False, description="true: feeds on this machine or in a private network may be fetched"
    )


class StorySettings(Knobs):
    """How items become stories."""

    near_duplicate: float = Field(
        0.8,
        ge=0.5,
        le=1,
        description="Jaccard similarity of word 5-shingles from which items are one, 0 to 1",
    )
    similarity: float = Field(
        0.28, gt=0, le=1, description="Cosine similarity from which an item joins a story, 0 to 1"
    )
    active_hours: float = Field(
        96, ge=1, le=720, description="Hours after its last item in which a story takes further ones"
    )
    window_days: int = Field(14, ge=2, le=60, description="Days of items that are looked at again each round")


class BurstSettings(Knobs):
    """When a term counts as rising."""

    false_alarm_rate: float = Field(
        0.05, gt=0, le=0.5, description="Share of quiet days with any false alarm, 0 to 1 (see bursts.py)"
    )
    history_days: int = Field(28, ge=7, le=90, description="Days of history that today is compared with")
    min_history_days: int = Field(
        7, ge=3, le=60, description="Days with items that a history must have; fewer: no claim is made"
    )
    min_documents: int = Field(3, ge=2, le=100, description="Items of today that must hold the term")
    min_feeds: int = Field(2, ge=1, le=20, description="Feeds that must hold the term today")


class TopicSettings(Knobs):
    """What is proposed, what it is taken to be worth, and what becomes a task."""

    min_feeds: int = Field(2, ge=1, le=20, description="Feeds that must cover a story before it is proposed")
    max_age_hours: float = Field(96, ge=1, le=720, description="Hours since its last item, at most")
    covered_similarity: float = Field(
        0.3, gt=0, le=1, description="Cosine similarity from which an article of ours covers a story, 0 to 1"
    )
    assumed_value_usd: Decimal | None = Field(
        None,
        ge=0,
        le=100_000,
        description="What an article is taken to earn in 30 days while there are too few pages with figures, "
        "US dollars; unset: nothing is claimed and nothing is submitted",
    )
    min_pages: int = Field(5, ge=2, le=1000, description="Pages with revenue figures that a mean needs")
    half_life_hours: float = Field(
        72, ge=1, le=2000, description="Hours after which a story's news is worth half"
    )
    article_cost_usd: Decimal = Field(
        Decimal("0.09"), ge=0, le=100, description="What an article costs where none has been written yet"
    )
    submit_above_usd: Decimal = Field(
        Decimal("1.00"), ge=0, le=100_000, description="Proposals worth at least this become content tasks"
    )
    max_submitted: int = Field(5, ge=0, le=50, description="Content tasks a round at most, the best first")


class IntelligenceSettings(Knobs):
    """The intelligence engine's section of a site profile."""

    feeds: tuple[FeedSource, ...] = Field((), max_length=MAX_FEEDS, description="Feeds to watch")
    poll: PollSettings = Field(default_factory=PollSettings, description="How feeds are fetched")
    stories: StorySettings = Field(default_factory=StorySettings, description="How items become stories")
    bursts: BurstSettings = Field(default_factory=BurstSettings, description="When a term counts as rising")
    topics: TopicSettings = Field(default_factory=TopicSettings, description="What is proposed")
    use_model: bool = Field(True, description="false: names and summary are made without a model, at no cost")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        seen: set[str] = set()
        for number, feed in enumerate(self.feeds):
            if feed.url in seen:
                raise ValueError(f"feeds[{number}].url: {feed.url} is there twice")
            seen.add(feed.url)
        return self
