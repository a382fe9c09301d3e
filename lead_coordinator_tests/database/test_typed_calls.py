"""Typed calls against the real functions: every parameter arrives, every answer becomes its dataclass.

What the functions decide is tested elsewhere; here it is the seam between Python and SQL, so a batch goes
its whole way, from submission to publication and back to the queue, through each typed call.
"""

import hashlib
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from lead_coordinator.database import (
    articles,
    calls,
    control,
    executions,
    intelligence,
    operations,
    publications,
    queue,
    reports,
    revenue,
    seo,
    sites,
)
from lead_coordinator.database.calls import Candidate, Grant, Refusal
from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.executions import Lease, StartedExecution
from lead_coordinator.database.operations import DeadLetterFilter
from lead_coordinator.database.queue import NewTask
from lead_coordinator.database.revenue import MetricRow
from lead_coordinator.errors import InvalidInput, NotFound, StaleLease, TypeDisabled

CONTENT = "content_generation"
BOTH = [
    Candidate("gemini", "gemini-2.5-flash-lite", Decimal("0.0012"), 500, 2000),
    Candidate("openai", "gpt-6-luna", Decimal("0.0100"), 500, 2000),
]


def article(number: int, **more: Any) -> NewTask:
    return NewTask(CONTENT, {"title": f"Article {number}", "audience": "gardeners"}, **more)


async def started(db: Database, adb: AsyncDatabase, tasks: int = 2) -> StartedExecution:
    """An execution that was planned by the coordinator and taken over by a run."""
    queue.submit_tasks(db, [article(number) for number in range(tasks)])
    answer = control.orchestrate_workflow_execution(db, "worker-1")
    assert answer["success"], answer
    (launchable,) = control.launchable_executions(db)
    return await executions.start_execution(
        adb, launchable.execution_id, launchable.launch_number, "run-1", memory_mb=180
    )


@pytest.mark.every_server
def test_a_task_keeps_all_that_was_submitted(db: Database) -> None:
    deadline = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    task = article(
        1,
        priority=70,
        idempotency_key="topic-1",
        value_usd=Decimal("12.3456789012"),
        deadline=deadline,
        not_before=deadline - timedelta(days=1),
        tenant="garden",
    )
    first = queue.submit_task(db, task)
    assert first.created
    again = queue.submit_task(db, task)
    assert (again.task_id, again.created) == (first.task_id, False), "the same key makes no second task"
    row = queue.get_task(db, first.task_id)
    assert row["payload"] == task.payload
    assert row["priority_base"] == 70
    assert row["tenant"] == "garden"
    assert row["value_usd"] == pytest.approx(Decimal("12.3456789012"), abs=Decimal("1e-10"))
    assert row["status"] == "deferred", "not_before lies ahead"
    assert datetime.fromisoformat(row["deadline_at"]) == deadline
    assert row["calls"] == []
    assert row["publication"] is None


def test_many_tasks_go_in_together_or_not_at_all(db: Database) -> None:
    first = queue.submit_task(db, article(0, idempotency_key="zero"))
    answer = queue.submit_tasks(
        db, [article(0, idempotency_key="zero"), article(1, dependencies=(first.task_id,)), article(2)]
    )
    assert (answer.submitted, answer.duplicates) == (2, 1)
    assert [task.created for task in answer.tasks] == [False, True, True]
    assert queue.get_task(db, answer.tasks[1].task_id)["dependencies"] == [first.task_id]

    before = db.row("SELECT count(*) AS n FROM task_queue")
    with pytest.raises(InvalidInput, match=r"1.*priority"):
        queue.submit_tasks(db, [article(3), article(4, priority=101)])
    assert db.row("SELECT count(*) AS n FROM task_queue") == before, "the good one wasn't taken either"


def test_what_the_queue_refuses_has_its_own_error(db: Database) -> None:
    operations.change_policy(db, "seo_monitor", {"enabled": False})
    with pytest.raises(TypeDisabled, match="seo_analysis"):
        queue.submit_task(db, NewTask("seo_analysis", {}))
    with pytest.raises(InvalidInput, match="knitting"):
        queue.submit_task(db, NewTask("knitting", {}))
    with pytest.raises(NotFound, match="424242"):
        queue.get_task(db, 424242)


