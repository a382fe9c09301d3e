"""The queue: submitting, cancelling and looking at tasks. Synchronous; each function is one SQL function.

Money is US dollars (Decimal), times are aware datetimes, priorities 0 to 100 (more is sooner).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import Database, given


@dataclass(frozen=True)
class NewTask:
    """A task to submit. `idempotency_key`: a second submission with the same key makes no second task.

    `not_before`: it isn't given out earlier. `dependencies`: ids of tasks that must be completed first.
    `estimated_cost` in US dollars, `estimated_duration_ms`, `predicted_success_rate` (0 to 1) and
    `complexity_score` (0 to 100): what is believed about it.
    """

    task_type: str
    payload: Mapping[str, Any]
    priority: int | None = None
    idempotency_key: str | None = None
    value_usd: Decimal | None = None
    deadline: datetime | None = None
    not_before: datetime | None = None
    dependencies: Sequence[int] = field(default=())
    tenant: str | None = None
    estimated_cost: Decimal | None = None
    estimated_duration_ms: int | None = None
    predicted_success_rate: Decimal | None = None
    complexity_score: Decimal | None = None

    def as_parameters(self) -> dict[str, Any]:
        """What was given, under the names that `submit_task` and the objects of `submit_tasks` use."""
        return given(
            task_type=self.task_type,
            payload=self.payload,
            priority=self.priority,
            idempotency_key=self.idempotency_key,
            value_usd=self.value_usd,
            deadline=self.deadline,
            not_before=self.not_before,
            dependencies=list(self.dependencies) or None,
            tenant=self.tenant,
            estimated_cost=self.estimated_cost,
            estimated_duration_ms=self.estimated_duration_ms,
            predicted_success_rate=self.predicted_success_rate,
            complexity_score=self.complexity_score,
        )


@dataclass(frozen=True)
class SubmittedTask:
    """`created` is False where a task with this idempotency key was there already.

    `status` is then its own.
    """

    task_id: int
    created: bool
    status: str | None = None


@dataclass(frozen=True)
class SubmittedTasks:
    """Outcome of `submit_tasks`.

    How many are new, how many were there already, and each in the order given.
    """

    submitted: int
    duplicates: int
    tasks: tuple[SubmittedTask, ...]


def submit_task(db: Database, task: NewTask, *, current_time: datetime | None = None) -> SubmittedTask:
    """Puts one task into the queue.

    Raises `InvalidInput` (field, value, what is allowed) and `TypeDisabled`.
    """
    parameters = task.as_parameters() | {"payload": Jsonb(task.payload)}
    answer = db.call("submit_task", **parameters, **given(current_time=current_time))
    return SubmittedTask(answer["task_id"], answer["created"], answer["status"])


def submit_tasks(
    db: Database, tasks: Sequence[NewTask], *, current_time: datetime | None = None
) -> SubmittedTasks:
    """Puts many tasks into the queue in one transaction: all or none.

    Raises `InvalidInput` (index and field named) and `TypeDisabled`; then nothing was submitted.
    """
    objects = Jsonb([task.as_parameters() for task in tasks])
    answer = db.call("submit_tasks", tasks=objects, **given(current_time=current_time))
    return SubmittedTasks(
        answer["submitted"],
        answer["duplicates"],
        tuple(
            SubmittedTask(item["task_id"], item["created"], item.get("status")) for item in answer["tasks"]
        ),
    )


def cancel_task(
    db: Database,
    task_id: int,
    reason: str,
    *,
    actor: str | None = None,
    current_time: datetime | None = None,
) -> bool:
    """Cancels a task that waits. False: it is being worked on, or has ended. Raises `NotFound`.

    `actor`: who asks for it, for the audit log.
    """
    parameters = given(actor=actor, current_time=current_time)
    return bool(db.call("cancel_task", task_id=task_id, reason=reason, **parameters))


def get_task(db: Database, task_id: int) -> dict[str, Any]:
    """The whole task: its row in `task_queue` and `task_attempts`, `calls`, `publication`, `dead_letter`
    (while one is open) and `dead_letters` (all there ever were).

    `attempts` in the row counts those spent; `task_attempts` holds each, oldest first. Raises `NotFound`.
    """
    answer: dict[str, Any] = db.call("get_task", task_id=task_id)
    return answer
