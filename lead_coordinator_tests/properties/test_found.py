"""What the machine found, each in its fewest steps."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.sql.play import Play, Run


@pytest.fixture
def play(db: Database) -> Play:
    return Play(db)


def only_run(play: Play) -> Run:
    (offered,) = play.launchable()
    return play.start(offered)


def test_a_beat_renews_the_lease_that_a_worker_asked_for(play: Play) -> None:
    play.submit()
    (claimed,) = play.db.call_rows(
        "claim_tasks",
        worker_id="w",
        task_type="content_generation",
        lease_seconds=600,
        current_time=play.now,
    )
    beat = play.call(
        "heartbeat_execution",
        execution_id=claimed["execution_id"],
        fence=claimed["fence"],
        current_time=play.pass_time(seconds=10),
    )
    assert beat["lease_expires_at"] == (play.now + timedelta(seconds=600)).isoformat()


def test_calls_of_a_run_under_way_outlive_its_tasks(play: Play) -> None:
    play.submit(2)
    play.set("execution_timeout_minutes", 60)
    run = play.run_started()
    play.pay(run, run.task_ids[0], "0.003")
    play.complete(run, run.task_ids[0])
    play.pass_time(days=3)
    while play.call("prune_history", keep=timedelta(days=1), current_time=play.now)["more"]:
        pass
    assert str(play.finish(run)["actual_cost"]) == "0.0030000000", "what it cost is summed up at its end"


def open_pipeline(play: Play) -> None:
    for _ in range(5):
        play.decide(max_concurrent=1)
        play.finish(only_run(play), "failed")
    assert play.breaker("pipeline:content_pipeline")["state"] == "open"


def test_a_probe_that_fails_late_keeps_no_pipeline_shut(play: Play) -> None:
    """Two were let through, one failed: a plan with two runs would never be reserved again."""
    play.db.execute("UPDATE lead.workflow_policy SET max_batch = 1")
    play.submit(20)
    open_pipeline(play)
    play.pass_time(minutes=5)
    play.decide()
    play.finish(only_run(play))
    play.decide()
    first, second = (play.start(offered) for offered in play.launchable())
    play.finish(first)
    play.finish(second, "failed")
    play.pass_time(minutes=1)
    assert play.decide()["workflows_dispatched"] == 1, "one probe was expected to be let through"


def test_a_late_probe_says_nothing_about_the_next_ones(play: Play) -> None:
    play.submit(3)
    play.set("execution_timeout_minutes", 60)
    run = play.run_started()

    def sent() -> int:
        granted = play.begin_call(run, run.task_ids[0], ("gemini", "0"))
        assert granted["granted"]
        play.send(run, granted["call_id"])
        return int(granted["call_id"])

    play.settle(sent(), "billing_stop", "0")
    play.pass_time(minutes=5)
    play.settle(sent())
    failing, late = sent(), sent()
    play.settle(failing, "server_error", "0")
    play.pass_time(seconds=30)
    sent()
    play.settle(late)
    breaker = play.breaker()
    assert (breaker["state"], breaker["probe_limit"], breaker["probes_started"]) == ("half_open", 1, 1)


def test_who_was_lost_twice_goes_alone_also_beside_what_is_overdue(play: Play) -> None:
    (overdue,) = play.submit(priority=0)
    play.pass_time(days=2)
    (suspect,) = play.submit(priority=100)
    play.db.execute("UPDATE lead.task SET stalls = 2 WHERE id = %s", [suspect])
    play.decide(max_concurrent=1)
    assert only_run(play).task_ids == [overdue]
    assert play.task(suspect)["status"] == "queued"


def test_no_hold_passes_the_limit_also_on_an_account_that_is_there(play: Play) -> None:
    holds = "SELECT lead.budget_hold('2026-11-24', 'total', 'all', %s, 1) AS held"
    rows = [play.db.row(holds, [amount]) for amount in ("0.6", "0.6", "0.4")]
    assert rows == [{"held": True}, {"held": False}, {"held": True}]
