"""One intelligence task: read what is known, poll, decide, record, report.

Invariants:
- What a round found is recorded in one transaction, a feed's new validators with the items they stand for. A
  run that dies before it has lost nothing, because the feeds are asked again; one that dies after it finds
  the items known, and makes the same stories, proposals and briefing of them.
- A topic becomes a content task once a story: the proposal is marked in that transaction, and the task's key
  names the story. Topics marked in the last two days are submitted again each round, in case a run died
  between the two.
- A feed that can't be read is a line in the briefing; a model that can't be asked leaves names made of the
  stories' own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from lead_coordinator.database import intelligence as records
from lead_coordinator.database.executions import ClaimedTask
from lead_coordinator.pipelines.intelligence.assignment import Assignment, assign, read_payload
from lead_coordinator.pipelines.intelligence.briefing import briefing_title, make_briefing
from lead_coordinator.pipelines.intelligence.feeds import Poll, poll_feeds
from lead_coordinator.pipelines.intelligence.fulltext import with_page_texts
from lead_coordinator.pipelines.intelligence.naming import StoryName, name_stories, opening
from lead_coordinator.pipelines.intelligence.outcome import result_of, submissions
from lead_coordinator.pipelines.intelligence.pages import write_briefing
from lead_coordinator.pipelines.intelligence.reader import FeedReader, ReadLimits
from lead_coordinator.pipelines.intelligence.round import Round, hold_round
from lead_coordinator.pipelines.intelligence.settings import IntelligenceSettings
from lead_coordinator.pipelines.intelligence.state import SiteState, read_state, round_json
from lead_coordinator.pipelines.intelligence.topics import Proposal
from lead_coordinator.pipelines.runtime import TaskOutcome, TaskRun
from lead_coordinator.web.fetch import Fetcher, FetchPolicy

# What a round takes beside polling: reading, deciding, two calls, recording.
ROUND_SECONDS = 30.0


class IntelligenceHandler:
    """Works intelligence tasks: {"site": name, "feeds"?: [addresses], "standing"?: true}."""

    async def work(self, run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        asked = read_payload(task.payload)
        profile = run.profiles.of(asked[0])
        settings = profile.intelligence
        assignment = assign(*asked, settings)
        run.check_time("poll", ROUND_SECONDS)
        now = run.now()
        state = await read_state(run.db, assignment.site, settings, now)
        polls = await self._poll(run, assignment, state, settings, now)
        sources = {source.url: source for source in (*settings.feeds, *assignment.sources)}
        # Hashing, comparing and counting take a second or more, and the heartbeat must go on.
        found = await asyncio.to_thread(hold_round, state, list(sources.values()), polls, settings, now)
        names = await self._names(run, found, settings)
        found = named(found, names)
        recorded = await records.record_intelligence(
            run.db,
            run.lease,
            run.task_id,
            assignment.site,
            round_json(
                [poll.state for poll in polls],
                found.new,
                found.changed,
                [proposal for proposal in found.proposals if proposal.submit or not _kept(proposal, state)],
            ),
            current_time=now,
        )
        wanted = {
            story: stored.submitted_at
            for story, stored in state.proposals.items()
            if stored.submitted_at is not None
        } | {proposal.story_id: now for proposal in found.proposals if proposal.submit}
        summary = ""
        if settings.use_model:
            title = briefing_title(assignment.site, now)
            summary = await opening(run, title, found.covered, found.proposals)
        briefing = make_briefing(assignment.site, found, names, wanted, opening=summary)
        page = await asyncio.to_thread(write_briefing, run.settings.home, assignment.site, now, briefing)
        follow_ups = submissions(assignment.site, found, state, now)
        result = result_of(assignment.site, found, recorded.new_items, follow_ups)
        result["briefing"] = str(page.relative_to(run.settings.home))
        result["model_calls"] = len(run.calls)
        message = f"{result['new_items']} new items, {len(found.proposals)} topics, {len(follow_ups)} wanted"
        return TaskOutcome(result, follow_ups, message)

    async def _poll(
        self,
        run: TaskRun,
        assignment: Assignment,
        state: SiteState,
        settings: IntelligenceSettings,
        now: datetime,
    ) -> list[Poll]:
        poll = settings.poll
        poll = poll.model_copy(
            update={
                "seconds": max(1.0, min(poll.seconds, run.seconds_left() - ROUND_SECONDS)),
                "page_seconds": max(1.0, min(poll.page_seconds, run.seconds_left() / 3)),
            }
        )
        known = dict(state.feeds)
        if assignment.forced:
            known = {url: replace(feed, polled_at=None) for url, feed in known.items()}
        policy = FetchPolicy(
            allow_private_addresses=poll.allow_private_addresses,
            max_bytes=poll.max_bytes,
            total_seconds=min(20.0, poll.seconds),
        )
        reader = FeedReader(ReadLimits(poll.parse_seconds, poll.parse_memory_mb, poll.max_items))
        async with Fetcher(policy) as fetcher:
            polls = await poll_feeds(assignment.sources, known, poll, fetcher, reader, now)
            since = now - timedelta(days=settings.stories.window_days)
            seen = {item.identity for item in state.items}
            return await with_page_texts(polls, seen, poll, fetcher, since)

    async def _names(
        self, run: TaskRun, found: Round, settings: IntelligenceSettings
    ) -> dict[str, StoryName]:
        """Names for the stories that are proposed and have none yet."""
        if not settings.use_model:
            return {}
        by_id = {one.story.story_id: one for one in found.covered}
        wanted = [
            (by_id[proposal.story_id], proposal.title)
            for proposal in found.proposals
            if not by_id[proposal.story_id].story.summary
        ]
        return await name_stories(run, wanted)


def named(found: Round, names: Mapping[str, StoryName]) -> Round:
    """The round with the names that a model gave: in its proposals and in the stories that it changed."""
    proposals = [
        replace(one, title=names[one.story_id].title) if one.story_id in names else one
        for one in found.proposals
    ]
    changed = {story.story_id: story for story in found.changed}
    for one in found.covered:
        if (name := names.get(one.story.story_id)) is not None:
            story = changed.get(one.story.story_id, one.story)
            changed[story.story_id] = replace(story, summary=name.summary)
    return replace(found, proposals=tuple(proposals), changed=tuple(changed.values()))


def _kept(proposal: Proposal, state: SiteState) -> bool:
    """Whether a proposal has been wanted before: it stays as it was."""
    known = state.proposals.get(proposal.story_id)
    return known is not None and known.submitted_at is not None
