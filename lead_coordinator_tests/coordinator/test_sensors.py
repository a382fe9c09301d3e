"""The dispatch sensor and the run-status sensors against a real database and real records of runs."""

import threading
from collections.abc import Callable

import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    SensorResult,
    build_run_status_sensor_context,
    build_sensor_context,
)

from lead_coordinator import tags
from lead_coordinator.coordinator.ops import coordinator_state, worker_id_of
from lead_coordinator.coordinator.sensors import dispatch_sensor, run_failure_sensor
from lead_coordinator.database import control
from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator_tests.coordinator.conftest import AddRun

Submit = Callable[[int], list[int]]


@pytest.fixture
def dispatch(instance: DagsterInstance, database: DatabaseResource) -> Callable[..., SensorResult]:
    def evaluate(cursor: str | None = None) -> SensorResult:
        with build_sensor_context(
            instance=instance, cursor=cursor, resources={"database": database}
        ) as context:
            return dispatch_sensor(context)

    return evaluate


def said(result: SensorResult) -> str:
    assert result.skip_reason is not None
    return result.skip_reason.skip_message or ""


def run_keys(result: SensorResult) -> list[str]:
    return [request.run_key or "" for request in result.run_requests or []]


def start(db: Database, run_id: str) -> str:
    """Starts the one reserved execution as a run would; answers its id."""
    (launch,) = control.launchable_executions(db)
    db.call(
        "start_execution",
        execution_id=launch.execution_id,
        launch_number=launch.launch_number,
        run_id=run_id,
    )
    return launch.execution_id


def executions(db: Database) -> dict[str, str]:
    rows = db.rows("SELECT execution_id, status FROM public.workflow_orchestration")
    return {row["execution_id"]: row["status"] for row in rows}


def task_statuses(db: Database) -> list[str]:
    return [row["status"] for row in db.rows("SELECT status FROM public.task_queue ORDER BY id")]


