"""What the runtime does for every pipeline: outcomes, follow-ups, calls, time, what handlers share.

How a batch meets a lost lease, a stop, a cancellation and an unreachable database is tested with the content
pipeline, in content/test_handler.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from lead_coordinator.database import executions
from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.executions import ClaimedTask
from lead_coordinator.database.queue import NewTask
from lead_coordinator.database.sites import StoredSite
from lead_coordinator.errors import DatabaseUnavailable, InvalidInput, StaleLease, TaskError
from lead_coordinator.pipelines import report as kinds
from lead_coordinator.pipelines.batch import run_batch
from lead_coordinator.pipelines.profile import SiteProfiles
from lead_coordinator.pipelines.report import BatchEvent
from lead_coordinator.pipelines.runtime import MAX_RESULT_BYTES, TaskOutcome, TaskRun
from lead_coordinator.settings import Settings
from lead_coordinator_tests.pipelines.runs import QUESTION, Handler, open_caller, start, submit, work_off

pytestmark = pytest.mark.anyio


def task(db: Database, task_id: int) -> dict[str, Any]:
    found = db.call("get_task", task_id=task_id)
    assert isinstance(found, dict)
    return found


def article(key: str, task_type: str = "content_generation") -> NewTask:
    return NewTask(task_type, {"title": key}, idempotency_key=key, value_usd=Decimal(7))


def queued(db: Database, task_type: str) -> list[str]:
    return [
        row["key"]
        for row in db.rows(
            "SELECT idempotency_key AS key FROM lead.task WHERE task_type = %s ORDER BY 1", [task_type]
        )
    ]


# ---- outcomes ----------------------------------------------------------------------------------------------


async def test_a_result_is_kept_and_told(db: Database, async_db: AsyncDatabase) -> None:
    (task_id,) = submit(db, site="main", money="x")

    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        run.tell("looked", "at one page", {"pages": 1})
        return TaskOutcome({"gain_usd": Decimal("1.50")}, message="one page audited")

    events: list[BatchEvent] = []
    report = await work_off(async_db, Handler(work), on_event=events.append)
    found = task(db, task_id)
    assert (found["status"], found["result"]) == ("completed", {"gain_usd": Decimal("1.50")})
    assert [(event.kind, event.message, event.task_id) for event in events] == [
        ("looked", "at one page", task_id),
        (kinds.COMPLETED, "one page audited", task_id),
        (kinds.FINISHED, "1 completed, 0 failed, 0 given back", None),
    ]
    assert report.results == [{"gain_usd": Decimal("1.50")}]
    assert report.metadata()["tasks_completed"] == 1


async def test_a_result_that_is_too_large_or_no_json_fails_the_task(
    db: Database, async_db: AsyncDatabase
) -> None:
    large, odd, fine = submit(db, 3)
    results = {large: {"x": "y" * MAX_RESULT_BYTES}, odd: {"x": float("nan")}, fine: {}}

    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        return TaskOutcome(results[task.task_id])

    await work_off(async_db, Handler(work))
    assert [task(db, one)["status"] for one in (large, odd, fine)] == ["deferred", "dead_letter", "completed"]
    assert "at most 64000 are allowed" in task(db, large)["last_error_message"]
    assert "finite numbers" in task(db, odd)["last_error_message"]


async def test_a_failure_keeps_its_facts_and_the_calls_before_it(
    db: Database, async_db: AsyncDatabase
) -> None:
    class Unfit(InvalidInput):
        def facts(self) -> dict[str, Any]:
            return {"problems": ["too short"]}

    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        await run.caller.call(run.task_id, QUESTION)
        raise Unfit("it is unfit")

    (task_id,) = submit(db)
    report = await work_off(async_db, Handler(work))
    context = task(db, task_id)["dead_letter"]["context"]
    assert (context["problems"], context["exception"]) == (["too short"], "Unfit")
    assert [step["step"] for step in context["steps"]] == ["look"]
    assert report.execution_status() == "completed", "a task that is none is no failure of the pipeline"


@pytest.mark.parametrize(("ends_well", "status"), [(True, "completed"), (False, "failed")])
async def test_a_pipeline_has_failed_where_all_its_tasks_did(
    db: Database, async_db: AsyncDatabase, ends_well: bool, status: str
) -> None:
    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        if ends_well and task.payload["number"] == 1:
            return TaskOutcome({})
        raise TaskError("it broke")

    submit(db, 3)
    report = await work_off(async_db, Handler(work))
    assert db.row("SELECT status FROM workflow_orchestration") == {"status": status}
    assert report.deferred == len(report.failures) == (2 if ends_well else 3)


async def test_calls_are_counted_for_the_task_and_the_batch(db: Database, async_db: AsyncDatabase) -> None:
    seen: dict[int, list[int]] = {}

    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        for _ in range(task.payload["number"]):
            await run.caller.call(run.task_id, QUESTION)
        seen[run.task_id] = [call.call_id for call in run.calls]
        return TaskOutcome({})

    ids = submit(db, 3)
    report = await work_off(async_db, Handler(work))
    assert seen == {ids[0]: [], ids[1]: [ids[1] * 100], ids[2]: [ids[2] * 100] * 2}
    assert (report.calls, report.cost_usd, report.input_tokens) == (3, Decimal("0.03"), 30)
    assert report.metadata()["provider_calls_gemini"] == 3


async def test_a_handler_gets_the_site_s_profile(db: Database, async_db: AsyncDatabase) -> None:
    stored = StoredSite("main", {"url": "https://example.org/", "language": "de"}, datetime.now(UTC))

    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        return TaskOutcome({name: run.profiles.of(name).language for name in ("main", "other")})

    submit(db)
    report = await work_off(async_db, Handler(work), profiles=SiteProfiles([stored]))
    assert report.results == [{"main": "de", "other": "en"}]


# ---- follow-ups --------------------------------------------------------------------------------------------


async def test_follow_ups_are_in_the_queue_before_the_task_completes(
    db: Database, async_db: AsyncDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, at_completion = executions.complete_task, []

    async def complete(*args: Any, **kwargs: Any) -> None:
        at_completion.append(queued(db, "content_generation"))
        await real(*args, **kwargs)

    monkeypatch.setattr(executions, "complete_task", complete)

    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        return TaskOutcome({}, [article("a"), article("b"), article("c", "revenue_optimization")])

    submit(db)
    report = await work_off(async_db, Handler(work))
    assert at_completion == [["a", "b"]]
    assert queued(db, "revenue_optimization") == ["c"]
    assert report.follow_ups == report.metadata()["follow_ups"] == 3
    row = db.row("SELECT value_usd FROM lead.task WHERE idempotency_key = 'a'")
    assert row == {"value_usd": Decimal(7)}, "the scheduler sees what it is worth"


async def test_what_dies_before_completing_submits_nothing_twice(
    db: Database, async_db: AsyncDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As a SIGKILL: nothing after it runs that writes."""

    async def die(*args: Any, **kwargs: Any) -> None:
        raise Killed

    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        return TaskOutcome({}, [article("a")])

    (task_id,) = submit(db)
    first = await start(async_db)
    with monkeypatch.context() as patch:
        patch.setattr(executions, "complete_task", die)
        with pytest.raises(Killed):
            await run_batch(async_db, open_caller, first, Handler(work), settings=Settings.load({}))
    assert queued(db, "content_generation") == ["a"]
    db.execute("UPDATE lead.workflow_policy SET enabled = workflow_type = 'seo_monitor'")
    db.call("report_run_failure", execution_id=first.lease.execution_id, run_id="run-1", reason="it died")
    db.execute("UPDATE lead.workflow_policy SET enabled = true WHERE workflow_type = 'content_pipeline'")
    db.execute("UPDATE lead.workflow_policy SET mode = 'paused' WHERE workflow_type = 'content_pipeline'")
    report = await work_off(async_db, Handler(work))
    assert task(db, task_id)["status"] == "completed"
    assert queued(db, "content_generation") == ["a"]
    assert report.follow_ups == 0, "it was there already"


