"""The coordinator's side: the tick, launching, recovery. Synchronous; each function is one SQL function.

jsonb results whose keys the SQL contract fixes come back as dicts, as they are; what only we use is a
dataclass. `current_time` is always optional: without it the database's own clock counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import Database, given

Json = dict[str, Any]


@dataclass(frozen=True)
class CoordinatorLease:
    """The right to tick; `holder` is who has it where `acquired` is False."""

    acquired: bool
    fence: int | None
    holder: str | None
    expires_at: datetime | None


@dataclass(frozen=True)
class Launchable:
    """A reserved execution to launch.

    `run_key` launches once; `stale`: offered two minutes ago and not started.
    """

    execution_id: str
    workflow_type: str
    launch_number: int
    run_key: str
    batch_size: int
    priority_score: int
    retry_count: int
    created_at: datetime
    stale: bool


@dataclass(frozen=True)
class Adopted:
    """Executions that outsiders inserted: reserved now, or refused or left waiting with a reason.

    `refused` and `waiting` hold (execution_id, reason).
    """

    adopted: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    waiting: tuple[tuple[str, str], ...] = ()


# ---- the tick --------------------------------------------------------------------------------------------


def acquire_coordinator_lease(
    db: Database, worker_id: str, *, ttl_seconds: int | None = None, current_time: datetime | None = None
) -> CoordinatorLease:
    """Takes (or renews) the coordinator's lease for `ttl_seconds`.

    Another holder's lease is respected until it ends.
    """
    answer = db.call(
        "acquire_coordinator_lease",
        worker_id=worker_id,
        **given(ttl_seconds=ttl_seconds, current_time=current_time),
    )
    expires_at = answer.get("expires_at")
    return CoordinatorLease(
        bool(answer["acquired"]),
        answer.get("fence"),
        answer.get("holder"),
        None if expires_at is None else datetime.fromisoformat(expires_at),
    )


def release_coordinator_lease(db: Database, worker_id: str) -> bool:
    """Gives the lease back; False where `worker_id` doesn't hold it."""
    return bool(db.call("release_coordinator_lease", worker_id=worker_id))


def orchestrate_workflow_execution(
    db: Database,
    worker_id: str,
    *,
    max_concurrent: int | None = None,
    debug_mode: bool = False,
    current_time: datetime | None = None,
) -> Json:
    """The whole decision in one transaction: analyse, plan, reserve, create executions.

    Where it must not proceed, `success` is False and `reason` and `action` say why.
    """
    answer: Json = db.call(
        "orchestrate_workflow_execution",
        worker_id=worker_id,
        debug_mode=debug_mode,
        **given(max_concurrent=max_concurrent, current_time=current_time),
    )
    return answer


def check_system_health(db: Database, *, current_time: datetime | None = None) -> Json:
    """`check_system_health_comprehensive`."""
    answer: Json = db.call("check_system_health_comprehensive", **given(current_time=current_time))
    return answer


def get_intelligent_scheduled_tasks(
    db: Database, current_time: datetime, *, max_concurrent: int | None = None
) -> Json:
    """What each pipeline would be given now, and why."""
    answer: Json = db.call(
        "get_intelligent_scheduled_tasks", current_time=current_time, **given(max_concurrent=max_concurrent)
    )
    return answer


def check_resource_availability(
    db: Database, scheduled_tasks: Mapping[str, Any], *, current_time: datetime | None = None
) -> Json:
    """`check_comprehensive_resource_availability`; `{"tasks": []}` asks about resources alone."""
    answer: Json = db.call(
        "check_comprehensive_resource_availability",
        scheduled_tasks=Jsonb(scheduled_tasks),
        **given(current_time=current_time),
    )
    return answer


def create_optimal_execution_plan(
    db: Database,
    scheduled_tasks: Mapping[str, Any],
    resource_status: Mapping[str, Any],
    worker_id: str,
    current_time: datetime,
) -> Json:
    """The plan that fits the resources; reserves nothing."""
    answer: Json = db.call(
        "create_optimal_execution_plan",
        scheduled_tasks=Jsonb(scheduled_tasks),
        resource_status=Jsonb(resource_status),
        worker_id=worker_id,
        current_time=current_time,
    )
    return answer


def reserve_execution_resources(
    db: Database, plan: Mapping[str, Any], *, current_time: datetime | None = None
) -> bool:
    """Reserves all that a plan needs, or (False) nothing at all."""
    return bool(
        db.call("reserve_execution_resources", execution_plan=Jsonb(plan), **given(current_time=current_time))
    )


def create_execution_records(
    db: Database, plan: Mapping[str, Any], worker_id: str, *, current_time: datetime | None = None
) -> int:
    """Writes the executions of a reserved plan; answers how many."""
    return int(
        db.call(
            "create_execution_records",
            execution_plan=Jsonb(plan),
            worker_id=worker_id,
            **given(current_time=current_time),
        )
    )


def update_coordinator_state(
    db: Database,
    state: str,
    plan: Mapping[str, Any] | None,
    worker_id: str,
    *,
    current_time: datetime | None = None,
) -> bool:
    """Moves the coordinator's state machine. Raises `IllegalTransition`, naming both states."""
    return bool(
        db.call(
            "update_coordinator_state",
            state=state,
            execution_plan=Jsonb(plan or {}),
            worker_id=worker_id,
            **given(current_time=current_time),
        )
    )


