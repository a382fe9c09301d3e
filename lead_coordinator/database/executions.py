"""An execution (a batch of tasks) as the run that works it sees it. Asynchronous; each function is one SQL
function.

Every write carries the lease: the execution's id and its fencing number. Once the execution was given up for
dead, or launched again, each of these raises `StaleLease`, and the run must stop without writing anything
more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import AsyncDatabase, given
from lead_coordinator.errors import ErrorClass


@dataclass(frozen=True)
class Lease:
    """The right to write for one execution; `fence` only grows."""

    execution_id: str
    fence: int


@dataclass(frozen=True)
class ClaimedTask:
    """A task of the batch. `attempt` counts from 1; `value_usd` in US dollars."""

    task_id: int
    task_type: str
    payload: Mapping[str, Any]
    attempt: int
    value_usd: Decimal | None
    deadline_at: datetime | None
    tenant: str | None
    submitted_at: datetime


@dataclass(frozen=True)
class ClaimedBatch:
    """What a worker of its own has claimed: one lease for all of it."""

    lease: Lease
    tasks: tuple[ClaimedTask, ...]


@dataclass(frozen=True)
class StartedExecution:
    """`heartbeat_seconds`: how often to report; the lease ends at `lease_expires_at` unless it is renewed.

    `timeout_at`: the run is stopped and recovered then. `item_cost_limit_usd`: most that one task may cost.
    """

    lease: Lease
    workflow_type: str
    lease_expires_at: datetime
    timeout_at: datetime
    heartbeat_seconds: float
    item_cost_limit_usd: Decimal | None
    tasks: tuple[ClaimedTask, ...]


@dataclass(frozen=True)
class Heartbeat:
    """`stop`: end now, for `reason`; what isn't done goes back to the queue."""

    lease_expires_at: datetime
    stop: bool
    reason: str | None


@dataclass(frozen=True)
class FailedTask:
    """What became of a failed task: `status` deferred (again at `retry_at`) or dead_letter."""

    status: str
    retry_at: datetime | None
    attempts: int
    defer_reason: str | None


