"""The day's figures as assets: daily partitions including today, read from the database, the same when read
again.

Each stands on `figures.py`; here they get their names, their place in the lineage and their metadata. A key
of the metadata is a number in one unit, so that the UI plots it over materialisations.
"""

from datetime import date
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    DailyPartitionsDefinition,
    Failure,
    MaterializeResult,
    MetadataValue,
    asset,
)

from lead_coordinator import tags
from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.metadata import markdown_table, numbers, sentences
from lead_coordinator.observability.figures import (
    CostFigures,
    ExecutionFigures,
    advice,
    cost_figures,
    execution_figures,
)
from lead_coordinator.settings import Settings

# What the pipelines leave: a day's figures are of all of them.
WORK = [
    AssetKey(name)
    for name in (
        tags.TOPICS,
        tags.ARTICLES,
        tags.SITE_AUDITS,
        tags.REFRESH_RANKING,
        tags.REFRESHED_ARTICLES,
        "executions",
    )
]

# end_offset=1: without it the current day has no partition until it is over.
days = DailyPartitionsDefinition(
    start_date="2026-01-01", timezone=Settings.load().coordinator_timezone, end_offset=1
)


@asset(
    deps=WORK,
    description="What was worked on a day, by pipeline and hour: throughput, success, retries, and how long "
    "a task waited and took (seconds from submission; p50, p95, p99 of completed tasks).",
    kinds={"pandas", "postgres"},
    partitions_def=days,
    group_name=tags.GROUP_INSIGHT,
    owners=[tags.OWNER_INSIGHT],
    tags={"lead/component": "insight"},
)
def execution_metrics(context: AssetExecutionContext, database: DatabaseResource) -> MaterializeResult[None]:
    work = execution_figures(database.db, day_of(context, database.db))
    return MaterializeResult(metadata={**work_metadata(work), "by_hour": hours_table(work)})


@asset(
    deps=WORK,
    description="What a budget day cost, by provider, model and pipeline, against the day's budget; cost an "
    "article; and whether the sum of the calls equals the ledger (the difference must be zero).",
    kinds={"pandas", "postgres"},
    partitions_def=days,
    group_name=tags.GROUP_INSIGHT,
    owners=[tags.OWNER_INSIGHT],
    tags={"lead/component": "insight"},
)
def daily_cost_report(context: AssetExecutionContext, database: DatabaseResource) -> MaterializeResult[None]:
    cost = cost_figures(database.db, day_of(context, database.db))
    return MaterializeResult(metadata={**cost_metadata(cost), "by_model": models_table(cost)})


@asset(
    deps=[execution_metrics, daily_cost_report],
    description="A day on one page: what was published, what it cost, how long it took, and what an operator "
    "should look at.",
    kinds={"markdown", "postgres"},
    partitions_def=days,
    group_name=tags.GROUP_INSIGHT,
    owners=[tags.OWNER_INSIGHT],
    tags={"lead/component": "insight"},
)
def platform_summary(context: AssetExecutionContext, database: DatabaseResource) -> MaterializeResult[None]:
    day = day_of(context, database.db)
    work, cost = execution_figures(database.db, day), cost_figures(database.db, day)
    lines = advice(work, cost)
    return MaterializeResult(
        metadata={
            **work_metadata(work),
            **cost_metadata(cost),
            "advice_count": len(lines),
            "advice": sentences(lines, "Nothing needs attention."),
            "summary": MetadataValue.md(summary_page(day, work, cost, lines)),
        }
    )


def day_of(context: AssetExecutionContext, db: Database) -> date:
    """The budget day of the partition. Fails where the two are days of different time zones."""
    wrong = wrong_timezone(db)
    if wrong is not None:
        raise Failure(wrong, allow_retries=False)
    return date.fromisoformat(context.partition_key)


def wrong_timezone(db: Database) -> str | None:
    """What to set where a partition isn't a budget day; None when it is.

    Partitions are defined when the code location loads, from the environment; budget days by a row.
    """
    row = db.row("SELECT value FROM lead.setting WHERE name = 'coordinator_timezone'")
    if row is None:
        return "lead.setting has no row coordinator_timezone: `lead-coordinator deploy` seeds it."
    name = str(row["value"])
    if name == days.timezone:
        return None
    return (
        f"The reports' days are days in {days.timezone} and the budget's days are days in {name}: set "
        f"COORDINATOR_TIMEZONE={name} and restart, or set the row coordinator_timezone of lead.setting to "
        f"{days.timezone}."
    )


def work_metadata(work: ExecutionFigures) -> dict[str, Any]:
    return numbers(
        {
            "tasks_completed": work.completed,
            "tasks_retried": work.retried,
            "dead_letters": work.dead_letters,
            "executions": work.executions,
            "executions_lost": work.executions_lost,
            "success_rate_percent": None if work.success_rate is None else round(100 * work.success_rate, 2),
            "wait_p50_seconds": work.wait_p50_seconds,
            "wait_p95_seconds": work.wait_p95_seconds,
            "latency_p50_seconds": work.latency_p50_seconds,
            "latency_p95_seconds": work.latency_p95_seconds,
            "latency_p99_seconds": work.latency_p99_seconds,
            "run_p50_seconds": work.run_p50_seconds,
        }
    )


def cost_metadata(cost: CostFigures) -> dict[str, Any]:
    return numbers(
        {
            "spend_usd": cost.spent_usd,
            "held_usd": cost.ledger_held_usd,
            "budget_limit_usd": cost.budget_limit_usd,
            "budget_used_percent": cost.budget_used_percent,
            "ledger_difference_usd": cost.ledger_difference_usd,
            "api_calls": cost.calls,
            "refused_429": cost.refused_429,
            "articles": cost.articles,
            "cost_per_article_usd": cost.cost_per_article_usd,
        }
    )


def hours_table(work: ExecutionFigures) -> MetadataValue:
    columns = {
        "workflow_type": "pipeline",
        "hour": "hour",
        "completed": "completed",
        "retried": "retried",
        "dead_letters": "dead letters",
        "latency_p50": "latency p50 (s)",
        "latency_p95": "latency p95 (s)",
    }
    return markdown_table(work.by_hour, columns)


def models_table(cost: CostFigures) -> MetadataValue:
    columns = {
        "provider": "provider",
        "model": "model",
        "workflow_type": "pipeline",
        "calls": "calls",
        "failed": "failed",
        "input_tokens": "tokens in",
        "output_tokens": "tokens out",
        "cost_usd": "cost (USD)",
    }
    return markdown_table(cost.by_model, columns)


def summary_page(day: date, work: ExecutionFigures, cost: CostFigures, lines: list[str]) -> str:
    """Markdown for a person who reads nothing else."""
    each = cost.cost_per_article_usd
    facts = [
        f"**{cost.articles} articles** published, {work.dead_letters} tasks given up, {work.retried} tries "
        "repeated",
        f"**{cost.spent_usd:.4f} of {cost.budget_limit_usd:.2f} USD** spent"
        + (f", {each:.4f} USD an article" if each is not None else ""),
    ]
    if work.latency_p50_seconds is not None:
        facts.append(
            f"from submission to page in **{work.latency_p50_seconds:.0f} s** (p50), "
            f"{work.latency_p95_seconds or 0:.0f} s (p95)"
        )
    todo = "\n".join(f"- {line}" for line in lines) or "Nothing needs attention."
    return (
        f"### {day.isoformat()}\n\n"
        + "\n".join(f"- {fact}" for fact in facts)
        + f"\n\n#### To look at\n\n{todo}\n"
    )


assets: list[AssetsDefinition] = [execution_metrics, daily_cost_report, platform_summary]
