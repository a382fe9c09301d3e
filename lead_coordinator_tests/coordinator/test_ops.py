"""A whole tick in one process against a real database: what it does, and what it leaves when it can't."""

from collections.abc import Callable, Iterator

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult

from lead_coordinator import tags
from lead_coordinator.coordinator.ops import coordinator_state
from lead_coordinator.database import control
from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.definitions import defs

Submit = Callable[[int], list[int]]
Tick = Callable[[], ExecuteInProcessResult]


@pytest.fixture
def tick(database: DatabaseResource) -> Iterator[Tick]:
    job = defs.resolve_job_def(tags.COORDINATOR_JOB)

    def run() -> ExecuteInProcessResult:
        return job.execute_in_process(
            instance=instance, resources={"database": database}, raise_on_error=False
        )

    with DagsterInstance.ephemeral() as instance:
        yield run


def metadata(result: ExecuteInProcessResult, op: str) -> dict[str, object]:
    """What the UI shows of an op's output."""
    (event,) = [e for e in result.all_node_events if e.is_successful_output and e.step_key == op]
    return {key: value.value for key, value in event.step_output_data.metadata.items()}


def errors(db: Database) -> list[str]:
    return [row["error_message"] for row in db.rows("SELECT error_message FROM lead.error_log ORDER BY id")]


def test_a_tick_plans_what_waits_and_gives_its_lease_back(db: Database, submit: Submit, tick: Tick):
    submit(1)
    result = tick()
    assert result.success
    assert metadata(result, "dynamic_workflow_dispatcher")["executions_dispatched"] == 1
    assert len(control.launchable_executions(db)) == 1
    assert control.acquire_coordinator_lease(db, "the-next-tick").acquired
    after = metadata(result, "metrics_collector")
    assert after["executions_dispatched"] == 1
    assert after["slots_busy"] == 1
    assert after["budget_limit_usd"] == 500


def test_a_tick_with_nothing_to_do_says_so(tick: Tick):
    result = tick()
    assert result.success
    assert metadata(result, "dynamic_workflow_dispatcher")["executions_dispatched"] == 0
    assert metadata(result, "global_error_handler")["executions_recovered"] == 0


def test_the_row_of_the_setting_decides_how_many_run(db: Database, submit: Submit, tick: Tick):
    db.execute("UPDATE lead.setting SET value = '5' WHERE name = 'max_concurrent_workflows'")
    db.execute("UPDATE lead.setting SET value = '100000' WHERE name = 'memory_limit_mb'")
    db.execute("UPDATE lead.workflow_policy SET enabled = workflow_type = 'content_pipeline'")
    submit(100)
    assert tick().success
    assert len(control.launchable_executions(db)) == 5, "the default of the SQL function (3) must not cap it"


def test_a_second_tick_leaves_politely(db: Database, submit: Submit, tick: Tick):
    submit(1)
    control.acquire_coordinator_lease(db, "coordinator-another")
    result = tick()
    assert result.success
    succeeded = {event.step_key for event in result.all_node_events if event.is_step_success}
    assert succeeded == {"system_health_check"}
    assert control.launchable_executions(db) == []
    row = db.row("SELECT lease_holder FROM lead.coordinator")
    assert row == {"lease_holder": "coordinator-another"}


def test_a_lost_execution_is_recovered_before_anything_is_planned(db: Database, submit: Submit, tick: Tick):
    submit(1)
    tick()
    (launch,) = control.launchable_executions(db)
    db.call("start_execution", execution_id=launch.execution_id, launch_number=1, run_id="dead-run")
    db.execute("UPDATE public.workflow_orchestration SET lease_expires_at = now() - interval '1 minute'")
    result = tick()
    recovery = metadata(result, "global_error_handler")
    assert recovery["executions_recovered"] == 1
    assert recovery["tasks_requeued"] == 1
    assert launch.execution_id in str(recovery["recovered"])
    assert metadata(result, "dynamic_workflow_dispatcher")["executions_dispatched"] == 1


def test_a_failing_op_leaves_an_error_a_state_and_no_lease(db: Database, tick: Tick):
    db.execute("ALTER FUNCTION public.promote_due_tasks RENAME TO promote_due_tasks_gone")
    result = tick()
    assert not result.success
    assert coordinator_state(db) == "ERROR_RECOVERY"
    assert any("promote_due_tasks" in error for error in errors(db))
    row = db.row("SELECT lease_holder FROM lead.coordinator")
    assert row == {"lease_holder": None}

    db.execute("ALTER FUNCTION public.promote_due_tasks_gone RENAME TO promote_due_tasks")
    healed = tick()
    assert healed.success
    assert metadata(healed, "state_machine_controller")["state_before"] == "ERROR_RECOVERY"
    assert coordinator_state(db) == "IDLE"


def test_an_execution_that_somebody_inserted_is_adopted_or_refused_with_a_reason(db: Database, tick: Tick):
    db.execute(
        "INSERT INTO public.workflow_orchestration (execution_id, workflow_type, worker_id) "
        "VALUES ('by-hand', 'content_pipeline', 'somebody')"
    )
    result = tick()
    state = metadata(result, "state_machine_controller")
    adopted, refused = int(str(state["executions_adopted"])), int(str(state["executions_refused"]))
    assert adopted + refused == 1
    if refused:
        assert "by-hand" in str(state["refused"])
