"""Articles an hour under the sandbox's limits, at the real services' latency, on a whole platform.

    python -m benchmarks.articles [--minutes 10] [--warm-up 120] [--max-batch N] [--record]

The queue is filled with more briefs than can be worked; three runs of the content pipeline work at once (the
other pipelines are switched off: with them on, the last free slot is kept for them). After the warm-up, ten
minutes are counted. What the limits permit is (60 + 50) × minutes ÷ calls an article, with the calls that
the articles of these minutes took. Calls are counted in the sandbox's own log, articles by their completion.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import mean, median

from benchmarks.cpu import cpu_seconds, difference
from benchmarks.live import MOST_BRIEFS, briefs, live_platform, rest, sandbox_of, wait_for
from benchmarks.record import machine, paragraph, table, write_section
from lead_coordinator.cli.demo_report import percentile
from lead_coordinator.cli.platform.run import Platform
from lead_coordinator.cli.platform.supervisor import StopRequested
from lead_coordinator.database.connection import Database
from lead_coordinator.database.operations import change_policy
from lead_coordinator.database.queue import submit_tasks
from lead_coordinator_tests.e2e.rehearsal import Calls, calls_of

WANTED = 0.95
PLAIN_CALLS = 3
OTHERS = ("seo_monitor", "revenue_optimizer", "intelligence_engine")


@dataclass(frozen=True)
class Measured:
    """Of the minutes that were counted. `calls`: by provider, arrivals in that time; `whole`: all calls of
    the platform's life; `calls_an_article`: of the articles completed in that time, over all their
    attempts; `running`, `working`, `in_flight`: executions that ran, tasks they held, calls that waited for
    an answer, averages of samples; `cpu`: seconds by kind of process; `loads`: of the machine, sampled."""

    minutes: float
    articles: int
    dead: int
    calls: Mapping[str, int]
    limits: Mapping[str, int]
    whole: Mapping[str, Calls]
    calls_an_article: float
    cost_usd: float
    words: float
    running: float
    most_running: int
    working: float
    in_flight: float
    batch_seconds: tuple[float, ...]
    start_seconds: tuple[float, ...]
    cpu: Mapping[str, float]
    loads: tuple[float, ...]
    postgresql: str

    @property
    def permitted(self) -> float:
        return sum(self.limits.values()) * self.minutes / self.calls_an_article

    @property
    def share(self) -> float:
        return self.articles / self.permitted

    @property
    def used(self) -> float:
        """Of the calls that the limits permit."""
        return sum(self.calls.values()) / (sum(self.limits.values()) * self.minutes)


def measure(minutes: float, warm_up: float, max_batch: int | None) -> Measured:
    with live_platform("real") as platform:
        db = platform.database
        for workflow in OTHERS:
            change_policy(
                db, workflow, {"enabled": False, "disabled_reason": "the benchmark measures content"}
            )
        if max_batch is not None:
            change_policy(db, "content_pipeline", {"max_batch": max_batch})
        submit_tasks(db, briefs(MOST_BRIEFS))
        wait_for(
            platform,
            lambda: sum(one["calls"] for one in sandbox_of(platform).stats()["providers"].values()) > 0,
            120,
            "the first call",
        )
        rest(platform, warm_up)
        return _count(platform, minutes)


def _count(platform: Platform, minutes: float) -> Measured:
    db, sandbox = platform.database, sandbox_of(platform)
    used = cpu_seconds(platform)
    begin = datetime.now(UTC)
    end = begin + timedelta(minutes=minutes)
    samples: list[Mapping[str, float]] = []
    loads: list[float] = []
    while datetime.now(UTC) < end:
        samples.append(_sample(db))
        loads.append(os.getloadavg()[0])
        rest(platform, min(2.0, max(0.0, (end - datetime.now(UTC)).total_seconds())))
    cpu = difference(used, cpu_seconds(platform))
    log = sandbox.calls(20_000)
    limits = sandbox.stats()["limits"]
    arrived = [call for call in log if begin <= datetime.fromisoformat(call["time"]) < end]
    done = db.rows(_DONE, [begin, end])
    queue = db.row("SELECT count(*) FILTER (WHERE status = 'dead_letter') AS dead FROM lead.task")
    runs = db.rows(_RUNS, [begin, end])
    version = db.row("SHOW server_version")
    assert queue is not None
    assert version is not None
    return Measured(
        minutes=minutes,
        articles=len(done),
        dead=queue["dead"],
        calls={name: sum(call["provider"] == name for call in arrived) for name in limits},
        limits=limits,
        whole=calls_of(log, limits),
        calls_an_article=mean(row["calls"] for row in done),
        cost_usd=mean(float(row["cost_usd"]) for row in done),
        words=mean(float(row["words"] or 0) for row in done),
        running=mean(sample["running"] for sample in samples),
        most_running=int(max(sample["running"] for sample in samples)),
        working=mean(sample["working"] for sample in samples),
        in_flight=mean(sample["in_flight"] for sample in samples),
        batch_seconds=tuple(float(row["seconds"]) for row in runs),
        start_seconds=tuple(float(row["starting"]) for row in runs),
        cpu=cpu,
        loads=tuple(loads),
        postgresql=str(version["server_version"]).split()[0],
    )


_DONE = """
SELECT
    (SELECT count(*) FROM lead.api_call AS c WHERE c.task_id = t.id AND c.status = 'settled') AS calls,
    (SELECT sum(c.cost_usd) FROM lead.api_call AS c WHERE c.task_id = t.id) AS cost_usd,
    (t.result ->> 'words')::numeric AS words
