"""What is in the database at one moment, and in what it differs from the model.

One round trip: the queries go out together. What the model knows is compared value by value; what only the
database has (the ready list, the depth log, the history of states) is compared by SQL with what it has to
equal.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import DictRow, tuple_row

from lead_coordinator_tests.properties.model import Call, Execution, Model, Task

Rows = list[tuple[Any, ...]]

QUERIES = {
    "tasks": """
        SELECT t.id, t.status, t.attempts, t.stalls, t.deferrals, t.execution_id, t.deferred_until,
            t.queued_at, t.priority_base, t.cost_usd
        FROM lead.task AS t""",
    "outcomes": """
        SELECT a.task_id, a.outcome, count(*) FROM lead.task_attempt AS a GROUP BY a.task_id, a.outcome""",
    "letters": """
        SELECT d.task_id, d.error_class, d.times_replayed
        FROM lead.dead_letter AS d WHERE d.resolution IS NULL""",
    "executions": """
        SELECT w.execution_id, w.status, w.budget_day, w.envelope_usd, w.calls_held_usd, w.actual_cost,
            w.fence, w.launch_number, w.lease_expires_at, w.timeout_at, w.tasks_completed, w.tasks_failed,
            w.task_ids, w.is_external, s.state
        FROM public.workflow_orchestration AS w
        LEFT JOIN LATERAL (
            SELECT s.state FROM public.workflow_states AS s
            WHERE s.execution_id = w.execution_id ORDER BY s.id DESC LIMIT 1
        ) AS s ON true
        WHERE w.reserved_at IS NOT NULL""",
    "calls": """
        SELECT c.id, c.execution_id, c.task_id, c.provider, c.tenant, c.status, c.budget_day, c.max_cost_usd,
            c.cost_usd
        FROM lead.api_call AS c""",
    "accounts": """
        SELECT a.budget_day, a.scope, a.scope_key, a.held_usd, a.spent_usd FROM lead.budget_account AS a
        WHERE a.held_usd <> 0 OR a.spent_usd <> 0""",
    "breakers": """
        SELECT b.name, b.state, b.consecutive_failures, b.retry_at, b.probe_limit, b.probes_started,
            b.probes_succeeded
        FROM lead.circuit_breaker AS b""",
    "providers": """
        SELECT r.provider, r.requests_per_minute, r.adaptive_limit, r.blocked_until
        FROM public.api_rate_limits AS r""",
    "reservations": """
        SELECT r.execution_id, r.plan_id, r.workflow_type, r.budget_day, r.amount_usd
        FROM lead.plan_reservation AS r""",
    "history": """
        SELECT h.workflow_type, sum(h.total_executions), sum(h.tasks_completed), sum(h.total_cost)
        FROM public.execution_history AS h GROUP BY h.workflow_type""",
    "keys": "SELECT s.idempotency_key, s.task_id FROM lead.submission AS s",
    "state": "SELECT c.state FROM lead.coordinator AS c",
    # Whatever is found here contradicts a promise by itself.
    "wrong": """
        SELECT 'depth log', d.task_type || ' ' || d.lane || ' ' || d.status, d.tasks::text FROM (
            SELECT m.task_type, m.lane, m.status, sum(m.tasks) AS tasks FROM (
                SELECT q.task_type, q.lane, q.status, q.tasks FROM lead.queue_depth_delta AS q
                UNION ALL SELECT t.task_type, coalesce(t.tenant, ''), t.status, -1 FROM lead.task AS t
            ) AS m GROUP BY m.task_type, m.lane, m.status
        ) AS d WHERE d.tasks <> 0
        UNION ALL
        SELECT 'ready list', coalesce(r.task_id, t.id)::text, coalesce(t.status, 'no task')
        FROM lead.ready AS r
        FULL JOIN (SELECT * FROM lead.task AS q WHERE q.status = 'queued') AS t
            ON t.id = r.task_id AND t.task_type = r.task_type AND coalesce(t.tenant, '') = r.lane
            AND t.score = r.score AND t.queued_at = r.queued_at
        WHERE r.task_id IS NULL OR t.id IS NULL
        UNION ALL
        SELECT 'older than the log says', r.task_id::text, r.queued_at::text
        FROM lead.ready AS r
        LEFT JOIN (
            SELECT q.task_type, q.lane, q.score, min(q.oldest_from) AS oldest_from
            FROM lead.queue_depth_delta AS q WHERE q.status = 'queued' GROUP BY q.task_type, q.lane, q.score
        ) AS l ON l.task_type = r.task_type AND l.lane = r.lane AND l.score = r.score
        WHERE l.oldest_from IS NULL OR l.oldest_from > r.queued_at
        UNION ALL
        SELECT 'oldest that waits', p.task_type, o.found::text
        FROM lead.workflow_policy AS p
        CROSS JOIN LATERAL (SELECT lead.oldest_queued(p.task_type) AS found) AS o
        WHERE o.found IS DISTINCT FROM (
            SELECT min(r.queued_at) FROM lead.ready AS r LEFT JOIN lead.tenant AS t ON t.tenant = r.lane
            WHERE r.task_type = p.task_type AND t.mode IS DISTINCT FROM 'paused'
        )
        UNION ALL
        SELECT 'due list', coalesce(d.task_id, t.id)::text, coalesce(t.status, 'no task')
        FROM lead.due AS d
        FULL JOIN (
            SELECT * FROM lead.task AS q WHERE q.status = 'deferred' AND q.deferred_until IS NOT NULL
        ) AS t
            ON t.id = d.task_id AND t.deferred_until = d.due_at
        WHERE d.task_id IS NULL OR t.id IS NULL
        UNION ALL
        SELECT 'state history', s.execution_id, s.before || ' to ' || s.state
        FROM (
            SELECT w.execution_id, w.state, w.previous_state, w.duration_ms,
                lag(w.state) OVER history AS before, lead(w.id) OVER history AS next
            FROM public.workflow_states AS w WINDOW history AS (PARTITION BY w.execution_id ORDER BY w.id)
        ) AS s
        LEFT JOIN lead.state_transition AS t
            ON t.from_state = s.before AND t.to_state = s.state
            AND t.subject = CASE s.execution_id WHEN 'coordinator' THEN 'coordinator' ELSE 'execution' END
        WHERE (s.before IS NOT NULL AND (t.to_state IS NULL OR s.previous_state <> s.before))
            OR (s.next IS NOT NULL) <> (s.duration_ms IS NOT NULL)""",
}

STATE_OF = {
    "pending": "DISPATCHING",
    "running": "MONITORING",
    "completed": "COMPLETED",
    "failed": "ERROR_RECOVERY",
    "timeout": "ERROR_RECOVERY",
    "cancelled": "COOLDOWN",
}


def take(connection: psycopg.Connection[DictRow]) -> dict[str, Rows]:
    """The rows of each query, by its name."""
    cursors = {name: connection.cursor(row_factory=tuple_row) for name in QUERIES}
    with connection.pipeline():
        for name, cursor in cursors.items():
            cursor.execute(QUERIES[name])
        return {name: cursor.fetchall() for name, cursor in cursors.items()}


def differences(model: Model, rows: dict[str, Rows], now: datetime) -> list[str]:
    """Each place in which the database isn't as the model says, as a line."""
    found = [f"{what}: {where} {which}" for what, where, which in rows["wrong"]]
    found += _compare(
        "task", {t.id: _task(t) for t in model.tasks.values()}, {r[0]: r[1:] for r in rows["tasks"]}
    )
    found += _compare(
        "outcomes of task",
        {(t.id, o): (n,) for t in model.tasks.values() for o, n in t.outcomes.items()},
        {r[:2]: r[2:] for r in rows["outcomes"]},
    )
    found += _compare(
        "open dead letter",
        {t.id: (t.died_of, t.replays) for t in model.tasks.values() if t.status == "dead_letter"},
        {r[0]: r[1:] for r in rows["letters"]},
    )
    found += _compare(
        "execution",
        {e.id: _execution(model, e) for e in model.executions.values()},
        {r[0]: (*r[1:12], sorted(r[12]), *r[13:]) for r in rows["executions"]},
    )
    found += _compare(
        "call", {c.id: _call(c) for c in model.calls.values()}, {r[0]: r[1:] for r in rows["calls"]}
    )
    found += _compare("account", dict(model.ledger.used()), {r[:3]: r[3:] for r in rows["accounts"]})
    found += _compare(
        "breaker",
        {b.name: b.seen(now) for b in model.breakers.values()},
        {r[0]: _breaker(r, now) for r in rows["breakers"] if r[0] in model.breakers},
    )
    found += _compare(
        "provider",
        {p.name: (p.limit, p.in_force, p.blocked_until) for p in model.providers.values()},
        {r[0]: r[1:] for r in rows["providers"]},
    )
    found += _compare(
        "reservation",
        {i: (r.plan_id, r.workflow_type, r.day, r.amount) for i, r in model.reservations.items()},
        {r[0]: r[1:] for r in rows["reservations"]},
    )
    found += _compare("history of", dict(model.history), {r[0]: r[1:] for r in rows["history"]})
    found += _compare("key", {k: (i,) for k, i in model.keys.items()}, {r[0]: r[1:] for r in rows["keys"]})
    found += _compare("state of", {"coordinator": (model.state,)}, {"coordinator": rows["state"][0]})
    return found