def test_a_task_that_waits_can_be_cancelled(db: Database) -> None:
    task = queue.submit_task(db, article(1))
    assert queue.cancel_task(db, task.task_id, "changed our minds") is True
    assert queue.get_task(db, task.task_id)["status"] == "cancelled"
    assert queue.cancel_task(db, task.task_id, "again") is False


def test_due_tasks_are_promoted_at_the_time_given(db: Database) -> None:
    now = datetime.now(UTC)
    queue.submit_task(db, article(1, not_before=now + timedelta(hours=1)))
    assert control.promote_due_tasks(db, current_time=now) == 0
    assert control.promote_due_tasks(db, current_time=now + timedelta(hours=2), limit=10) == 1


@pytest.mark.every_server
async def test_a_batch_from_plan_to_publication(db: Database, async_db: AsyncDatabase) -> None:
    adb = async_db
    execution = await started(db, adb, tasks=2)
    lease, (one, two) = execution.lease, execution.tasks
    assert execution.workflow_type == "content_pipeline"
    assert execution.item_cost_limit_usd == Decimal("0.09")
    assert execution.heartbeat_seconds == 10
    assert execution.timeout_at > execution.lease_expires_at
    assert {task.payload["title"] for task in execution.tasks} == {"Article 0", "Article 1"}
    assert one.attempt == 1
    assert one.submitted_at.tzinfo is not None

    beat = await executions.heartbeat_execution(adb, lease, memory_mb=190)
    assert (beat.stop, beat.reason) == (False, None)
    assert beat.lease_expires_at >= execution.lease_expires_at

    grant = await calls.begin_api_call(adb, lease, one.task_id, "draft", BOTH)
    assert isinstance(grant, Grant)
    assert (grant.provider, grant.model) == ("gemini", "gemini-2.5-flash-lite"), (
        "the first candidate was free"
    )
    assert grant.use_by_ms > 0
    assert not grant.probe
    assert (await calls.mark_api_call_sent(adb, lease, grant.call_id)).ok
    usage = {"input_tokens": 480, "output_tokens": 700, "thinking_tokens": 0, "cached_tokens": 0}
    settled = await calls.settle_api_call(
        adb, grant.call_id, "ok", Decimal("0.0003281"), usage=usage, http_status=200
    )
    assert settled.cost_usd == Decimal("0.0003281")
    assert settled.breaker_state == "closed"

    unsent = await calls.begin_api_call(adb, lease, one.task_id, "edit", BOTH[1:])
    assert isinstance(unsent, Grant)
    assert unsent.provider == "openai"
    assert await calls.release_api_call(adb, lease, unsent.call_id) is True
    assert await calls.release_api_call(adb, lease, unsent.call_id) is False, (
        "there is nothing left to give back"
    )

    publication = await publications.begin_publication(adb, lease, one.task_id, "main", "article", "Article")
    assert (publication.slug, publication.already_published) == ("article", False)
    sha = hashlib.sha256(b"article").hexdigest()
    url = "http://localhost/article/"
    details = {"words": 900, "score": Decimal("0.91")}
    await publications.confirm_publication(adb, lease, publication.publication_id, url, sha, details=details)
    again = await publications.begin_publication(adb, lease, one.task_id, "main", "article", "Article")
    assert again.already_published
    assert (again.publication_id, again.url) == (publication.publication_id, url)
    (published,) = publications.list_publications(db, "main", limit=5)
    assert (published.task_id, published.slug, published.details) == (one.task_id, "article", details)
    assert await publications.alist_publications(adb, "main") == [published]

    await executions.complete_task(adb, lease, one.task_id, {"url": url})
    failed = await executions.fail_task(
        adb, lease, two.task_id, "task_error", "the draft was\x00empty", error_context={"step": "draft"}
    )
    assert failed.status == "deferred", "a first failure is retried"
    assert failed.attempts == 1
    assert failed.retry_at is not None
    assert failed.retry_at > datetime.now(UTC)

    finished = await executions.finish_execution(adb, lease, "completed", output={"published": 1})
    assert (finished.status, finished.completed, finished.failed, finished.returned) == ("completed", 1, 1, 0)
    assert finished.actual_cost == Decimal("0.0003281")

    row = queue.get_task(db, one.task_id)
    assert row["status"] == "completed"
    assert [call["cost_usd"] for call in row["calls"] if call["status"] == "settled"] == [
        Decimal("0.0003281")
    ]
    assert row["publication"]["url"] == url
    with pytest.raises(StaleLease):
        await executions.complete_task(adb, Lease(lease.execution_id, lease.fence - 1), two.task_id)


