"""The figures of one day, from the database: the same day read twice gives the same figures.

A day is a budget day: a calendar day in the coordinator's time zone (a row of `lead.setting`), so 23 or 25
hours long twice a year. Money is exact Decimal US dollars until it is shown; durations are seconds. pandas
is imported where it is used, because every run of the platform loads this package and only reports need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from lead_coordinator.database.connection import Database

if TYPE_CHECKING:
    import pandas as pd

# Bounds of the day as instants; every query of this page starts with it.
DAY = """
WITH zone AS (
    SELECT value AS name FROM lead.setting WHERE name = 'coordinator_timezone'
), day AS (
    SELECT
        zone.name AS timezone,
        (%(day)s::date)::timestamp AT TIME ZONE zone.name AS opens,
        (%(day)s::date + 1)::timestamp AT TIME ZONE zone.name AS closes
    FROM zone
)
"""

ATTEMPTS = (
    DAY
    + """
SELECT
    p.workflow_type,
    extract(HOUR FROM a.ended_at AT TIME ZONE day.timezone)::integer AS hour,
    a.outcome,
    extract(EPOCH FROM t.processed_at - t.created_at)::double precision AS latency_seconds,
    extract(EPOCH FROM a.started_at - t.created_at)::double precision AS wait_seconds,
    a.cost_usd
FROM day
INNER JOIN lead.task_attempt AS a ON a.ended_at >= day.opens AND a.ended_at < day.closes
INNER JOIN lead.task AS t ON t.id = a.task_id
INNER JOIN lead.workflow_policy AS p ON p.task_type = t.task_type
"""
)

EXECUTIONS = (
    DAY
    + """
SELECT
    w.workflow_type,
    extract(HOUR FROM w.completed_at AT TIME ZONE day.timezone)::integer AS hour,
    w.status,
    w.batch_size,
    extract(EPOCH FROM w.completed_at - w.started_at)::double precision AS duration_seconds
FROM day
INNER JOIN public.workflow_orchestration AS w ON w.completed_at >= day.opens AND w.completed_at < day.closes
"""
)

# A call belongs to the budget day that its row says, on which it was reserved. The times narrow the search.
CALLS = (
    DAY
    + """
SELECT
    c.provider,
    c.model,
    w.workflow_type,
    c.status,
    c.outcome,
    c.max_cost_usd,
    coalesce(c.cost_usd, 0) AS cost_usd,
    coalesce(c.input_tokens, 0) AS input_tokens,
    coalesce(c.output_tokens, 0) AS output_tokens
FROM day
INNER JOIN lead.api_call AS c
    ON c.reserved_at >= day.opens - interval '1 day' AND c.reserved_at < day.closes + interval '1 day'
INNER JOIN public.workflow_orchestration AS w ON w.execution_id = c.execution_id
WHERE c.budget_day = %(day)s::date AND c.status <> 'released'
"""
)

LEDGER = """
SELECT
    (SELECT value::numeric FROM lead.setting WHERE name = 'daily_budget_usd') AS limit_usd,
    coalesce(sum(b.spent_usd), 0) AS spent_usd,
    coalesce(sum(b.held_usd), 0) AS held_usd
FROM lead.budget_account AS b
WHERE b.budget_day = %(day)s::date AND b.scope = 'total'
"""

PUBLISHED = (
    DAY
    + """
