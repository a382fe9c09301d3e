"""The limiter against a service that refuses: many processes, late arrivals, every permitted call wanted.

    python -m benchmarks.limiter [--minutes 5] [--limit 60 600] [--processes 8] [--jitter-ms 300]
        [--margin-ms 500] [--record]

Starts a server (fsync on) and, for each limit, the sandbox provider with that limit in any 60 seconds. Each
process is a run: it holds an execution that was planned, reserved and started as always, and calls through
`Gateway` with Google's SDK, with more calls in flight than the limit lets through. Up to `--jitter-ms` pass
between a grant and its arrival, uniformly; for half of the calls before they are marked as sent, for the
other half after it.

What is counted comes from the sandbox's own log, not from the platform:
- refused: requests that the sandbox answered with 429. It keeps an exact sliding window.
- used: requests that arrived within `minutes` × 60 s of the first, over limit × minutes. A limiter that takes
  a full window at once and then waits 60.5 s gets five full windows into five minutes, so this alone says
  little about what is lost in between. Therefore also:
- sustained: 60 s over the mean time from one arrival to the one `limit` places later. It doesn't depend on
  where the measurement begins or ends, and is the share of the permitted calls that a run of any length gets.

Exit code 1: something was refused, or used or sustained is under 98 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psycopg
from pydantic import BaseModel, Field

from benchmarks.record import machine, paragraph, table, write_section
from benchmarks.server import create_database, embedded_server
from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.deploy import deploy
from lead_coordinator.database.executions import Lease, heartbeat_execution
from lead_coordinator.providers.base import BeforeLeaving, CallRequest, Message, RawAnswer
from lead_coordinator.providers.gateway import Gateway, GatewayPolicy
from lead_coordinator.providers.gemini import GeminiProvider
from lead_coordinator.providers.sandbox.admin import SandboxAdmin
from lead_coordinator.settings import Settings

PROVIDER = "gemini"
MODEL = "gemini-2.5-flash-lite"
LEAST_USED = 0.98
# Calls that each process wants at once: enough that somebody always waits.
CALLS_AT_ONCE = 16
# After the last counted second, so that the end of the run doesn't cut off what counts.
AFTERWARDS_SECONDS = 3.0
SAMPLE_SECONDS = 0.1
BEAT_SECONDS = 1.0


class Verdict(BaseModel):
    verdict: str = Field(description="One word")


REQUEST = CallRequest("judge", (Message("user", "Is this sentence short? One word."),), Verdict, 200)


class LateProvider:
    """A provider whose requests arrive late: up to `most` seconds after the grant."""

    def __init__(self, inner: GeminiProvider, most: float, seed: int) -> None:
        self._inner = inner
        self._most = most
        self._random = random.Random(seed)
        self.name = inner.name
        self.model = inner.model

    def max_output_tokens(self, model: str, request: CallRequest) -> int:
        return self._inner.max_output_tokens(model, request)

    def max_input_tokens(self, model: str, request: CallRequest) -> int:
        return self._inner.max_input_tokens(model, request)

    async def warm(self) -> None:
        await self._inner.warm()

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def send(
        self, model: str, request: CallRequest, before_leaving: BeforeLeaving | None = None
    ) -> RawAnswer:
        delay, marked_first = self._random.uniform(0, self._most), self._random.random() < 0.5

        async def leave() -> None:
            if not marked_first:
                await asyncio.sleep(delay)
            if before_leaving is not None:
                await before_leaving()
            if marked_first:
                await asyncio.sleep(delay)

        return await self._inner.send(model, request, leave)


# -- one process ---------------------------------------------------------------------------------------------


@dataclass
class Caller:
    """What one process is given, and what it reports."""

    number: int
    database_url: str
    sandbox_url: str
    lease: Lease
    tasks: list[int]
    seconds: float
    jitter_seconds: float


@dataclass
class Report:
    """`beats`: seconds that a heartbeat took, through the one connection that all calls share."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    beats: list[float] = field(default_factory=list)


def run_caller(caller: Caller, ready: Any, go: Event, reports: Any) -> None:
    """The body of one process."""
    reports.put(asyncio.run(_call(caller, ready, go)))


