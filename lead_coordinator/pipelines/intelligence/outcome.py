"""What an intelligence task leaves: content tasks, and a result that tables and pictures are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from lead_coordinator.database.queue import NewTask
from lead_coordinator.pipelines.intelligence.round import Round
from lead_coordinator.pipelines.intelligence.state import RESUBMIT, SiteState, proposal_details
from lead_coordinator.text.plain import one_line

_SHOWN = 10


def submissions(site: str, found: Round, state: SiteState, now: datetime) -> list[NewTask]:
    """The content tasks of this round, and those of the last two days once more."""
    tasks = [
        content_task(site, one.story_id, one.title, one.value_usd, proposal_details(one))
        for one in found.proposals
        if one.submit
    ]
    for stored in state.proposals.values():
        if stored.submitted_at is not None and stored.submitted_at >= now - RESUBMIT:
            tasks.append(content_task(site, stored.story_id, stored.title, stored.value_usd, stored.details))
    return tasks


def content_task(
    site: str, story_id: str, title: str, value_usd: Decimal | None, details: Mapping[str, Any]
) -> NewTask:
    """The task that writes about a story. Its key names the story: there is never a second one."""
    payload = {
        "title": title,
        "topic": title,
        "keywords": list(details.get("keywords", ()))[:6],
        "angle": details.get("angle", ""),
        "site": site,
        "sources": [one["url"] for one in details.get("evidence", ()) if one.get("url")][:5],
        "story": story_id,
    }
    return NewTask(
        "content_generation", payload, idempotency_key=f"story:{site}:{story_id}", value_usd=value_usd
    )


def result_of(site: str, found: Round, new_items: int, follow_ups: Sequence[NewTask]) -> dict[str, Any]:
    """The task's result: figures, and the first of each kind."""
    read = [poll for poll in found.polls if poll.outcome == "read"]
    return {
        "site": site,
        "feeds_polled": len(found.polls),
        "feeds_changed": len(read),
        "feeds_unchanged": sum(poll.outcome == "unchanged" for poll in found.polls),
        "feeds_failed": len(found.failed),
        "feeds_malformed": sum(bool(poll.malformed) for poll in read),
        "new_items": new_items,
        "duplicates": sum(bool(item.duplicate_of) for item in found.new),
        "stories": len(found.covered),
        "gaps": len(found.gaps),
        "terms_tested": found.bursts.tested,
        "too_little_history": found.bursts.too_little,
        "submitted": [task.idempotency_key for task in follow_ups],
        "topics": [
            {
                "story": one.story_id,
                "title": one.title,
                "value_usd": one.value_usd,
                "feeds": len({item.feed_url for item in one.evidence}),
                "gap": one.gap,
                "submit": one.submit,
                "basis": one.basis,
                "sources": [item.url for item in one.evidence[:3]],
            }
            for one in found.proposals[:_SHOWN]
        ],
        "rising": [
            {
                "term": burst.term,
                "today": burst.today,
                "expected": round(burst.expected, 2),
                "lift": round(burst.lift, 2),
                "q_value": burst.q_value,
                "history": list(burst.history[-28:]),
            }
            for burst in found.bursts.bursts[:_SHOWN]
        ],
        "top_stories": [
            {
                "title": one_line(one.story.title, 120),
                "items": len(one.items),
                "feeds": len(one.feeds),
                "gap": one.gap,
                "covered": one.covered,
                "url": one.items[0].url,
            }
            for one in found.covered[:_SHOWN]
        ],
        "feeds": [
            {
                "feed": poll.label,
                "outcome": poll.outcome,
                "items": len(poll.items),
                "problem": poll.state.error or poll.malformed,
            }
            for poll in found.polls[:40]
        ],
    }