async def test_a_disabled_type_gets_no_follow_ups_and_that_is_no_failure(
    db: Database, async_db: AsyncDatabase
) -> None:
    db.execute("UPDATE lead.workflow_policy SET enabled = workflow_type <> 'content_pipeline'")

    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        return TaskOutcome({}, [article("a"), article("b", "revenue_optimization")])

    (task_id,) = submit(db)
    events: list[BatchEvent] = []
    await work_off(async_db, Handler(work), on_event=events.append)
    assert task(db, task_id)["status"] == "completed"
    assert (queued(db, "content_generation"), queued(db, "revenue_optimization")) == ([], ["b"])
    (told,) = [event for event in events if event.kind == kinds.FOLLOW_UPS]
    assert told.message.startswith("1 of content_generation not submitted: task_type: content_generation is")


async def test_a_follow_up_that_the_queue_refuses_fails_the_task(
    db: Database, async_db: AsyncDatabase
) -> None:
    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        return TaskOutcome({}, [NewTask("knitting", {}, idempotency_key="k")])

    (task_id,) = submit(db)
    await work_off(async_db, Handler(work))
    found = task(db, task_id)
    assert found["status"] == "dead_letter"
    assert "knitting is not one of" in found["last_error_message"]


def test_a_follow_up_needs_a_key() -> None:
    with pytest.raises(ValueError, match="the content_generation task has no idempotency_key"):
        TaskOutcome({}, [NewTask("content_generation", {"title": "x"})])


