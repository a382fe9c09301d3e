"""Who covers a story, and whether we do.

A story is covered by us where one of our publications is about the same, or where one of our own feeds
carries it. "About the same" is the cosine of the story's words with the publication's title, keyword and
description at or over a threshold. It is a gap where a competitor covers it and we don't.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from lead_coordinator.pipelines.intelligence.items import Item
from lead_coordinator.pipelines.intelligence.settings import FeedSource
from lead_coordinator.pipelines.intelligence.stories import Story
from lead_coordinator.pipelines.intelligence.vectors import Weight, cosine
from lead_coordinator.text.words import content_words


@dataclass(frozen=True)
class Article:
    """One publication of ours. `text`: title, keyword and description, to compare with. `earned_usd`: revenue
    of its last 30 days with figures, US dollars; None where there are too few."""

    title: str
    url: str
    text: str
    published_at: datetime
    earned_usd: float | None = None


@dataclass(frozen=True)
class Coverage:
    """One story and who has it. `items`: newest first, duplicates included; `feeds`, `competitors`: addresses
    of the feeds that carry it. `ours`: our nearest article, and its `similarity`, 0 to 1; `covered`: we have
    the story."""

    story: Story
    items: tuple[Item, ...]
    feeds: tuple[str, ...]
    competitors: tuple[str, ...]
    ours: Article | None
    similarity: float
    covered: bool

    @property
    def gap(self) -> bool:
        """A competitor covers it and we don't."""
        return bool(self.competitors) and not self.covered

    @property
    def last_at(self) -> datetime:
        return max(item.published for item in self.items)


def coverages(
    stories: Iterable[Story],
    items: Iterable[Item],
    sources: Mapping[str, FeedSource],
    articles: Sequence[Article],
    weight: Weight,
    *,
    covered_similarity: float,
) -> list[Coverage]:
    """Every story that has an item here, with who covers it; those with most feeds first, then the latest."""
    by_story: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_story[item.story].append(item)
    bags = [(article, article_words(article)) for article in articles]
    found = [
        _coverage(story, by_story[story.story_id], sources, bags, weight, covered_similarity)
        for story in stories
        if story.story_id in by_story
    ]
    return sorted(found, key=lambda one: (-len(one.feeds), -one.last_at.timestamp(), one.story.story_id))


def article_words(article: Article) -> Counter[str]:
    """The words to compare an article by; those of its title count twice."""
    return Counter(content_words(article.title)) + Counter(content_words(article.text))


def story_bag(story: Story) -> dict[str, float]:
    """The story's strongest words: an article says in few words what a story says in many."""
    return {word: story.centroid[word] for word in story.words[:15]}


def _coverage(
    story: Story,
    items: Sequence[Item],
    sources: Mapping[str, FeedSource],
    articles: Sequence[tuple[Article, Counter[str]]],
    weight: Weight,
    covered_similarity: float,
) -> Coverage:
    feeds = sorted({item.feed_url for item in items})
    known = [sources[url] for url in feeds if url in sources]
    bag = story_bag(story)
    nearest: tuple[Article | None, float] = (None, 0.0)
    for article, words in articles:
        similarity = cosine(bag, {word: float(count) for word, count in words.items()}, weight)
        if similarity > nearest[1]:
            nearest = (article, similarity)
    return Coverage(
        story=story,
        items=tuple(sorted(items, key=lambda item: (-item.published.timestamp(), item.identity))),
        feeds=tuple(feeds),
        competitors=tuple(source.url for source in known if source.competitor),
        ours=nearest[0],
        similarity=nearest[1],
        covered=nearest[1] >= covered_similarity or any(source.ours for source in known),
    )
