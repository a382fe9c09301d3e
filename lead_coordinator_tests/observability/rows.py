"""Rows of work done, as the control plane would have left them, at times that a test chooses."""

import itertools
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from lead_coordinator.database.connection import Database

_numbers = itertools.count(1)


def set_timezone(db: Database, name: str) -> None:
    db.execute("UPDATE lead.setting SET value = %s WHERE name = 'coordinator_timezone'", [name])


def add_execution(db: Database, *, status: str = "completed", completed: datetime | None = None) -> str:
    """A finished execution that ran for ten seconds; answers its id."""
    execution_id = f"content-{next(_numbers)}"
    completed = completed or datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
    db.execute(
        "INSERT INTO public.workflow_orchestration"
        " (execution_id, workflow_type, status, worker_id, started_at, completed_at, batch_size)"
        " VALUES (%s, 'content_pipeline', %s, 'test', %s, %s, 1)",
        [execution_id, status, completed - timedelta(seconds=10), completed],
    )
    return execution_id


def add_attempt(
    db: Database,
    *,
    created: datetime,
    started: datetime | None = None,
    took: float = 10,
    outcome: str = "completed",
    execution_id: str = "content-0",
) -> int:
    """A task submitted at `created` and one try of it that ended `took` seconds after; answers the task's
    id.
    """
    ended = created + timedelta(seconds=took)
    status = {"completed": "completed", "dead_letter": "dead_letter"}.get(outcome, "queued")
    row = db.row(
        "INSERT INTO lead.task (task_type, status, created_at, queued_at, processed_at, attempts)"
        " VALUES ('content_generation', %s, %s, %s, %s, 1) RETURNING id",
        [status, created, created, ended if status != "queued" else None],
    )
    assert row is not None
    db.execute(
        "INSERT INTO lead.task_attempt (task_id, attempt, execution_id, started_at, ended_at, outcome)"
        " VALUES (%s, 1, %s, %s, %s, %s)",
        [row["id"], execution_id, started or created, ended, outcome],
    )
    return int(row["id"])


def add_call(
    db: Database,
    execution_id: str,
    *,
    cost: Decimal | None,
    day: date,
    provider: str = "gemini",
    status: str = "settled",
    outcome: str = "ok",
    maximum: Decimal = Decimal("0.09"),
    reserved: datetime | None = None,
    booked: Decimal | None = None,
) -> None:
    """A call of a budget day, and what the ledger booked for it (its cost, unless a test says otherwise)."""
    reserved = reserved or datetime(day.year, day.month, day.day, 9, 0, tzinfo=UTC)
    db.execute(
        "INSERT INTO lead.api_call (execution_id, fence, task_id, attempt, step, provider, model, status, "
        "outcome,"
        " budget_day, max_cost_usd, cost_usd, input_tokens, output_tokens, thinking_tokens, slot_no, use_by,"
        " reserved_at) VALUES (%s, 1, 1, 1, 'draft', %s, 'model', %s, %s, %s, %s, %s, 900, 700, 30, 1, %s, "
        "%s)",
        [
            execution_id,
            provider,
            status,
            outcome if status == "settled" else None,
            day,
            maximum,
            cost,
            reserved,
            reserved,
        ],
    )
    if status == "settled":
        db.execute(
            "INSERT INTO lead.budget_account (budget_day, scope, scope_key, spent_usd) VALUES (%s, 'total', "
            "'', %s)"
            " ON CONFLICT (budget_day, scope, scope_key)"
            " DO UPDATE SET spent_usd = lead.budget_account.spent_usd + excluded.spent_usd",
            [day, cost if booked is None else booked],
        )