@pytest.mark.every_server
async def test_a_worker_of_its_own_claims_calls_and_completes(db: Database, async_db: AsyncDatabase) -> None:
    adb = async_db
    assert await executions.claim_tasks(adb, "mine", CONTENT) is None, "nothing waits"
    queue.submit_tasks(db, [article(number, value_usd=Decimal(5)) for number in range(3)])
    batch = await executions.claim_tasks(adb, "mine", CONTENT, limit=3, lease_seconds=120)
    assert batch is not None
    assert [(task.task_type, task.attempt, task.value_usd) for task in batch.tasks] == [(CONTENT, 1, 5)] * 3
    one, two, three = (task.task_id for task in batch.tasks)
    granted, refused = await calls.begin_api_calls(
        adb,
        batch.lease,
        [
            calls.Wish(one, "draft", BOTH),
            calls.Wish(two, "draft", [replace(BOTH[0], max_cost_usd=Decimal(1))]),
        ],
    )
    assert isinstance(granted, Grant)
    assert isinstance(refused, Refusal)
    assert refused.reason == "item_cost_limit"
    assert await calls.release_api_call(adb, batch.lease, granted.call_id)
    assert await executions.complete_tasks(adb, batch.lease, {one: {"url": "/a"}}, finish=False) == 1
    assert queue.get_task(db, one)["result"] == {"url": "/a"}
    assert await executions.complete_tasks(adb, batch.lease) == 2
    assert queue.get_task(db, three)["status"] == "completed"
    with pytest.raises(StaleLease):
        await executions.complete_tasks(adb, batch.lease)


def test_what_is_believed_of_a_task_arrives(db: Database) -> None:
    task = article(
        1,
        estimated_cost=Decimal("0.0123"),
        estimated_duration_ms=90_000,
        predicted_success_rate=Decimal("0.9"),
        complexity_score=Decimal("2.5"),
    )
    one = queue.submit_task(db, task).task_id
    two = queue.submit_tasks(db, [task]).tasks[0].task_id
    for task_id in (one, two):
        row = queue.get_task(db, task_id)
        believed = (row["estimated_cost"], row["estimated_duration_ms"], row["predicted_success_rate"])
        assert believed == (Decimal("0.0123"), 90_000, Decimal("0.9"))
        assert row["complexity_score"] == Decimal("2.5")
    with pytest.raises(InvalidInput, match=r"predicted_success_rate: 1\.1 is out of range, 0 to 1"):
        queue.submit_task(db, article(2, predicted_success_rate=Decimal("1.1")))


def test_a_type_and_a_tenant_are_paused_drained_and_resumed(db: Database) -> None:
    queue.submit_task(db, article(1, tenant="garden"))
    said = {"actor": "ann", "reason": "unpaid"}
    assert operations.pause_queue(db, tenant="garden", **said) == operations.QueueMode("paused", "open", 1)
    assert operations.drain_queue(db, task_type=CONTENT, **said) == operations.QueueMode(
        "draining", "open", 1
    )
    with pytest.raises(TypeDisabled, match="draining"):
        queue.submit_task(db, article(2))
    assert operations.resume_queue(db, task_type=CONTENT, **said).was == "draining"
    assert operations.resume_queue(db, tenant="garden", **said).mode == "open"
    with pytest.raises(InvalidInput, match="either p_task_type or p_tenant"):
        operations.pause_queue(db, **said)


async def test_an_execution_is_called_off(db: Database, async_db: AsyncDatabase) -> None:
    execution = await started(db, async_db)
    answer = operations.cancel_execution(db, execution.lease.execution_id, "wrong site", actor="ann")
    assert (answer.status_before, answer.status, answer.changed, answer.returned) == (
        "running",
        "running",
        True,
        0,
    )
    beat = await executions.heartbeat_execution(async_db, execution.lease)
    assert (beat.stop, beat.reason) == (True, "wrong site")