async def test_a_lost_answer_to_submitting_does_no_harm(
    db: Database, async_db: AsyncDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lost = AsyncDatabase.call, [1]

    async def call(self: AsyncDatabase, function: str, **params: Any) -> Any:
        answer = await real(self, function, **params)
        if function == "submit_tasks" and lost:
            lost.clear()
            raise DatabaseUnavailable("the answer got lost")
        return answer

    monkeypatch.setattr(AsyncDatabase, "call", call)

    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        return TaskOutcome({}, [article("a")])

    (task_id,) = submit(db)
    await work_off(async_db, Handler(work))
    assert lost == []
    assert task(db, task_id)["status"] == "completed"
    assert queued(db, "content_generation") == ["a"]


# ---- time, and what handlers share -------------------------------------------------------------------------


async def test_without_time_for_a_step_the_task_goes_back(db: Database, async_db: AsyncDatabase) -> None:
    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        assert 0 < run.seconds_left() < 60
        run.check_time("look", 5)
        run.check_time("crawl", 100)
        raise AssertionError("there is no time for it")

    (task_id,) = submit(db)
    execution = replace(await start(async_db), timeout_at=datetime.now(UTC) + timedelta(seconds=60))
    events: list[BatchEvent] = []
    report = await run_batch(
        async_db, open_caller, execution, Handler(work), events.append, settings=Settings.load({})
    )
    found = task(db, task_id)
    assert (found["status"], found["attempts"]) == ("queued", 0)
    assert report.given_back == 1
    told = next(event.message for event in events if event.kind == kinds.GIVEN_BACK)
    assert told.endswith("s are left, step crawl may take 100")


class Sharing(Handler):
    """A handler with something that all tasks of a run share."""

    def __init__(self, work: Any = None) -> None:
        super().__init__(work)
        self.steps: list[str] = []

    async def __aenter__(self) -> Sharing:
        self.steps.append("entered")
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.sleep(0)  # an end that takes a moment is waited for
        self.steps.append("left")


@pytest.mark.parametrize("ending", ["done", "failed", "stale", "cancelled"])
async def test_what_a_handler_began_it_ends_whatever_becomes_of_the_batch(
    db: Database, async_db: AsyncDatabase, ending: str
) -> None:
    working = asyncio.Event()

    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        assert handler.steps == ["entered"], "entered before the first task"
        working.set()
        if ending == "failed":
            raise InvalidInput("no such site")
        if ending == "stale":
            raise StaleLease("somebody else's")
        if ending == "cancelled":
            await asyncio.Event().wait()
        return TaskOutcome({})

    handler = Sharing(work)
    submit(db, 3)
    running = asyncio.create_task(work_off(async_db, handler))
    await working.wait()
    if ending == "cancelled":
        running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert handler.steps == ["entered", "left"]
    assert running.cancelled() is (ending == "cancelled")


async def test_a_handler_that_can_t_begin_gives_its_tasks_back(db: Database, async_db: AsyncDatabase) -> None:
    class Broken(Handler):
        async def __aenter__(self) -> None:
            raise RuntimeError("no cache folder")

        async def __aexit__(self, *error: object) -> None: ...

    (task_id,) = submit(db)
    with pytest.raises(RuntimeError, match="no cache folder"):
        await work_off(async_db, Broken())
    assert task(db, task_id)["status"] == "queued"


async def test_no_more_tasks_at_once_than_said(db: Database, async_db: AsyncDatabase) -> None:
    at_once, most = 0, 0

    async def work(run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        at_once -= 1
        return TaskOutcome({})

    submit(db, 8)
    report = await work_off(async_db, Handler(work), concurrency=3)
    assert (most, len(report.completed)) == (3, 8)
