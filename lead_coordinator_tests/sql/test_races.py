"""Many clients at once against one database: nothing lost, nothing twice, no limit passed."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator.errors import StaleLease
from lead_coordinator_tests.sql.play import NOON, Play

CLIENTS = 8


def at_once(database_url: str, work: Callable[[Play, int], Any]) -> list[Any]:
    """Runs `work` in a thread a client, each with a connection of its own, all started together."""
    ready = threading.Barrier(CLIENTS)

    def client(number: int) -> Any:
        with Database(database_url) as db:
            play = Play(db)
            play.db.row("SELECT 1 AS connected")
            ready.wait(timeout=60)
            return work(play, number)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(client, range(CLIENTS)))


def test_one_key_submitted_by_all_at_once_is_one_task(play: Play, database_url: str) -> None:
    def submit(client: Play, number: int) -> list[int]:
        keys = [f"key {n}" for n in range(50)]
        if number % 2:
            keys.reverse()
        answer = client.call(
            "submit_tasks",
            tasks=[
                {"task_type": "content_generation", "payload": {}, "idempotency_key": key} for key in keys
            ],
        )
        return [task["task_id"] for task in answer["tasks"] if task["created"]]

    created = [task_id for ids in at_once(database_url, submit) for task_id in ids]
    assert len(created) == len(set(created)) == 50
    assert play.statuses() == play.counted() == {"queued": 50}


def test_deciding_all_at_once_passes_neither_slots_nor_budget(play: Play, database_url: str) -> None:
    play.set("memory_limit_mb", 100_000)
    play.set("daily_budget_usd", "1.00")
    play.submit(100)

    def decide(client: Play, number: int) -> int:
        return sum(client.decide(f"client {number}")["workflows_dispatched"] for _ in range(10))

    dispatched = sum(at_once(database_url, decide))
    offered = play.launchable()
    assert 1 <= dispatched == len(offered) <= 3
    held, _ = play.account()
    assert held == sum(row["batch_size"] for row in offered) * Decimal("0.09") <= Decimal("1.00")


def test_reserving_without_the_decisions_lock_passes_no_limit_either(play: Play, database_url: str) -> None:
    play.set("memory_limit_mb", 100_000)
    play.only("content_pipeline")
    play.submit(100)

    def reserve(client: Play, number: int) -> int:
        created = 0
        for _ in range(6):
            tasks = client.call("get_intelligent_scheduled_tasks", current_time=client.now)
            plan = client.call(
                "create_optimal_execution_plan",
                scheduled_tasks=tasks, resource_status={}, worker_id=str(number), current_time=client.now,
            )  # fmt: skip
            created += client.call(
                "create_execution_records", execution_plan=plan, worker_id="w", current_time=client.now
            )
        return created

    assert sum(at_once(database_url, reserve)) == len(play.launchable()) == 3


def test_every_task_is_worked_once_while_runs_die(play: Play, database_url: str) -> None:
    """Runs work, and every third is lost in mid-batch; a lost one wakes later and tries to write."""
    play.set("memory_limit_mb", 100_000)
    play.set("max_concurrent_workflows", 10)
    play.set("stall_limit", 20)
    play.set("breaker_failures", 1000)
    total = 300
    play.submit(total)
    done: Counter[int] = Counter()
    counting = threading.Lock()
    written_late: list[str] = []

    def work(client: Play, number: int) -> None:
        runs = 0
        lost = []
        while client.statuses().get("completed", 0) < total:
            client.decide(f"client {number}", max_concurrent=10)
            for offered in client.launchable():
                try:
                    run = client.start(offered)
                except StaleLease:
                    continue
                runs += 1
                dies = runs % 3 == 0
                for task_id in run.task_ids[: len(run.task_ids) // 2] if dies else run.task_ids:
                    client.pay(run, task_id, "0.002")
                    client.complete(run, task_id)
                    with counting:
                        done[task_id] += 1
                if dies:
                    client.call(
                        "report_run_failure",
                        execution_id=run.execution_id, run_id=f"run of {offered['run_key']}",
                        reason="killed", current_time=client.now,
                    )  # fmt: skip
                    lost.append(run)
                else:
                    client.finish(run)
            client.pass_time(seconds=1)  # slots of the limiter become free
        for run in lost:
            try:
                client.finish(run)
                written_late.append(run.execution_id)
            except StaleLease:
                pass

    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 5000")
    at_once(database_url, work)
    assert written_late == [], "a lost run must not write"
    assert len(done) == total
    assert set(done.values()) == {1}
    assert play.statuses() == play.counted() == {"completed": total}
    held, spent = play.account()
    ledger = play.db.row("SELECT sum(cost_usd) AS spent FROM lead.api_call")
    assert ledger is not None
    assert held == 0
    assert spent == ledger["spent"] == total * Decimal("0.002")


def test_the_limiter_is_exact_for_all_together(play: Play, database_url: str) -> None:
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 20 WHERE provider = 'gemini'")
    play.set("max_concurrent_workflows", 1)
    play.set("execution_timeout_minutes", 60)
    play.submit(1)
    run = play.run_started()

    def call(client: Play, number: int) -> list[float]:
        sent = []
        for _ in range(120):
            granted = client.begin_call(run, run.task_ids[0], ("gemini", "0"))
            if granted["granted"]:
                client.send(run, granted["call_id"])
                client.settle(granted["call_id"], dollars="0")
                sent.append((client.now - NOON).total_seconds())
            client.pass_time(seconds=1)
        return sent

    arrivals = sorted(second for sent in at_once(database_url, call) for second in sent)
    for first, later in zip(arrivals, arrivals[20:], strict=False):
        assert later - first >= 60, f"21 calls within {later - first} s, 20 a minute are allowed"
    assert len(arrivals) >= 20


@pytest.mark.parametrize("limit", ["0.05", "0.37"])
def test_holds_never_pass_the_days_limit_together(play: Play, database_url: str, limit: str) -> None:
    day = NOON.date()

    def hold(client: Play, number: int) -> int:
        return sum(
            bool(
                client.db.row(
                    "SELECT lead.budget_hold(%s, 'total', 'all', 0.01, %s) AS held", [day, Decimal(limit)]
                )["held"]  # type: ignore[index]
            )
            for _ in range(20)
        )

    assert sum(at_once(database_url, hold)) == int(Decimal(limit) * 100)
    assert play.account()[0] == Decimal(limit)


def test_batches_of_calls_in_any_order_never_wait_in_a_circle(play: Play, database_url: str) -> None:
    """Two providers asked in either order, beyond every envelope, with breakers that open and close."""
    for name in ("breaker_failures", "breaker_cooldown_seconds", "breaker_probe_wait_seconds"):
        play.set(name, 1)
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 10000")
    play.submit(10 * CLIENTS)
    claims = [play.claim(10) for _ in range(CLIENTS)]

    def work(mine: Play, number: int) -> int:
        held = {"execution_id": claims[number][0]["execution_id"], "fence": claims[number][0]["fence"]}
        providers = ("gemini", "openai") if number % 2 else ("openai", "gemini")
        settled = 0
        for turn in range(10):
            mine.pass_time(seconds=1)
            wishes = [
                {
                    "task_id": task["task_id"],
                    "step": "draft",
                    "candidates": [
                        {"provider": providers[place % 2], "model": "m", "max_cost_usd": Decimal("0.001")}
                    ],
                }
                for place, task in enumerate(claims[number])
            ]
            answers = mine.call("begin_api_calls", calls=wishes, current_time=mine.now, **held)
            for call_id in [answer["call_id"] for answer in answers if answer["granted"]]:
                mine.call("mark_api_call_sent", call_id=call_id, fence=held["fence"], current_time=mine.now)
                mine.settle(call_id, "server_error" if (turn + number) % 5 == 0 else "ok", "0.0005")
                settled += 1
        return settled

    settled = sum(at_once(database_url, work))
    assert settled > 10 * CLIENTS
    for provider in ("gemini", "openai"):
        assert play.account("provider", provider)[0] == 0, "nothing is left held"
    for claim in claims:
        play.call(
            "complete_tasks",
            execution_id=claim[0]["execution_id"],
            fence=claim[0]["fence"],
            current_time=play.now,
        )
    assert play.account() == (0, settled * Decimal("0.0005")), "what was settled was spent, and no more"


def test_a_dependency_that_ends_while_its_dependant_is_submitted_keeps_nothing_waiting(
    play: Play, database_url: str
) -> None:
    play.set("max_concurrent_workflows", 1)
    firsts = play.submit(CLIENTS)
    run = play.run_started()

    def race(client: Play, number: int) -> None:
        if number % 2:
            client.complete(run, firsts[number])
            client.complete(run, firsts[number - 1])
        else:
            client.submit(1, dependencies=[firsts[number], firsts[number + 1]])

    at_once(database_url, race)
    waiting = play.db.rows("SELECT id FROM task_queue WHERE status = 'deferred'")
    assert waiting == [], "all dependencies have completed"