@dataclass(frozen=True)
class FinishedExecution:
    """How the batch ended: tasks completed, failed, given back to the queue; cost in US dollars."""

    status: str
    completed: int
    failed: int
    returned: int
    actual_cost: Decimal


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _known_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _money(value: int | Decimal | str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


async def start_execution(
    db: AsyncDatabase,
    execution_id: str,
    launch_number: int,
    run_id: str,
    *,
    memory_mb: int | None = None,
    current_time: datetime | None = None,
) -> StartedExecution:
    """Takes the execution over, first thing in the run: pending becomes running, the lease begins.

    `memory_mb`: what the process holds now. Raises `StaleLease` where it isn't pending or another launch came
    later, `NotFound` where nobody reserved it.
    """
    answer = await db.call(
        "start_execution",
        execution_id=execution_id,
        launch_number=launch_number,
        run_id=run_id,
        **given(memory_mb=memory_mb, current_time=current_time),
    )
    return StartedExecution(
        lease=Lease(answer["execution_id"], answer["fence"]),
        workflow_type=answer["workflow_type"],
        lease_expires_at=_known_time(answer["lease_expires_at"]),
        timeout_at=_known_time(answer["timeout_at"]),
        heartbeat_seconds=float(answer["heartbeat_seconds"]),
        item_cost_limit_usd=_money(answer["item_cost_limit_usd"]),
        tasks=tuple(
            ClaimedTask(
                task_id=task["task_id"],
                task_type=task["task_type"],
                payload=task["payload"],
                attempt=task["attempt"],
                value_usd=_money(task["value_usd"]),
                deadline_at=_time(task["deadline_at"]),
                tenant=task["tenant"],
                submitted_at=_known_time(task["submitted_at"]),
            )
            for task in answer["tasks"]
        ),
    )


async def claim_tasks(
    db: AsyncDatabase,
    worker_id: str,
    task_type: str,
    *,
    limit: int | None = None,
    lease_seconds: int | None = None,
    current_time: datetime | None = None,
) -> ClaimedBatch | None:
    """Takes the best `limit` (1) waiting tasks at once, for a worker that brings its own capacity.

    It takes none of the platform's slots and memory; its calls draw on the day's budget. The lease lasts
    `lease_seconds` (60) and is renewed by `heartbeat_execution`. None: nothing waits, or the type is paused.
    Raises `InvalidInput`.
    """
    rows = await db.call_rows(
        "claim_tasks",
        worker_id=worker_id,
        task_type=task_type,
        **given(limit=limit, lease_seconds=lease_seconds, current_time=current_time),
    )
    if not rows:
        return None
    return ClaimedBatch(
        Lease(rows[0]["execution_id"], rows[0]["fence"]),
        tuple(
            ClaimedTask(
                task_id=row["task_id"],
                task_type=task_type,
                payload=row["payload"],
                attempt=row["attempt"],
                value_usd=row["value_usd"],
                deadline_at=row["deadline_at"],
                tenant=row["tenant"],
                submitted_at=row["submitted_at"],
            )
            for row in rows
        ),
    )


async def complete_tasks(
    db: AsyncDatabase,
    lease: Lease,
    results: Mapping[int, Mapping[str, Any]] | None = None,
    *,
    finish: bool = True,
    current_time: datetime | None = None,
) -> int:
    """Completes many tasks of an execution in one call: those in `results` (id: result), or all it holds.

    With `finish` the execution ends too, and what it still held goes back to the queue. Answers how many were
    completed. Raises `StaleLease`.
    """
    objects = (
        None
        if results is None
        else Jsonb([{"task_id": task_id, "result": result} for task_id, result in results.items()])
    )
    answer = await db.call(
        "complete_tasks",
        execution_id=lease.execution_id,
        fence=lease.fence,
        results=objects,
        finish=finish,
        **given(current_time=current_time),
    )
    return int(answer)


async def heartbeat_execution(
    db: AsyncDatabase, lease: Lease, *, memory_mb: int | None = None, current_time: datetime | None = None
) -> Heartbeat:
    """Renews the lease and reports memory in MB. Raises `StaleLease`."""
    answer = await db.call(
        "heartbeat_execution",
        execution_id=lease.execution_id,
        fence=lease.fence,
        **given(memory_mb=memory_mb, current_time=current_time),
    )
    return Heartbeat(_known_time(answer["lease_expires_at"]), bool(answer["stop"]), answer["reason"])


async def complete_task(
    db: AsyncDatabase,
    lease: Lease,
    task_id: int,
    result: Mapping[str, Any] | None = None,
    *,
    current_time: datetime | None = None,
) -> None:
    """Marks a task of the batch as completed.

    Raises `StaleLease`; repeated by the same lease it changes nothing.
    """
    await db.call(
        "complete_task",
        task_id=task_id,
        execution_id=lease.execution_id,
        fence=lease.fence,
        result=Jsonb(result or {}),
        **given(current_time=current_time),
    )


async def fail_task(
    db: AsyncDatabase,
    lease: Lease,
    task_id: int,
    error_class: ErrorClass,
    error_message: str,
    *,
    error_context: Mapping[str, Any] | None = None,
    retry_after_ms: int | None = None,
    current_time: datetime | None = None,
) -> FailedTask:
    """Reports that a task failed.

    SQL decides by `error_class` whether it is retried, deferred or dead-lettered.
    """
    answer = await db.call(
        "fail_task",
        task_id=task_id,
        execution_id=lease.execution_id,
        fence=lease.fence,
        error_class=error_class,
        error_message=error_message.replace("\x00", "\ufffd"),
        error_context=Jsonb(error_context or {}),
        **given(retry_after_ms=retry_after_ms, current_time=current_time),
    )
    return FailedTask(answer["status"], _time(answer["retry_at"]), answer["attempts"], answer["defer_reason"])


async def give_back_tasks(
    db: AsyncDatabase,
    lease: Lease,
    task_ids: Sequence[int],
    reason: str,
    *,
    current_time: datetime | None = None,
) -> int:
    """Puts tasks of the batch back into the queue; no attempt is spent. Answers how many it still held.

    Raises `StaleLease`.
    """
    answer = await db.call(
        "give_back_tasks",
        execution_id=lease.execution_id,
        fence=lease.fence,
        task_ids=list(task_ids),
        reason=reason.replace("\x00", "\ufffd"),
        **given(current_time=current_time),
    )
    return int(answer)


async def finish_execution(
    db: AsyncDatabase,
    lease: Lease,
    status: str,
    *,
    output: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    current_time: datetime | None = None,
) -> FinishedExecution:
    """Ends the execution (`completed` or `failed`); tasks it still holds go back to the queue.

    Raises `StaleLease`.
    """
    answer = await db.call(
        "finish_execution",
        execution_id=lease.execution_id,
        fence=lease.fence,
        status=status,
        output=Jsonb(output or {}),
        error=None if error is None else Jsonb(error),
        **given(current_time=current_time),
    )
    return FinishedExecution(
        answer["status"],
        answer["completed"],
        answer["failed"],
        answer["returned"],
        Decimal(answer["actual_cost"]),
    )
