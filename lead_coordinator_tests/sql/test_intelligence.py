"""The intelligence engine's records: one transaction, counted once, kept as long as needed."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from lead_coordinator.database import intelligence, operations
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import Lease
from lead_coordinator.errors import InvalidInput, NotFound, StaleLease
from lead_coordinator_tests.sql.play import Play, Run

pytestmark = pytest.mark.every_server


def seconds(play: Play, *, days: float = 0) -> float:
    return (play.now - timedelta(days=days)).timestamp()


def feed(play: Play, **more: Any) -> dict[str, Any]:
    values = {
        "url": "https://a.example/feed",
        "title": "A",
        "etag": '"1"',
        "last_modified": None,
        "polled_at": seconds(play),
        "changed_at": seconds(play),
        "failures": 0,
        "error": "",
    }
    return values | more


def item(play: Play, identity: str, *, days: float = 0, **more: Any) -> dict[str, Any]:
    values = {
        "identity": identity,
        "feed_url": "https://a.example/feed",
        "url": f"https://a.example/{identity}",
        "title": f"Title {identity}",
        "summary": "",
        "published_at": seconds(play, days=days),
        "words": "0",
        "signature": "AQ==",
        "terms": {"peat": 3, "peat compost": 2},
        "duplicate_of": "",
        "story_id": "s1",
    }
    return values | more


def story(play: Play, **more: Any) -> dict[str, Any]:
    values = {
        "story_id": "s1",
        "title": "Peat",
        "summary": "",
        "first_at": seconds(play, days=1),
        "last_at": seconds(play),
        "items": 2,
        "centroid": {"peat": 0.5},
    }
    return values | more


def proposal(**more: Any) -> dict[str, Any]:
    values = {"story_id": "s1", "title": "Peat", "value_usd": 2.5, "details": {"gap": True}, "submit": False}
    return values | more


def running(play: Play) -> Run:
    play.submit(1, task_type="intelligence_analysis")
    return play.run_started()


def record(play: Play, run: Run, **parts: list[dict[str, Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = play.call(
        "record_intelligence",
        task_id=run.task_ids[0],
        execution_id=run.execution_id,
        fence=run.fence,
        site="main",
        round=Jsonb(parts),
        current_time=play.now,
    )
    return answer


def counts(play: Play) -> dict[tuple[str, str], int]:
    rows = play.db.rows("SELECT day::text AS day, term, items FROM lead.term_count")
    return {(row["day"], row["term"]): row["items"] for row in rows}


def test_a_round_is_recorded_and_counted_once(play: Play) -> None:
    run = running(play)
    parts = {
        "feeds": [feed(play)],
        "items": [item(play, "i1"), item(play, "i2"), item(play, "i3", duplicate_of="i1")],
        "stories": [story(play)],
        "proposals": [proposal()],
    }
    first = record(play, run, **parts)
    assert (first["new_items"], first["newly_submitted"]) == (3, [])
    day = play.now.date().isoformat()
    expected = {(day, "peat"): 2, (day, "peat compost"): 2, (day, ""): 2}
    assert counts(play) == expected, "a duplicate isn't counted"
    again = record(play, run, **parts)
    assert (again["new_items"], again["term_days"]) == (0, 0)
    assert counts(play) == expected
    record(play, run, items=[item(play, "i4", days=1), item(play, "i5")])
    assert counts(play)[(day, "peat")] == 3
    row = play.db.row("SELECT count(*) AS n FROM lead.feed_item")
    assert row is not None
    assert row["n"] == 5


def test_a_feed_keeps_its_latest_state_and_a_story_only_grows(play: Play) -> None:
    run = running(play)
    record(play, run, feeds=[feed(play)], stories=[story(play)])
    record(
        play,
        run,
        feeds=[feed(play, etag=None, failures=2, error="gone")],
        stories=[story(play, items=1, title="Named", summary="Said", last_at=seconds(play, days=3))],
    )
    assert play.db.row("SELECT etag, failures, error FROM lead.feed") == {
        "etag": None,
        "failures": 2,
        "error": "gone",
    }
    assert play.db.row("SELECT title, summary, items, last_at FROM lead.story") == {
        "title": "Named",
        "summary": "Said",
        "items": 2,
        "last_at": play.now,
    }


def test_a_topic_that_was_submitted_stays_as_it_was(play: Play) -> None:
    run = running(play)
    record(play, run, proposals=[proposal(), proposal(story_id="s2")])
    play.pass_time(seconds=5)
    assert record(play, run, proposals=[proposal(title="Better", submit=True)])["newly_submitted"] == ["s1"]
    play.pass_time(seconds=5)
    assert record(play, run, proposals=[proposal(title="Later", submit=True)])["newly_submitted"] == []
    row = play.db.row("SELECT title, submitted_at FROM lead.topic_proposal WHERE story_id = 's1'")
    assert row == {"title": "Better", "submitted_at": play.now - timedelta(seconds=5)}


def test_sites_are_apart(play: Play) -> None:
    run = running(play)
    record(play, run, items=[item(play, "i1")])
    answer = play.call(
        "record_intelligence",
        task_id=run.task_ids[0],
        execution_id=run.execution_id,
        fence=run.fence,
        site="other",
        round=Jsonb({"items": [item(play, "i1")]}),
        current_time=play.now,
    )
    assert answer["new_items"] == 1


def test_who_lost_the_lease_writes_nothing(play: Play) -> None:
    run = running(play)
    with pytest.raises(StaleLease):
        play.call(
            "record_intelligence",
            task_id=run.task_ids[0],
            execution_id=run.execution_id,
            fence=run.fence - 1,
            site="main",
            round=Jsonb({"items": [item(play, "i1")]}),
            current_time=play.now,
        )
    with pytest.raises(NotFound):
        play.call(
            "record_intelligence",
            task_id=10**9,
            execution_id=run.execution_id,
            fence=run.fence,
            site="main",
            round=Jsonb({}),
            current_time=play.now,
        )
    assert counts(play) == {}


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        ("items", "title", 7, "p_round.items[0].title: 7 is no text of 0 to 300 characters"),
        ("items", "title", "x" * 301, "is no text of 0 to 300 characters"),
        ("items", "published_at", 1e30, "is no number number from 946684800 to 7258118399"),
        ("items", "terms", [], "p_round.items[0].terms: [] is no object"),
        ("items", "identity", "", 'p_round.items[0].identity: "" is no text of 1 to 64 bytes'),
        ("items", "other", 1, "p_round.items[0].other: there is no such field"),
        ("feeds", "url", "💥" * 400, "is no text of 1 to 1500 bytes"),
        ("feeds", "failures", 1.5, "p_round.feeds[0].failures: 1.5 is no whole number from 0 to 1000000"),
        ("feeds", "polled_at", None, "p_round.feeds[0].polled_at: NULL is not allowed"),
        ("proposals", "submit", "yes", 'p_round.proposals[0].submit: "yes" is no flag'),
        ("stories", "items", 0, "p_round.stories[0].items: 0 is no whole number from 1 to 1000000"),
    ],
)
def test_what_is_wrong_is_named(play: Play, part: str, field: str, value: Any, said: str) -> None:
    run = running(play)
    parts: dict[str, list[dict[str, Any]]] = {
        "feeds": [feed(play)],
        "items": [item(play, "i1")],
        "stories": [story(play)],
        "proposals": [proposal()],
    }
    wrong = copy.deepcopy(parts)
    wrong[part][0][field] = value
    with pytest.raises(InvalidInput) as refused:
        record(play, run, **wrong)
    assert said in str(refused.value)
    assert counts(play) == {}, "all or nothing"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "p_round: [] is not allowed; an object is needed"),
        ({"other": []}, "p_round: other is not allowed"),
        ({"items": {}}, "p_round.items: {} is not allowed; an array is needed"),
        ({"feeds": [{}] * 1001}, "p_round.feeds: 1001 elements is not allowed; at most 1000"),
        ({"items": [5]}, "p_round.items[0]: 5 is not an object"),
    ],
)
def test_a_round_of_another_shape_is_refused(play: Play, found: Any, said: str) -> None:
    run = running(play)
    with pytest.raises(InvalidInput) as refused:
        play.call(
            "record_intelligence",
            task_id=run.task_ids[0],
            execution_id=run.execution_id,
            fence=run.fence,
            site="main",
            round=Jsonb(found),
            current_time=play.now,
        )
    assert said in str(refused.value)


def test_what_is_old_goes_and_what_was_submitted_stays(play: Play) -> None:
    run = running(play)
    record(
        play,
        run,
        items=[item(play, "old"), item(play, "other", story_id="s2")],
        stories=[story(play), story(play, story_id="s2")],
        proposals=[proposal(), proposal(story_id="s2", submit=True)],
    )
    play.complete(run, run.task_ids[0])
    play.finish(run)
    play.pass_time(days=100)
    operations.prune_history(play.db, keep=timedelta(days=7), current_time=play.now)
    assert counts(play), "feeds are kept longer than history"
    play.pass_time(days=21)
    step = operations.prune_history(play.db, keep=timedelta(days=7), current_time=play.now)
    assert [step.deleted[name] for name in ("feed_item", "term_count", "story")] == [2, 3, 2]
    left = play.db.rows("SELECT story_id FROM lead.topic_proposal")
    assert [row["story_id"] for row in left] == ["s2"]


@pytest.mark.anyio
async def test_typed_calls_give_back_what_was_recorded(play: Play, async_db: AsyncDatabase) -> None:
    run = running(play)
    recorded = await intelligence.record_intelligence(
        async_db,
        Lease(run.execution_id, run.fence),
        run.task_ids[0],
        "main",
        {
            "feeds": [feed(play)],
            "items": [item(play, "i1"), item(play, "i2", days=5)],
            "stories": [story(play)],
            "proposals": [proposal(submit=True)],
        },
        current_time=play.now,
    )
    assert recorded == intelligence.RecordedRound(2, ("s1",))
    since = play.now - timedelta(days=2)
    assert [row["identity"] for row in await intelligence.list_items(async_db, "main", since, 9)] == ["i1"]
    assert [row["url"] for row in await intelligence.list_feeds(async_db, "main")] == [feed(play)["url"]]
    (told,) = await intelligence.list_stories(async_db, "main", since, 9)
    assert (told["story_id"], told["first_at"]) == ("s1", play.now - timedelta(days=1))
    terms = await intelligence.list_term_counts(async_db, "main", since.date(), play.now.date())
    assert {row["term"]: row["items"] for row in terms} == {"peat": 1, "peat compost": 1, "": 1}
    (wanted,) = await intelligence.list_proposals(async_db, "main", since, 9)
    assert (wanted["title"], wanted["submitted_at"]) == ("Peat", play.now)
    cost = await intelligence.article_cost(async_db, "main")
    assert cost == {"cost_usd": None, "articles": 0}


@pytest.mark.anyio
async def test_articles_come_with_what_they_earn(play: Play, async_db: AsyncDatabase) -> None:
    play.db.execute(
        "INSERT INTO lead.publication"
        " (task_id, site, slug, title, status, execution_id, fence, url, published_at)"
        " VALUES (1, 'main', 'a', 'A', 'published', 'e', 1, 'https://x.example/articles/a.html', %(now)s),"
        " (2, 'main', 'b', 'B', 'published', 'e', 1, 'https://x.example/articles/b.html', %(now)s),"
        " (3, 'other', 'a', 'A', 'published', 'e', 1, 'https://y.example/articles/a.html', %(now)s)",
        {"now": play.now},
    )
    play.db.execute(
        "INSERT INTO lead.page_metric (site, page, day, revenue_usd)"
        " SELECT 'main', '/articles/a.html', %(day)s::date - n, 0.5 FROM generate_series(1, 40) AS n",
        {"day": play.now.date()},
    )
    since = play.now.date() - timedelta(days=90)
    found = await intelligence.list_articles(async_db, "main", since, 9)
    assert {row["title"]: (row["days"], row["earned_usd"]) for row in found} == {
        "A": (30, 15.0),
        "B": (None, None),
    }