def test_a_figure_is_kept_with_its_trend(db: Database) -> None:
    for value in (Decimal(5), 9):
        control.record_health_metric(
            db,
            "disk_used_percent",
            value,
            "percent",
            source="tester",
            warning=8,
            critical=9,
            tags={"host": "a"},
        )
    row = db.row("SELECT * FROM system_health WHERE metric_name = 'disk_used_percent'")
    assert row is not None
    assert (row["metric_value"], row["previous_value"], row["trend_direction"]) == (9, 5, "up")
    assert (row["is_healthy"], row["source"], row["tags"]) == (False, "tester", {"host": "a"})


async def test_a_call_that_isnt_granted_says_why_and_how_long_to_wait(
    db: Database, async_db: AsyncDatabase
) -> None:
    execution = await started(db, async_db)
    task_id = execution.tasks[0].task_id
    dear = [Candidate("gemini", "gemini-2.5-pro", Decimal("0.5"), 500, 60000)]
    refusal = await calls.begin_api_call(async_db, execution.lease, task_id, "draft", dear)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.wait_ms) == ("item_cost_limit", None), "waiting doesn't make it cheaper"

    db.execute("UPDATE api_rate_limits SET requests_per_minute = 1")
    grants = [
        await calls.begin_api_call(async_db, execution.lease, task_id, "draft", BOTH)
        for _ in range(len(BOTH))
    ]
    assert [grant.provider for grant in grants if isinstance(grant, Grant)] == ["gemini", "openai"]
    refusal = await calls.begin_api_call(async_db, execution.lease, task_id, "draft", BOTH)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "rate_limited"
    assert refusal.wait_ms is not None
    assert 0 < refusal.wait_ms <= 61_000
    assert [blocked.provider for blocked in refusal.blocked] == ["gemini", "openai"]


async def test_an_execution_of_somebody_else_cant_be_started(db: Database, async_db: AsyncDatabase) -> None:
    with pytest.raises(NotFound, match=r"there is no execution .content-nowhere"):
        await executions.start_execution(async_db, "content-nowhere", 1, "run-1")
    execution = await started(db, async_db)
    with pytest.raises(StaleLease):
        await executions.start_execution(async_db, execution.lease.execution_id, 1, "run-2")


async def test_a_run_that_died_is_recovered_and_its_lease_is_stale(
    db: Database, async_db: AsyncDatabase
) -> None:
    execution = await started(db, async_db)
    lease = execution.lease
    moot = control.report_run_failure(db, lease.execution_id, "another-run", "crashed")
    assert "ignored" in moot
    report = control.report_run_failure(db, lease.execution_id, "run-1", "crashed")
    assert report["tasks_requeued"] == 2
    assert control.recover_executions(db)["recovered"] == [], "it was recovered already"
    with pytest.raises(StaleLease):
        await executions.heartbeat_execution(async_db, lease)


async def test_a_silent_run_is_recovered_when_its_lease_ends(db: Database, async_db: AsyncDatabase) -> None:
    execution = await started(db, async_db)
    later = execution.lease_expires_at + timedelta(seconds=1)
    answer = control.recover_executions(db, current_time=later)
    assert [item["execution_id"] for item in answer["recovered"]] == [execution.lease.execution_id]
    assert answer["requeued"] == 2


def test_an_execution_that_didnt_start_gets_the_next_launch_number_once(db: Database) -> None:
    queue.submit_task(db, article(1))
    control.orchestrate_workflow_execution(db, "worker-1")
    (launchable,) = control.launchable_executions(db, limit=1)
    assert not launchable.stale
    assert launchable.run_key == f"{launchable.execution_id}:{launchable.launch_number}"
    later = launchable.created_at + timedelta(minutes=3)
    control.launchable_executions(db, current_time=later)
    (stale,) = control.launchable_executions(db, current_time=later)
    number = control.relaunch_execution(db, stale.execution_id, stale.launch_number, current_time=later)
    assert number == stale.launch_number + 1
    assert (
        control.relaunch_execution(db, stale.execution_id, stale.launch_number, current_time=later) == number
    )


