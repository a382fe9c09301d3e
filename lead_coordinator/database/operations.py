"""What a person does to a running platform, and asks it. Synchronous; each function is one SQL function.

Whatever changes something is recorded in `lead.audit_log` with who and why. `actor` is who asks for it (a
name, an address, an agent's id); without one the session's setting `lead.actor` counts, then the database
role. `current_time` is always optional: without it the database's own clock counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import Database, given
from lead_coordinator.database.queue import NewTask

Json = dict[str, Any]


# ---- dead letters ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeadLetterFilter:
    """Which dead letters: all conditions that are given must hold.

    An empty filter lists all that are open; to replay or discard all of them, `all` must be said.
    `message_contains` looks for a part of the error message, in any case. `resolution` (open, replayed,
    discarded, any) is for listing only; replaying and discarding always mean open ones.
    """

    task_ids: Sequence[int] | None = None
    task_type: str | None = None
    error_class: str | None = None
    tenant: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    message_contains: str | None = None
    all: bool | None = None
    resolution: str | None = None

    def as_json(self) -> Json:
        """What was given, under the keys that the SQL functions take."""
        return given(**{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass(frozen=True)
class DeadLetter:
    """A task that died, once: why, and its whole failure context.

    `resolution` is None while it is open, else replayed or discarded. `times_replayed`: how often the task
    had been replayed before it died this time. `payload`, `priority` and `cost_usd` are the task's, and None
    once it was deleted.
    """

    dead_letter_id: int
    task_id: int
    task_type: str
    tenant: str | None
    reason: str
    error_class: str
    error_message: str
    context: Mapping[str, Any]
    times_replayed: int
    created_at: datetime
    resolution: str | None
    resolved_at: datetime | None
    resolved_by: str | None
    resolution_reason: str | None
    payload: Mapping[str, Any] | None
    priority: int | None
    cost_usd: Decimal | None


@dataclass(frozen=True)
class Discarded:
    """Tasks that ended as failed; `dependents_waiting` others depend on one of them and go on waiting."""

    task_ids: tuple[int, ...]
    dependents_waiting: int


def list_dead_letters(
    db: Database, filter: DeadLetterFilter | None = None, *, limit: int | None = None
) -> list[DeadLetter]:
    """Dead letters that match, newest first, at most `limit` (100). Raises `InvalidInput`."""
    rows = db.call_rows("list_dead_letters", filter=_jsonb(filter), **given(limit=limit))
    names = [field.name for field in fields(DeadLetter)]
    return [DeadLetter(**{name: row[name] for name in names}) for row in rows]


def replay_dead_letters(
    db: Database,
    filter: DeadLetterFilter,
    *,
    actor: str | None = None,
    reason: str | None = None,
    limit: int | None = None,
    current_time: datetime | None = None,
) -> tuple[int, ...]:
    """Queues matching tasks again at once, the oldest `limit` (1000), with all their attempts before them.

    Answers their ids. Their history stays, and the letter says who replayed it. Raises `InvalidInput`, also
    for an empty filter.
    """
    answer = db.call(
        "replay_dead_letters",
        filter=_jsonb(filter),
        actor=actor,
        **given(reason=reason, limit=limit, current_time=current_time),
    )
    return tuple(answer["task_ids"])


def discard_dead_letters(
    db: Database,
    filter: DeadLetterFilter,
    reason: str,
    *,
    actor: str | None = None,
    limit: int | None = None,
    current_time: datetime | None = None,
) -> Discarded:
    """Gives matching tasks up for good, the oldest `limit` (1000). Raises `InvalidInput`."""
    answer = db.call(
        "discard_dead_letters",
        filter=_jsonb(filter),
        reason=reason,
        **given(actor=actor, limit=limit, current_time=current_time),
    )
    return Discarded(tuple(answer["task_ids"]), answer["dependents_waiting"])


def _jsonb(filter: DeadLetterFilter | None) -> Jsonb:
    return Jsonb({} if filter is None else filter.as_json())


# ---- one task, one breaker, one setting, one policy --------------------------------------------------------


@dataclass(frozen=True)
class Reprioritised:
    """`changed` is False where the task has ended, or had this priority already."""

    task_id: int
    changed: bool
    status: str
    priority_before: int
    priority: int
    score: int


@dataclass(frozen=True)
class BreakerReset:
    """A breaker that is closed now; `tasks_due` waited for its destination and are due."""

    name: str
    state_before: str
    state: str
    failures_before: int
    tasks_due: int


@dataclass(frozen=True)
class SettingChanged:
    """A row of `lead.setting` and its value before and after, as text, in its unit."""

    name: str
    before: str
    after: str
    unit: str


@dataclass(frozen=True)
class PolicyChanged:
    """The columns of a policy that are different now, before and after."""

    workflow_type: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


def reprioritise_task(
    db: Database,
    task_id: int,
    priority: int,
    *,
    actor: str | None = None,
    reason: str | None = None,
    current_time: datetime | None = None,
) -> Reprioritised:
    """Gives a task that has not ended another base priority (0 to 100).

    Raises `NotFound` and `InvalidInput`.
    """
    answer = db.call(
        "reprioritise_task",
        task_id=task_id,
        priority=priority,
        **given(actor=actor, reason=reason, current_time=current_time),
    )
    return Reprioritised(**answer)


def reset_breaker(
    db: Database,
    name: str,
    *,
    actor: str | None = None,
    reason: str | None = None,
    current_time: datetime | None = None,
) -> BreakerReset:
    """Closes a circuit breaker (`provider:gemini`, `pipeline:content_pipeline`) at once.

    Raises `InvalidInput`, naming those there are.
    """
    answer = db.call(
        "reset_breaker", name=name, **given(actor=actor, reason=reason, current_time=current_time)
    )
    return BreakerReset(**answer)


def change_setting(
    db: Database, name: str, value: object, *, actor: str | None = None, reason: str | None = None
) -> SettingChanged:
    """Changes a row of `lead.setting`. Raises `InvalidInput`, naming the range and the unit."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    answer = db.call("change_setting", name=name, value=text, **given(actor=actor, reason=reason))
    return SettingChanged(**answer)


