"""Figures as Markdown: what was to be reached and what was, then each part's table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks import dashboard, decision, enqueue, money, queues

OF_PLAIN = {100: 0.60, 1_000: 0.65}
OF_PGQUEUER = {100: 1.5, 1_000: 2.0}
DECISION_P95_MS = 20.0
DECISION_P50_BY_10K = 1.5
CALLS_A_SECOND = 1_000
DASHBOARD_MS = 10.0


@dataclass
class Figures:
    """What was measured. A part that didn't run is empty."""

    machine: str
    drained: list[queues.Drained] = field(default_factory=list)
    enqueued: list[enqueue.Enqueued] = field(default_factory=list)
    decisions: list[decision.Decisions] = field(default_factory=list)
    money: list[money.Round] = field(default_factory=list)
    dashboard: dashboard.Dashboard | None = None


@dataclass(frozen=True)
class Target:
    what: str
    wanted: str
    found: str
    reached: bool


def targets(figures: Figures) -> list[Target]:
    return [*_queue_targets(figures), *_decision_targets(figures), *_other_targets(figures)]


def _queue_targets(figures: Figures) -> Iterator[Target]:
    for waiting in sorted({d.waiting for d in figures.drained}):
        for other, wanted in (("plain", OF_PLAIN), ("pgqueuer", OF_PGQUEUER)):
            for batch, least in wanted.items():
                for system in ("ours", "ours-tenants"):
                    found = queues.ratio(
                        queues.of(figures.drained, system, waiting, batch),
                        queues.of(figures.drained, other, waiting, batch),
                    )
                    if found is not None:
                        yield Target(
                            f"{system}, claim + complete by {other}, {batch:,} a batch, {waiting:,} waiting",
                            f"{least:.2f}",
                            f"{found:.2f}",
                            found >= least,
                        )


def _decision_targets(figures: Figures) -> Iterator[Target]:
    for one in figures.decisions:
        if one.state == decision.BASE:
            continue
        p95 = one.quantile(0.95)
        what = f"decision, {one.state}, {one.slots} slots"
        yield Target(f"{what}: p95", f"{DECISION_P95_MS:.0f} ms", f"{p95:.1f} ms", p95 < DECISION_P95_MS)
        if (by_base := decision.by_base(one, figures.decisions)) is not None:
            yield Target(
                f"{what}: p50 by that at 10k",
                f"{DECISION_P50_BY_10K:.1f}",
                f"{by_base:.2f}",
                by_base <= DECISION_P50_BY_10K,
            )


def _other_targets(figures: Figures) -> Iterator[Target]:
    settled = [one for one in figures.money if one.mode == "settled"]
    if settled:
        rate = median(one.calls_per_second for one in settled)
        yield Target(
            f"reserve, mark as sent, settle over {settled[0].connections} connections, a second",
            f"{CALLS_A_SECOND:,}",
            f"{rate:,.0f}",
            rate >= CALLS_A_SECOND,
        )
    if figures.dashboard is not None:
        p95 = figures.dashboard.quantile(0.95)
        yield Target(
            f"dashboard of 24 hours over {figures.dashboard.executions:,} executions: p95",
            f"{DASHBOARD_MS:.0f} ms",
            f"{p95:.1f} ms",
            p95 < DASHBOARD_MS,
        )


def target_table(found: Sequence[Target]) -> list[str]:
    lines = ["| what | to reach | measured | reached |", "|---|---|---|---|"]
    for one in found:
        lines.append(f"| {one.what} | {one.wanted} | {one.found} | {'yes' if one.reached else '**no**'} |")
    return lines


def render(figures: Figures) -> str:
    """The section as Markdown, without the marks around it."""
    parts = [
        "## The control plane",
        f"`make bench`. {figures.machine}",
        "\n".join(target_table(targets(figures))),
    ]
    if figures.drained:
        parts += [
            "### Claim and complete",
            "Medians of interleaved rounds, each on a fresh copy of a filled, vacuumed and analysed"
            " database; ratios are taken within a round. One client, one connection, a transaction a call,"
            " after ten tasks of warm-up. `ours`: priorities, half of the tasks aged, executions, fences and"
            " an attempt row a task. `ours-tenants`: a third of the tasks in five tenants too, each batch"
            " shared out. `pgqueuer`: its own worker with an entrypoint that does nothing;"
            " `pgqueuer-queries`: only its statements."
            " `plain`: a table, an index, SKIP LOCKED, no bookkeeping. procrastinate takes one"
            " job a call; its batch is how many connections fetch at once.",
            "\n".join(queues.table(figures.drained)),
        ]
    if figures.enqueued:
        parts += ["### Enqueue", "\n".join(enqueue.table(figures.enqueued))]
    if figures.decisions:
        parts += [
            "### The decision",
            "`orchestrate_workflow_execution` as a client sees it, with its commit: health, analysis, plan,"
            " reservation, claims, executions, the tick's record. Four types wait; every slot is free each"
            " time. What was dispatched is worked and replaced in between, untimed. `1m-loaded`: a million"
            " right after loading, no statistics; `1m-aged`: every row older than 30 minutes; `1m-dead`:"
            " after another million was claimed and completed, no vacuum. In these three autovacuum is off.",
            "\n".join(decision.table(figures.decisions)),
        ]
    if figures.money:
        parts += [
            "### Money",
            "Every connection is a process of its own, all calls go to one provider. After each round every"
            " account of the ledger was what the rows of the calls say, and within its limit.",
            "\n".join(money.table(figures.money)),
        ]
    if figures.dashboard is not None:
        parts += ["### The dashboard", "\n".join(dashboard.table(figures.dashboard))]
    return "\n\n".join(parts)