async def _call(caller: Caller, ready: Any, go: Event) -> Report:
    report = Report()
    provider = LateProvider(
        GeminiProvider("sandbox-key", MODEL, caller.sandbox_url), caller.jitter_seconds, caller.number
    )
    # One connection for everything: if a waiting call held it, no other call and no heartbeat would pass.
    async with AsyncDatabase(caller.database_url, max_size=1) as db:
        gateway = Gateway(
            db,
            caller.lease,
            {PROVIDER: provider},
            # With so many calls in the queue each waits long; how long one would bear it isn't the question.
            GatewayPolicy(patience_seconds=caller.seconds + 120),
            seed=caller.number,
        )
        await gateway.warm()
        ready.release()
        await asyncio.to_thread(go.wait)
        until = time.monotonic() + caller.seconds

        async def work(task_id: int) -> None:
            while time.monotonic() < until:
                try:
                    await gateway.call(task_id, REQUEST)
                    report.answered += 1
                except Exception as error:
                    report.failures.append(f"{type(error).__name__}: {error}")

        async def beat() -> None:
            while True:
                began = time.monotonic()
                await heartbeat_execution(db, caller.lease)
                report.beats.append(time.monotonic() - began)
                await asyncio.sleep(BEAT_SECONDS)

        beating = asyncio.create_task(beat())
        working = [
            asyncio.create_task(work(caller.tasks[n % len(caller.tasks)])) for n in range(CALLS_AT_ONCE)
        ]
        await asyncio.sleep(caller.seconds)
        for task in working:
            task.cancel()  # those that wait for admission would wait on
        await asyncio.gather(*working, return_exceptions=True)
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await gateway.aclose()
    return report


# -- the platform around them --------------------------------------------------------------------------------


def prepare(db: Database, limit: int, processes: int, margin_ms: int) -> list[tuple[Lease, list[int]]]:
    """A started execution of ten tasks a process, and nothing in the way of its calls but the limit."""
    for name, value in {
        "daily_budget_usd": 100_000,
        "pacing_enabled": "false",
        "memory_limit_mb": 100_000,
        "database_connection_limit": 100,
        "max_concurrent_workflows": processes,
        "execution_timeout_minutes": 60,
        "lease_seconds": 60,
        "rate_margin_ms": margin_ms,
    }.items():
        assert db.execute("UPDATE lead.setting SET value = %s WHERE name = %s", [str(value), name]) == 1
    db.execute("UPDATE lead.workflow_policy SET item_cost_limit_usd = 100 WHERE enabled")
    db.execute(
        "UPDATE public.api_rate_limits SET requests_per_minute = %s WHERE provider = %s", [limit, PROVIDER]
    )
    for number in range(10 * processes):
        db.call("submit_task", task_type="content_generation", payload={"title": f"Topic {number}"})
    db.call("orchestrate_workflow_execution", worker_id="benchmark", max_concurrent=processes)
    runs: list[tuple[Lease, list[int]]] = []
    for row in db.rows("SELECT * FROM launchable_executions(10)"):
        started = db.call(
            "start_execution",
            execution_id=row["execution_id"],
            launch_number=row["launch_number"],
            run_id=f"process {len(runs)}",
        )
        lease = Lease(started["execution_id"], started["fence"])
        runs.append((lease, [task["task_id"] for task in started["tasks"]]))
    assert len(runs) == processes, f"{processes} executions were expected, not {len(runs)}"
    return runs


@contextmanager
def strict_sandbox(limit: int, log: Path) -> Iterator[SandboxAdmin]:
    """The sandbox in a process of its own; it refuses what is over `limit` in any 60 seconds."""
    address = log.with_name("url")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "lead_coordinator.providers.sandbox", "--gemini-limit", str(limit)),
            *("--call-log", str(log), "--url-file", str(address)),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        while not address.exists():
            if process.poll() is not None:
                raise SystemExit("the sandbox ended at once")
            time.sleep(0.05)
        yield SandboxAdmin(address.read_text())
    finally:
        process.terminate()
        process.wait(timeout=20)


@dataclass
class Connections:
    """Samples of the platform's connections: open, busy, and in a transaction that does nothing."""

    open: list[int] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    idle_in_transaction: list[int] = field(default_factory=list)

    def sample(self, admin: psycopg.Connection[Any]) -> None:
        row = admin.execute(
            "SELECT count(*), count(*) FILTER (WHERE state = 'active'),"
            " count(*) FILTER (WHERE state LIKE 'idle in transaction%')"
            " FROM pg_stat_activity WHERE application_name LIKE 'lead-coordinator%'"
        ).fetchone()
        assert row is not None
        for samples, number in zip((self.open, self.busy, self.idle_in_transaction), row, strict=True):
            samples.append(number)