def record_orchestration_metrics(
    db: Database, plan: Mapping[str, Any], system_health: Mapping[str, Any], timestamp: datetime
) -> None:
    """Keeps what was decided, why, and what it cost."""
    db.call(
        "record_orchestration_metrics",
        execution_plan=Jsonb(plan),
        system_health=Jsonb(system_health),
        timestamp=timestamp,
    )


def log_orchestration_error(
    db: Database,
    error_code: str,
    error_message: str,
    context: Mapping[str, Any],
    worker_id: str,
    *,
    current_time: datetime | None = None,
) -> None:
    """Keeps an error; SQL takes secrets out before it stores."""
    db.call(
        "log_orchestration_error",
        error_code=error_code,
        error_message=error_message,
        execution_context=Jsonb(context),
        worker_id=worker_id,
        **given(current_time=current_time),
    )


def record_health_metric(
    db: Database,
    name: str,
    value: Decimal | int,
    unit: str,
    *,
    source: str | None = None,
    warning: Decimal | int | None = None,
    critical: Decimal | int | None = None,
    tags: Mapping[str, Any] | None = None,
    current_time: datetime | None = None,
) -> None:
    """Keeps a figure under its name, with its trend against the one before; one row a name.

    It is unhealthy from `warning` (or `critical`) on; where `warning` is above `critical`, up to it. Raises
    `InvalidInput`.
    """
    db.call(
        "record_health_metric",
        name=name,
        value=value,
        unit=unit,
        tags=Jsonb(tags or {}),
        **given(source=source, warning=warning, critical=critical, current_time=current_time),
    )


def promote_due_tasks(db: Database, *, current_time: datetime | None = None, limit: int | None = None) -> int:
    """Puts deferred tasks whose time has come back into the queue; answers how many."""
    return int(db.call("promote_due_tasks", **given(current_time=current_time, limit=limit)))


def refresh_resource_usage(db: Database, *, current_time: datetime | None = None) -> Json:
    """Writes a row for each resource (API calls, budget, connections, memory) and answers what it wrote."""
    answer: Json = db.call("refresh_resource_usage", **given(current_time=current_time))
    return answer


# ---- launching ---------------------------------------------------------------------------------------------


def launchable_executions(
    db: Database, *, limit: int | None = None, current_time: datetime | None = None
) -> list[Launchable]:
    """Reserved executions that wait for their run, most urgent first. Asking marks nothing."""
    rows = db.call_rows("launchable_executions", **given(limit=limit, current_time=current_time))
    names = Launchable.__dataclass_fields__
    return [Launchable(**{name: row[name] for name in names}) for row in rows]


def relaunch_execution(
    db: Database, execution_id: str, launch_number: int, *, current_time: datetime | None = None
) -> int:
    """The next launch number for an execution that didn't start.

    The current one where somebody moved it already.
    """
    return int(
        db.call(
            "relaunch_execution",
            execution_id=execution_id,
            launch_number=launch_number,
            **given(current_time=current_time),
        )
    )


def adopt_executions(db: Database, *, current_time: datetime | None = None) -> Adopted:
    """Reserves, or refuses with a reason, executions that outsiders inserted."""
    answer = db.call("adopt_executions", **given(current_time=current_time))
    return Adopted(
        tuple(_execution_id(item) for item in answer["adopted"]),
        tuple((item["execution_id"], item["reason"]) for item in answer["refused"]),
        tuple((item["execution_id"], item["reason"]) for item in answer.get("waiting") or ()),
    )


def _execution_id(item: str | Mapping[str, str]) -> str:
    return item if isinstance(item, str) else item["execution_id"]


# ---- recovery ----------------------------------------------------------------------------------------------


def recover_executions(db: Database, *, current_time: datetime | None = None) -> Json:
    """Recovers what timed out or lost its lease.

    `{recovered: [{execution_id, workflow_type, reason, tasks_requeued, tasks_parked, calls_settled,
    calls_released, run_id}], requeued, parked}`.
    """
    answer: Json = db.call("recover_executions", **given(current_time=current_time))
    return answer


def report_run_failure(
    db: Database, execution_id: str, run_id: str, reason: str, *, current_time: datetime | None = None
) -> Json:
    """Tells that a Dagster run ended badly: its execution is recovered now.

    `{ignored: why}` where that's moot.
    """
    answer: Json = db.call(
        "report_run_failure",
        execution_id=execution_id,
        run_id=run_id,
        reason=reason.replace("\x00", "\ufffd"),
        **given(current_time=current_time),
    )
    return answer


# ---- configuration -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A setting whose row in the database (which wins) isn't what the environment says."""

    name: str
    row: str
    environment: str

    def __str__(self) -> str:
        return (
            f"{self.name} stays {self.row}, as the database says; the environment says {self.environment}"
            " (the row wins)"
        )


@dataclass(frozen=True)
class Configured:
    """Which settings were seeded from the environment, and which differ from it."""

    seeded: tuple[str, ...]
    differing: tuple[Difference, ...]


def configure_platform(db: Database, settings: Mapping[str, Any]) -> Configured:
    """Seeds rows from the environment (`Settings.platform_settings()`). Raises `InvalidInput`."""
    return configured(db.call("configure_platform", settings=Jsonb(settings)))


def configured(answer: Mapping[str, Any]) -> Configured:
    """What `configure_platform` answered, typed."""
    return Configured(
        tuple(answer["seeded"]),
        tuple(
            Difference(item["name"], str(item["row"]), str(item["environment"]))
            for item in answer["differing"]
        ),
    )
