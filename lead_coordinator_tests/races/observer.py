"""Watches a race from outside: in one snapshot after another it holds the accounts against the calls, and
counts slots. It is also the operator who raises a limit once it has been seen to bind.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

from psycopg import IsolationLevel

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.races.journal import Journal
from lead_coordinator_tests.races.scenario import MAX_CONCURRENT, OUTAGE_OVER, Limit, Scenario, set_limit

BETWEEN_SAMPLES_SECONDS = 0.1
BOUND_SAMPLES = 15
QUEUE_EVERY = 10

# What each account must be, from the calls and executions alone; day by day, although a race has only one.
ACCOUNTS = """
WITH entries (budget_day, scope, scope_key, held_usd, spent_usd) AS (
    SELECT c.budget_day, s.scope, s.scope_key,
        CASE WHEN c.status IN ('reserved', 'sent') THEN c.max_cost_usd ELSE 0 END,
        CASE WHEN c.status = 'settled' THEN c.cost_usd ELSE 0 END
    FROM lead.api_call AS c
    CROSS JOIN LATERAL (VALUES ('provider', c.provider), ('tenant', c.tenant)) AS s (scope, scope_key)
    WHERE s.scope_key IS NOT NULL
    UNION ALL
    -- Of an execution under way all is held; of one that has ended what its calls cost is spent.
    SELECT w.budget_day, s.scope, s.scope_key, w.envelope_usd, 0
    FROM workflow_orchestration AS w
    CROSS JOIN LATERAL (VALUES ('total', 'all'), ('workflow', w.workflow_type)) AS s (scope, scope_key)
    WHERE w.reserved_at IS NOT NULL AND w.completed_at IS NULL
    UNION ALL
    SELECT w.budget_day, s.scope, s.scope_key, 0, c.cost_usd
    FROM lead.api_call AS c
    INNER JOIN workflow_orchestration AS w ON w.execution_id = c.execution_id AND w.completed_at IS NOT NULL
    CROSS JOIN LATERAL (VALUES ('total', 'all'), ('workflow', w.workflow_type)) AS s (scope, scope_key)
    WHERE c.status = 'settled'
    UNION ALL
    SELECT r.budget_day, s.scope, s.scope_key, r.amount_usd, 0
    FROM lead.plan_reservation AS r
    CROSS JOIN LATERAL (VALUES ('total', 'all'), ('workflow', r.workflow_type)) AS s (scope, scope_key)
), due AS (
    SELECT e.budget_day, e.scope, e.scope_key, sum(e.held_usd) AS held_usd, sum(e.spent_usd) AS spent_usd
    FROM entries AS e GROUP BY e.budget_day, e.scope, e.scope_key
)
SELECT coalesce(a.scope, d.scope) AS scope, coalesce(a.scope_key, d.scope_key) AS key,
    coalesce(a.held_usd, 0) AS held, coalesce(a.spent_usd, 0) AS spent,
    coalesce(d.held_usd, 0) AS held_due, coalesce(d.spent_usd, 0) AS spent_due,
    CASE a.scope
        WHEN 'total' THEN (SELECT s.value::numeric FROM lead.setting AS s WHERE s.name = 'daily_budget_usd')
        WHEN 'workflow' THEN (
            SELECT p.daily_cost_limit_usd FROM lead.workflow_policy AS p WHERE p.workflow_type = a.scope_key
        )
        WHEN 'provider' THEN (
            SELECT r.daily_cost_limit FROM api_rate_limits AS r WHERE r.provider = a.scope_key
        )
        WHEN 'tenant' THEN (SELECT t.daily_cost_limit_usd FROM lead.tenant AS t WHERE t.tenant = a.scope_key)
    END AS "limit"
FROM lead.budget_account AS a
FULL JOIN due AS d USING (budget_day, scope, scope_key)
"""

EXECUTIONS = """
SELECT w.execution_id, w.actual_cost, w.calls_held_usd, w.envelope_usd,
    coalesce(sum(c.cost_usd) FILTER (WHERE c.status = 'settled'), 0) AS settled,
    coalesce(sum(c.max_cost_usd) FILTER (WHERE c.status IN ('reserved', 'sent')), 0) AS open
FROM workflow_orchestration AS w
LEFT JOIN lead.api_call AS c ON c.execution_id = w.execution_id
WHERE w.completed_at IS NULL AND w.reserved_at IS NOT NULL
GROUP BY w.id
"""

SLOTS = """
SELECT
    (
        SELECT count(*) FROM workflow_orchestration AS w
        WHERE w.status IN ('pending', 'analyzing', 'dispatching', 'running') AND w.reserved_at IS NOT NULL
            AND NOT w.is_external
    ) + (SELECT count(*) FROM lead.plan_reservation) AS active
