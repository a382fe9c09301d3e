"""The ledger under 16 connections: reserve, mark as sent, settle; and whether anything was overshot.

    python -m benchmarks.money [--connections 16] [--seconds 10] [--rounds 3]

Each connection belongs to a process of its own, has an execution of its own that holds a thousand tasks, and
makes one call after the other; all calls go to one provider, so that all want the same account rows, and the
rate limit is so high (60,000 a minute) that only the ledger binds. The executions are claimed by workers of
their own, which hold money in three accounts: the provider's, the day's total and the workflow's.

`settled`   a whole call: `begin_api_call`, `mark_api_call_sent`, `settle_api_call`; three transactions
`released`  a call that isn't made after all: `begin_api_call`, `release_api_call`; two transactions
`exhausted` as `settled`, with a daily budget that ends half-way: nobody may pass it, and less than what one
            call may cost is left

The first two are made by pgbench, which takes little of the processors that it shares with the server, with
the statements that `lead_coordinator/database/calls.py` sends; the last by Python processes, which read each
answer. After each round the ledger is read: what each account holds and has spent is what the rows of the
calls and executions say, and never more than the limit.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import cycle
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from threading import BrokenBarrierError

from psycopg.types.json import Jsonb

from benchmarks.server import create_database, deploy_control_plane, drop_database, embedded_server
from lead_coordinator.cli.demo_report import percentile
from lead_coordinator.database.connection import Database, connect
from lead_coordinator.database.embedded import EmbeddedServer
from lead_coordinator.database.postgres import binaries

CONNECTIONS = 16
SECONDS = 10.0
ROUNDS = 3
MODES = ("settled", "released", "exhausted")
MEANING = {
    "settled": "reserve, mark as sent, settle",
    "released": "reserve, release",
    "exhausted": "reserve, mark as sent, settle, until the budget ends",
}
TASKS_EACH = 1_000
WARM_UP_CALLS = 10
EXHAUSTED_AFTER = 200  # calls of each connection
START_TIMEOUT_SECONDS = 120
ANSWER_TIMEOUT_SECONDS = 600
TASK_TYPE = "content_generation"
MAXIMUM = Decimal("0.0004")
COST = Decimal("0.0003")
PLENTY = Decimal(1_000_000)
# A thousand a second for ever, and more for a round: it never binds.
REQUESTS_PER_MINUTE = 60_000
CANDIDATES = [{"provider": "gemini", "model": "gemini-2.5-flash-lite", "max_cost_usd": MAXIMUM}]
USAGE = {"input_tokens": 900, "output_tokens": 500}

CLAIM = "SELECT execution_id, fence, task_id FROM claim_tasks(%s, %s, %s, 86400)"
# As lead_coordinator/database/calls.py sends them: only what is sent must be on the disk before it is sent.
NOT_FLUSHED = ", set_config('synchronous_commit', 'off', true)"
BEGIN = f"SELECT begin_api_call(%s, %s, %s, 'draft', %s) AS answer{NOT_FLUSHED}"
SENT = "SELECT mark_api_call_sent(%s, %s) AS answer"
SETTLE = f"SELECT settle_api_call(%s, 'ok', %s, %s, 200){NOT_FLUSHED}"
# The same for pgbench, one after the other; its own values are the numbers.
SCRIPT_BEGIN = f"""\\set task {{first}} + random(0, {TASKS_EACH - 1})
SELECT begin_api_call('{{execution_id}}', {{fence}}, :task, 'draft', '{{candidates}}') ->> 'call_id' AS call
    {NOT_FLUSHED} \\gset
"""
SCRIPTS = {
    "settled": f"""{SCRIPT_BEGIN}SELECT mark_api_call_sent(:call, {{fence}});
SELECT settle_api_call(:call, 'ok', {COST}, '{{usage}}', 200){NOT_FLUSHED};
""",
    "released": f"{SCRIPT_BEGIN}SELECT release_api_call(:call, {{fence}}){NOT_FLUSHED};\n",
}
# What each account says, and what the rows of calls and executions say that it should. A provider's account
# holds open calls; the day's and the workflow's hold what each running execution has taken for itself, and
# book it at its end.
LEDGER = """
WITH calls AS (
    SELECT coalesce(sum(c.max_cost_usd) FILTER (WHERE c.status IN ('reserved', 'sent')), 0) AS held,
        coalesce(sum(c.cost_usd) FILTER (WHERE c.status = 'settled'), 0) AS spent
    FROM lead.api_call AS c
), executions AS (
    SELECT coalesce(sum(w.envelope_usd) FILTER (WHERE w.status = 'running'), 0) AS held,
        coalesce(sum(w.actual_cost) FILTER (WHERE w.status <> 'running'), 0) AS spent
    FROM public.workflow_orchestration AS w
)
SELECT a.scope, a.held_usd, a.spent_usd,
    CASE a.scope WHEN 'provider' THEN c.held ELSE e.held END AS held_by_rows,
    CASE a.scope WHEN 'provider' THEN c.spent ELSE e.spent END AS spent_by_rows