class TestDispatch:
    def test_an_empty_queue_is_skipped_with_the_figures(self, dispatch: Callable[..., SensorResult]):
        result = dispatch()
        assert not result.run_requests
        assert said(result) == (
            "No task waits; budget 0 of 500 USD held or spent; 0 of 0 waiting tasks fit; 0 of 3 slots busy"
        )

    def test_waiting_tasks_become_a_run_without_waiting_for_the_tick(
        self, db: Database, submit: Submit, dispatch: Callable[..., SensorResult]
    ):
        submit(1)
        (request,) = dispatch().run_requests or []
        ((execution_id, status),) = executions(db).items()
        assert status == "pending", "asking for a run marks nothing"
        assert request.run_key == f"{execution_id}:1"
        assert request.job_name == tags.CONTENT_JOB
        assert request.tags[tags.EXECUTION_ID] == execution_id

    def test_evaluated_again_before_the_run_starts_it_asks_for_the_same_run(
        self, db: Database, submit: Submit, dispatch: Callable[..., SensorResult]
    ):
        submit(1)
        first = dispatch()
        second = dispatch(first.cursor)
        assert run_keys(second) == run_keys(first)
        assert len(executions(db)) == 1

    def test_once_the_run_has_started_nothing_is_asked_for(
        self, db: Database, submit: Submit, dispatch: Callable[..., SensorResult]
    ):
        submit(1)
        dispatch()
        start(db, "run-1")
        result = dispatch()
        assert not result.run_requests
        assert "1 of 3 slots busy" in said(result)

    def test_with_all_slots_busy_it_says_so_in_numbers(
        self, db: Database, submit: Submit, dispatch: Callable[..., SensorResult]
    ):
        db.execute("UPDATE lead.setting SET value = '100000' WHERE name = 'memory_limit_mb'")
        db.execute("UPDATE lead.workflow_policy SET enabled = workflow_type = 'content_pipeline'")
        submit(50)
        for number in range(10):
            for launch in control.launchable_executions(db):
                db.call(
                    "start_execution",
                    execution_id=launch.execution_id,
                    launch_number=launch.launch_number,
                    run_id=f"run-{number}-{launch.execution_id}",
                )
            dispatch()
        running = [status for status in executions(db).values() if status in ("pending", "running")]
        assert len(running) == 3, "MAX_CONCURRENT_WORKFLOWS is 3"
        result = dispatch()
        assert not result.run_requests
        assert "0 of 20 waiting tasks fit; 3 of 3 slots busy" in said(result)

    def test_without_budget_nothing_is_launched_and_the_reason_names_it(
        self, db: Database, submit: Submit, dispatch: Callable[..., SensorResult]
    ):
        db.execute("UPDATE lead.setting SET value = '0' WHERE name = 'daily_budget_usd'")
        submit(14)
        result = dispatch()
        assert not result.run_requests
        assert "budget 0 of 0 USD held or spent; 0 of 14 waiting tasks fit; 0 of 3 slots busy" in said(result)
        assert "planner: " in said(result)

    def test_while_nothing_changes_the_planner_is_not_asked_again(
        self, db: Database, submit: Submit, dispatch: Callable[..., SensorResult]
    ):
        db.execute("UPDATE lead.setting SET value = '0' WHERE name = 'daily_budget_usd'")
        submit(1)
        first = dispatch()
        second = dispatch(first.cursor)
        assert said(second) == said(first)
        decisions = db.row("SELECT count(*) AS decisions FROM lead.tick")
        assert decisions == {"decisions": 1}
        submit(1)
        dispatch(second.cursor)
        assert db.row("SELECT count(*) AS decisions FROM lead.tick") == {"decisions": 2}

    def test_a_task_of_a_disabled_type_never_makes_it_ask_the_planner(
        self, db: Database, submit: Submit, dispatch: Callable[..., SensorResult]
    ):
        db.execute("UPDATE lead.workflow_policy SET enabled = workflow_type = 'content_pipeline'")
        db.execute("INSERT INTO public.task_queue (task_type, payload) VALUES ('seo_analysis', '{}')")
        assert "No task of an enabled type waits" in said(dispatch())
        assert "0 of 0 waiting tasks fit; 0 of 3 slots busy; 1 more wait for a disabled" in said(dispatch())
        assert db.row("SELECT count(*) AS decisions FROM lead.tick") == {"decisions": 0}
        submit(1)
        assert len(dispatch().run_requests or []) == 1, "what may run isn't kept from it"

    def test_an_execution_that_never_started_is_launched_under_the_next_number(
        self, db: Database, submit: Submit, dispatch: Callable[..., SensorResult]
    ):
        submit(1)
        (first,) = run_keys(dispatch())
        make_stale(db)
        (second,) = run_keys(dispatch())
        assert first.endswith(":1")
        assert second == first.removesuffix(":1") + ":2"

    def test_but_not_while_its_run_only_waits(
        self, db: Database, submit: Submit, dispatch: Callable[..., SensorResult], add_run: AddRun
    ):
        submit(1)
        (key,) = run_keys(dispatch())
        add_run(tags.CONTENT_JOB, DagsterRunStatus.QUEUED, {tags.EXECUTION_ID: key.partition(":")[0]})
        make_stale(db)
        result = dispatch()
        assert not result.run_requests, "a twin of a run that waits in the queue must not be launched"
        assert "1 reserved executions already have a run" in said(result)

    def test_work_of_a_run_that_lost_its_lease_is_back_and_the_run_is_ended(
        self,
        db: Database,
        submit: Submit,
        dispatch: Callable[..., SensorResult],
        instance: DagsterInstance,
        add_run: AddRun,
    ):
        submit(1)
        dispatch()
        run = add_run(tags.CONTENT_JOB, DagsterRunStatus.STARTED)
        execution_id = start(db, run.run_id)
        db.execute(
            "UPDATE public.workflow_orchestration SET lease_expires_at = now() - interval '1 minute' "
            "WHERE execution_id = %s",
            [execution_id],
        )
        (key,) = run_keys(dispatch())
        assert not key.startswith(execution_id), "its tasks run again in another execution, at once"
        assert executions(db)[execution_id] in ("failed", "timeout")
        for thread in threading.enumerate():
            if thread.name == f"end-run-{run.run_id}":
                thread.join()
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None
        assert ended.status == DagsterRunStatus.CANCELED, "the run that hung must not live on"


