"""Decisions, leases, endings and recovery."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from lead_coordinator.errors import ClockOff, IllegalTransition, InvalidInput, NotFound, StaleLease
from lead_coordinator_tests.sql.play import NOON, Play

pytestmark = pytest.mark.every_server

CONTRACT_KEYS = {
    "execution_id", "worker_id", "timestamp", "success", "coordinator_state", "system_health",
    "scheduled_tasks", "resource_status", "execution_plan", "workflows_dispatched",
}  # fmt: skip


def test_a_decision_reserves_and_creates_in_one_go(play: Play) -> None:
    play.submit(14)
    decision = play.decide()
    assert decision.keys() >= CONTRACT_KEYS
    assert decision["success"]
    assert decision["workflows_dispatched"] == 2
    assert [offered["batch_size"] for offered in play.launchable()] == [10, 4]
    assert play.account() == (Decimal("1.26"), Decimal(0)), "14 tasks at most $0.09 each are held"


def test_a_run_that_does_not_fit_into_the_memory_waits(play: Play) -> None:
    play.only("content_pipeline")
    play.submit(30)
    assert play.decide()["workflows_dispatched"] == 2, "700 MB and two runs of 512 MB fit into 2048 MB"
    assert "a run needs 512 MB and 324 of 2048 MB are free" in play.decide()["reason"]


def test_never_more_executions_than_slots(play: Play) -> None:
    play.set("memory_limit_mb", 100_000)
    play.only("content_pipeline")
    play.submit(100)
    for _ in range(5):
        play.decide(max_concurrent=10)
    assert len(play.launchable()) == 3
    refused = play.decide()
    assert not refused["success"]
    assert "3 of 3 slots" in refused["reason"]


def test_debug_mode_says_what_was_passed_over_and_why(play: Play) -> None:
    play.submit(1)
    play.only("content_pipeline", "revenue_optimizer")
    decision = play.decide(debug_mode=True)
    reasons = {row["workflow_type"]: row["reason"] for row in decision["passed_over"]}
    assert reasons["seo_monitor"] == "not now: disabled by policy (by an operator)"
    assert reasons["revenue_optimizer"] == "not now: nothing waits"


def test_nothing_fits_into_an_empty_budget_and_the_reason_has_numbers(play: Play) -> None:
    play.set("daily_budget_usd", "0.08")
    play.submit(14)
    decision = play.decide()
    assert decision["workflows_dispatched"] == 0
    assert "budget 0.00 of 0.08 USD held or spent; 0 of 14 waiting tasks fit" in decision["reason"]
    assert play.statuses() == {"queued": 14}


def test_a_batch_shrinks_to_what_the_budget_allows(play: Play) -> None:
    play.set("daily_budget_usd", "0.30")
    play.submit(10)
    play.decide()
    assert sum(offered["batch_size"] for offered in play.launchable()) == 3
    assert play.account()[0] == Decimal("0.27")


def test_the_steps_can_be_called_one_by_one_by_an_outsider(play: Play) -> None:
    play.submit(5)
    tasks = play.call("get_intelligent_scheduled_tasks", current_time=play.now)
    plan = play.call(
        "create_optimal_execution_plan",
        scheduled_tasks=tasks,
        resource_status={"overall_status": "healthy", "constraints": {}},
        worker_id="n8n",
        current_time=play.now,
    )
    assert play.call("reserve_execution_resources", execution_plan=plan, current_time=play.now) is True
    assert play.call("reserve_execution_resources", execution_plan=plan, current_time=play.now) is False, (
        "a plan is reserved once"
    )
    created = play.call(
        "create_execution_records", execution_plan=plan, worker_id="n8n", current_time=play.now
    )
    assert created == plan["total_workflows"] == len(play.launchable())
    empty = play.call("check_comprehensive_resource_availability", scheduled_tasks={"tasks": []})
    assert empty["overall_status"] in {"healthy", "warning", "constrained"}


def test_a_reservation_that_makes_no_records_is_released(play: Play) -> None:
    play.submit(5)
    tasks = play.call("get_intelligent_scheduled_tasks", current_time=play.now)
    plan = play.call(
        "create_optimal_execution_plan",
        scheduled_tasks=tasks, resource_status={}, worker_id="n8n", current_time=play.now,
    )  # fmt: skip
    assert play.call("reserve_execution_resources", execution_plan=plan, current_time=play.now)
    assert play.account()[0] > 0
    play.pass_time(seconds=61)
    play.call("recover_executions", current_time=play.now)
    assert play.account()[0] == 0


def test_a_lease_ends_what_an_old_run_may_do(play: Play) -> None:
    (task_id,) = play.submit()
    old = play.run_started()
    play.pass_time(seconds=31)
    recovered = play.call("recover_executions", current_time=play.now)
    assert (recovered["requeued"], recovered["parked"]) == (1, 0)
    assert play.task(task_id)["stalls"] == 1
    new = play.run_started()
    assert new.task_ids == [task_id]
    assert new.fence > old.fence
    for attempt in (
        lambda: play.complete(old, task_id),
        lambda: play.fail(old, task_id),
        lambda: play.begin_call(old, task_id),
        lambda: play.finish(old),
        lambda: play.call("heartbeat_execution", execution_id=old.execution_id, fence=old.fence),
        lambda: play.call(
            "begin_publication", task_id=task_id, execution_id=old.execution_id, fence=old.fence,
            site="s", slug="a", title="A",
        ),
    ):  # fmt: skip
        with pytest.raises(StaleLease):
            attempt()
    play.complete(new, task_id)
    play.complete(new, task_id)  # said again after a lost answer
    assert play.finish(new)["completed"] == 1
    assert play.statuses() == play.counted() == {"completed": 1}


def test_heartbeats_keep_a_lease_and_say_when_to_stop(play: Play) -> None:
    play.submit()
    run = play.run_started()
    for _ in range(10):
        play.pass_time(seconds=10)
        beat = play.call(
            "heartbeat_execution",
            execution_id=run.execution_id, fence=run.fence, memory_mb=200, current_time=play.now,
        )  # fmt: skip
        assert not beat["stop"]
    assert play.call("recover_executions", current_time=play.now)["recovered"] == []
    beat = play.call(
        "heartbeat_execution",
        execution_id=run.execution_id, fence=run.fence, memory_mb=1025, current_time=play.now,
    )  # fmt: skip
    assert beat["stop"]
    assert "1025 MB" in beat["reason"]


def test_an_execution_times_out_even_with_heartbeats(play: Play) -> None:
    play.submit()
    run = play.run_started()
    for _ in range(30):
        play.pass_time(seconds=10)
        play.call(
            "heartbeat_execution", execution_id=run.execution_id, fence=run.fence, current_time=play.now
        )
    (recovered,) = play.call("recover_executions", current_time=play.now)["recovered"]
    assert recovered["status"] == "timeout"
    row = play.db.row("SELECT status, error_details FROM workflow_orchestration")
    assert row is not None
    assert row["status"] == "timeout"
    assert "timed out" in row["error_details"]["reason"]


def test_a_task_lost_with_three_runs_is_parked_and_goes_alone_before(play: Play) -> None:
    play.set("max_concurrent_workflows", 1)
    (poison,) = play.submit(priority=90)
    (innocent,) = play.submit(priority=10)
    for stalls in (1, 2):
        run = play.run_started()
        play.pay(run, poison, "0.002")
        play.pass_time(seconds=31)
        play.call("recover_executions", current_time=play.now)
        assert play.task(poison)["stalls"] == stalls
    run = play.run_started()
    assert run.task_ids == [poison], "after two stalls a task takes no other along"
    play.pay(run, poison, "0.002")
    play.pass_time(seconds=31)
    assert play.call("recover_executions", current_time=play.now)["parked"] == 1
    assert play.task(poison)["status"] == "dead_letter"
    assert play.task(poison)["cost_usd"] == Decimal("0.006"), "what its calls cost in all three runs"
    assert play.task(innocent)["status"] == "queued"
    letter = play.db.row("SELECT * FROM lead.dead_letter")
    assert letter is not None
    assert letter["reason"] == "lost with its run 3 times"
    assert len(letter["context"]["history"]) == 3


def test_a_tasks_own_error_is_tried_four_times_then_dead_lettered_with_context(play: Play) -> None:
    (task_id,) = play.submit()
    waits = []
    for attempt in (1, 2, 3):
        run = play.run_started()
        failed = play.fail(run, task_id, error_context={"step": "draft"})
        play.finish(run)
        assert failed["status"] == "deferred"
        assert failed["attempts"] == attempt
        retry_at = play.task(task_id)["deferred_until"]
        waits.append((retry_at - play.now).total_seconds())
        play.now = retry_at
    for wait, minutes in zip(waits, (1, 2, 4), strict=True):
        assert abs(wait - 60 * minutes) <= 30, f"{minutes} min ± 30 s were expected, not {wait} s"
    run = play.run_started()
    assert (
        play.fail(run, task_id, message="token sk-abcdefghijklmnopqrstuvwxyz123456")["status"]
        == "dead_letter"
    )
    letter = play.db.row("SELECT * FROM lead.dead_letter WHERE task_id = %s", [task_id])
    assert letter is not None
    assert letter["reason"] == "failed 4 times"
    assert "sk-abcdef" not in letter["error_message"], "no secret is stored"
    assert len(letter["context"]["history"]) == 4


@pytest.mark.parametrize("error_class", ["destination_down", "rate_limited", "budget_exhausted"])
def test_what_is_not_the_tasks_fault_spends_no_attempt(play: Play, error_class: str) -> None:
    (task_id,) = play.submit()
    for _ in range(12):
        run = play.run_started()
        play.fail(run, task_id, error_class)
        play.finish(run)
        wait = play.task(task_id)["deferred_until"] - play.now
        assert wait <= timedelta(minutes=16, seconds=30)
        play.now = play.task(task_id)["deferred_until"]
    task = play.task(task_id)
    assert (task["attempts"], task["status"], task["defer_reason"]) == (0, "deferred", error_class)


def test_invalid_input_is_dead_lettered_at_once(play: Play) -> None:
    (task_id,) = play.submit()
    run = play.run_started()
    assert play.fail(run, task_id, "invalid_input", message="title: is missing")["status"] == "dead_letter"
    assert play.finish(run)["failed"] == 1


def test_finishing_gives_back_what_was_not_done(play: Play) -> None:
    done, left = play.submit(2)
    play.set("max_concurrent_workflows", 1)
    run = play.run_started()
    play.complete(run, done)
    assert play.finish(run)["returned"] == 1
    task = play.task(left)
    assert (task["status"], task["stalls"], task["attempts"]) == ("queued", 0, 0)


def test_a_launch_starts_once_and_a_relaunch_makes_the_old_number_void(play: Play) -> None:
    play.submit()
    play.decide()
    (offered,) = play.launchable()
    assert offered["run_key"] == f"{offered['execution_id']}:1"
    assert not offered["stale"]
    play.pass_time(minutes=3)
    (stale,) = play.launchable()
    assert stale["stale"], "no run started within two minutes"
    assert play.call("relaunch_execution", execution_id=stale["execution_id"], launch_number=1,
                     current_time=play.now) == 2  # fmt: skip
    with pytest.raises(StaleLease, match="status pending, launch 2"):
        play.start(offered)
    (again,) = play.launchable()
    play.start(again)
    with pytest.raises(StaleLease, match="status running"):
        play.start(again)


def test_launches_that_never_start_give_the_tasks_back(play: Play) -> None:
    (task_id,) = play.submit()
    play.decide()
    (offered,) = play.launchable()
    for number in (1, 2, 3, 4):
        play.call("relaunch_execution", execution_id=offered["execution_id"], launch_number=number,
                  current_time=play.now)  # fmt: skip
    assert play.launchable() == []
    assert play.task(task_id)["status"] == "queued"
    assert play.account() == (0, 0)


def test_starting_what_nobody_reserved_is_refused(play: Play) -> None:
    with pytest.raises(NotFound, match="submit a task and the coordinator makes one"):
        play.call("start_execution", execution_id="by hand", launch_number=1, run_id="r")


def test_an_outsiders_row_is_adopted_or_refused_with_a_reason(play: Play) -> None:
    insert = (
        "INSERT INTO workflow_orchestration (execution_id, workflow_type, worker_id) VALUES (%s, %s, 'n8n')"
    )
    play.db.execute(insert, ["theirs", "content_pipeline"])
    play.db.execute(insert, ["disabled", "seo_monitor"])
    assert play.launchable() == [], "only what was reserved is launched"
    answer = play.call("adopt_executions", current_time=play.now)
    assert {row["execution_id"] for row in answer["refused"]} == {"theirs", "disabled"}
    play.submit()
    play.db.execute(insert, ["theirs 2", "content_pipeline"])
    assert play.call("adopt_executions", current_time=play.now)["adopted"] == ["theirs 2"]
    (offered,) = play.launchable()
    assert len(play.start(offered).task_ids) == 1


def outsider(play: Play, execution_id: str, **columns: Any) -> None:
    values = {"workflow_type": "content_pipeline", "worker_id": "n8n", **columns}
    names = ", ".join(values)
    marks = ", ".join(["%s"] * len(values))
    play.db.execute(
        f"INSERT INTO workflow_orchestration (execution_id, {names}) VALUES (%s, {marks})",
        [execution_id, *values.values()],
    )


def adopt(play: Play) -> dict[str, Any]:
    answer: dict[str, Any] = play.call("adopt_executions", current_time=play.now)
    return {
        "adopted": answer["adopted"],
        **{
            state: {row["execution_id"]: row["reason"] for row in answer[state]}
            for state in ("refused", "waiting")
        },
    }


@pytest.mark.parametrize("status", ["analyzing", "dispatching", "running"])
def test_an_outsiders_row_that_says_it_runs_is_refused(play: Play, status: str) -> None:
    play.submit()
    outsider(play, "theirs", status=status)
    assert adopt(play)["refused"] == {
        "theirs": f"it was inserted as {status}: only a pending row can be adopted"
    }
    row = play.db.row("SELECT status, error_details FROM workflow_orchestration")
    assert row is not None
    assert (row["status"], row["error_details"]["reason"][:8]) == ("cancelled", "refused:")


def test_an_outsiders_row_waits_for_what_a_decision_would_wait_for(play: Play) -> None:
    """An open breaker, the pace of the day, and the slot that is kept for the other types."""
    play.set("memory_limit_mb", 100_000)
    play.db.execute("UPDATE lead.workflow_policy SET enabled = true, max_batch = 1")
    play.submit(5)
    outsider(play, "one", priority_score=50)
    play.db.execute(
        "UPDATE lead.circuit_breaker SET state = 'open', retry_at = %s"
        " WHERE name = 'pipeline:content_pipeline'",
        [play.now + timedelta(minutes=5)],
    )
    assert adopt(play)["waiting"] == {"one": "the circuit breaker pipeline:content_pipeline is not closed"}
    assert play.account() == (0, 0), "and nothing is held meanwhile"
    play.pass_time(minutes=5)
    assert adopt(play)["adopted"] == ["one"]
    probe = play.db.row("SELECT is_probe FROM workflow_orchestration WHERE execution_id = 'one'")
    assert probe == {"is_probe": True}, "it is the breaker's probe"
    play.finish(play.start(play.launchable()[0]), "cancelled")
    play.db.execute("UPDATE lead.circuit_breaker SET state = 'closed', retry_at = NULL")

    play.set("daily_budget_usd", "0.10")
    outsider(play, "two", priority_score=50)
    assert adopt(play)["waiting"]["two"].startswith("pacing: 0.00 of 0.10 USD held or spent, and 0.0")
    play.set("daily_budget_usd", "500")
    assert adopt(play)["adopted"] == ["two"]
    outsider(play, "three")
    assert adopt(play)["adopted"] == ["three"]
    outsider(play, "four")
    assert adopt(play)["waiting"] == {
        "four": "content_pipeline holds all other slots: the last one is for the other types"
    }
    play.db.execute("UPDATE lead.workflow_policy SET enabled = (workflow_type = 'content_pipeline')")
    assert adopt(play)["adopted"] == ["four"]


# ---- calling off -------------------------------------------------------------------------------------------


def cancel(play: Play, execution_id: str, reason: str = "wrong site") -> dict[str, Any]:
    answer: dict[str, Any] = play.call(
        "cancel_execution", execution_id=execution_id, reason=reason, actor="ann", current_time=play.now
    )
    return answer


def test_an_execution_that_waits_for_its_run_is_called_off_at_once(play: Play) -> None:
    play.submit(2)
    play.decide()
    (offered,) = play.launchable()
    answer = cancel(play, offered["execution_id"])
    assert (answer["status_before"], answer["status"], answer["returned"]) == ("pending", "cancelled", 2)
    assert play.statuses() == {"queued": 2}
    assert play.account() == (0, 0)
    with pytest.raises(StaleLease):
        play.start(offered)
    noted = play.db.row("SELECT * FROM lead.audit_log WHERE action = 'cancel_execution'")
    assert noted is not None
    assert (noted["actor"], noted["reason"]) == ("ann", "wrong site")
    assert noted["subject"] == f"execution:{offered['execution_id']}"
    again = cancel(play, offered["execution_id"])
    assert (again["status"], again["changed"]) == ("cancelled", False)


@pytest.mark.parametrize("ending", ["its report", "the end of its lease"])
def test_a_run_that_is_called_off_stops_and_nothing_counts_as_failed(play: Play, ending: str) -> None:
    (task_id,) = play.submit()
    run = play.run_started()
    granted = play.begin_call(run, task_id)
    assert cancel(play, run.execution_id)["status"] == "running"
    beat = play.call(
        "heartbeat_execution", execution_id=run.execution_id, fence=run.fence, current_time=play.now
    )
    assert (beat["stop"], beat["reason"]) == (True, "wrong site")
    if ending == "its report":
        run_id = play.db.row("SELECT run_id FROM workflow_orchestration")
        assert run_id is not None
        play.call(
            "report_run_failure",
            execution_id=run.execution_id, run_id=run_id["run_id"], reason="stopped", current_time=play.now,
        )  # fmt: skip
    else:
        play.call("recover_executions", current_time=play.pass_time(seconds=31))
    row = play.db.row("SELECT status, error_details FROM workflow_orchestration")
    assert row == {"status": "cancelled", "error_details": {"reason": "wrong site"}}
    task = play.task(task_id)
    assert (task["status"], task["attempts"], task["stalls"]) == ("queued", 0, 0)
    assert play.breaker("pipeline:content_pipeline")["consecutive_failures"] == 0
    assert play.account() == (0, 0)
    assert granted["granted"]


def test_a_row_of_an_outsider_is_called_off_and_an_unknown_one_refused(play: Play) -> None:
    outsider(play, "theirs")
    assert cancel(play, "theirs")["status"] == "cancelled"
    with pytest.raises(NotFound, match="there is no execution 'nobody'"):
        cancel(play, "nobody")
    with pytest.raises(InvalidInput, match="p_reason"):
        cancel(play, "theirs", "")


def test_a_failed_run_is_recovered_by_its_report(play: Play) -> None:
    (task_id,) = play.submit()
    run = play.run_started()
    ignored = play.call(
        "report_run_failure", execution_id=run.execution_id, run_id="another", reason="killed",
        current_time=play.now,
    )  # fmt: skip
    assert "ignored" in ignored
    (offered_run,) = play.db.rows("SELECT run_id FROM workflow_orchestration")
    report = play.call(
        "report_run_failure", execution_id=run.execution_id, run_id=offered_run["run_id"], reason="killed",
        current_time=play.now,
    )  # fmt: skip
    assert report["tasks_requeued"] == 1
    assert play.task(task_id)["status"] == "queued"


def test_five_lost_runs_open_the_pipelines_breaker_and_a_probe_closes_it(play: Play) -> None:
    play.set("stall_limit", 20)
    play.submit()
    for _ in range(5):
        play.run_started()
        play.pass_time(seconds=31)
        play.call("recover_executions", current_time=play.now)
    assert play.breaker("pipeline:content_pipeline")["state"] == "open"
    assert "circuit breaker is open" in str(play.decide())
    assert play.launchable() == []
    play.pass_time(minutes=5)
    for expected in ("half_open", "half_open", "half_open", "half_open", "half_open", "half_open", "closed"):
        play.submit()
        run = play.run_started()
        for task_id in run.task_ids:
            play.complete(run, task_id)
        play.finish(run)
        assert play.breaker("pipeline:content_pipeline")["state"] == expected


def test_illegal_transitions_are_refused_by_name(play: Play) -> None:
    with pytest.raises(
        IllegalTransition, match="cannot go from IDLE to MONITORING; from IDLE it may go to ANALYZING"
    ):
        play.call(
            "update_coordinator_state",
            state="MONITORING",
            execution_plan={},
            worker_id="w",
            current_time=play.now,
        )
    with pytest.raises(InvalidInput, match="p_state: SLEEPING is not allowed"):
        play.call("update_coordinator_state", state="SLEEPING", execution_plan={}, worker_id="w")


def test_states_keep_their_history_and_durations(play: Play) -> None:
    play.submit()
    run = play.run_started()
    play.pass_time(seconds=3)
    play.finish(run)
    play.pass_time(seconds=1)
    play.call("recover_executions", current_time=play.now)
    states = play.db.rows(
        "SELECT state, duration_ms, entered_at FROM workflow_states"
        " WHERE execution_id = 'coordinator' ORDER BY id"
    )
    assert [row["state"] for row in states] == ["ANALYZING", "DISPATCHING", "MONITORING", "IDLE"]
    entered = [row["entered_at"] for row in states]
    assert entered == sorted(set(entered)), "each state was entered after the one before, by the clock"
    together = sum(row["duration_ms"] for row in states[:3])
    assert abs(together - 4000) <= 2, "from the decision until nothing is left to monitor, but for rounding"

    dashboard = play.call("get_coordinator_dashboard", current_time=play.now)["coordinator_dashboard"]
    durations = dashboard["performance_stats"]["state_durations"]
    assert {state: figures["times"] for state, figures in durations.items()} == {
        "ANALYZING": 1,
        "DISPATCHING": 1,
        "MONITORING": 1,
    }
    assert durations["MONITORING"]["total_ms"] == states[2]["duration_ms"]
    play.pass_time(seconds=10)
    health = play.call("get_coordinator_dashboard", current_time=play.now)["coordinator_dashboard"][
        "health_stats"
    ]
    assert (health["coordinator_state"], health["state_duration_ms"]) == ("IDLE", 10000)


def test_a_coordinator_that_was_left_half_way_recovers(play: Play) -> None:
    play.call(
        "update_coordinator_state",
        state="ANALYZING",
        execution_plan={},
        worker_id="crashed",
        current_time=play.now,
    )
    play.submit()
    assert play.decide()["success"]
    states = play.db.rows("SELECT state FROM workflow_states WHERE execution_id = 'coordinator' ORDER BY id")
    assert [row["state"] for row in states] == [
        "ANALYZING", "ERROR_RECOVERY", "ANALYZING", "DISPATCHING", "MONITORING",
    ]  # fmt: skip


def test_whoever_holds_the_lease_decides(play: Play) -> None:
    play.submit()
    assert play.call("acquire_coordinator_lease", worker_id="a", ttl_seconds=60, current_time=play.now)[
        "acquired"
    ]
    assert not play.call("acquire_coordinator_lease", worker_id="b", current_time=play.now)["acquired"]
    refused = play.decide("b")
    assert not refused["success"]
    assert "a holds the lease until" in refused["reason"]
    assert play.decide("a")["workflows_dispatched"] == 1
    play.pass_time(seconds=61)
    play.submit()
    assert play.decide("b")["success"], "a lease that ran out holds nobody back"


def test_a_clock_that_is_off_is_refused_on_a_production_database(play: Play) -> None:
    play.set("scratch_database", "false")
    with pytest.raises(ClockOff, match="300 are allowed"):
        play.call("orchestrate_workflow_execution", worker_id="w", current_time=NOON + timedelta(days=3650))


def test_history_holds_real_outcomes(play: Play) -> None:
    first, second = play.submit(2)
    play.set("max_concurrent_workflows", 1)
    run = play.run_started()
    play.pay(run, first, "0.002")
    play.pass_time(seconds=10)
    play.complete(run, first, score=90)
    play.fail(run, second)
    play.finish(run)
    row = play.db.row("SELECT * FROM execution_history")
    assert row is not None
    assert (row["execution_date"].isoformat(), row["hour_of_day"]) == ("2026-11-24", 12)
    assert (row["total_executions"], row["tasks_completed"], row["tasks_failed"]) == (1, 1, 1)
    assert row["total_cost"] == Decimal("0.002")
    assert row["avg_duration_ms"] == 10_000
    assert row["avg_success_rate"] == Decimal("0.5")
    assert row["avg_quality_score"] == 90