FROM lead.budget_account AS a, calls AS c, executions AS e
"""
RUNNING = "SELECT execution_id, fence FROM public.workflow_orchestration WHERE status = 'running'"


@dataclass(frozen=True)
class Worked:
    """What one connection did: milliseconds of each call that went through, and why one was refused."""

    number: int
    milliseconds: tuple[float, ...]
    refused: str | None


@dataclass(frozen=True)
class Round:
    mode: str
    connections: int
    seconds: float
    milliseconds: tuple[float, ...]
    limit_usd: Decimal
    # Held and spent of the day's total at the end of the round, before the executions end.
    committed_usd: Decimal

    @property
    def calls_per_second(self) -> float:
        return len(self.milliseconds) / self.seconds

    def quantile(self, q: float) -> float:
        found = percentile(sorted(self.milliseconds), q)
        assert found is not None
        return found


def work(url: str, number: int, start: Barrier, answers: Queue[Worked]) -> None:
    """A process. Whatever ends it, it answers: the others wait for it."""
    try:
        answers.put(make_calls(url, number, start))
    except Exception as error:
        start.abort()
        answers.put(Worked(number, (), f"{type(error).__name__}: {error}"))


def make_calls(url: str, number: int, start: Barrier) -> Worked:
    """Claims its tasks, waits for the others, makes calls until the budget is up."""
    with connect(url) as connection:
        rows = connection.execute(CLAIM, [f"worker-{number}", TASK_TYPE, TASKS_EACH]).fetchall()
        execution_id, fence = rows[0]["execution_id"], rows[0]["fence"]
        task_ids = cycle(row["task_id"] for row in rows)
        candidates, usage = Jsonb(CANDIDATES), Jsonb(USAGE)

        def one_call() -> str | None:
            """None, or why it was refused."""
            row = connection.execute(BEGIN, [execution_id, fence, next(task_ids), candidates]).fetchone()
            assert row is not None
            if not row["answer"]["granted"]:
                return str(row["answer"]["reason"])
            call_id = row["answer"]["call_id"]
            connection.execute(SENT, [call_id, fence])
            connection.execute(SETTLE, [call_id, COST, usage])
            return None

        for _ in range(WARM_UP_CALLS):
            one_call()
        start.wait(timeout=START_TIMEOUT_SECONDS)
        taken: list[float] = []
        refused = None
        now = time.perf_counter()
        while refused is None:
            began, refused = now, one_call()
            now = time.perf_counter()
            if refused is None:
                taken.append(1000 * (now - began))
        return Worked(number, tuple(taken), refused)


def check_ledger(db: Database, limit: Decimal) -> Decimal:
    """What the day's total holds and has spent; ends the program where an account is wrong."""
    total = Decimal(0)
    for account in db.rows(LEDGER):
        found = account["held_usd"], account["spent_usd"]
        expected = account["held_by_rows"], account["spent_by_rows"]
        if found != expected or sum(found) > limit:
            raise SystemExit(
                f"the account {account['scope']} holds {found[0]} and has spent {found[1]}; the rows say"
                f" {expected[0]} and {expected[1]}, and the limit is {limit}"
            )
        if account["scope"] == "total":
            total = Decimal(sum(found))
    return total