def change_policy(
    db: Database,
    workflow_type: str,
    changes: Mapping[str, Any],
    *,
    actor: str | None = None,
    reason: str | None = None,
) -> PolicyChanged:
    """Changes columns of a workflow's policy, all or none.

    Raises `InvalidInput`, naming the column, the value and the range.
    """
    answer = db.call(
        "change_policy",
        workflow_type=workflow_type,
        changes=Jsonb(changes),
        **given(actor=actor, reason=reason),
    )
    return PolicyChanged(**answer)


# ---- calling an execution off ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExecutionCancelled:
    """`status`: cancelled, or still running: it is told with its next heartbeat, and ends as cancelled.

    `changed` is False where it had ended already. `returned`: tasks that are in the queue again.
    """

    execution_id: str
    status_before: str
    status: str
    changed: bool
    returned: int


def cancel_execution(
    db: Database,
    execution_id: str,
    reason: str,
    *,
    actor: str | None = None,
    current_time: datetime | None = None,
) -> ExecutionCancelled:
    """Calls an execution off; its tasks go back to the queue, no attempt of theirs is spent.

    Raises `NotFound` and `InvalidInput`.
    """
    answer = db.call(
        "cancel_execution",
        execution_id=execution_id,
        reason=reason,
        **given(actor=actor, current_time=current_time),
    )
    return ExecutionCancelled(**answer)


# ---- pausing a type or a tenant ----------------------------------------------------------------------------


@dataclass(frozen=True)
class QueueMode:
    """`mode` now and before (`was`): open, paused or draining; `waiting`: tasks it has in the queue."""

    mode: str
    was: str
    waiting: int