# -- measuring -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """One limit's run. Times in seconds; `headroom`: how much earlier the closest call could have come."""

    limit: int
    minutes: float
    processes: int
    arrived: int
    refused: int
    used: float
    sustained: float
    rounds: list[float]
    headroom: float
    first_window: float
    peak: int
    ledger_agrees: bool
    connections: Connections
    beats: list[float]
    waiting: float
    failures: list[str]

    @property
    def good(self) -> bool:
        return (
            self.refused == 0
            and self.peak <= self.limit
            and min(self.used, self.sustained) >= LEAST_USED
            and max(self.connections.idle_in_transaction) == 0
            and self.ledger_agrees
            and not self.failures
        )


def rounds_of(arrivals: list[float], limit: int) -> list[float]:
    """Seconds after which a place of the window was used again: the mean of each whole round."""
    gaps = [later - first for first, later in zip(arrivals, arrivals[limit:], strict=False)]
    return [
        statistics.fmean(gaps[first : first + limit]) for first in range(0, len(gaps) // limit * limit, limit)
    ]


def measure(server_admin_url: str, url: str, limit: int, options: argparse.Namespace) -> Outcome:
    with (
        tempfile.TemporaryDirectory(prefix="lc-limiter-") as folder,
        Database(url) as db,
        psycopg.connect(server_admin_url, autocommit=True) as admin,
        strict_sandbox(limit, Path(folder) / "calls.jsonl") as sandbox,
    ):
        runs = prepare(db, limit, options.processes, options.margin_ms)
        db.close()
        seconds = 60 * options.minutes + AFTERWARDS_SECONDS
        reports, connections = work(runs, url, sandbox.url, seconds, options.jitter_ms / 1000, admin)
        time.sleep(AFTERWARDS_SECONDS)  # the sandbox logs a request when it has answered it
        stats = sandbox.stats()["providers"][PROVIDER]
        records = [json.loads(line) for line in (Path(folder) / "calls.jsonl").read_text().splitlines()]
        arrivals = sorted(datetime.fromisoformat(record["time"]).timestamp() for record in records)
        ledger = db.row(
            "SELECT count(*) FILTER (WHERE outcome = 'ok') AS ok,"
            " count(*) FILTER (WHERE status = 'settled') AS sent,"
            " count(*) FILTER (WHERE status IN ('reserved', 'sent')) AS open,"
            " extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY settled_at - sent_at)) AS median"
            " FROM lead.api_call"
        )
        assert ledger is not None
        counted = [arrival for arrival in arrivals if arrival < arrivals[0] + 60 * options.minutes]
        return Outcome(
            limit=limit,
            minutes=options.minutes,
            processes=options.processes,
            arrived=len(counted),
            refused=sum(record["refused"] for record in records),
            used=len(counted) / (limit * options.minutes),
            sustained=60 / statistics.fmean(rounds_of(arrivals, limit)),
            rounds=rounds_of(arrivals, limit),
            headroom=min(later - first for first, later in zip(arrivals, arrivals[limit:], strict=False))
            - 60,
            first_window=arrivals[limit - 1] - arrivals[0],
            peak=stats["peak_60s_received"],
            # The end cuts calls off that were marked as sent: some had arrived by then, some had not.
            ledger_agrees=ledger["open"] == 0 and ledger["ok"] <= len(records) <= ledger["sent"],
            connections=connections,
            beats=[beat for report in reports for beat in report.beats],
            waiting=options.processes * CALLS_AT_ONCE - limit / 60 * float(ledger["median"]),
            failures=[failure for report in reports for failure in report.failures],
        )


def work(
    runs: list[tuple[Lease, list[int]]],
    url: str,
    sandbox_url: str,
    seconds: float,
    jitter_seconds: float,
    admin: psycopg.Connection[Any],
) -> tuple[list[Report], Connections]:
    """Lets all processes begin together; their reports, and the connections sampled meanwhile."""
    context = multiprocessing.get_context("spawn")
    ready, go, reports = context.Semaphore(0), context.Event(), context.Queue()
    processes = [
        context.Process(
            target=run_caller,
            args=(
                Caller(number, url, sandbox_url, lease, tasks, seconds, jitter_seconds),
                ready,
                go,
                reports,
            ),
            daemon=True,
        )
        for number, (lease, tasks) in enumerate(runs)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        assert ready.acquire(timeout=120), "a process was expected to be ready within two minutes"
    go.set()
    connections = Connections()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connections.sample(admin)
        time.sleep(SAMPLE_SECONDS)
    found = [reports.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    return found, connections


# -- saying it -----------------------------------------------------------------------------------------------


def told(outcomes: list[Outcome]) -> str:
    """The figures as a table, a column a limit."""
    columns = [column(outcome) for outcome in outcomes]
    return table(*((name, *(one[name] for one in columns)) for name in columns[0]))


def column(outcome: Outcome) -> dict[str, str]:
    beats = [1000 * beat for beat in outcome.beats]
    opened, busy = outcome.connections.open, outcome.connections.busy
    return {
        "": f"{outcome.limit} a minute",
        "permitted: limit × minutes": f"{outcome.limit * outcome.minutes:g}",
        "arrived in that time": str(outcome.arrived),
        "refused by the sandbox": str(outcome.refused),
        "used of the permitted": f"{outcome.used:.2%}",
        "sustained, wherever one begins to count": f"{outcome.sustained:.2%}",
        "a place was used again after, round by round": ", ".join(f"{one:.2f} s" for one in outcome.rounds),
        "most in any 60 s, by the sandbox's log": str(outcome.peak),
        "closest call: so much earlier would have been refused": f"{1000 * outcome.headroom:.0f} ms",
        "the first window was full within": f"{outcome.first_window:.1f} s",
        "calls that wait, on average": f"{outcome.waiting:.0f}",
        "connections open": str(max(opened)),
        "busy of them, on average, most": f"{statistics.fmean(busy):.2f}, {max(busy)}",
        "idle in a transaction, most": str(max(outcome.connections.idle_in_transaction)),
        "a heartbeat through the connection that all calls of a process share, p50, p99": (
            f"{statistics.median(beats):.0f} ms, {statistics.quantiles(beats, n=100)[98]:.0f} ms"
        ),
        "the ledger agrees with the sandbox's log": "yes" if outcome.ledger_agrees else "NO",
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limiter")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--limit", type=int, nargs="+", default=[60, 600], help="requests in any 60 seconds")
    parser.add_argument("--processes", type=int, choices=range(1, 11), default=8, metavar="1-10")
    parser.add_argument("--jitter-ms", type=float, default=300.0)
    parser.add_argument(
        "--margin-ms", type=int, default=500, help="rate_margin_ms; less than the jitter shows 429s"
    )
    parser.add_argument("--record", action="store_true", help="write the figures to RESULTS.md")
    options = parser.parse_args()
    outcomes = []
    with embedded_server() as server:
        for limit in options.limit:
            url = create_database(server, f"limit_{limit}")
            deploy(url, Settings.load({}))
            outcome = measure(server.admin_url, url, limit, options)
            outcomes.append(outcome)
            print(told([outcome]), flush=True)
            for failure in outcome.failures[:5]:
                print(f"failed: {failure}")
            print()
        with Database(server.url) as db:
            version = db.row("SELECT split_part(current_setting('server_version'), ' ', 1) AS v")
    good = all(outcome.good for outcome in outcomes)
    if options.record:
        assert version is not None
        write_section("limiter", section(outcomes, options, machine(version["v"])))
    print("good" if good else "NOT good")
    return 0 if good else 1


def section(outcomes: list[Outcome], options: argparse.Namespace, where: str) -> str:
    round_seconds = 60 + options.margin_ms / 1000
    head = paragraph(
        f"`python -m benchmarks.limiter`: {options.processes} processes, {options.minutes:g} minutes a",
        "limit, through the gateway, against the strict sandbox (429 for what is over the limit in any",
        f"60 s), with up to {options.jitter_ms:g} ms between a grant and its arrival. How it is counted",
        f"stands at the head of `benchmarks/limiter.py`. {where}",
    )
    foot = paragraph(
        f"The margin is {options.margin_ms} ms (`rate_margin_ms`): a slot comes round every",
        f"{round_seconds:g} s at best, so that no more than {60 / round_seconds:.1%} can be sustained.",
    )
    return "\n\n".join(["## The limiter", head, told(outcomes), foot])


if __name__ == "__main__":
    sys.exit(main())