"""

# The log of differences, the ready list and the due list, each against the tasks. No row: all agree.
QUEUE = """
WITH counted AS (
    SELECT 'depth' AS what, d.task_type, d.lane, d.status, d.score, sum(d.tasks) AS tasks
    FROM lead.queue_depth_delta AS d GROUP BY d.task_type, d.lane, d.status, d.score HAVING sum(d.tasks) <> 0
    UNION ALL
    SELECT 'ready', r.task_type, r.lane, 'queued', r.score, count(*)
    FROM lead.ready AS r GROUP BY r.task_type, r.lane, r.score
    UNION ALL
    SELECT 'due', NULL, NULL, 'deferred', NULL, count(*) FROM lead.due HAVING count(*) > 0
), real AS (
    SELECT 'depth' AS what, t.task_type, coalesce(t.tenant, '') AS lane, t.status,
        CASE t.status WHEN 'queued' THEN t.score END AS score, count(*) AS tasks
    FROM lead.task AS t GROUP BY 2, 3, 4, 5
    UNION ALL
    SELECT 'ready', t.task_type, coalesce(t.tenant, ''), 'queued', t.score, count(*)
    FROM lead.task AS t WHERE t.status = 'queued' GROUP BY 2, 3, 5
    UNION ALL
    SELECT 'due', NULL, NULL, 'deferred', NULL, count(*)
    FROM lead.task AS t WHERE t.status = 'deferred' AND t.deferred_until IS NOT NULL HAVING count(*) > 0
)
SELECT concat_ws(' ', c.what, c.task_type, c.lane, c.status, c.score, 'counted:', c.tasks) AS difference
FROM (SELECT * FROM counted EXCEPT ALL SELECT * FROM real) AS c
UNION ALL
SELECT concat_ws(' ', r.what, r.task_type, r.lane, r.status, r.score, 'there:', r.tasks)
FROM (SELECT * FROM real EXCEPT ALL SELECT * FROM counted) AS r
"""

Row = dict[str, Any]


def wrong_accounts(rows: list[Row]) -> list[str]:
    """What is wrong with accounts as `ACCOUNTS` reads them: over their limit, or not what the calls say."""
    wrong = []
    for row in rows:
        name = f"account {row['scope']} {row['key']}"
        if row["limit"] is not None and row["held"] + row["spent"] > row["limit"]:
            wrong.append(f"{name}: {row['held']} held + {row['spent']} spent is over {row['limit']}")
        for figure in ("held", "spent"):
            if row[figure] != row[f"{figure}_due"]:
                wrong.append(
                    f"{name}: {row[figure]} {figure}, {row[f'{figure}_due']} by calls and executions"
                )
    return wrong


def wrong_executions(rows: list[Row]) -> list[str]:
    """Executions under way that hold or spent other than their calls say, or more than their envelope."""
    wrong = []
    for row in rows:
        figures = (row["actual_cost"], row["calls_held_usd"])
        if figures != (row["settled"], row["open"]) or sum(figures) > row["envelope_usd"]:
            wrong.append("execution {execution_id}: {actual_cost} + {calls_held_usd} of {envelope_usd},"
                         " calls say {settled} + {open}".format(**row))  # fmt: skip
    return wrong


class Observer:
    """`wrong` is only counted up: a violation that lasts is noted once a sentence."""

    def __init__(self, db: Database, folder: Path, scenario: Scenario) -> None:
        self.db = db
        self.folder = folder
        self.journal = Journal(folder, "observer")
        self.bound: Counter[Limit] = Counter()
        self.open_limits = list(scenario.limits)
        self.samples = 0
        self.said: set[str] = set()

    def sample(self) -> None:
        with self.db.connection() as connection:
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
            with connection.transaction():
                accounts = self.db.rows(ACCOUNTS)
                executions = self.db.rows(EXECUTIONS)
                slots = self.db.row(SLOTS)
                queue = self.db.rows(QUEUE) if self.samples % QUEUE_EVERY == 0 else []
                done = self.db.row(
                    "SELECT coalesce(sum(tasks), 0)::integer AS tasks FROM lead.queue_depth_delta"
                    " WHERE status = 'completed'"
                )
                opened = self.db.row(
                    "SELECT 1 FROM lead.circuit_breaker WHERE name = 'provider:openai' AND times_opened > 0"
                )
            connection.isolation_level = None
        if opened is not None:
            (self.folder / OUTAGE_OVER).touch()
        assert slots is not None
        assert done is not None
        self.samples += 1
        wrong = wrong_accounts(accounts) + wrong_executions(executions)
        wrong += [f"queue: {row['difference']}" for row in queue]
        if slots["active"] > MAX_CONCURRENT:
            wrong.append(f"slots: {slots['active']} of {MAX_CONCURRENT} in use")
        for sentence in wrong:
            if sentence not in self.said:
                self.said.add(sentence)
                self.journal.note("wrong", what=sentence)
        self.journal.note("sample", active=slots["active"], completed=done["tasks"])
        self.raise_limits({(row["scope"], row["key"]): row for row in accounts})

    def raise_limits(self, accounts: dict[tuple[str, str], Row]) -> None:
        for limit in list(self.open_limits):
            row = accounts.get((limit.scope, limit.key))
            if row is None:
                continue
            room: Decimal = limit.first - row["held"] - row["spent"]
            self.bound[limit] += room < limit.unit
            if self.bound[limit] >= BOUND_SAMPLES:
                self.open_limits.remove(limit)
                self.journal.note("raises", scope=limit.scope, key=limit.key)
                set_limit(self.db, limit, limit.then)


def observe(url: str, folder: Path, scenario: Scenario) -> None:
    """Samples until SIGTERM comes."""
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    signal.signal(signal.SIGTERM, stop)
    with Database(url, application_name="race observer") as db:
        observer = Observer(db, folder, scenario)
        race = os.getppid()
        while not stopping and os.getppid() == race:
            observer.sample()
            time.sleep(BETWEEN_SAMPLES_SECONDS)