def _task(task: Task) -> tuple[Any, ...]:
    return (
        task.status,
        task.attempts,
        task.stalls,
        task.deferrals,
        task.execution_id,
        task.due,
        task.queued_at,
        task.priority,
        task.cost,
    )


def _execution(model: Model, execution: Execution) -> tuple[Any, ...]:
    return (
        execution.status,
        execution.day,
        execution.envelope,
        sum(c.maximum for c in model.open_calls(execution)),
        execution.actual,
        execution.fence,
        execution.launch,
        execution.lease_until,
        execution.timeout_at,
        execution.completed,
        execution.failed,
        sorted(execution.task_ids),
        execution.external,
        None if execution.external else STATE_OF[execution.status],
    )


def _call(call: Call) -> tuple[Any, ...]:
    return (
        call.execution_id,
        call.task_id,
        call.provider,
        call.tenant,
        call.status,
        call.day,
        call.maximum,
        call.cost,
    )


def _breaker(row: tuple[Any, ...], now: datetime) -> tuple[Any, ...]:
    """As `Breaker.seen` says it."""
    _, state, failures, retry_at, probes, started, succeeded = row
    if state == "closed":
        return ("closed", failures)
    if state == "open":
        return ("half_open", 1, 0, 0) if retry_at <= now else ("open", retry_at)
    return ("half_open", probes, started, succeeded)


def _compare(what: str, expected: dict[Any, Any], actual: dict[Any, Any]) -> list[str]:
    if expected == actual:
        return []
    return [
        f"{what} {key}: expected {expected.get(key, 'none')}, the database has {actual.get(key, 'none')}"
        for key in [*expected, *(actual.keys() - expected.keys())]
        if expected.get(key) != actual.get(key)
    ]