FROM lead.task AS t
WHERE t.task_type = 'content_generation' AND t.status = 'completed'
    AND t.processed_at >= %s AND t.processed_at < %s
"""
_RUNS = """
SELECT extract(epoch FROM w.completed_at - w.started_at) AS seconds,
    extract(epoch FROM w.started_at - w.created_at) AS starting
FROM public.workflow_orchestration AS w
WHERE w.workflow_type = 'content_pipeline' AND w.started_at IS NOT NULL
    AND w.completed_at >= %s AND w.completed_at < %s
"""


def _sample(db: Database) -> Mapping[str, float]:
    row = db.row(
        "SELECT (SELECT count(*) FROM public.workflow_orchestration WHERE status = 'running') AS running,"
        " (SELECT count(*) FROM lead.task AS t JOIN public.workflow_orchestration AS w USING (execution_id)"
        "  WHERE t.status = 'processing' AND w.status = 'running') AS working,"
        " (SELECT count(*) FROM lead.api_call WHERE status = 'sent') AS in_flight"
    )
    assert row is not None
    return row


def described(found: Measured) -> str:
    calls = ", ".join(f"{name} {count}" for name, count in found.calls.items())
    peaks = ", ".join(f"{name} {one.peak} of {one.limit}" for name, one in found.whole.items())
    refused = sum(one.over_limit for one in found.whole.values())
    batches, starts = sorted(found.batch_seconds), sorted(found.start_seconds)
    rows = [
        ("what", "figure"),
        ("articles completed", f"{found.articles} in {found.minutes:g} minutes"),
        ("articles an hour", f"{60 * found.articles / found.minutes:,.0f}"),
        ("calls an article", f"{found.calls_an_article:.3f}"),
        ("articles that the limits permit, with so many calls", f"{found.permitted:.1f}"),
        ("**share of it** (95 % is wanted)", f"**{found.share:.1%}**"),
        (f"share of what {PLAIN_CALLS} calls an article would permit", f"{_plain_share(found):.1%}"),
        ("calls that arrived", f"{calls}: {found.used:.1%} of the permitted"),
        ("most calls in any 60 s; refused for the limit", f"{peaks}; {refused}"),
        ("runs at once, on average and at most", f"{found.running:.2f}, {found.most_running}"),
        ("tasks in work, calls under way, on average", f"{found.working:.1f}, {found.in_flight:.1f}"),
        ("seconds of a batch, p50 and longest", f"{median(batches):.0f}, {batches[-1]:.0f}"),
        (
            "seconds from planned to started, p50 and p95",
            f"{median(starts):.1f}, {percentile(starts, 0.95) or 0:.1f}",
        ),
        ("cost an article, list prices; words", f"${found.cost_usd:.4f}; {found.words:,.0f}"),
        ("dead letters", f"{found.dead}"),
        ("load of the machine, average and highest", f"{mean(found.loads):.1f}, {max(found.loads):.1f}"),
        ("**CPU seconds an article**", f"**{sum(found.cpu.values()) / found.articles:.2f}**"),
    ]
    rows += [(f"… {kind}", f"{seconds / found.articles:.3f}") for kind, seconds in found.cpu.items()]
    text = paragraph(
        f"{machine(found.postgresql)} The whole platform; the sandbox's limits are 60 and 50 calls a minute,",
        "its latency is `real` (median 4 s, p95 15 s), three runs at once, a queue that never empties,",
        "counted after the warm-up. `python -m benchmarks.articles --record`.",
    )
    return f"## Articles an hour\n\n{text}\n\n{table(*rows)}"


def _plain_share(found: Measured) -> float:
    return found.articles * PLAIN_CALLS / (sum(found.limits.values()) * found.minutes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=120.0, help="seconds after the first call")
    parser.add_argument("--max-batch", type=int, help="tasks a run at most; without it the policy's own")
    parser.add_argument("--record", action="store_true", help="write the section of RESULTS.md")
    given = parser.parse_args()
    began = time.monotonic()
    found = measure(given.minutes, given.warm_up, given.max_batch)
    text = described(found)
    print(f"{text}\n\n{time.monotonic() - began:.0f} s in all")
    if given.record:
        write_section("articles an hour", text)
    return 0 if found.share >= WANTED else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except StopRequested:
        raise SystemExit("stopped before the end") from None
