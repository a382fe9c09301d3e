"""The platform's figures in the demo: from the database, with the verdict on the articles, and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lead_coordinator.cli.views import dollars, seconds
from lead_coordinator.database.connection import Database

if TYPE_CHECKING:
    from rich.table import Table

    from lead_coordinator.cli.demo_watch import Peaks
    from lead_coordinator.cli.platform.run import Platform

_TASKS = """
SELECT
    t.id, t.status, t.payload ->> 'title' AS title, t.last_error_message, t.created_at, t.processed_at,
    t.attempts,
    least(
        t.claimed_at, (SELECT min(a.started_at) FROM lead.task_attempt AS a WHERE a.task_id = t.id)
    ) AS first_claimed_at,
    p.slug, p.url, p.status AS publication_status, d.reason AS dead_reason
FROM lead.task AS t
LEFT JOIN lead.publication AS p ON p.task_id = t.id
LEFT JOIN lead.dead_letter AS d ON d.task_id = t.id
WHERE t.id = ANY(%s)
"""
_CALLS = """
SELECT
    provider, count(*) AS calls, count(*) FILTER (WHERE outcome = 'rate_limited') AS rate_limited,
    coalesce(sum(cost_usd), 0) AS cost_usd
FROM lead.api_call
WHERE task_id = ANY(%s) AND status IN ('sent', 'settled')
GROUP BY provider ORDER BY provider
"""
# The most executions that ran at one moment: at each start, those that had started and not yet ended.
_CONCURRENT = """
SELECT coalesce(max((
    SELECT count(*) FROM public.workflow_orchestration AS other
    WHERE other.started_at <= e.started_at
        AND (other.completed_at IS NULL OR other.completed_at > e.started_at)
)), 0) AS peak
FROM public.workflow_orchestration AS e
WHERE e.started_at >= %s
"""


@dataclass(frozen=True)
class Figures:
    """Of the topics of this demo, whenever they were done."""

    tasks: int
    published: int
    published_now: int
    dead: dict[int, str]
    others: dict[int, str]
    pages_missing: list[str]
    published_twice: list[int]
    waits: list[float]
    latencies: list[float]
    cost_usd: Decimal
    calls: dict[str, int]
    rate_limited: int
    retries: int
    peak_concurrent: int
    max_concurrent: int
    dead_reasons: dict[str, int] = field(default_factory=dict)


def measure(db: Database, task_ids: Sequence[int], since: datetime, site_dir: Path) -> Figures:
    """Reads the figures. `since`: when this demo submitted; `site_dir`: where published pages must lie."""
    rows = db.rows(_TASKS, [list(task_ids)])
    calls = db.rows(_CALLS, [list(task_ids)])
    by_task: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_task.setdefault(row["id"], []).append(row)
    first = [tasks[0] for tasks in by_task.values()]
    done = [row for row in first if row["status"] == "completed" and row["publication_status"] == "published"]
    dead = {
        row["id"]: str(row["dead_reason"])
        for row in first
        if row["status"] == "dead_letter" and row["dead_reason"]
    }
    concurrent = db.row(_CONCURRENT, [since])
    limit = db.row("SELECT value FROM lead.setting WHERE name = 'max_concurrent_workflows'")
    reasons: dict[str, int] = {}
    for reason in dead.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    return Figures(
        tasks=len(by_task),
        published=len(done),
        published_now=sum(1 for row in done if row["processed_at"] and row["processed_at"] >= since),
        dead=dead,
        others={
            row["id"]: f"{row['status']}: {row['last_error_message'] or 'no publication'}"
            for row in first
            if row not in done and row["id"] not in dead
        },
        pages_missing=[row["slug"] for row in done if not _page_exists(site_dir, row["slug"])],
        published_twice=[task for task, several in by_task.items() if len(several) > 1],
        waits=sorted(
            (row["first_claimed_at"] - row["created_at"]).total_seconds()
            for row in first
            if row["first_claimed_at"]
        ),
        latencies=sorted(
            (row["processed_at"] - row["created_at"]).total_seconds() for row in done if row["processed_at"]
        ),
        cost_usd=sum((row["cost_usd"] for row in calls), Decimal(0)),
        calls={row["provider"]: row["calls"] for row in calls},
        rate_limited=sum(row["rate_limited"] for row in calls),
        retries=sum(max(row["attempts"] - 1, 0) for row in first),
        peak_concurrent=concurrent["peak"] if concurrent else 0,
        max_concurrent=int(limit["value"]) if limit else 0,
        dead_reasons=reasons,
    )


def _page_exists(site_dir: Path, slug: str) -> bool:
    return any(site_dir.rglob(f"{slug}.html")) or any(site_dir.rglob(f"{slug}/index.html"))


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of them don't exceed (nearest rank); None of nothing."""
    if not ordered:
        return None
    rank = -int(-share * len(ordered) // 1)  # ceiling
    return ordered[max(rank, 1) - 1]


def _p50_p95(spans: Sequence[float]) -> str:
    return f"p50 {seconds(percentile(spans, 0.5))}, p95 {seconds(percentile(spans, 0.95))}"


def judge(figures: Figures, topics: int, refused: Sequence[str], bad: Sequence[str] = ()) -> list[str]:
    """What isn't as it should be, in sentences; empty when the demo succeeded.

    `topics` counts the file's good rows, `refused` are those of them that the database didn't take, `bad` are
    the rows and columns of the file that weren't read as topics.
    """
    problems = [f"not taken from the file: {row}" for row in bad]
    problems += [f"the database refused {row}" for row in refused]
    if figures.tasks == 0:
        problems.append("there was no topic")
    if figures.tasks + len(refused) != topics:
        problems.append(f"{topics} topics, but {figures.tasks} tasks")
    problems += [
        f"task {task} ended neither published nor dead-lettered ({why})"
        for task, why in figures.others.items()
    ]
    problems += [f"task {task} was published twice" for task in figures.published_twice]
    problems += [f"the page of {slug} is missing on the site" for slug in figures.pages_missing]
    if figures.peak_concurrent > figures.max_concurrent:
        problems.append(
            f"{figures.peak_concurrent} executions ran at once, {figures.max_concurrent} are allowed"
        )
    return problems


def result_table(
    figures: Figures,
    peaks: Peaks,
    sandbox: Mapping[str, Mapping[str, int]],
    platform: Platform,
    elapsed_seconds: float,
) -> Table:
    from rich.table import Table

    earlier = figures.published - figures.published_now
    articles = f"{figures.published} published" + (
        f", {earlier} of them by an earlier run" if earlier else ""
    )
    if figures.dead:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in figures.dead_reasons.items())
        articles += f", {len(figures.dead)} dead letters ({reasons})"
    cost = None if not figures.published else figures.cost_usd / figures.published
    refused = sum(stats["refused_429"] for stats in sandbox.values())
    counted = ", ".join(f"{name} {stats['calls']}" for name, stats in sorted(sandbox.items()))
    table = Table(title="The demo's figures", title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in (
        ("articles", articles),
        (
            "waiting",
            _p50_p95(figures.waits),
        ),
        (
            "submitted to published",
            _p50_p95(figures.latencies),
        ),
        ("cost an article", f"{dollars(cost, 4)} ({dollars(figures.cost_usd, 4)} in all)"),
        (
            "calls per provider",
            ", ".join(f"{name} {count}" for name, count in figures.calls.items()) or "none",
        ),
        ("429s received", str(figures.rate_limited)),
        (
            "refused by the sandbox",
            f"{refused} (its own count, of {counted} calls in this run)" if sandbox else "no sandbox",
        ),
        ("retries", str(figures.retries)),
        (
            "peak memory",
            f"{peaks.memory_bytes / 1024**2:,.0f} MB over {peaks.processes} processes, "
            + ("PostgreSQL included" if platform.embedded else "your PostgreSQL not counted"),
        ),
        ("peak connections", f"{peaks.connections}"),
        ("peak concurrent executions", f"{figures.peak_concurrent} of at most {figures.max_concurrent}"),
        ("the articles", str(platform.site_dir)),
        ("the UI", platform.web_url),
        ("took", f"{elapsed_seconds:.0f} s"),
    ):
        table.add_row(name, text)
    return table
