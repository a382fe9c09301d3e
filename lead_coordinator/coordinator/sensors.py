"""Between ticks: reserved executions become runs within seconds, and what dies is noticed.

`dispatch_sensor`, every five seconds: recovers what lost its lease, plans when tasks wait and a slot is free
(the same SQL call as the tick), and asks for a run for each reserved execution.
- It marks nothing: the same execution is asked for again with the same run key until Dagster has a run
  for it, and Dagster launches a key once. So a sensor that dies after its answer, or is evaluated twice,
  changes nothing.
- An execution that didn't start in time gets the next launch number, unless its run still waits in Dagster's
  queue. A run that has begun and never took over is ended first; its launch number can't start any more.
- It opens one connection, asks a handful of questions that each take milliseconds, and looks at Dagster's
  own records only when something was lost or waits to start.

The run-status sensors tell the database that a run failed or was cancelled, which is quicker than waiting
for its lease to run out. They may lag or be switched off: the lease ends all the same, so they are never the
only source of truth.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from dagster import (
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunStatusSensorContext,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    run_status_sensor,
    sensor,
)

from lead_coordinator import tags
from lead_coordinator.coordinator.dispatch import Planning, Situation, run_request, without_pipeline
from lead_coordinator.coordinator.job import coordinator_job
from lead_coordinator.coordinator.ops import number_setting, record_failed_tick, worker_id_of
from lead_coordinator.coordinator.runs import end_run, requested_run_keys, unfinished_run_of_execution
from lead_coordinator.database import control, reports
from lead_coordinator.database.connection import Database
from lead_coordinator.database.control import Launchable
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.pipelines.jobs import PIPELINE_JOBS

WORKER_ID = "dispatch-sensor"

# The daemon's loop takes five seconds from start to start. An interval of exactly five would sometimes miss
# a turn by a millisecond and make a task wait for ten.
DISPATCH_INTERVAL_SECONDS = 4
# A killed process writes no heartbeat, and its lease ends after 30 seconds: this is to be quicker than that.
RUN_FAILURE_INTERVAL_SECONDS = 9
# A cancelled run gives its tasks back itself; this is for one that couldn't. Each look costs Dagster a dozen
# connections.
RUN_CANCELED_INTERVAL_SECONDS = 29

# MAX_CONCURRENT_WORKFLOWS is at most 10: there can be no more reserved executions.
LAUNCH_LIMIT = 10

COMPONENT = {"lead/component": "coordinator"}


@sensor(
    name="dispatch_sensor",
    jobs=PIPELINE_JOBS,
    minimum_interval_seconds=DISPATCH_INTERVAL_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Every five seconds: recovers lost executions, plans when tasks wait and a slot is free, and "
    "starts a run for each reserved execution. A skipped tick says why in numbers.",
    tags=COMPONENT,
    owners=[tags.OWNER_PLATFORM],
)
def dispatch_sensor(context: SensorEvaluationContext, database: DatabaseResource) -> SensorResult:
    db = database.db
    recover(context, db)
    control.promote_due_tasks(db)
    situation = Situation.of(reports.get_platform_status(db))
    planning = Planning.read(context.cursor)
    decision: dict[str, Any] = {}
    if situation.can_plan and planning.is_due(situation, datetime.now(UTC)):
        decision = control.orchestrate_workflow_execution(db, WORKER_ID, max_concurrent=situation.slots)
        planning = Planning.after(situation, decision, datetime.now(UTC))
    reserved = control.launchable_executions(db, limit=LAUNCH_LIMIT)
    for missing in without_pipeline(reserved):
        context.log.warning("No pipeline works %s in this version: its executions are not launched.", missing)
    requests = launch_requests(
        context, db, [r for r in reserved if r.workflow_type in tags.PIPELINE_OF_WORKFLOW]
    )
    return SensorResult(
        run_requests=requests or None,
        skip_reason=None if requests else SkipReason(skip_reason(situation, planning, len(reserved))),
        cursor=planning.write(),
    )


def recover(context: SensorEvaluationContext, db: Database) -> None:
    """Recovers what died, and ends the runs that still hang; they are fenced already and could only waste
    memory.
    """
    for lost in control.recover_executions(db)["recovered"]:
        context.log.warning(
            "%s recovered (%s): %s tasks back in the queue.",
            lost["execution_id"],
            lost["reason"],
            lost["tasks_requeued"],
        )
        end_run(
            context.instance, lost.get("run_id"), f"Recovered by {WORKER_ID}: {lost['reason']}", context.log
        )


def launch_requests(
    context: SensorEvaluationContext, db: Database, reserved: list[Launchable]
) -> list[RunRequest]:
    """A request for each reserved execution, under a new launch number where the one before never started."""
    if not reserved:
        return []
    timeout_seconds = 60 * number_setting(db, "execution_timeout_minutes")
    requested = requested_run_keys(context.instance, [row.run_key for row in reserved])
    requests = []
    for row in reserved:
        launch = row
        if row.run_key in requested and not row.stale:
            continue  # Dagster would drop the request, and the tick would say nothing of why
        if row.stale:
            waiting = unfinished_run_of_execution(context.instance, row.execution_id)
            if waiting is not None and waiting.status in (
                DagsterRunStatus.STARTING,
                DagsterRunStatus.STARTED,
            ):
                # Its process should have taken the execution over within seconds: it died with its
                # platform, or hangs. Launching again is safe: the old launch number can't start any more.
                end_run(context.instance, waiting.run_id, "It never took its execution over.", context.log)
            elif waiting is not None:
                context.log.info(
                    "%s still waits in run %s (%s).", row.execution_id, waiting.run_id, waiting.status.value
                )
                continue
            number = control.relaunch_execution(db, row.execution_id, row.launch_number)
            context.log.warning("%s never started: launch %s follows.", row.execution_id, number)
            launch = replace(row, launch_number=number, run_key=f"{row.execution_id}:{number}")
        requests.append(run_request(launch, timeout_seconds))
    return requests


def holds_lease(db: Database, worker_id: str) -> bool:
    return db.row("SELECT 1 FROM lead.coordinator WHERE lease_holder = %s", [worker_id]) is not None


def skip_reason(situation: Situation, planning: Planning, reserved: int) -> str:
    """Why no run was asked for, in numbers; with what the planner said where it was asked."""
    sentence = situation.nothing_fits()
    if reserved:
        return f"{reserved} reserved executions already have a run that waits to start; {sentence}"
    if situation.queued == 0:
        waits = "No task of an enabled type waits" if situation.disabled else "No task waits"
        return f"{waits}; {sentence}"
    if situation.can_plan and planning.said:
        return f"{sentence}; planner: {planning.said}"
    return sentence


def pipeline_run_ended(context: RunStatusSensorContext, database: DatabaseResource) -> SkipReason | None:
    """A pipeline run failed or was cancelled: its execution is recovered at once instead of when its lease
    runs out.
    """
    run = context.dagster_run
    if run.job_name == tags.COORDINATOR_JOB:
        return coordinator_run_ended(context, database)
    execution_id = run.tags.get(tags.EXECUTION_ID)
    if not execution_id:
        return SkipReason(f"Run {run.run_id} was started without a reserved execution: nothing to recover.")
    reason = f"run {run.status.value.lower()}: {context.dagster_event.message or 'no message'}"[:500]
    answer = control.report_run_failure(database.db, execution_id, run.run_id, reason)
    if "ignored" in answer:
        return SkipReason(f"{execution_id}: {answer['ignored']}")
    context.log.warning(
        "%s recovered (%s): %s tasks back in the queue.", execution_id, reason, answer["tasks_requeued"]
    )
    return None


def coordinator_run_ended(context: RunStatusSensorContext, database: DatabaseResource) -> SkipReason | None:
    """A tick that was killed couldn't give back its lease or record its end; one whose op failed has done
    both.
    """
    run, worker_id = context.dagster_run, worker_id_of(context.dagster_run.run_id)
    if not holds_lease(database.db, worker_id):
        return SkipReason(f"Run {run.run_id} of the coordinator had given its lease back.")
    message = context.dagster_event.message or "no message"
    record_failed_tick(
        database.db,
        worker_id,
        f"run_{run.status.value.lower()}",
        message,
        {"run_id": run.run_id},
        context.log,
    )
    return None


def run_ended_sensor(
    status: DagsterRunStatus, name: str, interval_seconds: int, description: str
) -> SensorDefinition:
    """A sensor on the runs of the tick and of all pipelines that end in this status."""
    sensor_on_status = run_status_sensor(
        run_status=status,
        name=name,
        monitored_jobs=[*PIPELINE_JOBS, coordinator_job],
        minimum_interval_seconds=interval_seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description=description,
        tags={**COMPONENT, "lead/owner": "platform"},
    )
    return sensor_on_status(pipeline_run_ended)


run_failure_sensor = run_ended_sensor(
    DagsterRunStatus.FAILURE,
    "run_failure_sensor",
    RUN_FAILURE_INTERVAL_SECONDS,
    "A failed run: its execution's tasks go back into the queue and its money is settled at once; a failed "
    "tick gives the coordinator's lease back.",
)

run_canceled_sensor = run_ended_sensor(
    DagsterRunStatus.CANCELED,
    "run_canceled_sensor",
    RUN_CANCELED_INTERVAL_SECONDS,
    "A cancelled run: as for a failed one. Cancelling a run in the UI gives its tasks back to the queue.",
)
