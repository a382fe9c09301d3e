"""The eight core components of the coordinator, one op each, in order.

Each op asks the database one thing and shows what it answered: numbers, and reasons in words. No op decides
anything that another process could decide at the same time; SQL does, so a tick may die between any two ops
and lose nothing.

What may happen:
- Another tick holds the lease: the first op says who and until when, gives no output, and the rest is
  skipped. The run succeeds; that is the polite way out.
- An op fails: the hook `record_error` logs it (sanitised in SQL), records ERROR_RECOVERY and gives the lease
  back, so that the next tick can start at once.
- The process is killed: the hook can't run, and the lease ends by itself after `LEASE_SECONDS`. The next
  tick brings the state on from wherever it was left.
"""

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from dagster import (
    AssetObservation,
    HookContext,
    In,
    OpDefinition,
    OpExecutionContext,
    Out,
    Output,
    failure_hook,
    op,
)

from lead_coordinator.coordinator.dispatch import Situation, workflows_dispatched
from lead_coordinator.coordinator.runs import end_run
from lead_coordinator.database import control, reports
from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.metadata import json_value, numbers, sentences

# Longer than the slowest tick that was ever measured by an order of magnitude; short enough that a killed
# tick never costs the next one its turn.
LEASE_SECONDS = 60

COMPONENT = {"lead/component": "coordinator"}


@dataclass(frozen=True)
class Tick:
    """What one tick has learnt so far: each op adds the answer of its own question."""

    worker_id: str
    fence: int
    health: dict[str, Any] = field(default_factory=dict)
    recovery: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)
    promoted: int = 0
    schedule: dict[str, Any] = field(default_factory=dict)
    decision: dict[str, Any] = field(default_factory=dict)


def step(description: str) -> Callable[[Callable[..., Any]], OpDefinition]:
    """An op between the first and the last: takes the tick, and hands it on with its own answer."""
    return op(description=description, ins={"tick": In(Tick)}, out=Out(Tick), tags=COMPONENT)


def worker_id_of(run_id: str) -> str:
    """The name under which a run of the coordinator holds the lease: findable in the UI from the database."""
    return f"coordinator-{run_id}"


@op(
    description="Takes the coordinator's lease, then asks whether the platform may work at all: database, "
    "queue, recent failures.",
    out=Out(Tick, is_required=False, description="Nothing when another tick holds the lease."),
    tags=COMPONENT,
)
def system_health_check(context: OpExecutionContext, database: DatabaseResource) -> Any:
    db, worker_id = database.db, worker_id_of(context.run.run_id)
    lease = control.acquire_coordinator_lease(db, worker_id, ttl_seconds=LEASE_SECONDS)
    if not lease.acquired or lease.fence is None:
        context.log.info(
            "The lease is held by %s until %s: this tick leaves.", lease.holder, lease.expires_at
        )
        return
    health = control.check_system_health(db)
    problems = [*health["critical_issues"], *health["warnings"]]
    context.log.info("Health is %s. %s", health["overall_status"], "; ".join(map(str, problems)))
    yield Output(
        Tick(worker_id=worker_id, fence=lease.fence, health=health),
        metadata={
            "overall_status": str(health["overall_status"]),
            "lease_fence": lease.fence,
            "issues": sentences(map(str, problems), "No issue and no warning."),
            **numbers(health["metrics"]),
        },
    )


@step(
    "Finds executions that timed out, crashed or lost their lease, puts their tasks back into "
    "the queue, settles their money, and ends the runs that still hang.",
)
def global_error_handler(context: OpExecutionContext, database: DatabaseResource, tick: Tick) -> Any:
    found = control.recover_executions(database.db)
    ended = 0
    reasons = []
    for lost in found["recovered"]:
        reason = f"{lost['execution_id']}: {lost['reason']}, {lost['tasks_requeued']} tasks back in the queue"
        reasons.append(reason)
        ended += end_run(
            context.instance,
            lost.get("run_id"),
            f"Recovered by {tick.worker_id}: {lost['reason']}",
            context.log,
        )
    yield Output(
        replace(tick, recovery=found),
        metadata={
            "executions_recovered": len(found["recovered"]),
            "tasks_requeued": int(found["requeued"]),
            "tasks_parked": int(found["parked"]),
            "runs_ended": ended,
            "recovered": sentences(reasons, "Nothing was lost since the last look."),
        },
    )


