"""One round over plain data: from what the feeds said to items, stories, rising terms and proposals.

No clock, no database, no network: the same state and the same polls give the same round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from lead_coordinator.pipelines.intelligence.bursts import (
    Burst,
    BurstReport,
    find_bursts,
    term_days,
    without_parts,
)
from lead_coordinator.pipelines.intelligence.coverage import Coverage, coverages
from lead_coordinator.pipelines.intelligence.feeds import Poll
from lead_coordinator.pipelines.intelligence.items import Item, make_item, new_items
from lead_coordinator.pipelines.intelligence.settings import FeedSource, IntelligenceSettings
from lead_coordinator.pipelines.intelligence.state import SiteState
from lead_coordinator.pipelines.intelligence.stories import Story, group
from lead_coordinator.pipelines.intelligence.topics import Proposal, propose, worth_submitting
from lead_coordinator.pipelines.intelligence.vectors import DocumentFrequencies


@dataclass(frozen=True)
class Round:
    """What a round found. `new`: items never seen before; `changed`: stories that began or grew; `covered`:
    every story of the window; `proposals`: the best first, with those to submit marked."""

    now: datetime
    polls: tuple[Poll, ...]
    new: tuple[Item, ...]
    changed: tuple[Story, ...]
    covered: tuple[Coverage, ...]
    bursts: BurstReport
    proposals: tuple[Proposal, ...]
    names: Mapping[str, str]

    @property
    def gaps(self) -> list[Coverage]:
        """Stories that competitors cover and we don't."""
        return [one for one in self.covered if one.gap]

    @property
    def failed(self) -> list[Poll]:
        """Feeds that couldn't be read."""
        return [poll for poll in self.polls if poll.outcome == "failed"]


def hold_round(
    state: SiteState,
    sources: Sequence[FeedSource],
    polls: Sequence[Poll],
    settings: IntelligenceSettings,
    now: datetime,
) -> Round:
    """The round that follows from what is known and what was polled."""
    window = now - timedelta(days=settings.stories.window_days)
    made = [make_item(parsed, poll.source.url, now) for poll in polls for parsed in poll.items]
    fresh = new_items(
        [item for item in made if item.published >= window], state.items, settings.stories.near_duplicate
    )
    frequencies = _frequencies([*state.items, *fresh])
    grouped = group(
        fresh,
        state.stories,
        {item.identity: item.story for item in state.items},
        frequencies,
        similarity=settings.stories.similarity,
        active=timedelta(hours=settings.stories.active_hours),
    )
    items = [*state.items, *grouped.items]
    by_url = {source.url: source for source in sources}
    stories = {story.story_id: story for story in (*state.stories, *grouped.stories)}
    covered = coverages(
        stories.values(),
        (item for item in items if item.feed_url in by_url),
        by_url,
        state.articles,
        frequencies.weight,
        covered_similarity=settings.topics.covered_similarity,
    )
    bursts = _bursts(state, grouped.items, items, settings, now)
    names = feed_names(sources, state, polls)
    proposals = propose(
        covered,
        bursts.bursts,
        state.articles,
        frequencies.weight,
        settings.topics,
        now,
        article_cost_usd=state.article_cost_usd,
        names=names,
    )
    return Round(
        now=now,
        polls=tuple(polls),
        new=grouped.items,
        changed=grouped.stories,
        covered=tuple(covered),
        bursts=bursts,
        proposals=tuple(_marked(proposals, state, settings)),
        names=names,
    )


def feed_names(sources: Iterable[FeedSource], state: SiteState, polls: Iterable[Poll]) -> dict[str, str]:
    """The name to show for each feed: as set, as the feed calls itself, or its host."""
    titles = {url: feed.title for url, feed in state.feeds.items()}
    titles |= {poll.source.url: poll.state.title for poll in polls if poll.state.title}
    return {source.url: source.name or titles.get(source.url) or source.label for source in sources}


def _frequencies(items: Iterable[Item]) -> DocumentFrequencies:
    frequencies = DocumentFrequencies()
    for item in items:
        if not item.duplicate_of:
            frequencies.add(item.vector)
    return frequencies


def _bursts(
    state: SiteState,
    fresh: Sequence[Item],
    items: Sequence[Item],
    settings: IntelligenceSettings,
    now: datetime,
) -> BurstReport:
    """Rising terms of today (UTC): the counts that are stored, and those of the new items."""
    terms: dict[str, dict[date, int]] = defaultdict(dict)
    for term, by_day in state.terms.items():
        terms[term] = dict(by_day)
    documents = dict(state.documents)
    for item in fresh:
        if item.duplicate_of:
            continue
        day = item.published.date()
        documents[day] = documents.get(day, 0) + 1
        for term, _ in item.terms:
            terms[term][day] = terms[term].get(day, 0) + 1
    today = now.date()
    feeds: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.published.date() == today:
            for term, _ in item.terms:
                feeds[term].add(item.feed_url)
    series, history, documents_today = term_days(
        terms,
        documents,
        today,
        settings.bursts.history_days,
        {term: len(urls) for term, urls in feeds.items()},
    )
    report = find_bursts(
        series,
        history,
        documents_today,
        false_alarm_rate=settings.bursts.false_alarm_rate,
        min_history_days=settings.bursts.min_history_days,
        min_documents=settings.bursts.min_documents,
        min_feeds=settings.bursts.min_feeds,
    )
    kept: list[Burst] = without_parts(report.bursts)
    return replace(report, bursts=tuple(kept))


def _marked(
    proposals: Sequence[Proposal], state: SiteState, settings: IntelligenceSettings
) -> list[Proposal]:
    """Those to submit: worth it, and no story twice; at most so many a round, the best first."""
    left = settings.topics.max_submitted
    marked = []
    for proposal in proposals:
        known = state.proposals.get(proposal.story_id)
        before = known is not None and known.submitted_at is not None
        submit = left > 0 and not before and worth_submitting(proposal, settings.topics)
        left -= submit
        marked.append(replace(proposal, submit=submit))
    return marked
