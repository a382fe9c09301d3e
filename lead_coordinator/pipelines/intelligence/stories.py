"""Items grouped into stories, over days, as they arrive.

Single-pass clustering, as for on-line event detection (Allan, Papka, Lavrenko 1998, "On-line New Event
Detection and Tracking", SIGIR): the items are taken oldest first; each is compared with the centroids of the
stories that had an item within the last hours, and joins the nearest one if the cosine similarity reaches the
threshold, else begins a story of its own. A duplicate goes where its original is. A story's centroid is the
mean of its items' normalised word weights, of which the strongest are kept.

A story's id is a digest of the item that began it: the same items give the same stories, whoever runs first.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lead_coordinator.pipelines.intelligence.items import Item
from lead_coordinator.pipelines.intelligence.vectors import DocumentFrequencies, Weight, length

CENTROID_WORDS = 40
# Words that two items must share before they can be the same story: one rare name is not enough.
MIN_SHARED = 2


@dataclass(frozen=True)
class Story:
    """A story. `centroid`: word → mean normalised count; `items`: how many it has had, duplicates apart."""

    story_id: str
    title: str
    first_at: datetime
    last_at: datetime
    items: int
    centroid: Mapping[str, float]
    summary: str = ""

    @property
    def words(self) -> list[str]:
        """What it is about: the strongest words first."""
        return sorted(self.centroid, key=lambda word: (-self.centroid[word], word))


@dataclass(frozen=True)
class Grouped:
    """The outcome: every new item with its story, and the stories that began or grew."""

    items: tuple[Item, ...]
    stories: tuple[Story, ...]


def group(
    items: Sequence[Item],
    stories: Iterable[Story],
    known: Mapping[str, str],
    frequencies: DocumentFrequencies,
    *,
    similarity: float,
    active: timedelta,
) -> Grouped:
    """Sorts new items into stories.

    `stories`: those there are; `known`: identity → story of items that are already in one; `similarity`: from
    which cosine (over 0, up to 1) an item joins.
    """
    groups = _Groups(stories, frequencies, similarity, active)
    story_of = dict(known)
    placed = []
    for item in sorted(items, key=lambda item: (item.published, item.identity)):
        original = story_of.get(item.duplicate_of, "")
        story = original or groups.place(item)
        story_of[item.identity] = story
        placed.append(replace(item, story=story))
    return Grouped(tuple(placed), tuple(groups.changed()))


def story_id(item: Item) -> str:
    """The id of the story that an item begins: 16 hexadecimal digits."""
    return hashlib.sha256(f"story\n{item.identity}".encode()).hexdigest()[:16]


class _Groups:
    def __init__(
        self,
        stories: Iterable[Story],
        frequencies: DocumentFrequencies,
        similarity: float,
        active: timedelta,
    ) -> None:
        self._weight = frequencies.weight
        self._similarity = similarity
        self._active = active
        self._stories = {story.story_id: story for story in stories}
        self._changed: set[str] = set()
        # Which stories hold a word: an item is compared only with those it shares words with.
        self._holders: dict[str, set[str]] = defaultdict(set)
        for story in self._stories.values():
            self._hold(story)

    def place(self, item: Item) -> str:
        bag = _normalised(item, self._weight)
        found = self._nearest(item, bag)
        story = self._stories[found] if found else self._begin(item)
        grown = _grown(story, item, bag)
        for word in story.centroid.keys() - grown.centroid.keys():
            self._holders[word].discard(story.story_id)
        self._stories[story.story_id] = grown
        self._hold(grown)
        self._changed.add(story.story_id)
        return story.story_id

    def changed(self) -> list[Story]:
        return [self._stories[name] for name in sorted(self._changed)]

    def _begin(self, item: Item) -> Story:
        return Story(story_id(item), item.title, item.published, item.published, 0, {})

    def _hold(self, story: Story) -> None:
        for word in story.centroid:
            self._holders[word].add(story.story_id)

    def _nearest(self, item: Item, bag: Mapping[str, float]) -> str:
        shared: dict[str, int] = defaultdict(int)
        dot: dict[str, float] = defaultdict(float)
        for word, value in bag.items():
            strength = value * self._weight(word) ** 2
            for name in self._holders.get(word, ()):
                shared[name] += 1
                dot[name] += strength * self._stories[name].centroid[word]
        best = ("", 0.0)
        for name in sorted(dot):
            story = self._stories[name]
            if shared[name] < MIN_SHARED or not self._is_active(story, item.published):
                continue
            score = dot[name] / (length(story.centroid, self._weight) or 1.0)
            if score > best[1]:
                best = (name, score)
        return best[0] if best[1] >= self._similarity else ""

    def _is_active(self, story: Story, moment: datetime) -> bool:
        return story.first_at - self._active <= moment <= story.last_at + self._active


def _normalised(item: Item, weight: Weight) -> dict[str, float]:
    """The item's word counts, scaled so that with the weights their length is 1."""
    bag = item.vector
    size = length(bag, weight)
    return {word: count / size for word, count in bag.items()} if size else {}


def _grown(story: Story, item: Item, bag: Mapping[str, float]) -> Story:
    """The story with one more item: the mean of what it had and the new bag, the strongest words of it."""
    count = story.items + 1
    mean = {word: value * story.items / count for word, value in story.centroid.items()}
    for word, value in bag.items():
        mean[word] = mean.get(word, 0.0) + value / count
    kept = sorted(mean, key=lambda word: (-mean[word], word))[:CENTROID_WORDS]
    return replace(
        story,
        items=count,
        first_at=min(story.first_at, item.published),
        last_at=max(story.last_at, item.published),
        centroid={word: round(mean[word], 6) for word in kept},
    )