def make_stale(db: Database) -> None:
    """As if the launch had been offered, and nothing had come of it, for ten minutes."""
    db.execute("UPDATE public.workflow_orchestration SET scheduled_at = scheduled_at - interval '10 minutes'")


class TestRunStatus:
    @pytest.fixture
    def failed(self, instance: DagsterInstance, database: DatabaseResource) -> Callable[[DagsterRun], object]:
        def evaluate(run: DagsterRun) -> object:
            event = DagsterEvent(
                event_type_value=DagsterEventType.RUN_FAILURE.value,
                job_name=run.job_name,
                message="the process was killed",
            )
            context = build_run_status_sensor_context(
                sensor_name="run_failure_sensor",
                dagster_event=event,
                dagster_instance=instance,
                dagster_run=run,
                resources={"database": database},
            )
            with context:
                return run_failure_sensor(context)

        return evaluate

    def test_a_failed_run_gives_its_tasks_back_at_once(
        self,
        db: Database,
        submit: Submit,
        dispatch: Callable[..., SensorResult],
        add_run: AddRun,
        failed: Callable[[DagsterRun], object],
    ):
        submit(1)
        (request,) = dispatch().run_requests or []
        run = add_run(tags.CONTENT_JOB, DagsterRunStatus.FAILURE, request.tags)
        start(db, run.run_id)
        failed(run)
        assert task_statuses(db) == ["queued"]

    def test_a_refused_second_run_takes_nothing_from_the_first(
        self,
        db: Database,
        submit: Submit,
        dispatch: Callable[..., SensorResult],
        add_run: AddRun,
        failed: Callable[[DagsterRun], object],
    ):
        submit(1)
        (request,) = dispatch().run_requests or []
        working = add_run(tags.CONTENT_JOB, DagsterRunStatus.STARTED, request.tags)
        execution_id = start(db, working.run_id)
        failed(add_run(tags.CONTENT_JOB, DagsterRunStatus.FAILURE, request.tags))
        assert executions(db) == {execution_id: "running"}
        assert task_statuses(db) == ["processing"]

    def test_a_run_without_an_execution_is_none_of_its_business(
        self, add_run: AddRun, failed: Callable[[DagsterRun], object]
    ):
        assert "without a reserved execution" in str(
            failed(add_run(tags.CONTENT_JOB, DagsterRunStatus.FAILURE))
        )

    def test_a_killed_tick_leaves_no_lease_and_a_state_to_recover_from(
        self, db: Database, add_run: AddRun, failed: Callable[[DagsterRun], object]
    ):
        run = add_run(tags.COORDINATOR_JOB, DagsterRunStatus.FAILURE)
        assert control.acquire_coordinator_lease(db, worker_id_of(run.run_id)).acquired
        failed(run)
        assert control.acquire_coordinator_lease(db, "the-next-tick").acquired
        assert coordinator_state(db) == "ERROR_RECOVERY"
        errors = db.rows("SELECT error_message FROM lead.error_log")
        assert "the process was killed" in errors[0]["error_message"]


def test_a_request_that_dagster_has_taken_is_not_repeated_and_the_tick_says_so(
    submit: Submit, dispatch: Callable[..., SensorResult], add_run: AddRun
):
    submit(1)
    (key,) = run_keys(dispatch())
    add_run("content_pipeline_job", DagsterRunStatus.STARTING, {"dagster/run_key": key})
    result = dispatch()
    assert run_keys(result) == []
    assert said(result).startswith("1 reserved executions already have a run that waits to start")


@pytest.mark.parametrize("status", [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED])
def test_a_run_that_began_and_never_took_over_does_not_keep_its_batch_waiting(
    db: Database,
    submit: Submit,
    dispatch: Callable[..., SensorResult],
    add_run: AddRun,
    status: DagsterRunStatus,
):
    submit(1)
    (key,) = run_keys(dispatch())
    execution_id = key.partition(":")[0]
    add_run(tags.CONTENT_JOB, status, {tags.EXECUTION_ID: execution_id, "dagster/run_key": key})
    make_stale(db)
    assert run_keys(dispatch()) == [f"{execution_id}:2"]