SELECT count(*) AS articles
FROM day
INNER JOIN lead.publication AS p ON p.published_at >= day.opens AND p.published_at < day.closes
"""
)


@dataclass(frozen=True)
class ExecutionFigures:
    """A day's work. Seconds are from submission: to the start (wait) and to the end (latency) of completed
    tasks.

    `by_hour`: workflow_type, hour, completed, retried, dead_letters, latency_p50, latency_p95.
    `success_rate`: completed ÷ (completed + dead letters); None when neither happened.
    """

    by_hour: list[dict[str, Any]]
    completed: int
    retried: int
    dead_letters: int
    stalled: int
    executions: int
    executions_lost: int
    success_rate: float | None
    wait_p50_seconds: float | None
    wait_p95_seconds: float | None
    latency_p50_seconds: float | None
    latency_p95_seconds: float | None
    latency_p99_seconds: float | None
    run_p50_seconds: float | None


@dataclass(frozen=True)
class CostFigures:
    """A day's money, from the calls; `ledger_*` is what the budget ledger says of the same day.

    `by_model`: provider, model, workflow_type, calls, failed, input_tokens, output_tokens (thinking is part
    of them, as `Usage` counts), cost_usd. `open_usd`: the worst case of calls granted and not settled yet.
    """

    by_model: list[dict[str, Any]]
    calls: int
    refused_429: int
    spent_usd: Decimal
    open_usd: Decimal
    ledger_spent_usd: Decimal
    ledger_held_usd: Decimal
    budget_limit_usd: Decimal
    articles: int

    @property
    def cost_per_article_usd(self) -> Decimal | None:
        return self.spent_usd / self.articles if self.articles else None

    @property
    def budget_used_percent(self) -> float | None:
        return float(100 * self.ledger_spent_usd / self.budget_limit_usd) if self.budget_limit_usd else None

    @property
    def ledger_difference_usd(self) -> Decimal:
        """Zero, or the ledger and the calls disagree."""
        return self.ledger_spent_usd - self.spent_usd


def execution_figures(db: Database, day: date) -> ExecutionFigures:
    """What was worked on that day. Empty days give zeros and None, never an error."""
    attempts = _frame(
        db.rows(ATTEMPTS, {"day": day}),
        ["workflow_type", "hour", "outcome", "latency_seconds", "wait_seconds", "cost_usd"],
    )
    runs = _frame(
        db.rows(EXECUTIONS, {"day": day}),
        ["workflow_type", "hour", "status", "batch_size", "duration_seconds"],
    )
    done = attempts[attempts["outcome"] == "completed"]
    count = attempts["outcome"].value_counts().to_dict()
    completed, dead = int(count.get("completed", 0)), int(count.get("dead_letter", 0))
    by_hour = []
    for (workflow_type, hour), group in attempts.groupby(["workflow_type", "hour"], sort=True):
        finished = group[group["outcome"] == "completed"]["latency_seconds"]
        by_hour.append(
            {
                "workflow_type": str(workflow_type),
                "hour": f"{hour:02}:00",
                "completed": len(finished),
                "retried": int((group["outcome"] == "retried").sum()),
                "dead_letters": int((group["outcome"] == "dead_letter").sum()),
                "latency_p50": _quantile(finished, 0.5),
                "latency_p95": _quantile(finished, 0.95),
            }
        )
    return ExecutionFigures(
        by_hour=by_hour,
        completed=completed,
        retried=int(count.get("retried", 0)),
        dead_letters=dead,
        stalled=int(count.get("stalled", 0)),
        executions=len(runs),
        executions_lost=int(runs["status"].isin(["failed", "timeout"]).sum()),
        success_rate=completed / (completed + dead) if completed + dead else None,
        wait_p50_seconds=_quantile(done["wait_seconds"], 0.5),
        wait_p95_seconds=_quantile(done["wait_seconds"], 0.95),
        latency_p50_seconds=_quantile(done["latency_seconds"], 0.5),
        latency_p95_seconds=_quantile(done["latency_seconds"], 0.95),
        latency_p99_seconds=_quantile(done["latency_seconds"], 0.99),
        run_p50_seconds=_quantile(runs["duration_seconds"], 0.5),
    )


def cost_figures(db: Database, day: date) -> CostFigures:
    """What that budget day cost. Sums are made of Decimals: they equal the ledger to the last digit, or
    something is wrong.
    """
    columns = ["provider", "model", "workflow_type", "status", "outcome", "max_cost_usd", "cost_usd"]
    columns += ["input_tokens", "output_tokens"]
    calls = _frame(db.rows(CALLS, {"day": day}), columns)
    ledger = db.row(LEDGER, {"day": day}) or {}
    published = db.row(PUBLISHED, {"day": day}) or {}
    by_model = []
    for (provider, model, workflow_type), group in calls.groupby(
        ["provider", "model", "workflow_type"], sort=True
    ):
        by_model.append(
            {
                "provider": str(provider),
                "model": str(model),
                "workflow_type": str(workflow_type),
                "calls": len(group),
                "failed": int((group["outcome"].notna() & (group["outcome"] != "ok")).sum()),
                "input_tokens": int(group["input_tokens"].sum()),
                "output_tokens": int(group["output_tokens"].sum()),
                "cost_usd": _sum(group["cost_usd"]),
            }
        )
    return CostFigures(
        by_model=by_model,
        calls=len(calls),
        refused_429=int((calls["outcome"] == "rate_limited").sum()),
        spent_usd=_sum(calls[calls["status"] == "settled"]["cost_usd"]),
        open_usd=_sum(calls[calls["status"].isin(["reserved", "sent"])]["max_cost_usd"]),
        ledger_spent_usd=Decimal(ledger.get("spent_usd") or 0),
        ledger_held_usd=Decimal(ledger.get("held_usd") or 0),
        budget_limit_usd=Decimal(ledger.get("limit_usd") or 0),
        articles=int(published.get("articles") or 0),
    )


def advice(work: ExecutionFigures, cost: CostFigures) -> list[str]:
    """What an operator should look at, each sentence tied to the figure that caused it; empty when all is
    well.
    """
    rules: list[tuple[bool, Callable[[], str]]] = [
        (
            cost.ledger_difference_usd != 0,
            lambda: (
                f"The ledger and the calls differ by {cost.ledger_difference_usd:+.10f} USD: report it, this "
                "must never be."
            ),
        ),
        (
            (cost.budget_used_percent or 0) >= 85,
            lambda: (
                f"{cost.budget_used_percent:.0f} % of the day's budget is spent: raise `daily_budget_usd` or "
                "expect tasks to wait."
            ),
        ),
        (
            work.success_rate is not None and work.success_rate < 0.85,
            lambda: (
                f"{work.dead_letters} of {work.completed + work.dead_letters} tasks ended in the dead-letter "
                "queue: read their reasons."
            ),
        ),
        (
            work.executions_lost > 0,
            lambda: (
                f"{work.executions_lost} of {work.executions} executions were lost and recovered: look at "
                "their runs."
            ),
        ),
        (
            cost.refused_429 > 0,
            lambda: (
                f"{cost.refused_429} requests were refused for their rate: lower the limit of that provider "
                "in `api_rate_limits`."
            ),
        ),
    ]
    return [sentence() for applies, sentence in rules if applies]


def _frame(rows: Sequence[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """A frame that has its columns even when there are no rows."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=columns)


def _sum(values: pd.Series) -> Decimal:
    """Exact: pandas would start from a float zero."""
    return sum((Decimal(value) for value in values), Decimal(0))


def _quantile(values: pd.Series, q: float) -> float | None:
    known = values.dropna()
    return round(float(known.astype(float).quantile(q)), 3) if len(known) else None