@step(
    "Measures budget, rate limits, connections and memory, records them, and says what is left of each.",
)
def resource_manager(database: DatabaseResource, tick: Tick) -> Any:
    control.refresh_resource_usage(database.db)
    available = control.check_resource_availability(database.db, {"tasks": []})
    figures: dict[str, Any] = {}
    for provider, limit in available["api_limits"].items():
        figures[f"{provider}_requests_remaining"] = limit["requests_remaining"]
        figures[f"{provider}_budget_remaining_usd"] = limit["budget_remaining"]
    yield Output(
        replace(tick, resources=available),
        metadata={
            "overall_status": str(available["overall_status"]),
            "recommendations": sentences(map(str, available["recommendations"]), "Nothing to recommend."),
            "answer": json_value(available),
            **numbers(figures),
        },
    )


@step(
    "Brings deferred tasks whose time has come back into the queue. Ageing and scores need no "
    "writing: they are part of how tasks are picked.",
)
def priority_queue_manager(database: DatabaseResource, tick: Tick) -> Any:
    promoted = control.promote_due_tasks(database.db)
    yield Output(replace(tick, promoted=promoted), metadata={"tasks_promoted": promoted})


@step(
    "Weighs each pipeline: waiting work, business hours, success so far, time since it last ran. "
    "A preview; the dispatcher decides on fresh figures in its own transaction.",
)
def intelligent_scheduler(context: OpExecutionContext, database: DatabaseResource, tick: Tick) -> Any:
    schedule = control.get_intelligent_scheduled_tasks(database.db, database_time(database.db))
    reasons = [
        f"{task['workflow_type']}: {'due' if task['should_execute'] else 'not now'}, {task['pending_items']} "
        "waiting, "
        f"priority {task['priority']} ({'; '.join(map(str, task['reasoning']))})"
        for task in schedule["tasks"]
    ]
    for reason in reasons:
        context.log.info(reason)
    yield Output(
        replace(tick, schedule=schedule),
        metadata={
            "pipelines_weighed": int(schedule["total_tasks_analyzed"]),
            "pipelines_due": int(schedule["tasks_ready_to_execute"]),
            "reasons": sentences(reasons, "No pipeline is enabled."),
        },
    )


@step(
    "Checks the coordinator's state against the legal transitions, brings it back from "
    "ERROR_RECOVERY once recovery went through, and validates executions that somebody else inserted.",
)
def state_machine_controller(context: OpExecutionContext, database: DatabaseResource, tick: Tick) -> Any:
    db = database.db
    before = coordinator_state(db)
    if before == "ERROR_RECOVERY":
        control.update_coordinator_state(db, "IDLE", None, tick.worker_id)
    adopted = control.adopt_executions(db)
    after = coordinator_state(db)
    context.log.info("State %s, then %s.", before, after)
    yield Output(
        tick,
        metadata={
            "state": after,
            "state_before": before,
            "executions_adopted": len(adopted.adopted),
            "executions_refused": len(adopted.refused),
            "refused": sentences(
                (f"{execution_id}: {reason}" for execution_id, reason in adopted.refused),
                "Nothing was refused.",
            ),
        },
    )


@step(
    "Plans, reserves and creates executions in one transaction: all or nothing. The dispatch "
    "sensor turns them into runs within seconds.",
)
def dynamic_workflow_dispatcher(context: OpExecutionContext, database: DatabaseResource, tick: Tick) -> Any:
    # The row of the setting is what counts; the argument can only lower it.
    slots = number_setting(database.db, "max_concurrent_workflows")
    decision = control.orchestrate_workflow_execution(database.db, tick.worker_id, max_concurrent=slots)
    dispatched = workflows_dispatched(decision)
    if decision["success"]:
        said = f"{dispatched} executions dispatched."
    else:
        said = f"Nothing dispatched: {decision['reason']} ({decision['action']})."
    context.log.info(said)
    yield Output(
        replace(tick, decision=decision),
        metadata={"executions_dispatched": dispatched, "said": said, "decision": json_value(decision)},
    )