def test_what_outsiders_insert_is_adopted(db: Database) -> None:
    queue.submit_task(db, article(1))
    db.execute(
        "INSERT INTO workflow_orchestration (execution_id, workflow_type, worker_id)"
        " VALUES ('theirs-1', 'content_pipeline', 'n8n'), ('theirs-2', 'seo_monitor', 'n8n')"
    )
    answer = control.adopt_executions(db)
    assert "theirs-1" in answer.adopted
    assert [execution_id for execution_id, _ in answer.refused] == ["theirs-2"], "its type is disabled"


def test_the_coordinators_lease_has_one_holder(db: Database) -> None:
    mine = control.acquire_coordinator_lease(db, "worker-1", ttl_seconds=30)
    assert mine.acquired
    assert mine.fence is not None
    theirs = control.acquire_coordinator_lease(db, "worker-2")
    assert (theirs.acquired, theirs.holder) == (False, "worker-1")
    assert theirs.expires_at is not None
    assert control.release_coordinator_lease(db, "worker-2") is False
    assert control.release_coordinator_lease(db, "worker-1") is True


def test_the_steps_of_a_tick_fit_together(db: Database) -> None:
    now = datetime.now(UTC)
    queue.submit_task(db, article(1))
    health = control.check_system_health(db)
    assert health["can_proceed"] is True
    scheduled = control.get_intelligent_scheduled_tasks(db, now, max_concurrent=2)
    assert scheduled["tasks_ready_to_execute"] == 1
    resources = control.check_resource_availability(db, scheduled)
    assert resources["can_proceed"] is True
    plan = control.create_optimal_execution_plan(db, scheduled, resources, "worker-1", now)
    assert plan["total_workflows"] == 1
    assert control.reserve_execution_resources(db, plan) is True
    assert control.create_execution_records(db, plan, "worker-1") == 1
    assert control.update_coordinator_state(db, "ANALYZING", plan, "worker-1") is True
    control.record_orchestration_metrics(db, plan, health, now)
    control.log_orchestration_error(db, "E1", "password=hunter2 was wrong", {"op": "plan"}, "worker-1")
    assert control.refresh_resource_usage(db)


async def test_a_run_gives_tasks_back(db: Database, async_db: AsyncDatabase) -> None:
    execution = await started(db, async_db, tasks=2)
    one, two = execution.tasks
    given_back = await executions.give_back_tasks(
        async_db, execution.lease, [one.task_id, two.task_id], "shutting down"
    )
    assert given_back == 2
    assert queue.get_task(db, one.task_id)["status"] == "queued"
    with pytest.raises(StaleLease):
        await executions.give_back_tasks(async_db, Lease(execution.lease.execution_id, 99), [1], "late")


def test_what_a_person_asks_and_does(db: Database) -> None:
    task = queue.submit_task(db, article(1))
    assert operations.explain_task(db, task.task_id)["status"] == "queued"
    assert operations.estimate_tasks(db, [article(2)])["tasks"] == 1
    assert operations.reprioritise_task(db, task.task_id, 70, actor="ann").priority == 70
    assert operations.change_setting(db, "pacing_enabled", False).after == "false"
    assert operations.change_policy(db, "content_pipeline", {"max_batch": 3}).after == {"max_batch": 3}
    assert operations.reset_breaker(db, "provider:openai").state == "closed"
    assert operations.prune_history(db, keep=timedelta(days=2), limit=10).more is False
    assert operations.list_dead_letters(db, limit=5) == []


@pytest.mark.every_server
def test_reports_answer_on_an_empty_platform(db: Database) -> None:
    status = reports.get_platform_status(db)
    assert status["totals"]["queued"] == 0
    assert status["executions"]["max_concurrent"] == 3
    assert set(status["providers"]) == {"gemini", "openai"}
    assert (
        reports.get_coordinator_dashboard(db, hours_back=2)["coordinator_dashboard"]["time_range_hours"] == 2
    )
    assert isinstance(reports.check_coordinator_alerts(db), list)
    validation = reports.validate_coordinator_deployment(db)
    assert validation["errors"] == []
    assert validation["status"] == "READY"