def pause_queue(
    db: Database,
    *,
    task_type: str | None = None,
    tenant: str | None = None,
    actor: str,
    reason: str,
    current_time: datetime | None = None,
) -> QueueMode:
    """Nothing of the type, or of the tenant, is started any more; it goes on taking tasks.

    Exactly one of `task_type` and `tenant` is given. Raises `InvalidInput`.
    """
    return _set_mode(db, "pause_queue", task_type, tenant, actor, reason, current_time)


def drain_queue(
    db: Database,
    *,
    task_type: str | None = None,
    tenant: str | None = None,
    actor: str,
    reason: str,
    current_time: datetime | None = None,
) -> QueueMode:
    """No new task of the type, or of the tenant, is taken (`TypeDisabled`); what waits is worked off.

    Exactly one of `task_type` and `tenant` is given. Raises `InvalidInput`.
    """
    return _set_mode(db, "drain_queue", task_type, tenant, actor, reason, current_time)


def resume_queue(
    db: Database,
    *,
    task_type: str | None = None,
    tenant: str | None = None,
    actor: str,
    reason: str,
    current_time: datetime | None = None,
) -> QueueMode:
    """Opens what was paused or draining. Raises `InvalidInput`."""
    return _set_mode(db, "resume_queue", task_type, tenant, actor, reason, current_time)


def _set_mode(
    db: Database,
    function: str,
    task_type: str | None,
    tenant: str | None,
    actor: str,
    reason: str,
    current_time: datetime | None,
) -> QueueMode:
    answer = db.call(
        function,
        task_type=task_type,
        tenant=tenant,
        actor=actor,
        reason=reason,
        **given(current_time=current_time),
    )
    return QueueMode(answer["mode"], answer["was"], int(answer["waiting"]))


# ---- asking ------------------------------------------------------------------------------------------------


def explain_task(db: Database, task_id: int, *, current_time: datetime | None = None) -> Json:
    """Where a task stands and why it has not run.

    `status`, `score` (each term with its points), `rank` among what waits, `type` (its standing), `why`
    (what stands in its way, as sentences with numbers), `next`, `notes`, `last_tick`, `attempts`, `calls`,
    `cost`. Raises `NotFound`.
    """
    answer: Json = db.call("explain_task", task_id=task_id, **given(current_time=current_time))
    return answer


def estimate_tasks(db: Database, tasks: Sequence[NewTask], *, current_time: datetime | None = None) -> Json:
    """What these tasks would cost and when they would be done; nothing is submitted.

    `tasks`, `duplicates`, `expected_cost_usd`, `maximum_cost_usd`, `expected_start`, `expected_finish` (None
    where it can't be told), `budget`, `types` (the same for each, and on what it is based), `warnings`.
    Raises `InvalidInput` like `submit_tasks`.
    """
    objects = Jsonb([task.as_parameters() for task in tasks])
    answer: Json = db.call("estimate_tasks", tasks=objects, **given(current_time=current_time))
    return answer


# ---- retention ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pruned:
    """One step of pruning: rows deleted by table. `more`: another step would find more to look at."""

    deleted: Mapping[str, int]
    more: bool
    reason: str | None = None


def prune_history(
    db: Database,
    *,
    keep: timedelta | None = None,
    limit: int | None = None,
    current_time: datetime | None = None,
) -> Pruned:
    """Deletes what ended before `keep` ago (the setting `history_keep_days`): one bounded step.

    At most `limit` (10,000) rows of each table. Raises `InvalidInput`.
    """
    answer = db.call("prune_history", **given(keep=keep, limit=limit, current_time=current_time))
    return Pruned(answer["deleted"], answer["more"], answer.get("reason"))


@dataclass(frozen=True)
class SparseIndex:
    """An index that is far larger than its entries need, in bytes."""

    schema_name: str
    index_name: str
    table_name: str
    size_bytes: int
    expected_bytes: int


def find_sparse_indexes(db: Database, *, minimum_bytes: int | None = None) -> list[SparseIndex]:
    """Indexes of at least `minimum_bytes` (8 MB) that are twice as large as expected; largest waste first."""
    rows = db.call_rows("find_sparse_indexes", **given(minimum_bytes=minimum_bytes))
    return [SparseIndex(**row) for row in rows]
