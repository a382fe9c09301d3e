"""Ways to break the SQL of a race's database, to see that the checks notice.

Each takes one guard out of one function, in the database only.
"""

from __future__ import annotations

from dataclasses import dataclass

from lead_coordinator.database.connection import Database


@dataclass(frozen=True)
class Sabotage:
    """In the body of `function`, `guard` is replaced by `without`."""

    function: str
    guard: str
    without: str


SABOTAGES: dict[str, tuple[Sabotage, ...]] = {
    # Who was given up for dead may write: the lease and the task's holder are not looked at.
    "fence": (
        Sabotage(
            "held_execution",
            "IF v_execution.status <> 'running' OR v_execution.fence IS DISTINCT FROM p_fence THEN",
            "IF false THEN",
        ),
    ),
    "holder": (
        Sabotage(
            "held_execution",
            "IF v_execution.status <> 'running' OR v_execution.fence IS DISTINCT FROM p_fence THEN",
            "IF false THEN",
        ),
        Sabotage(
            "held_task",
            "IF v_task.status <> 'processing' OR v_task.execution_id IS DISTINCT FROM p_execution_id THEN",
            "IF false THEN",
        ),
        Sabotage("complete_tasks", "t.execution_id = p_execution_id AND ", ""),
    ),
    # The hard limit is looked at before the row is locked, as one might write it.
    "budget": (
        Sabotage(
            "budget_hold",
            "AND (p_limit IS NULL OR a.spent_usd + a.held_usd + p_amount <= p_limit)",
            "AND (p_limit IS NULL OR (SELECT b.spent_usd + b.held_usd FROM lead.budget_account AS b"
            " WHERE b.budget_day = p_day AND b.scope = p_scope AND b.scope_key = p_key)"
            " + p_amount <= p_limit)",
        ),
    ),
    # A slot is counted as free 20 seconds too early.
    "window": (
        Sabotage(
            "begin_api_call", "f.free_at <= p_current_time", "f.free_at <= p_current_time + interval '20 s'"
        ),
    ),
    # Slots are counted without the coordinator's lock, and beyond what is free.
    "slots": (
        Sabotage(
            "capacity", "free_slots := greatest(0, max_concurrent - active)", "free_slots := max_concurrent"
        ),
    ),
    # What was sent by a dead client is forgotten.
    "unanswered": (
        Sabotage(
            "resolve_calls", "WHEN 'sent' THEN o.max_cost_usd ELSE 0 END\n", "WHEN 'sent' THEN 0 ELSE 0 END\n"
        ),
    ),
}


def sabotage(db: Database, name: str) -> None:
    """Takes the guards out. Asserts that each was there."""
    for change in SABOTAGES[name]:
        row = db.row(
            "SELECT pg_get_functiondef(p.oid) AS body FROM pg_proc AS p INNER JOIN pg_namespace AS n"
            " ON n.oid = p.pronamespace WHERE n.nspname IN ('lead', 'public') AND p.proname = %s",
            [change.function],
        )
        assert row is not None, f"there is no function {change.function}"
        assert change.guard in row["body"], f"{change.function} has no guard {change.guard!r}"
        db.execute(row["body"].replace(change.guard, change.without))
