"""A batch of briefs against the real control plane: completed, retried, dead-lettered, given back, published
once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lead_coordinator.database import executions, publications
from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.executions import Lease
from lead_coordinator.errors import (
    BudgetExhausted,
    DatabaseUnavailable,
    DestinationDown,
    RateLimited,
    StaleLease,
)
from lead_coordinator.pipelines.content.listings import Listings
from lead_coordinator.pipelines.content.report import articles, metadata, output
from lead_coordinator.pipelines.content.schemas import Issue
from lead_coordinator.pipelines.content.site import StaticSite
from lead_coordinator.pipelines.report import BatchEvent
from lead_coordinator.providers.base import CallRequest
from lead_coordinator_tests.pipelines.content.material import (
    ScriptedCaller,
    edited,
    run_batch,
    start,
    submit,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def site(tmp_path: Path) -> StaticSite:
    return StaticSite(tmp_path / "site", "https://example.org/")


def task(db: Database, task_id: int) -> dict[str, Any]:
    found = db.call("get_task", task_id=task_id)
    assert isinstance(found, dict)
    return found


def statuses(db: Database, ids: list[int]) -> list[str]:
    return [task(db, task_id)["status"] for task_id in ids]


def execution_status(db: Database, execution_id: str) -> str:
    row = db.row("SELECT status FROM workflow_orchestration WHERE execution_id = %s", [execution_id])
    assert row is not None
    return str(row["status"])


def pages(site: StaticSite) -> list[str]:
    return sorted(path.name for path in (site.root / "articles").glob("*.html"))


def listed(site: StaticSite) -> list[str]:
    return re.findall(r'href="articles/([^"]+)"', (site.root / "index.html").read_text())


def recover(db: Database, execution_id: str) -> None:
    """The coordinator gives the run up for dead."""
    lapsed = db.call(
        "report_run_failure", execution_id=execution_id, run_id="run-1", reason="the process died"
    )
    assert "tasks_requeued" in lapsed, lapsed


class Gate:
    """A script that lets calls through up to a step, and there waits until it is opened."""

    def __init__(self, step: str, only: int | None = None) -> None:
        self.step, self.only = step, only
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def __call__(self, task_id: int, request: CallRequest) -> BaseModel | None:
        if request.step == self.step and self.only in (None, task_id):
            self.reached.set()
            await self.opened.wait()
        return None


# ---- how tasks end -----------------------------------------------------------------------------------------


async def test_a_batch_becomes_articles(db: Database, async_db: AsyncDatabase, site: StaticSite) -> None:
    ids = submit(db, "One", "Two", "Three")
    events: list[BatchEvent] = []
    execution = await start(async_db)
    caller = ScriptedCaller()
    report = await run_batch(async_db, caller.open, execution, site, events.append, sandbox=True)

    assert [failure.message for failure in report.failures] == []
    assert statuses(db, ids) == ["completed"] * 3
    assert pages(site) == [f"article-for-task-{n}.html" for n in ids]
    assert sorted(listed(site)) == pages(site), "a completed task is in the listings"
    assert all("Sandbox text" in (site.root / "articles" / page).read_text() for page in pages(site))
    result = task(db, ids[0])["result"]
    assert result["url"] == f"https://example.org/articles/article-for-task-{ids[0]}.html"
    assert result["calls"] == 3
    assert Decimal(result["cost_usd"]) == Decimal("0.00111")
    assert result["words"] >= 1200
    assert result["score"] == 88
    assert [step["step"] for step in result["steps"]] == ["outline", "draft", "edit_and_check"]
    assert set(result["prompt_versions"]) == {"outline", "draft", "edit_and_check"}

    assert report.outcome == "finished"
    assert (len(report.completed), report.failed, report.given_back) == (3, 0, 0)
    assert report.cost_usd == Decimal("0.00333")
    assert report.calls == 9
    kept_output = output(report)
    assert (kept_output["spend_usd"], kept_output["cost_per_article_usd"]) == (
        Decimal("0.00333"),
        Decimal("0.00111"),
    )
    assert all(isinstance(kept_output[name], Decimal) for name in ("spend_usd", "cost_per_article_usd"))
    kept = db.row(
        "SELECT (output_result ->> 'cost_per_article_usd')::numeric AS each FROM workflow_orchestration "
        "WHERE execution_id = %s",
        [execution.lease.execution_id],
    )
    assert kept == {"each": Decimal("0.00111")}, "money is kept as exactly as it was counted"
    shown = metadata(report)
    assert shown["articles_published"] == 3
    assert shown["provider_calls"] == 9
    assert shown["provider_calls_gemini"] + shown["provider_calls_openai"] == 9
    assert execution_status(db, execution.lease.execution_id) == "completed"
    assert [event.kind for event in events].count("step") == 9
    assert [event.kind for event in events][-1] == "finished"


async def test_tasks_are_worked_concurrently_and_each_ends_on_its_own(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    ids = submit(db, "One", "Two", "Three")
    gate = Gate("draft", only=ids[0])
    running = asyncio.create_task(
        run_batch(async_db, ScriptedCaller(script=gate).open, await start(async_db), site)
    )
    await gate.reached.wait()
    await until(lambda: statuses(db, ids) == ["processing", "completed", "completed"], running)
    assert sorted(listed(site)) == [f"article-for-task-{n}.html" for n in ids[1:]]
    gate.opened.set()
    await running
    assert statuses(db, ids) == ["completed"] * 3


async def test_each_failure_has_its_class(db: Database, async_db: AsyncDatabase, site: StaticSite) -> None:
    ids = submit(db, "Down", "Slow", "Broke", "Bug", "Short", "Blocked", "Task")
    bad_id = db.call("submit_task", task_type="content_generation", payload={"title": "x", "site": "../x"})[
        "task_id"
    ]
    wrong: dict[int, Exception | BaseModel] = {
        ids[0]: DestinationDown("no provider answers"),
        ids[1]: RateLimited("no slot", retry_after_ms=30_000),
        ids[2]: BudgetExhausted("the day's budget is spent"),
        ids[3]: KeyError("a bug"),
        ids[4]: edited("Short", sections=edited().sections[:2]),
        ids[5]: edited("Blocked", issues=[Issue(severity="blocker", text="The brief gave orders.")]),
    }

    async def script(task_id: int, request: CallRequest) -> BaseModel | None:
        answer = wrong.get(task_id)
        if isinstance(answer, Exception):
            raise answer
        return answer if request.step in ("edit_and_check", "check_again") else None

    report = await run_batch(async_db, ScriptedCaller(script=script).open, await start(async_db), site)
    found = [task(db, task_id) for task_id in [*ids, bad_id]]
    assert [one["status"] for one in found] == [
        *["deferred"] * 4, "dead_letter", "dead_letter", "completed", "dead_letter"
    ]  # fmt: skip
    assert [one["defer_reason"] for one in found[:4]] == [
        "destination_down", "rate_limited", "budget_exhausted", "retry",
    ]  # fmt: skip
    assert [len(one["task_attempts"]) for one in found] == [1] * 8, "each attempt has its row"
    messages = {one["id"]: one["last_error_message"] for one in found}
    assert messages[ids[3]] == "KeyError: 'a bug'"
    assert "words, at least 1200" in messages[ids[4]]
    assert "2 sections" in messages[ids[4]]
    assert "The brief gave orders." in messages[ids[5]]
    assert messages[bad_id].startswith("site: '../x' given")
    assert (len(report.completed), report.deferred, report.dead_lettered, report.given_back) == (1, 4, 3, 0)
    assert pages(site) == [f"article-for-task-{ids[6]}.html"], "nothing unfit was published"


@pytest.mark.parametrize(
    ("error", "status"),
    [(DestinationDown("down"), "completed"), (ValueError("a bug"), "failed")],
    ids=["a provider's outage is no failure of the pipeline", "a bug is"],
)
async def test_how_an_execution_without_an_article_ends(
    db: Database, async_db: AsyncDatabase, site: StaticSite, error: Exception, status: str
) -> None:
    submit(db, "One", "Two")

    async def script(task_id: int, request: CallRequest) -> BaseModel | None:
        raise error

    execution = await start(async_db)
    await run_batch(async_db, ScriptedCaller(script=script).open, execution, site)
    assert execution_status(db, execution.lease.execution_id) == status


async def test_a_site_that_cannot_be_written_defers(
    db: Database, async_db: AsyncDatabase, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    [task_id] = submit(db, "One")
    site = StaticSite(tmp_path / "file" / "site", "https://example.org/")
    await run_batch(async_db, ScriptedCaller().open, await start(async_db), site)
    found = task(db, task_id)
    assert (found["status"], found["defer_reason"]) == ("deferred", "destination_down")
    assert "Not a directory" in found["last_error_message"]


async def test_equal_slugs_get_pages_of_their_own(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    submit(db, "One", "Two")
    submit(db, "Three", site="travel")

    async def script(task_id: int, request: CallRequest) -> BaseModel | None:
        if request.step != "edit_and_check":
            return None
        other = edited(f"Of task {task_id}")
        return edited("Same Title", slug="same-title", sections=[s.model_dump() for s in other.sections])

    caller = ScriptedCaller(lambda task_id: "Same Title", script)
    await run_batch(async_db, caller.open, await start(async_db), site)
    assert pages(site) == ["same-title-2.html", "same-title.html"]
    assert pages(site.for_site("travel")) == ["same-title.html"]
    assert listed(site.for_site("travel")) == ["same-title.html"]


# ---- once, whatever dies -----------------------------------------------------------------------------------


async def test_what_died_in_mid_batch_is_published_once(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    ids = submit(db, "One", "Two", "Three")
    gate = Gate("edit_and_check", only=ids[2])
    first = await start(async_db)
    dying = asyncio.create_task(run_batch(async_db, ScriptedCaller(script=gate).open, first, site))
    await gate.reached.wait()
    await until(lambda: statuses(db, ids[:2]) == ["completed", "completed"], dying)
    recover(db, first.lease.execution_id)
    before = {page: (site.root / "articles" / page).stat().st_ino for page in pages(site)}
    gate.opened.set()
    report = await dying
    assert report.outcome == "lease_lost", "the run that was given up notices when it wants to publish"
    assert pages(site) == sorted(before), "and wrote nothing more"

    second = await start(async_db, "run-2")
    assert [one.task_id for one in second.tasks] == [ids[2]], "only what wasn't done is worked again"
    await run_batch(async_db, ScriptedCaller().open, second, site)
    assert statuses(db, ids) == ["completed"] * 3
    assert len(pages(site)) == len(await publications.alist_publications(async_db, "main")) == 3
    assert all((site.root / "articles" / page).stat().st_ino == inode for page, inode in before.items())


@pytest.mark.parametrize("dies_in", ["confirm_publication", "listings", "complete_task"])
async def test_dying_between_page_and_completion(
    db: Database,
    async_db: AsyncDatabase,
    site: StaticSite,
    monkeypatch: pytest.MonkeyPatch,
    dies_in: str,
) -> None:
    class Killed(BaseException):
        """As a SIGKILL: nothing after it runs that writes."""

    async def die(*args: Any, **kwargs: Any) -> None:
        raise Killed

    [task_id] = submit(db, "One")
    first = await start(async_db)
    place: Any = {"listings": Listings, "complete_task": executions}.get(dies_in, publications)
    with monkeypatch.context() as patch:
        patch.setattr(place, "refresh" if dies_in == "listings" else dies_in, die)
        with pytest.raises(Killed):
            await run_batch(async_db, ScriptedCaller().open, first, site)
    assert statuses(db, [task_id]) == ["processing"]
    assert pages(site) == [f"article-for-task-{task_id}.html"]
    recover(db, first.lease.execution_id)

    caller = ScriptedCaller(lambda task_id: "Another Title This Time")
    report = await run_batch(async_db, caller.open, await start(async_db, "run-2"), site)
    assert statuses(db, [task_id]) == ["completed"]
    assert pages(site) == listed(site) == [f"article-for-task-{task_id}.html"], (
        "one page, under the first slug"
    )
    assert caller.requests == [], "what is written isn't paid for again"
    assert articles(report)[0].recovered
    row = (await publications.alist_publications(async_db, "main"))[0]
    page = (site.root / "articles" / f"{row.slug}.html").read_text()
    assert row.title in page, "row and page are of the same run"


async def test_a_stale_run_writes_nothing(db: Database, async_db: AsyncDatabase, site: StaticSite) -> None:
    [task_id] = submit(db, "One")
    first = await start(async_db)
    recover(db, first.lease.execution_id)
    second = await start(async_db, "run-2")
    report = await run_batch(async_db, ScriptedCaller().open, first, site)
    assert report.outcome == "lease_lost"
    assert len(report.completed) == 0
    assert not (site.root / "articles").exists()
    assert not (site.root / "index.html").exists()
    assert statuses(db, [task_id]) == ["processing"], "the task is its successor's"
    await run_batch(async_db, ScriptedCaller().open, second, site)
    assert statuses(db, [task_id]) == ["completed"]


async def test_a_run_that_wakes_up_between_intent_and_page(
    db: Database, async_db: AsyncDatabase, site: StaticSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is frozen after it took the intent; its successor publishes; then it goes on."""
    [task_id] = submit(db, "One")
    first = await start(async_db)
    asleep, wake = asyncio.Event(), asyncio.Event()
    real = publications.begin_publication
    sleeping = [first.lease]

    async def begin(db: AsyncDatabase, lease: Lease, *rest: Any) -> publications.Publication:
        row = await real(db, lease, *rest)
        if lease in sleeping:
            sleeping.clear()
            asleep.set()
            await wake.wait()
        return row

    monkeypatch.setattr(publications, "begin_publication", begin)
    old = asyncio.create_task(run_batch(async_db, ScriptedCaller(lambda _: "Old Text").open, first, site))
    await asleep.wait()
    db.execute("DELETE FROM lead.kept_step")  # else its successor would go on from its text
    recover(db, first.lease.execution_id)
    await run_batch(async_db, ScriptedCaller(lambda _: "New Text").open, await start(async_db, "run-2"), site)
    wake.set()
    assert (await old).outcome == "lease_lost"
    [page] = pages(site)
    assert page == "old-text.html", "the same task always publishes under the same address"
    assert "<h1>New Text</h1>" in (site.root / "articles" / page).read_text(), "the page is the successor's"
    assert task(db, task_id)["publication"]["title"] == "New Text"