class Called(Exception):
    """Carries out of a typed call what it was about to send."""


class Telltale:
    """Stands in for a database where only the name of the function and of its parameters matter."""

    def call(self, function: str, **params: Any) -> Any:
        raise Called(function, set(params))

    call_rows = call_without_flush = call

    def rows(self, *query: Any) -> Any:
        raise Queried

    row = rows

    def connection(self) -> Any:
        return nullcontext(self)

    transaction = connection


class Queried(Exception):
    """A typed read of tables: it calls no function."""


# A value for each annotation that a typed call takes; the first word found in it counts.
SAMPLES: dict[str, Any] = {
    "MetricRow": [MetricRow("/a", datetime(2026, 11, 24, tzinfo=UTC).date(), views=1)],
    "Sequence": [],
    "Mapping": {},
    "Json": {},
    "Database": Telltale(),
    "Lease": Lease("content-1", 7),
    "NewTask": article(
        1,
        priority=1,
        idempotency_key="k",
        value_usd=Decimal(1),
        deadline=datetime(2026, 11, 24, tzinfo=UTC),
        not_before=datetime(2026, 11, 24, tzinfo=UTC),
        dependencies=[1],
        tenant="t",
        estimated_cost=Decimal(1),
        estimated_duration_ms=1,
        predicted_success_rate=Decimal(1),
        complexity_score=Decimal(1),
    ),
    "DeadLetterFilter": DeadLetterFilter(all=True),
    "timedelta": timedelta(days=7),
    "datetime": datetime(2026, 11, 24, tzinfo=UTC),
    "date": datetime(2026, 11, 24, tzinfo=UTC).date(),
    "Decimal": Decimal(1),
    "Iterable": ["x"],
    "Kind": "headline",
    "Decision": "approve",
    "Wish": "unpublish",
    "bytes": b"x",
    "float": 1.0,
    "Outcome": "ok",
    "ErrorClass": "task_error",
    "bool": True,
    "int": 1,
    "str": "x",
    "object": 1,
}


def sample(annotation: str) -> Any:
    for word, value in SAMPLES.items():
        if word in annotation:
            return value
    raise LookupError(f"SAMPLES has nothing for {annotation}")


def typed_calls() -> list[Callable[..., Any]]:
    modules: list[ModuleType] = [
        queue,
        executions,
        calls,
        publications,
        control,
        reports,
        operations,
        articles,
        intelligence,
        revenue,
        seo,
        sites,
    ]
    found = [
        function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    ]
    return [function for function in found if "db" in inspect.signature(function).parameters]


def what_it_sends(function: Callable[..., Any]) -> tuple[str, set[str]] | None:
    parameters = inspect.signature(function).parameters
    arguments = {name: sample(parameter.annotation) for name, parameter in parameters.items()}
    try:
        answer = function(**arguments)
        if inspect.iscoroutine(answer):
            answer.send(None)
    except Called as called:
        name, params = called.args
        return name, {f"p_{param}" for param in params}
    except Queried:
        return None
    raise AssertionError(f"{function.__name__} called nothing")


def test_every_typed_call_fits_a_function_that_is_deployed(db: Database) -> None:
    """With every optional parameter given, too."""
    deployed = {
        row["name"]: set(row["parameters"] or ())
        for row in db.rows(
            "SELECT p.proname AS name, p.proargnames[:p.pronargs] AS parameters FROM pg_proc AS p"
            " WHERE p.pronamespace = 'public'::regnamespace"
        )
    }
    sent: dict[str, set[str]] = {}
    for function in typed_calls():
        if (call := what_it_sends(function)) is not None:
            name, params = call
            sent[name] = sent.get(name, set()) | params
    assert deployed.keys() - sent.keys() == set(), "functions without a typed call"
    unsaid = {name: params - sent[name] for name, params in deployed.items()}
    assert {name: missing for name, missing in unsaid.items() if missing} == {}, (
        "these parameters can't be given"
    )
    misfits = {name: params - deployed.get(name, set()) for name, params in sent.items()}
    assert sent.keys() <= deployed.keys(), "these functions aren't deployed"
    assert {name: missing for name, missing in misfits.items() if missing} == {}, (
        "these parameters aren't there"
    )
