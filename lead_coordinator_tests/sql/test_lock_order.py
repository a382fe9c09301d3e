"""Calls that need the same rows in different orders: none is ever the victim of a deadlock, and of two that
decide something together the second sees what the first did.

A third party holds one row until both calls are at the place where they used to meet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.sql.play import NOON, Play, Run

pytestmark = pytest.mark.every_server

PATIENCE_SECONDS = 30
Action = Callable[[Play], Any]


class Meeting:
    """Calls in sessions of their own, all blocked until a third party lets go of a row."""

    def __init__(self, play: Play, url: str, pool: ThreadPoolExecutor) -> None:
        self.play = play
        self.url = url
        self.pool = pool
        self.started: list[Future[Any]] = []

    def starts(self, action: Action) -> None:
        """Begins a call, and waits until it waits for somebody."""
        before = self.blocked()

        def work() -> Any:
            with Database(self.url) as db:
                return action(Play(db, self.play.now))

        self.started.append(self.pool.submit(work))
        self.until_blocked(before + 1)

    def until_blocked(self, count: int) -> None:
        """Waits until so many sessions wait for a lock."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.blocked() != count:
            for future in self.started:
                assert not future.done(), f"it was expected to wait: {future.result()}"
            assert time.monotonic() < deadline, f"{self.blocked()} sessions wait, {count} were expected to"
            time.sleep(0.01)

    def blocked(self) -> int:
        row = self.play.db.row(
            "SELECT count(*) AS n FROM pg_stat_activity"
            " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        )
        assert row is not None
        return int(row["n"])

    def answers(self) -> list[Any]:
        return [future.result(PATIENCE_SECONDS) for future in self.started]


@pytest.fixture
def meet(play: Play, database_url: str) -> Iterator[Callable[..., Any]]:
    """`with meet(statement, …) as meeting`: the statement's row is held in the block, let go at its end."""

    with ThreadPoolExecutor(4) as pool:

        @contextmanager
        def hold(statement: str, params: list[Any] | None = None) -> Iterator[Meeting]:
            meeting = Meeting(play, database_url, pool)
            with Database(database_url) as third, third.connection() as connection, connection.transaction():
                third.execute(statement, params)
                yield meeting

        yield hold


@pytest.fixture(autouse=True)
def _room(play: Play) -> None:
    play.db.execute("UPDATE lead.workflow_policy SET enabled = true, item_cost_limit_usd = 1")
    play.set("memory_limit_mb", 100_000)


def claimed(play: Play, count: int = 1, **fields: Any) -> Run:
    """An external worker's execution: its calls draw on the day's budget."""
    play.submit(count, **fields)
    rows = play.claim(count, fields.get("task_type", "content_generation"))
    return Run(rows[0]["execution_id"], rows[0]["fence"], [row["task_id"] for row in rows])


def hold_account(scope: str, key: str) -> tuple[str, list[Any]]:
    return (
        "SELECT 1 FROM lead.budget_account WHERE scope = %s AND scope_key = %s FOR UPDATE",
        [scope, key],
    )


def begin(run: Run, *providers: str, task: int = 0) -> Action:
    return lambda play: play.begin_call(
        run, run.task_ids[task], *((provider, "0.1") for provider in providers)
    )


def pay_once(play: Play, *tenants: str) -> None:
    """Makes the day's accounts: both providers', the total's, and those of the tenants."""
    for tenant in tenants:
        run = claimed(play, tenant=tenant)
        for provider in ("gemini", "openai"):
            granted = play.begin_call(run, run.task_ids[0], (provider, "0.1"))
            assert play.send(run, granted["call_id"])
            play.settle(granted["call_id"])
        play.complete(run, run.task_ids[0])
        play.finish(run)


def test_of_two_completions_at_once_the_second_frees_the_task_that_waits_for_both(
    play: Play, meet: Callable[..., Any]
) -> None:
    runs = [claimed(play), claimed(play)]
    (waiting,) = play.submit(1, dependencies=[run.task_ids[0] for run in runs])
    with meet("SELECT 1 FROM lead.task WHERE id = %s FOR UPDATE", [waiting]) as meeting:
        for run in runs:
            meeting.starts(lambda play, run=run: play.complete(run, run.task_ids[0]))
    meeting.answers()
    assert play.task(waiting)["status"] == "queued"


def test_two_calls_that_prefer_different_providers_are_both_refused_where_the_tenants_money_ends(
    play: Play, meet: Callable[..., Any]
) -> None:
    pay_once(play, "acme")
    play.db.execute("INSERT INTO lead.tenant (tenant, daily_cost_limit_usd) VALUES ('acme', 1)")
    runs = [claimed(play, tenant="acme"), claimed(play, tenant="acme")]
    with meet("UPDATE lead.budget_account SET spent_usd = 1 WHERE scope = 'tenant'") as meeting:
        meeting.starts(begin(runs[0], "gemini", "openai"))
        meeting.starts(begin(runs[1], "openai", "gemini"))
    assert [answer["reason"] for answer in meeting.answers()] == ["budget", "budget"]
    assert play.account("provider", "gemini")[0] == play.account("provider", "openai")[0] == 0


def test_two_calls_that_prefer_different_providers_whose_breakers_are_open_get_an_answer(
    play: Play, meet: Callable[..., Any]
) -> None:
    play.db.execute(
        "UPDATE lead.circuit_breaker SET state = 'open', retry_at = %s WHERE name LIKE 'provider:%%'",
        [NOON.replace(hour=23)],
    )
    runs = [claimed(play), claimed(play)]
    locked = "SELECT 1 FROM lead.circuit_breaker WHERE name = %s FOR UPDATE"
    with meet(locked, ["provider:gemini"]) as first:
        first.starts(begin(runs[0], "gemini", "openai"))
        with meet(locked, ["provider:openai"]) as second:
            second.starts(begin(runs[1], "openai", "gemini"))
        # Now the second has been at its first choice, and waits for the other.
        first.until_blocked(2)
    answers = first.answers() + second.answers()
    assert [answer["reason"] for answer in answers] == ["breaker_open", "breaker_open"]


def test_a_run_with_calls_at_both_providers_ends_beside_a_call_of_a_tenant_of_its(
    play: Play, meet: Callable[..., Any]
) -> None:
    pay_once(play, "acme")
    ending = claimed(play, tenant="acme")
    for provider in ("gemini", "openai"):
        granted = play.begin_call(ending, ending.task_ids[0], (provider, "0.1"))
        assert play.send(ending, granted["call_id"])
    calling = claimed(play, tenant="acme")
    with meet(*hold_account("tenant", "acme")) as meeting:
        meeting.starts(lambda play: play.finish(ending))
        meeting.starts(begin(calling, "openai"))
    ended, granted = meeting.answers()
    assert ended["calls_settled"] == 2
    assert granted["granted"]
    assert play.account("tenant", "acme")[1] == Decimal("0.202")


def test_tasks_with_calls_at_both_providers_are_given_back_beside_a_call_of_their_tenant(
    play: Play, meet: Callable[..., Any]
) -> None:
    pay_once(play, "acme")
    giving = claimed(play, tenant="acme")
    for provider in ("gemini", "openai"):
        assert play.begin_call(giving, giving.task_ids[0], (provider, "0.1"))["granted"]
    calling = claimed(play, tenant="acme")

    def give_back(play: Play) -> Any:
        return play.call(
            "give_back_tasks",
            execution_id=giving.execution_id, fence=giving.fence, task_ids=giving.task_ids, reason="enough",
            current_time=play.now,
        )  # fmt: skip

    with meet(*hold_account("tenant", "acme")) as meeting:
        meeting.starts(give_back)
        meeting.starts(begin(calling, "openai"))
    given_back, granted = meeting.answers()
    assert given_back == 1
    assert granted["granted"]
    assert play.account("tenant", "acme")[0] == Decimal("0.1")


def test_two_dead_runs_are_recovered_together_beside_a_call(play: Play, meet: Callable[..., Any]) -> None:
    pay_once(play, "acme")
    for provider in ("gemini", "openai"):
        dead = claimed(play)
        granted = play.begin_call(dead, dead.task_ids[0], (provider, "0.1"))
        assert play.send(dead, granted["call_id"])
    play.pass_time(seconds=70)
    calling = claimed(play)
    with meet(*hold_account("total", "all")) as meeting:
        meeting.starts(lambda play: play.call("recover_executions", current_time=play.now))
        meeting.starts(begin(calling, "openai"))
    recovered, granted = meeting.answers()
    assert len(recovered["recovered"]) == 2
    assert granted["granted"]
    assert play.account()[1] == Decimal("0.202")


def test_two_types_are_reserved_beside_a_run_that_fails_while_its_pipeline_is_tried_out(
    play: Play, meet: Callable[..., Any]
) -> None:
    play.submit(1, "seo_analysis")
    failing = play.run_started()
    play.db.execute(
        "UPDATE lead.circuit_breaker SET state = 'half_open', probe_limit = 4"
        " WHERE name = 'pipeline:seo_monitor'"
    )
    pay_once(play, "acme")
    plan = {
        "plan_id": "p",
        "workflows_to_execute": [
            {"execution_id": f"e {kind}", "workflow_type": kind, "batch_size": 1}
            for kind in ("content_pipeline", "seo_monitor")
        ],
    }
    with meet(*hold_account("workflow", "content_pipeline")) as meeting:
        meeting.starts(
            lambda play: play.call("reserve_execution_resources", execution_plan=plan, current_time=play.now)
        )
        meeting.starts(lambda play: play.finish(failing, "failed"))
    reserved, finished = meeting.answers()
    assert reserved
    assert finished["status"] == "failed"


def test_two_batches_of_calls_are_the_first_of_their_tenants_at_once(
    play: Play, meet: Callable[..., Any]
) -> None:
    pay_once(play, "initech")
    both = [claimed(play, 2), claimed(play, 2)]
    for tenant, places in (("acme", (0, 1)), ("globex", (1, 0))):
        for run, place in zip(both, places, strict=True):
            play.db.execute("UPDATE lead.task SET tenant = %s WHERE id = %s", [tenant, run.task_ids[place]])

    def begin_both(run: Run, provider: str) -> Action:
        calls = [
            {
                "task_id": task_id,
                "step": "draft",
                "candidates": [{"provider": provider, "model": "m", "max_cost_usd": Decimal("0.1")}],
            }
            for task_id in run.task_ids
        ]
        return lambda play: play.call(
            "begin_api_calls",
            execution_id=run.execution_id, fence=run.fence, calls=calls, current_time=play.now,
        )  # fmt: skip

    with meet(*hold_account("total", "all")) as meeting:
        meeting.starts(begin_both(both[0], "gemini"))
        meeting.starts(begin_both(both[1], "openai"))
    assert all(call["granted"] for answer in meeting.answers() for call in answer)


def test_a_slot_that_a_rival_takes_at_this_moment_is_worth_a_short_wait(
    play: Play, meet: Callable[..., Any]
) -> None:
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 1")
    run = claimed(play)
    with meet("SELECT 1 FROM lead.rate_slot WHERE provider = 'gemini' FOR UPDATE"):
        answer = play.begin_call(run, run.task_ids[0], ("gemini", "0.1"))
    assert (answer["reason"], answer["wait_ms"]) == ("rate_limited", 20)
    assert play.begin_call(run, run.task_ids[0], ("gemini", "0.1"))["granted"]
