"""The report of the day: what it says, as plain data. `pages.py` makes Markdown and HTML of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from lead_coordinator.pipelines.intelligence.coverage import Coverage
from lead_coordinator.pipelines.intelligence.items import Item
from lead_coordinator.pipelines.intelligence.naming import StoryName
from lead_coordinator.pipelines.intelligence.round import Round
from lead_coordinator.pipelines.intelligence.topics import Proposal

MAX_STORIES = 15
MAX_TOPICS = 12
MAX_RISING = 20
MAX_LINKS = 5


@dataclass(frozen=True)
class Link:
    """An item to look at."""

    source: str
    when: str
    text: str
    url: str


@dataclass(frozen=True)
class StoryEntry:
    """A story as the briefing shows it."""

    title: str
    summary: str
    about: str
    links: tuple[Link, ...]


@dataclass(frozen=True)
class TopicEntry:
    """A proposal as the briefing shows it."""

    title: str
    summary: str
    value: str
    status: str
    basis: str
    reasons: tuple[str, ...]
    links: tuple[Link, ...]


@dataclass(frozen=True)
class RisingEntry:
    """A rising term as the briefing shows it."""

    term: str
    today: int
    expected: str
    lift: str
    q_value: str


@dataclass(frozen=True)
class Briefing:
    """The report. `no_topics`, `no_rising`: what is said where there are none."""

    title: str
    opening: str
    figures: str
    topics: tuple[TopicEntry, ...]
    no_topics: str
    rising: tuple[RisingEntry, ...]
    no_rising: str
    stories: tuple[StoryEntry, ...]
    unread: tuple[str, ...]


def briefing_title(site: str, now: datetime) -> str:
    return f"Briefing for {site}, {now:%d %B %Y}"


def make_briefing(
    site: str,
    found: Round,
    names: Mapping[str, StoryName],
    wanted: Mapping[str, datetime],
    *,
    opening: str = "",
) -> Briefing:
    """The report of a round. `names`: by story id, where a model gave one; `wanted`: stories whose topic has
    been submitted, and when."""
    report = found.bursts
    items = sum(len(one.items) for one in found.covered)
    feeds = len({url for one in found.covered for url in one.feeds})
    return Briefing(
        title=briefing_title(site, found.now),
        opening=opening,
        figures=f"{len(found.new)} new items; {items} items of {feeds} feeds in {len(found.covered)} stories;"
        f" {len(found.gaps)} of them competitors cover and we don't. State of {found.now:%H:%M} UTC.",
        topics=tuple(
            _topic(proposal, names, wanted, found.names) for proposal in found.proposals[:MAX_TOPICS]
        ),
        no_topics="No story is carried by enough feeds, recent enough and not yet covered by us.",
        rising=tuple(
            RisingEntry(
                burst.term,
                burst.today,
                f"{burst.expected:.1f}",
                f"{burst.lift:.1f}" if burst.expected else "new",
                f"{burst.q_value:.2g}",
            )
            for burst in report.bursts[:MAX_RISING]
        ),
        no_rising=f"Nothing can be said yet: {report.too_little}."
        if report.too_little
        else f"None of {report.tested} terms rises beyond chance, compared with {report.history_days} days.",
        stories=tuple(_story(one, names, found.names) for one in found.covered[:MAX_STORIES]),
        unread=tuple(f"{poll.label}: {poll.state.error}" for poll in found.failed),
    )


def _story(one: Coverage, names: Mapping[str, StoryName], labels: Mapping[str, str]) -> StoryEntry:
    name = names.get(one.story.story_id)
    about = f"{_count(len(one.items), 'item')} of {_count(len(one.feeds), 'feed')}, last at "
    about += f"{one.last_at:%d %B, %H:%M}."
    if one.covered:
        about += f" We cover it: {one.ours.title}." if one.ours is not None else " We cover it."
    elif one.gap:
        about += " A gap: competitors cover it and we don't."
    return StoryEntry(
        title=name.title if name else one.story.title,
        summary=name.summary if name else one.story.summary,
        about=about,
        links=tuple(_link(item, labels) for item in one.items[:MAX_LINKS]),
    )


def _topic(
    proposal: Proposal,
    names: Mapping[str, StoryName],
    wanted: Mapping[str, datetime],
    labels: Mapping[str, str],
) -> TopicEntry:
    name = names.get(proposal.story_id)
    value = "no value can be given"
    if proposal.value_usd is not None:
        value = f"{proposal.value_usd:.2f} USD in 30 days"
        if proposal.low_usd is not None and proposal.high_usd is not None:
            value += f", between {proposal.low_usd:.2f} and {proposal.high_usd:.2f}"
    since = wanted.get(proposal.story_id)
    links = [
        Link(labels.get(one.feed_url, one.feed_url), f"{one.published:%d %B}", one.title, one.url)
        for one in proposal.evidence[:MAX_LINKS]
    ]
    return TopicEntry(
        title=name.title if name else proposal.title,
        summary=name.summary if name else "",
        value=value,
        status=f"submitted on {since:%d %B}" if since else "",
        basis=proposal.basis,
        reasons=proposal.reasons,
        links=tuple(links),
    )


def _link(item: Item, labels: Mapping[str, str]) -> Link:
    return Link(labels.get(item.feed_url, item.feed_url), f"{item.published:%d %B}", item.title, item.url)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
