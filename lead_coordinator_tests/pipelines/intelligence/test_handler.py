"""A whole intelligence task: real server, fetcher, parser and database; only the model is scripted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.errors import BudgetExhausted, DatabaseUnavailable, StaleLease
from lead_coordinator.pipelines.content.orders import WriteOrder, parse_order
from lead_coordinator.pipelines.intelligence.replay import as_of
from lead_coordinator.pipelines.intelligence.report import metadata
from lead_coordinator.pipelines.profile import SiteProfiles
from lead_coordinator.pipelines.report import BatchEvent
from lead_coordinator_tests.pipelines.intelligence.material import (
    COMPETITORS,
    FEEDS,
    NOON,
    ScriptedCaller,
    profiles,
    submit,
    truth,
    work,
)
from lead_coordinator_tests.web.server import Asked, WireServer, answer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    """Serves the example feeds as of now, with an ETag, and 304 to whoever has it."""
    now = datetime.now(UTC)

    def conditional(name: str) -> Any:
        body = as_of((FEEDS / name).read_text(), NOON, now)

        async def respond(asked: Asked, writer: Any) -> None:
            if asked.headers.get("if-none-match") == f'"{name}"':
                writer.write(answer("", "304 Not Modified", etag=f'"{name}"'))
            else:
                writer.write(answer(body, content_type="application/xml", etag=f'"{name}"'))
            await writer.drain()

        return respond

    server = WireServer({f"/{path.name}": conditional(path.name) for path in FEEDS.iterdir()})
    async with server.running():
        yield server


def sites(server: WireServer, *names: str, **more: Any) -> SiteProfiles:
    listed = names or tuple(path.name for path in sorted(FEEDS.iterdir()))
    feeds = [{"url": f"{server.url}/{name}", "competitor": name in COMPETITORS} for name in listed]
    topics = {"assumed_value_usd": "2.00", "submit_above_usd": "1.00"} | more.pop("topics", {})
    poll = {"allow_private_addresses": True} | more.pop("poll", {})
    return profiles(feeds=feeds, topics=topics, poll=poll, **more)


def content_tasks(db: Database) -> list[dict[str, Any]]:
    return db.rows(
        "SELECT id, payload, value_usd, idempotency_key FROM lead.task"
        " WHERE task_type = 'content_generation' ORDER BY id"
    )


async def test_feeds_become_a_briefing_and_content_tasks(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, server: WireServer
) -> None:
    task_id = submit(db)
    caller = ScriptedCaller()
    report = await work(async_db, tmp_path, sites(server), caller)
    assert not report.failures, report.failures
    (result,) = report.results
    expected = truth()
    assert result["new_items"] == expected["items"]
    assert (result["feeds_changed"], result["feeds_malformed"], result["feeds_failed"]) == (4, 1, 0)
    assert result["duplicates"] == len(expected["near_duplicates"])
    assert [topic["feeds"] for topic in result["topics"]] == [s["feeds"] for s in expected["stories"]]
    assert db.call("get_task", task_id=task_id)["status"] == "completed"

    tasks = content_tasks(db)
    assert len(tasks) == expected["proposals"]
    for task in tasks:
        order = parse_order(task["payload"])
        assert isinstance(order, WriteOrder)
        assert task["payload"]["title"].startswith("Named: ")
        assert task["idempotency_key"] == f"story:main:{task['payload']['story']}"
        assert all(url.startswith("https://") for url in task["payload"]["sources"])
        assert task["value_usd"] > 1

    page = tmp_path / result["briefing"]
    html, text = page.read_text(), page.with_suffix(".md").read_text()
    assert "peat compost" in html
    assert "One subject filled the day: &lt;b&gt;compost&lt;/b&gt;." in html
    assert "<b>" not in text
    assert "&#60;b&#62;compost" in text
    assert [request.step for request in caller.requests] == ["name_stories", "summarise_day"]
    shown = metadata(report)
    assert shown["new_items"] == expected["items"]
    assert "Named" in shown["topics"].value


async def test_a_second_round_sends_validators_and_repeats_nothing(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, server: WireServer
) -> None:
    submit(db)
    await work(async_db, tmp_path, sites(server))
    before = content_tasks(db)
    terms = db.row("SELECT sum(items) AS n FROM lead.term_count")
    server.asked.clear()
    named = [f"{server.url}/{path.name}" for path in FEEDS.iterdir()]
    submit(db, feeds=named)
    caller = ScriptedCaller()
    (result,) = (await work(async_db, tmp_path, sites(server), caller)).results
    asked = [one for one in server.asked if one.target != "/robots.txt"]
    assert len(asked) == 4
    assert all(one.headers["if-none-match"] == f'"{one.target[1:]}"' for one in asked)
    assert (result["feeds_unchanged"], result["new_items"]) == (4, 0)
    assert content_tasks(db) == before, "the same stories make no second task"
    assert db.row("SELECT sum(items) AS n FROM lead.term_count") == terms
    assert [request.step for request in caller.requests] == ["summarise_day"], "names are kept"


async def test_standing_work_polls_only_what_is_due(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, server: WireServer
) -> None:
    submit(db, standing=True)
    await work(async_db, tmp_path, sites(server))
    server.asked.clear()
    submit(db, standing=True)
    (result,) = (await work(async_db, tmp_path, sites(server))).results
    assert server.asked == []
    assert result["feeds_polled"] == 0
    assert result["stories"] > 0, "the briefing is made of what is known"


async def test_without_budget_the_round_names_stories_itself(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, server: WireServer
) -> None:
    submit(db)
    events: list[BatchEvent] = []
    caller = ScriptedCaller(BudgetExhausted("the daily budget is used up"))
    report = await work(async_db, tmp_path, sites(server), caller, events)
    (result,) = report.results
    assert "Peat compost: what is known so far" in [topic["title"] for topic in result["topics"]]
    assert [event.kind for event in events].count("without_model") == 2
    assert len(content_tasks(db)) == 3


async def test_a_site_can_do_without_a_model(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, server: WireServer
) -> None:
    submit(db)
    caller = ScriptedCaller()
    await work(async_db, tmp_path, sites(server, use_model=False), caller)
    assert caller.requests == []


async def test_without_figures_and_assumption_nothing_is_submitted(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, server: WireServer
) -> None:
    submit(db)
    (result,) = (await work(async_db, tmp_path, sites(server, topics={"assumed_value_usd": None}))).results
    assert {topic["value_usd"] for topic in result["topics"]} == {None}
    assert "too little data" in result["topics"][0]["basis"]
    assert content_tasks(db) == []


async def test_feeds_that_fail_are_told_and_stop_nothing(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, server: WireServer
) -> None:
    server.routes["/page"] = answer("<!doctype html><html><body>no feed</body></html>")
    server.routes["/gone"] = answer("", "410 Gone")
    submit(db)
    listed = sites(server, "garden-post.xml", "page", "gone", "nothing-there")
    (result,) = (await work(async_db, tmp_path, listed)).results
    assert (result["feeds_failed"], result["feeds_changed"]) == (3, 1)
    problems = {feed["problem"] for feed in result["feeds"]}
    assert "it is an HTML page, not a feed" in problems
    assert "it answered with status 410" in problems
    assert "Feeds that could not be read" in (tmp_path / result["briefing"]).read_text()
    row = db.row("SELECT failures, error FROM lead.feed WHERE url LIKE '%%/gone'")
    assert row == {"failures": 1, "error": "it answered with status 410"}


async def test_private_addresses_are_refused_unless_the_site_allows_them(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, server: WireServer
) -> None:
    submit(db)
    listed = sites(server, "garden-post.xml", poll={"allow_private_addresses": False})
    (result,) = (await work(async_db, tmp_path, listed)).results
    assert server.asked == []
    assert result["feeds_failed"] == 1
    assert "it is this machine" in result["feeds"][0]["problem"]


async def test_a_site_without_feeds_says_what_to_do(
    db: Database, async_db: AsyncDatabase, tmp_path: Path
) -> None:
    task_id = submit(db)
    report = await work(async_db, tmp_path, profiles())
    (failure,) = report.failures
    assert failure.error_class == "invalid_input"
    assert "lead-coordinator site apply" in failure.message
    assert db.call("get_task", task_id=task_id)["status"] == "dead_letter"


@pytest.mark.parametrize("dies_in", ["record_intelligence", "submit_tasks"])
async def test_a_run_that_dies_anywhere_loses_and_repeats_nothing(
    db: Database,
    async_db: AsyncDatabase,
    tmp_path: Path,
    server: WireServer,
    monkeypatch: pytest.MonkeyPatch,
    dies_in: str,
) -> None:
    submit(db)
    real = AsyncDatabase.call

    async def dying(self: AsyncDatabase, function: str, **params: Any) -> Any:
        if function == dies_in == "submit_tasks":
            raise StaleLease("the run died before its tasks were submitted")
        found = await real(self, function, **params)
        if function == dies_in:
            raise StaleLease("the run died after its round was recorded")
        return found

    monkeypatch.setattr(AsyncDatabase, "call", dying)
    report = await work(async_db, tmp_path, sites(server))
    assert report.outcome == "lease_lost"
    monkeypatch.setattr(AsyncDatabase, "call", real)
    assert content_tasks(db) == []
    db.execute("UPDATE public.workflow_orchestration SET status = 'cancelled' WHERE status = 'running'")
    submit(db)
    db.execute("UPDATE lead.task SET status = 'cancelled' WHERE status = 'processing'")
    (result,) = (await work(async_db, tmp_path, sites(server))).results
    assert result["new_items"] == 0, "the first run recorded them"
    assert len(content_tasks(db)) == 3, "what was wanted is submitted by the next run"


async def test_the_database_gone_gives_the_task_back(
    db: Database,
    async_db: AsyncDatabase,
    tmp_path: Path,
    server: WireServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task_id = submit(db)

    async def unreachable(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("the connection broke")

    monkeypatch.setattr(
        "lead_coordinator.pipelines.intelligence.handler.records.record_intelligence", unreachable
    )
    report = await work(async_db, tmp_path, sites(server))
    assert (report.failed, report.given_back) == (0, 1)
    assert db.call("get_task", task_id=task_id)["status"] == "queued"


async def test_a_round_without_time_isnt_begun(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, server: WireServer
) -> None:
    task_id = submit(db)
    late = datetime.now(UTC) + timedelta(minutes=4, seconds=40)
    report = await work(async_db, tmp_path, sites(server), now=lambda: late)
    assert server.asked == []
    assert report.given_back == 1
    assert db.call("get_task", task_id=task_id)["status"] == "queued"