@op(
    description="Shows what the tick decided, why, and what the platform looks like after it; then gives the "
    "lease back.",
    ins={"tick": In(Tick)},
    out=Out(dict, description="The figures of the platform after the tick."),
    tags=COMPONENT,
)
def metrics_collector(context: OpExecutionContext, database: DatabaseResource, tick: Tick) -> Any:
    db = database.db
    status = reports.get_platform_status(db)
    released = control.release_coordinator_lease(db, tick.worker_id)
    now = Situation.of(status)
    context.log.info(f"{workflows_dispatched(tick.decision)} executions dispatched; {now.figures()}")
    for observation in observations(status, now):
        context.log_event(observation)
    yield Output(
        status,
        metadata={
            "state": now.state,
            "executions_recovered": len(tick.recovery.get("recovered", ())),
            "executions_dispatched": workflows_dispatched(tick.decision),
            "lease_released": str(released),
            **numbers(
                {
                    "queue_depth": now.queued,
                    "deferred_tasks": now.deferred,
                    "slots_busy": now.slots_busy,
                    "published": status.get("published"),
                    "dead_letters": status.get("dead_letters"),
                    "budget_used_usd": now.budget_used,
                    "budget_limit_usd": now.budget_limit,
                    "cost_per_article_usd": status.get("cost_per_article_usd"),
                }
            ),
            "budget": now.money,
        },
    )


def observations(status: dict[str, Any], now: Situation) -> list[AssetObservation]:
    """What the UI plots of the two tables that the database keeps: counts at the end of the tick, or of the
    last 24 hours where the name says so.
    """
    executions = status["executions"]
    queue = {
        "queue_depth": now.queued,
        "tasks_deferred": now.deferred,
        "tasks_of_disabled_types": now.disabled,
        "tasks_processing": status["totals"]["processing"],
        "dead_letters": status["dead_letters"],
    }
    work = {
        "executions_active": now.slots_busy,
        "executions_pending": executions["pending"],
        "slots": now.slots,
        "executions_completed_24h": executions["completed"],
        "executions_lost_24h": executions["failed"] + executions["timeout"],
    }
    return [
        AssetObservation("task_queue", metadata=numbers(queue)),
        AssetObservation("executions", metadata=numbers(work)),
    ]


@failure_hook(required_resource_keys={"database"})
def record_error(context: HookContext) -> None:
    """Records the error and ERROR_RECOVERY, and gives the lease back. Each step is tried even if the one
    before failed.
    """
    database: DatabaseResource = context.resources.database
    error = context.op_exception
    record_failed_tick(
        database.db,
        worker_id_of(context.run_id),
        type(error).__name__,
        "".join(traceback.format_exception_only(error)).strip() if error else "unknown error",
        {"op": context.op.name, "run_id": context.run_id},
        context.log,
    )


def record_failed_tick(
    db: Database, worker_id: str, code: str, message: str, context: dict[str, str], log: logging.Logger
) -> None:
    """What is left of a tick that failed or was killed: an error, the state ERROR_RECOVERY, and no lease."""
    steps: list[Callable[[], Any]] = [
        lambda: control.log_orchestration_error(db, code, message, context, worker_id),
        lambda: control.update_coordinator_state(db, "ERROR_RECOVERY", None, worker_id),
        lambda: control.release_coordinator_lease(db, worker_id),
    ]
    for step in steps:
        try:
            step()
        except Exception as problem:
            # The lease ends by itself and the next tick recovers: nothing more can be done from here.
            log.error("After the error %s: %s", code, problem)


def database_time(db: Database) -> datetime:
    row = db.row("SELECT clock_timestamp() AS now")
    assert row is not None
    now: datetime = row["now"]
    return now


def number_setting(db: Database, name: str) -> int:
    """A setting as its row in the database says; the environment only seeded it. Raises LookupError without
    a row.
    """
    row = db.row("SELECT value::integer AS value FROM lead.setting WHERE name = %s", [name])
    if row is None:
        raise LookupError(f"lead.setting has no row {name}: `lead-coordinator deploy` seeds it.")
    return int(row["value"])


def coordinator_state(db: Database) -> str:
    row = db.row("SELECT state FROM lead.coordinator")
    return str(row["state"]) if row else "IDLE"