def exhaust(url: str, connections: int) -> tuple[float, tuple[float, ...]]:
    """Python processes make calls until the budget refuses one: seconds taken, milliseconds of each call."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit the server's lock and connections
    answers: Queue[Worked] = context.Queue()
    start = context.Barrier(connections + 1)
    processes = [
        context.Process(target=work, args=(url, number, start, answers)) for number in range(connections)
    ]
    for process in processes:
        process.start()
    try:
        with suppress(BrokenBarrierError):  # the answers say why
            start.wait(timeout=START_TIMEOUT_SECONDS)
        began = time.perf_counter()
        worked = [answers.get(timeout=ANSWER_TIMEOUT_SECONDS) for _ in processes]
        took = time.perf_counter() - began
    finally:
        for process in processes:
            process.join(timeout=START_TIMEOUT_SECONDS)
            process.kill()
    if (refused := {one.refused for one in worked}) != {"budget"}:
        raise SystemExit(f"exhausted: calls ended with {refused}")
    return took, tuple(each for one in worked for each in one.milliseconds)


def make_with_pgbench(url: str, mode: str, connections: int, seconds: float) -> tuple[float, ...]:
    """pgbench processes make calls for `seconds`: milliseconds of each call."""
    with Database(url) as db:
        claims = [
            db.rows(CLAIM, [f"worker-{number}", TASK_TYPE, TASKS_EACH]) for number in range(connections)
        ]
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for number, rows in enumerate(claims):
            first = min(row["task_id"] for row in rows)
            assert {row["task_id"] for row in rows} == set(range(first, first + TASKS_EACH))
            script = Path(folder) / f"{number}.sql"
            script.write_text(
                SCRIPTS[mode].format(
                    first=first, execution_id=rows[0]["execution_id"], fence=rows[0]["fence"],
                    candidates=json.dumps(CANDIDATES, default=float), usage=json.dumps(USAGE),
                )
            )  # fmt: skip
            command = [
                str(binaries() / "pgbench"), "--no-vacuum", "--protocol=extended",
                f"--time={math.ceil(seconds)}", "--log", f"--log-prefix={folder}/{number}",
                f"--file={script}", url,
            ]  # fmt: skip
            processes.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
        for process in processes:
            said, _ = process.communicate(timeout=ANSWER_TIMEOUT_SECONDS)
            if process.returncode:
                raise SystemExit(f"{mode}: pgbench failed: {said}")
        # A line is: client, number, microseconds, script, epoch seconds, microseconds.
        lines = [line for log in Path(folder).glob("*.[0-9]*") for line in log.read_text().splitlines()]
    return tuple(int(line.split()[2]) / 1000 for line in lines)


def run_round(url: str, mode: str, connections: int, seconds: float) -> Round:
    """One round on a fresh database; ends the program where the ledger is wrong."""
    # Ends somewhere among the calls of the round, and not on a whole number of them.
    limit = COST * connections * EXHAUSTED_AFTER + COST / 2 if mode == "exhausted" else PLENTY
    with Database(url) as db:
        db.call("change_setting", name="daily_budget_usd", value=str(limit), actor="benchmark")
        if mode == "exhausted":
            took, taken = exhaust(url, connections)
        else:
            took, taken = math.ceil(seconds), make_with_pgbench(url, mode, connections, seconds)
        committed = check_ledger(db, limit)
        if mode == "exhausted" and limit - committed >= MAXIMUM:
            raise SystemExit(f"{committed} of {limit} USD were used, and a call of {MAXIMUM} was refused")
        for execution in db.rows(RUNNING):
            db.call("complete_tasks", **execution)
        check_ledger(db, limit)
    return Round(mode, connections, took, taken, limit, committed)


def run(
    server: EmbeddedServer,
    connections: int = CONNECTIONS,
    seconds: float = SECONDS,
    rounds: int = ROUNDS,
    modes: Sequence[str] = MODES,
) -> list[Round]:
    url = create_database(server, "money")
    deploy_control_plane(url)
    # Of one priority, so that they are claimed in the order of their numbers.
    with Database(url) as db:
        db.execute(
            "INSERT INTO public.task_queue (task_type, payload) SELECT %s, '{}' FROM generate_series(1, %s)",
            [TASK_TYPE, TASKS_EACH * connections],
        )
    with Database(url) as db:
        db.execute("UPDATE public.api_rate_limits SET requests_per_minute = %s", [REQUESTS_PER_MINUTE])
        db.execute("UPDATE public.api_rate_limits SET adaptive_limit = requests_per_minute")
        db.execute("VACUUM (ANALYZE)")
    done: list[Round] = []
    for _ in range(rounds):
        for mode in modes:
            fresh = create_database(server, "fresh", template="money")
            done.append(run_round(fresh, mode, connections, seconds))
            drop_database(server, "fresh")
            print(f"{mode}: {done[-1].calls_per_second:,.0f} a second", file=sys.stderr, flush=True)
    drop_database(server, "money")
    return done


def table(done: Sequence[Round]) -> list[str]:
    """The lines of a Markdown table: medians over the rounds."""
    lines = [
        "| what | connections | calls a second | p50 ms | p95 ms | limit, USD | held and spent |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode in dict.fromkeys(one.mode for one in done):
        mine = [one for one in done if one.mode == mode]
        last = mine[-1]
        lines.append(
            f"| {MEANING[mode]} | {last.connections} | {median(one.calls_per_second for one in mine):,.0f}"
            f" | {median(one.quantile(0.5) for one in mine):.1f}"
            f" | {median(one.quantile(0.95) for one in mine):.1f}"
            f" | {last.limit_usd:,.5f} | {last.committed_usd:,.5f} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--modes", default=",".join(MODES))
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    modes = options.modes.split(",")
    if unknown := set(modes) - set(MODES):
        raise SystemExit(f"--modes: {', '.join(sorted(unknown))} isn't one of {', '.join(MODES)}")
    with embedded_server() as server:
        done = run(server, options.connections, options.seconds, options.rounds, modes)
    print("\n".join(table(done)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
