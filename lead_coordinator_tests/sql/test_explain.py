"""What a person asks before and after submitting: why a task has not run, what a submission would cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from lead_coordinator.database import operations
from lead_coordinator.database.queue import NewTask
from lead_coordinator.errors import InvalidInput, NotFound
from lead_coordinator_tests.sql.play import Play

pytestmark = pytest.mark.every_server
ARTICLE = "content_generation"


def explain(play: Play, task_id: int) -> dict[str, Any]:
    return operations.explain_task(play.db, task_id, current_time=play.now)


def only_reason(play: Play, task_id: int) -> str:
    found = explain(play, task_id)["why"]
    assert len(found) == 1, f"one reason was expected: {found}"
    return str(found[0])


def points(play: Play, task_id: int) -> dict[str, int]:
    return {term["term"]: term["points"] for term in explain(play, task_id)["score"]["terms"]}


# ---- explain: score and rank -----------------------------------------------------------------------------


def test_the_terms_of_the_score_add_up(play: Play) -> None:
    (task_id,) = play.submit(priority=60, value_usd=1000, predicted_success_rate=0.9, estimated_cost=0.25)
    terms = points(play, task_id)
    assert terms == {
        "base priority": 60,
        "value": 15,
        "cost": -3,
        "predicted success": 4,
        "limit": 0,
        "ageing": 0,
    }
    assert explain(play, task_id)["score"]["effective"] == 76
    (capped,) = play.submit(priority=100, value_usd=1000)
    assert points(play, capped) == {
        "base priority": 100,
        "value": 15,
        "cost": 0,
        "predicted success": 0,
        "limit": -15,
        "ageing": 0,
    }
    play.pass_time(minutes=30)
    assert points(play, task_id)["ageing"] == 50
    score = explain(play, task_id)["score"]
    assert (score["static"], score["effective"]) == (76, 126)
    assert (
        score["effective"]
        == play.db.row("SELECT t.score + 50 AS score FROM lead.task AS t WHERE id = %s", [task_id])["score"]
    )  # type: ignore[index]


def test_the_rank_is_the_order_in_which_tasks_are_claimed(play: Play) -> None:
    """Of young and starving, better and worse, with a same age by the hundred: each rank is its place."""
    for priority, minutes in ((40, 0), (90, 10), (50, 5), (40, 20), (90, 25), (60, 0), (40, 12)):
        play.submit(7, priority=priority)
        play.pass_time(minutes=minutes)
    play.submit(3, priority=90)
    waiting = [row["id"] for row in play.db.rows("SELECT id FROM task_queue ORDER BY id")]
    ranks = {task_id: explain(play, task_id)["rank"] for task_id in waiting}
    play.db.execute("BEGIN")
    picked = play.db.row(
        f"SELECT task_ids AS ids FROM lead.take_out_tasks('{ARTICLE}', 1000, %s)", [play.now]
    )
    play.db.execute("ROLLBACK")
    assert picked is not None
    assert ranks == {task_id: place for place, task_id in enumerate(picked["ids"], 1)}


def test_a_rank_beyond_ten_thousand_is_not_counted(play: Play) -> None:
    play.db.execute(
        "INSERT INTO lead.task (task_type, priority_base, queued_at, created_at)"
        f" SELECT '{ARTICLE}', 70, %s, %s FROM generate_series(1, 10001)",
        [play.now, play.now],
    )
    (last,) = play.submit()
    answer = explain(play, last)
    assert answer["rank"] == "more than 10000"
    assert answer["waiting"] == 10002
    assert answer["why"] == ["more than 10000 waiting tasks of its type come first, and a run takes 10"]
    play.db.execute("DELETE FROM lead.task WHERE id = (SELECT min(id) FROM lead.task)")
    assert explain(play, last)["rank"] == 10001, "10,000 ahead are counted exactly"


def test_with_tenants_the_rank_is_over_its_type_and_with_many_within_its_own(play: Play) -> None:
    play.submit(3, tenant="garden", priority=90)
    (mine,) = play.submit(1, tenant="kitchen")
    assert (explain(play, mine)["rank"], explain(play, mine)["rank_among"]) == (4, "its type")
    for number in range(21):
        play.submit(1, tenant=f"tenant {number}", priority=90)
    answer = explain(play, mine)
    assert (answer["rank"], answer["rank_among"], answer["waiting"]) == (1, "its type and tenant", 1)


# ---- explain: what stands in the way ---------------------------------------------------------------------


def test_where_nothing_stands_in_its_way_the_next_decision_takes_it(play: Play) -> None:
    (task_id,) = play.submit()
    answer = explain(play, task_id)
    assert (answer["status"], answer["rank"], answer["why"]) == ("queued", 1, [])
    assert answer["next"] == "nothing stands in its way: the next decision takes up to 1 tasks of its type"
    assert answer["type"]["should_execute"] is True
    assert answer["last_tick"] is None
    play.run_started()
    assert explain(play, task_id)["status"] == "processing", "and it did"


def test_each_hindrance_is_a_sentence_with_its_numbers(play: Play) -> None:
    (task_id,) = play.submit(1, tenant="garden")
    change = operations.change_policy

    change(play.db, "content_pipeline", {"enabled": False, "disabled_reason": "moving house"})
    assert "content_pipeline is disabled by policy: moving house" in explain(play, task_id)["why"]
    change(play.db, "content_pipeline", {"enabled": True})

    play.call("pause_queue", task_type=ARTICLE, tenant=None, actor="ann", reason="x", current_time=play.now)
    assert only_reason(play, task_id) == "content_generation is paused by an operator"
    play.call("resume_queue", task_type=ARTICLE, tenant=None, actor="ann", reason="x", current_time=play.now)

    play.call("pause_queue", task_type=None, tenant="garden", actor="ann", reason="x", current_time=play.now)
    assert only_reason(play, task_id) == "tenant garden is paused by an operator"
    play.call("resume_queue", task_type=None, tenant="garden", actor="ann", reason="x", current_time=play.now)

    play.db.execute(
        "UPDATE lead.circuit_breaker SET state = 'open', retry_at = %s, consecutive_failures = 5,"
        " last_error = 'out of memory' WHERE name = 'pipeline:content_pipeline'",
        [play.now + timedelta(minutes=5)],
    )
    assert "is open until 2026-11-24 12:05:00+00 after 5 failures in a row: out of memory" in only_reason(
        play, task_id
    )
    operations.reset_breaker(play.db, "pipeline:content_pipeline", current_time=play.now)

    play.set("memory_baseline_mb", 1900)
    assert only_reason(play, task_id) == "a run needs 512 MB and 148 of 2048 MB are free"
    play.set("memory_baseline_mb", 700)

    play.set("pacing_enabled", "false")
    play.set("daily_budget_usd", "0.05")
    assert (
        only_reason(play, task_id)
        == "budget: 0.00 of 0.05 USD are held or spent on 2026-11-24, and a task may need 0.09"
    )
    play.set("daily_budget_usd", "500")

    change(play.db, "content_pipeline", {"daily_cost_limit_usd": Decimal("0.01")})
    assert "budget of content_pipeline: 0.00 of 0.01 USD" in only_reason(play, task_id)
    change(play.db, "content_pipeline", {"daily_cost_limit_usd": None})

    play.db.execute("UPDATE lead.tenant SET daily_cost_limit_usd = 0")
    assert "budget of tenant garden: 0.00 of 0.00 USD" in only_reason(play, task_id)
    play.db.execute("UPDATE lead.tenant SET daily_cost_limit_usd = NULL")

    play.db.execute("UPDATE api_rate_limits SET is_available = false")
    assert (
        "provider gemini: switched off by an operator (is_available = false)" in explain(play, task_id)["why"]
    )
    play.db.execute("UPDATE api_rate_limits SET is_available = true WHERE provider = 'openai'")
    answer = explain(play, task_id)
    assert answer["why"] == [], "one provider is enough"
    assert answer["notes"] == ["provider gemini: switched off by an operator (is_available = false)"]


def test_where_nobody_has_decided_for_long_that_is_what_stands_in_its_way(play: Play) -> None:
    (task_id,) = play.submit()
    play.pass_time(minutes=14)
    assert explain(play, task_id)["why"] == []
    play.pass_time(minutes=1)
    assert only_reason(play, task_id) == (
        "no decision has been made since 2026-11-24 12:00:00+00 (15 minutes): is the coordinator running?"
    )
    play.set("max_concurrent_workflows", 1)
    play.decide()
    (later,) = play.submit()
    play.pass_time(minutes=14)
    assert "is the coordinator running" not in str(explain(play, later)["why"]), "it decided 14 minutes ago"


def test_busy_slots_are_named_by_who_holds_them(play: Play) -> None:
    play.set("max_concurrent_workflows", 1)
    play.db.execute("UPDATE lead.workflow_policy SET max_batch = 1")
    first, second = play.submit(2)
    run = play.run_started()
    assert run.task_ids == [first]
    assert only_reason(play, second) == "1 of 1 slots are busy (1 content_pipeline)"
    standing = explain(play, second)["type"]
    assert (standing["slots_held"], standing["max_concurrent"]) == (1, 1)


def test_a_spent_day_is_pacing_before_it_is_the_budget(play: Play) -> None:
    play.now = play.now.replace(hour=0)
    (task_id,) = play.submit()
    play.set("daily_budget_usd", "0.30")
    play.db.execute(
        "INSERT INTO lead.budget_account (budget_day, scope, scope_key, spent_usd)"
        " VALUES ('2026-11-24', 'total', 'all', 0.15)"
    )
    play.db.execute("UPDATE lead.workflow_policy SET base_priority = 40")
    assert only_reason(play, task_id).startswith("pacing: 0.15 USD of 0.30 are held or spent on 2026-11-24")


def test_a_dependent_task_names_what_it_waits_for(play: Play) -> None:
    one, two = play.submit(2)
    (dependent,) = play.submit(1, dependencies=[one, two])
    assert explain(play, dependent)["why"] == [
        f"it depends on task {one}, which is queued",
        f"it depends on task {two}, which is queued",
    ]
    run = play.run_started()
    play.complete(run, one)
    play.fail(run, two, "invalid_input")
    play.finish(run)
    assert only_reason(play, dependent) == (
        f"it depends on task {two}, which lies in the dead-letter queue: replay it, or cancel this one"
    )
    operations.discard_dead_letters(
        play.db, operations.DeadLetterFilter(all=True), "no", current_time=play.now
    )
    assert only_reason(play, dependent) == (
        f"it depends on task {two}, which ended as failed and will not complete"
    )


def test_a_deferred_task_says_until_when_and_why(play: Play) -> None:
    play.set("retry_jitter_seconds", 0)
    (task_id,) = play.submit()
    run = play.run_started()
    play.fail(run, task_id, message="no title")
    play.finish(run)
    play.pass_time(seconds=15)
    assert only_reason(play, task_id) == (
        "it is deferred until 2026-11-24 12:01:00+00 (45 seconds from now): retry 1 of 3 after its own "
        "error: no title"
    )
    (later,) = play.submit(1, not_before=(play.now + timedelta(hours=1)).isoformat())
    assert "(3600 seconds from now): not before 2026-11-24T13:00:15+00:00" in only_reason(play, later)


def test_a_task_in_work_and_one_that_ended_say_so(play: Play) -> None:
    first, second = play.submit(2)
    play.decide()
    assert "whose run has not started yet (launch 1)" in only_reason(play, first)
    (offered,) = play.launchable()
    run = play.start(offered)
    play.pay(run, first, "0.002")
    assert f"execution {run.execution_id} works on it since" in only_reason(play, first)
    open_call = play.begin_call(run, first, ("gemini", "0.01"))
    assert open_call["granted"]
    answer = explain(play, first)
    assert answer["cost"] == {
        "spent_usd": Decimal("0.002"),
        "held_usd": Decimal("0.01"),
        "limit_usd": Decimal("0.09"),
    }
    assert (answer["calls"]["made"], answer["calls"]["open"]) == (2, 1)
    play.complete(run, first)
    play.fail(run, second, "invalid_input", message="title: is missing")
    assert only_reason(play, first).startswith("it ended as completed at 2026-11-24 12:00:00+00")
    answer = explain(play, second)
    assert "the input can not be worked on (invalid_input: title: is missing)" in answer["why"][0]
    assert "replay_dead_letters" in answer["next"]
    assert [attempt["outcome"] for attempt in answer["attempts"]["recent"]] == ["dead_letter"]


def test_it_quotes_the_last_decision_that_looked_at_its_type(play: Play) -> None:
    play.set("max_concurrent_workflows", 1)
    play.db.execute("UPDATE lead.workflow_policy SET max_batch = 1")
    play.submit(3)
    play.decide()
    play.pass_time(minutes=1)
    decided = play.decide()
    (task_id,) = play.submit()
    tick = explain(play, task_id)["last_tick"]
    assert tick["tick_id"] == decided["execution_id"]
    assert "1 of 1 slots" in tick["reason"]
    assert (tick["outcome"], tick["pending_items"]) == ("refused", 2)
    play.db.execute("DELETE FROM lead.tick WHERE outcome = 'refused'")
    assert explain(play, task_id)["last_tick"]["dispatched"][0]["batch_size"] == 1


def test_explaining_writes_nothing_and_knows_no_unknown_task(play: Play) -> None:
    (task_id,) = play.submit()
    before = play.db.rows("SELECT schemaname, relname, n_live_tup FROM pg_stat_user_tables ORDER BY 1, 2")
    with play.db.connection() as connection, connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        connection.execute("SELECT explain_task(%s, %s)", [task_id, play.now])
        connection.execute(
            'SELECT estimate_tasks(\'[{"task_type": "content_generation", "payload": {}}]\', %s)', [play.now]
        )
    assert before
    with pytest.raises(NotFound, match="no task 999"):
        explain(play, 999)


# ---- estimate --------------------------------------------------------------------------------------------


def estimate(play: Play, *tasks: NewTask) -> dict[str, Any]:
    return operations.estimate_tasks(play.db, tasks, current_time=play.now)


def articles(count: int, **fields: Any) -> list[NewTask]:
    return [NewTask(ARTICLE, {"n": number}, **fields) for number in range(count)]


def seconds(play: Play, time: str) -> float:
    return (datetime.fromisoformat(time) - play.now).total_seconds()


def test_without_a_history_the_policy_is_the_basis(play: Play) -> None:
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 10000")
    answer = estimate(play, *articles(20))
    content = answer["types"][ARTICLE]
    assert answer["tasks"] == content["tasks"] == 20
    assert answer["expected_cost_usd"] == answer["maximum_cost_usd"] == Decimal("1.8")
    assert content["cost_basis"].startswith("the policy's item_cost_limit_usd, since only 0 tasks")
    # Three slots with ten tasks each in 180 s are ten tasks a minute.
    assert (content["tasks_per_minute"], content["pace_basis"]) == (
        10,
        "the policy: 3 slots × 10 tasks in 180 s",
    )
    assert (seconds(play, answer["expected_start"]), seconds(play, answer["expected_finish"])) == (0, 180)
    assert answer["warnings"] == []
    assert play.statuses() == {}, "nothing was submitted"


def test_with_a_history_it_is_what_tasks_have_cost_and_taken(play: Play) -> None:
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 10000")
    play.db.execute(
        "INSERT INTO execution_history (workflow_type, execution_date, hour_of_day, total_executions,"
        " avg_duration_ms, total_cost, avg_api_calls, tasks_completed, tasks_failed)"
        " VALUES ('content_pipeline', '2026-11-23', 9, 10, 60000, 0.2, 40, 95, 5)"
    )
    content = estimate(play, *articles(10))["types"][ARTICLE]
    assert content["cost_per_item_usd"] == Decimal("0.002")
    assert (content["expected_cost_usd"], content["maximum_cost_usd"]) == (Decimal("0.02"), Decimal("0.9"))
    assert content["cost_basis"] == "100 tasks of the last 7 days"
    assert content["tasks_per_minute"] == Decimal("28.5"), "95 tasks in 600 s, three at a time"


def test_rate_limits_bound_the_pace(play: Play) -> None:
    content = estimate(play, *articles(10))["types"][ARTICLE]
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 9 WHERE provider = 'gemini'")
    play.db.execute("UPDATE api_rate_limits SET is_available = false WHERE provider = 'openai'")
    slower = estimate(play, *articles(10))["types"][ARTICLE]
    assert content["tasks_per_minute"] == 10, "110 requests a minute do for 30 calls"
    assert slower["tasks_per_minute"] == 3
    assert slower["bounded_by"] == "the rate limits: 9 requests a minute, 3.00 calls a task"
    play.db.execute("UPDATE api_rate_limits SET is_available = false")
    answer = estimate(play, *articles(10))
    assert answer["expected_finish"] is None
    assert answer["warnings"] == [
        "content_generation would not run: the rate limits: 0 requests a minute, 3.00 calls a task"
    ]


def test_what_waits_with_a_higher_score_goes_first(play: Play) -> None:
    play.submit(30, priority=80)
    play.submit(30, priority=20)
    ahead = {
        priority: estimate(play, *articles(1, priority=priority))["types"][ARTICLE]["ahead"]
        for priority in (10, 20, 50, 80, 90)
    }
    assert ahead == {10: 60, 20: 60, 50: 30, 80: 30, 90: 0}, "among equals the newcomer is last"
    play.pass_time(minutes=31)
    assert estimate(play, *articles(1, priority=69))["types"][ARTICLE]["ahead"] == 60, "20 and 50 for waiting"


def test_more_than_the_day_has_goes_on_tomorrow_and_is_said(play: Play) -> None:
    play.set("daily_budget_usd", "0.9")
    play.submit(4)
    answer = estimate(play, *articles(8))
    (warning,) = answer["warnings"]
    assert warning == (
        "content_generation does not fit the budget of 2026-11-24: 8 tasks and 4 ahead of them cost about "
        "1.08 USD, 0.90 of 0.90 are left"
    )
    assert answer["types"][ARTICLE]["bounded_by"] == "the daily budget"
    finish = datetime.fromisoformat(answer["expected_finish"])
    midnight = play.now.replace(hour=0) + timedelta(days=1)
    assert midnight < finish < midnight + timedelta(minutes=1), "the last two begin with the next day"
    assert datetime.fromisoformat(estimate(play, *articles(40))["expected_finish"]) > midnight + timedelta(
        days=3
    )
    play.set("daily_budget_usd", "0.05")
    answer = estimate(play, *articles(1))
    assert answer["expected_finish"] is None
    assert (
        "content_generation never fits: a task costs about 0.0900 USD and a day has 0.05"
        in answer["warnings"]
    )


def test_a_deadline_before_the_expected_end_is_said(play: Play) -> None:
    play.submit(30, priority=90)  # three minutes ahead
    soon = play.now + timedelta(minutes=4)
    answer = estimate(
        play, *articles(1), *articles(2, deadline=soon), *articles(1, deadline=soon + timedelta(hours=1))
    )
    assert [warning for warning in answer["warnings"] if "deadline" in warning] == [], (
        "24 s after start it ends"
    )
    tight = play.now + timedelta(seconds=30)
    (warning,) = estimate(play, *articles(1), *articles(2, deadline=tight))["warnings"]
    assert warning.startswith(
        "tasks[1] and 1 more would end after the deadline (the first is 2026-11-24 12:00:30+00"
    )


def test_disabled_paused_and_duplicate_are_said(play: Play) -> None:
    operations.change_policy(play.db, "seo_monitor", {"enabled": False, "disabled_reason": "moving house"})
    answer = estimate(play, NewTask("seo_analysis", {}))
    assert answer["warnings"] == [
        "seo_analysis is disabled by policy (moving house): submit_tasks would refuse all of it"
    ]
    assert answer["types"]["seo_analysis"]["expected_finish"] is None
    play.submit(1, idempotency_key="known")
    answer = estimate(play, *articles(1, idempotency_key="known"), *articles(3, idempotency_key="new"))
    assert (answer["tasks"], answer["duplicates"]) == (1, 3)
    assert answer["expected_cost_usd"] == Decimal("0.09")
    play.call("drain_queue", task_type=ARTICLE, tenant=None, actor="ann", reason="x", current_time=play.now)
    assert estimate(play, *articles(1))["warnings"] == [
        "content_generation is draining: submit_tasks would refuse all of it"
    ]


def test_an_estimate_refuses_what_a_submission_refuses(play: Play) -> None:
    with pytest.raises(InvalidInput, match=r"tasks\[1\].priority: 101 is not a whole number from 0 to 100"):
        estimate(play, *articles(1), *articles(1, priority=101))
    with pytest.raises(InvalidInput, match=r"p_tasks: .* a JSON array of 1 to 10000 tasks is needed"):
        estimate(play)