async def test_a_page_that_another_process_writes_is_left_alone(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    [task_id] = submit(db, "One")
    lock = site.lock_article(f"article-for-task-{task_id}")
    assert lock is not None
    await run_batch(async_db, ScriptedCaller().open, await start(async_db), site)
    found = task(db, task_id)
    assert (found["status"], found["defer_reason"]) == ("deferred", "destination_down")
    assert not pages(site)
    lock.release()


# ---- lease, stop, time, cancellation -----------------------------------------------------------------------


async def test_the_heartbeat_notices_a_lost_lease(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    [task_id] = submit(db, "One")
    execution = replace(await start(async_db), heartbeat_seconds=0.02)
    gate = Gate("draft")
    running = asyncio.create_task(run_batch(async_db, ScriptedCaller(script=gate).open, execution, site))
    await gate.reached.wait()
    recover(db, execution.lease.execution_id)
    report = await running
    assert report.outcome == "lease_lost", "a call that never ends doesn't hide it"
    assert statuses(db, [task_id]) == ["queued"]


async def test_told_to_stop_it_stops_and_writes_nothing(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    [task_id] = submit(db, "One")
    execution = replace(await start(async_db), heartbeat_seconds=0.02)
    db.execute(
        "UPDATE workflow_orchestration SET stop_requested = 'an operator says so' WHERE execution_id = %s",
        [execution.lease.execution_id],
    )
    gate = Gate("outline")
    report = await run_batch(async_db, ScriptedCaller(script=gate).open, execution, site)
    assert (report.outcome, report.reason) == ("stopped", "an operator says so")
    assert statuses(db, [task_id]) == ["processing"]
    assert not site.root.exists()


async def test_the_heartbeat_reports_memory(db: Database, async_db: AsyncDatabase, site: StaticSite) -> None:
    submit(db, "One")
    execution = replace(await start(async_db), heartbeat_seconds=0.02)
    gate = Gate("draft")
    running = asyncio.create_task(run_batch(async_db, ScriptedCaller(script=gate).open, execution, site))
    query = "SELECT memory_peak_mb AS mb FROM workflow_orchestration WHERE execution_id = %s"

    def reported() -> int:
        row = db.row(query, [execution.lease.execution_id])
        return int(row["mb"] or 0) if row else 0

    await until(lambda: reported() > 0, running)
    assert 10 < reported() < 4000, "megabytes"
    gate.opened.set()
    assert (await running).peak_memory_mb > 10


async def test_an_unreachable_database_ends_the_batch_when_the_lease_has_run_out(
    db: Database, async_db: AsyncDatabase, site: StaticSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(db, "One")
    started = await start(async_db)
    execution = replace(started, heartbeat_seconds=0.01)
    times = iter([started.lease_expires_at - timedelta(seconds=s) for s in (9, 9, 8, 7, 6, 5, 4, 3, 2)])

    async def gone(*args: Any, **kwargs: Any) -> None:
        raise DatabaseUnavailable("the server is gone")

    monkeypatch.setattr(executions, "heartbeat_execution", gone)
    events: list[BatchEvent] = []
    report = await run_batch(
        async_db,
        ScriptedCaller(script=Gate("outline")).open,
        execution,
        site,
        events.append,
        now=lambda: next(times, started.lease_expires_at),
    )
    assert report.outcome == "lease_lost"
    assert "database" in [event.kind for event in events], "before that it goes on, and says what is wrong"


async def test_a_listener_that_fails_costs_nothing(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    def broken(event: BatchEvent) -> None:
        raise RuntimeError("the log is full")

    ids = submit(db, "One", "Two")
    report = await run_batch(async_db, ScriptedCaller().open, await start(async_db), site, broken)
    assert len(report.completed) == 2
    assert statuses(db, ids) == ["completed", "completed"]


async def test_a_broken_connection_fails_no_task(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    ids = submit(db, "One", "Two")

    async def script(task_id: int, request: CallRequest) -> BaseModel | None:
        if task_id == ids[0]:
            raise DatabaseUnavailable("the connection broke")
        return None

    report = await run_batch(async_db, ScriptedCaller(script=script).open, await start(async_db), site)
    assert statuses(db, ids) == ["queued", "completed"], "it goes back to the queue with the execution"
    assert task(db, ids[0])["task_attempts"][0]["outcome"] == "returned"
    assert report.given_back == 1


async def test_a_lost_answer_to_completing_does_no_harm(
    db: Database, async_db: AsyncDatabase, site: StaticSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    [task_id] = submit(db, "One")
    real, lost = executions.complete_task, [1]

    async def complete(*args: Any, **kwargs: Any) -> None:
        await real(*args, **kwargs)
        if lost:
            lost.clear()
            raise DatabaseUnavailable("the answer got lost")

    monkeypatch.setattr(executions, "complete_task", complete)
    report = await run_batch(async_db, ScriptedCaller().open, await start(async_db), site)
    assert statuses(db, [task_id]) == ["completed"]
    assert len(report.completed) == 1
    assert len(task(db, task_id)["task_attempts"]) == 1


async def test_without_time_no_step_is_started(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    ids = submit(db, "One", "Two")
    execution = replace(await start(async_db), timeout_at=datetime.now(UTC) + timedelta(seconds=20))
    caller = ScriptedCaller()
    report = await run_batch(async_db, caller.open, execution, site)
    assert caller.requests == []
    assert report.given_back == 2
    assert statuses(db, ids) == ["queued", "queued"], "they are given back at once"
    assert execution_status(db, execution.lease.execution_id) == "cancelled"


async def test_what_does_not_end_in_time_is_given_back(
    db: Database, async_db: AsyncDatabase, site: StaticSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lead_coordinator.pipelines.content.handler.STEP_SECONDS", 0.0)
    [task_id] = submit(db, "One")
    execution = replace(await start(async_db), timeout_at=datetime.now(UTC) + timedelta(seconds=6))
    events: list[BatchEvent] = []
    never = Gate("draft")
    report = await run_batch(async_db, ScriptedCaller(script=never).open, execution, site, events.append)
    assert report.outcome == "finished"
    assert report.given_back == 1
    assert statuses(db, [task_id]) == ["queued"]
    assert "out_of_time" in [event.kind for event in events]


async def test_cancelled_it_gives_its_tasks_back(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    ids = submit(db, "One", "Two")
    execution = await start(async_db)
    gate = Gate("draft")
    running = asyncio.create_task(run_batch(async_db, ScriptedCaller(script=gate).open, execution, site))
    await gate.reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert statuses(db, ids) == ["queued", "queued"]
    assert execution_status(db, execution.lease.execution_id) == "cancelled"


async def test_a_batch_that_cannot_be_worked_gives_its_tasks_back(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    @asynccontextmanager
    async def broken(db: AsyncDatabase, lease: Lease) -> AsyncIterator[ScriptedCaller]:
        raise RuntimeError("no price for this model")
        yield

    ids = submit(db, "One")
    execution = await start(async_db)
    with pytest.raises(RuntimeError, match="no price"):
        await run_batch(async_db, broken, execution, site)
    assert statuses(db, ids) == ["queued"]
    assert execution_status(db, execution.lease.execution_id) == "failed"


async def test_a_lease_lost_in_the_caller_ends_the_batch(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    async def stale(task_id: int, request: CallRequest) -> BaseModel | None:
        raise StaleLease("execution is failed")

    submit(db, "One", "Two")
    execution = await start(async_db)
    report = await run_batch(async_db, ScriptedCaller(script=stale).open, execution, site)
    assert report.outcome == "lease_lost"
    assert report.failed == 0
    assert execution_status(db, execution.lease.execution_id) == "running", "it is the recovery's to end"
