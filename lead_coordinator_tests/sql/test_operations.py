"""What a person does to a running platform: dead letters, priorities, breakers, settings, policies."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from lead_coordinator.database import operations, queue
from lead_coordinator.database.connection import Database
from lead_coordinator.database.operations import DeadLetterFilter
from lead_coordinator.errors import InvalidInput, NotFound, StaleLease
from lead_coordinator_tests.sql.play import Play

pytestmark = pytest.mark.every_server


def bury(
    play: Play, count: int = 1, message: str = "title: is missing", error_class: str = "invalid_input"
) -> list[int]:
    """So many tasks that died at once, oldest first."""
    task_ids = play.submit(count)
    run = play.run_started()
    assert sorted(run.task_ids) == task_ids
    for task_id in task_ids:
        play.fail(run, task_id, error_class, message=message)
    play.finish(run)
    return task_ids


def audited(play: Play) -> list[dict[str, Any]]:
    """All but the row that marked this database as a scratch one."""
    return play.db.rows(
        "SELECT * FROM lead.audit_log WHERE subject <> 'setting:scratch_database' ORDER BY id"
    )


# ---- dead letters ----------------------------------------------------------------------------------------


def test_a_replayed_task_starts_anew_and_what_happened_stays(play: Play) -> None:
    (task_id,) = bury(play)
    play.pass_time(hours=1)
    replayed = operations.replay_dead_letters(
        play.db,
        DeadLetterFilter(task_ids=[task_id]),
        actor="ann",
        reason="fixed the brief",
        current_time=play.now,
    )
    assert replayed == (task_id,)
    task = play.task(task_id)
    assert (task["status"], task["attempts"], task["stalls"], task["processed_at"]) == ("queued", 0, 0, None)
    assert task["queued_at"] == play.now, "it is queued at once"
    whole = queue.get_task(play.db, task_id)
    assert [attempt["outcome"] for attempt in whole["task_attempts"]] == ["dead_letter"]
    assert whole["dead_letter"] is None, "no letter is open any more"
    (letter,) = whole["dead_letters"]
    assert (letter["resolution"], letter["resolved_by"], letter["resolution_reason"]) == (
        "replayed",
        "ann",
        "fixed the brief",
    )
    assert play.counted() == play.statuses() == {"queued": 1}

    run = play.run_started()
    play.complete(run, task_id)
    assert play.task(task_id)["status"] == "completed"


def test_a_task_that_dies_again_gets_a_letter_of_its_own(play: Play) -> None:
    (task_id,) = bury(play)
    for round_number in (1, 2):
        play.pass_time(minutes=1)
        operations.replay_dead_letters(play.db, DeadLetterFilter(all=True), current_time=play.now)
        run = play.run_started()
        play.fail(run, task_id, "invalid_input", message=f"still missing, round {round_number}")
        play.finish(run)
    (open_one,) = operations.list_dead_letters(play.db)
    assert (open_one.times_replayed, open_one.resolution) == (2, None)
    assert open_one.error_message == "still missing, round 2"
    assert [attempt["outcome"] for attempt in open_one.context["history"]] == ["dead_letter"] * 3
    every = operations.list_dead_letters(play.db, DeadLetterFilter(resolution="any"))
    assert [letter.times_replayed for letter in every] == [2, 1, 0], "newest first"
    assert [letter.resolution for letter in every] == [None, "replayed", "replayed"]


def test_retries_begin_anew_after_a_replay(play: Play) -> None:
    (task_id,) = play.submit()
    for _ in range(2):
        for attempt in range(4):
            run = play.run_started()
            status = play.fail(run, task_id)["status"]
            play.finish(run)
            assert status == ("dead_letter" if attempt == 3 else "deferred"), f"attempt {attempt}"
            play.pass_time(minutes=20)
        operations.replay_dead_letters(play.db, DeadLetterFilter(all=True), current_time=play.now)


def test_each_condition_of_a_filter_narrows(play: Play) -> None:
    early = bury(play, 2, message="title: is missing")
    play.pass_time(minutes=10)
    task_ids = play.submit(1, tenant="garden") + play.submit(1)
    run = play.run_started()
    play.fail(run, task_ids[0], "invalid_input", message="100% Broken_Widget")
    for _ in range(3):
        play.fail(run, task_ids[1])
        play.finish(run)
        play.pass_time(minutes=20)
        run = play.run_started()
    play.fail(run, task_ids[1], message="it broke")
    play.finish(run)
    between = play.now - timedelta(minutes=65)

    def found(**conditions: Any) -> set[int]:
        rows = play.db.rows(
            "SELECT task_id FROM list_dead_letters(%s)",
            [operations._jsonb(DeadLetterFilter(**conditions))],
        )
        return {row["task_id"] for row in rows}

    garden, broke = task_ids
    assert found() == {*early, garden, broke}
    assert found(tenant="garden") == {garden}
    assert found(error_class="task_error") == {broke}
    assert found(error_class="invalid_input") == {*early, garden}
    assert found(message_contains="broken_w") == {garden}, "any case; % and _ mean themselves"
    assert found(message_contains="%") == {garden}
    assert found(created_before=between) == set(early)
    assert found(created_after=between) == {garden, broke}
    assert found(task_ids=[early[1], broke, 999]) == {early[1], broke}
    assert found(task_type="seo_analysis") == set()
    assert found(error_class="invalid_input", created_after=between) == {garden}
    nobody = play.db.rows("SELECT task_id FROM list_dead_letters('{\"tenant\": null}')")
    assert {row["task_id"] for row in nobody} == {*early, broke}, "null means: without a tenant"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[]", "p_filter: [] is not allowed; a JSON object is needed"),
        ('{"colour": "red"}', "p_filter: colour is not allowed; its keys are task_ids, task_type"),
        ('{"task_ids": []}', "p_filter.task_ids: [] is not allowed; an array of 1 to 10000 task ids"),
        ('{"task_ids": [1.5]}', "p_filter.task_ids"),
        ('{"task_type": "poetry"}', "p_filter.task_type: poetry is not allowed; one of content_generation"),
        ('{"error_class": 7}', "p_filter.error_class: 7 is not allowed; text of 1 to 200"),
        ('{"created_after": "soon"}', "p_filter.created_after: soon is not allowed; a time is needed"),
        ('{"created_before": 7}', "p_filter.created_before: 7 is not allowed; a time is needed"),
        ('{"all": 1}', "p_filter.all: 1 is not allowed; true or false"),
        ("{}", 'say which; {"all": true} means every open dead letter'),
        ('{"all": false}', 'say which; {"all": true} means every open dead letter'),
        ('{"resolution": "any"}', "p_filter: resolution is not allowed"),
    ],
)
@pytest.mark.parametrize("function", ["replay_dead_letters", "discard_dead_letters"])
def test_a_filter_that_says_too_little_or_nonsense_changes_nothing(
    play: Play, function: str, given: str, said: str
) -> None:
    (task_id,) = bury(play)
    with pytest.raises(InvalidInput) as refused:
        play.db.rows(f"SELECT {function}(p_filter := %s::jsonb, p_reason := 'x', p_actor := 'ann')", [given])
    assert said in str(refused.value)
    assert play.task(task_id)["status"] == "dead_letter"
    assert audited(play) == []


def test_discarding_ends_a_task_and_says_who_still_waits_for_it(play: Play) -> None:
    task_ids = bury(play, 2)
    (dependent,) = play.submit(1, dependencies=task_ids)
    answer = operations.discard_dead_letters(
        play.db, DeadLetterFilter(all=True), "nobody wants it", actor="ann", current_time=play.now
    )
    assert answer == operations.Discarded(tuple(task_ids), 1)
    assert {play.task(task_id)["status"] for task_id in task_ids} == {"failed"}
    assert play.task(dependent)["status"] == "deferred"
    assert operations.list_dead_letters(play.db) == []
    assert operations.replay_dead_letters(play.db, DeadLetterFilter(all=True), current_time=play.now) == ()
    letters = operations.list_dead_letters(play.db, DeadLetterFilter(resolution="discarded"))
    assert {(letter.resolved_by, letter.resolution_reason) for letter in letters} == {
        ("ann", "nobody wants it")
    }
    with pytest.raises(InvalidInput, match="p_reason"):
        play.db.rows("SELECT discard_dead_letters('{\"all\": true}', NULL)")


def test_a_limit_takes_the_oldest(play: Play) -> None:
    first = bury(play)
    play.pass_time(minutes=1)
    second = bury(play)
    replay = operations.replay_dead_letters
    assert replay(play.db, DeadLetterFilter(all=True), limit=1, current_time=play.now) == tuple(first)
    assert replay(play.db, DeadLetterFilter(all=True), limit=1, current_time=play.now) == tuple(second)
    with pytest.raises(InvalidInput, match="p_limit: 0 is not allowed; 1 to 10000"):
        replay(play.db, DeadLetterFilter(all=True), limit=0)


def test_a_replay_is_one_row_of_the_audit_log(play: Play) -> None:
    task_ids = bury(play, 3)
    chosen = DeadLetterFilter(error_class="invalid_input")
    operations.replay_dead_letters(play.db, chosen, actor="ann", reason="token=abc123", current_time=play.now)
    (row,) = audited(play)
    assert (row["action"], row["subject"], row["actor"]) == ("replay_dead_letters", "dead_letters", "ann")
    assert row["before"] == {"filter": {"error_class": "invalid_input"}}
    assert row["after"] == {"replayed": 3, "task_ids": task_ids}
    assert row["reason"] == "token=***", "no secret is stored"


def test_two_who_replay_the_same_share_the_letters(play: Play, database_url: str) -> None:
    task_ids: list[int] = []
    for _ in range(4):
        task_ids += bury(play, 10)
        play.pass_time(seconds=1)

    def replay(_: int) -> tuple[int, ...]:
        with Database(database_url) as db:
            return operations.replay_dead_letters(db, DeadLetterFilter(all=True), current_time=play.now)

    with ThreadPoolExecutor(4) as pool:
        taken = [task_id for answer in pool.map(replay, range(4)) for task_id in answer]
    assert Counter(taken) == Counter(task_ids), "each task is replayed by one of them"
    assert play.counted() == {"queued": 40}


def test_a_task_that_was_moved_by_hand_is_not_replayed(play: Play) -> None:
    (task_id,) = bury(play)
    play.db.execute("UPDATE task_queue SET status = 'completed' WHERE id = %s", [task_id])
    assert operations.replay_dead_letters(play.db, DeadLetterFilter(all=True), current_time=play.now) == ()
    assert play.task(task_id)["status"] == "completed"


# ---- one task --------------------------------------------------------------------------------------------


def test_a_higher_priority_goes_first_from_now_on(play: Play) -> None:
    play.db.execute("UPDATE lead.workflow_policy SET max_batch = 1")
    play.set("max_concurrent_workflows", 1)
    first, second = play.submit(2)
    answer = operations.reprioritise_task(play.db, second, 80, actor="ann", current_time=play.now)
    assert (answer.changed, answer.priority_before, answer.priority, answer.score) == (True, 50, 80, 80)
    run = play.run_started()
    assert run.task_ids == [second]
    play.complete(run, second)
    play.finish(run)
    late = operations.reprioritise_task(play.db, second, 10, current_time=play.now)
    assert (late.changed, late.priority, late.status) == (False, 80, "completed")
    assert not operations.reprioritise_task(play.db, first, 50, current_time=play.now).changed
    with pytest.raises(InvalidInput, match="p_priority: 101 is not allowed; a whole number from 0 to 100"):
        operations.reprioritise_task(play.db, first, 101)
    with pytest.raises(NotFound, match="no task 999"):
        operations.reprioritise_task(play.db, 999, 1)
    changes = [(row["action"], row["subject"], row["before"], row["after"]) for row in audited(play)]
    assert ("reprioritise_task", f"task:{second}", {"priority": 50}, {"priority": 80}) in changes


def test_a_cancellation_says_who_and_why(play: Play) -> None:
    (task_id,) = play.submit()
    assert queue.cancel_task(play.db, task_id, "not wanted", actor="ann", current_time=play.now)
    assert not queue.cancel_task(play.db, task_id, "again", actor="bob", current_time=play.now)
    (row,) = audited(play)
    assert (row["action"], row["actor"], row["reason"]) == ("cancel_task", "ann", "not wanted")
    assert (row["before"], row["after"]) == ({"status": "queued"}, {"status": "cancelled"})


def test_tasks_given_back_are_queued_without_an_attempt_spent(play: Play) -> None:
    task_ids = play.submit(3)
    run = play.run_started()
    play.pay(run, task_ids[0], "0.002")
    open_call = play.begin_call(run, task_ids[1])
    assert open_call["granted"]
    play.complete(run, task_ids[2])
    answer = play.call(
        "give_back_tasks",
        execution_id=run.execution_id,
        fence=run.fence,
        task_ids=[*task_ids, 999],
        reason="shutting down",
        current_time=play.pass_time(seconds=5),
    )
    assert answer == 2, "the completed one and the unknown one are passed over"
    for task_id in task_ids[:2]:
        task = play.task(task_id)
        assert (task["status"], task["attempts"], task["stalls"], task["execution_id"]) == (
            "queued",
            0,
            0,
            None,
        )
        assert task["queued_at"] == task["created_at"], "it keeps its place"
    assert play.task(task_ids[0])["cost_usd"] == Decimal("0.002"), "what it cost is not forgotten"
    outcomes = play.db.rows(
        "SELECT outcome, error_message FROM lead.task_attempt WHERE outcome <> 'completed'"
    )
    assert outcomes == [{"outcome": "returned", "error_message": "shutting down"}] * 2
    call = play.db.row("SELECT status FROM lead.api_call WHERE id = %s", [open_call["call_id"]])
    assert call == {"status": "released"}, "a call that was not sent gives its slot and its hold back"
    assert play.finish(run)["returned"] == 0
    assert play.account() == (0, Decimal("0.002"))
    assert play.account("provider", "gemini") == (0, Decimal("0.002"))
    assert play.counted() == play.statuses()


def test_an_old_lease_gives_nothing_back(play: Play) -> None:
    (task_id,) = play.submit()
    run = play.run_started()
    with pytest.raises(StaleLease):
        play.call(
            "give_back_tasks",
            execution_id=run.execution_id,
            fence=run.fence - 1,
            task_ids=[task_id],
            reason="x",
            current_time=play.now,
        )
    assert play.task(task_id)["status"] == "processing"


# ---- breakers, settings, policies ------------------------------------------------------------------------


def test_resetting_a_breaker_closes_it_and_what_waited_for_it_is_due(play: Play) -> None:
    play.set("breaker_failures", 1)
    (task_id,) = play.submit()
    run = play.run_started()
    granted = play.begin_call(run, task_id)
    play.send(run, granted["call_id"])
    play.settle(granted["call_id"], "server_error", None, error="503")
    play.fail(run, task_id, "destination_down")
    play.finish(run)
    assert play.breaker()["state"] == "open"
    assert play.task(task_id)["deferred_until"] > play.now
    answer = operations.reset_breaker(
        play.db, "provider:gemini", actor="ann", reason="they are back", current_time=play.now
    )
    assert answer == operations.BreakerReset("provider:gemini", "open", "closed", 1, 1)
    assert play.breaker()["consecutive_failures"] == 0
    assert play.task(task_id)["deferred_until"] == play.now
    (row,) = [row for row in audited(play) if row["action"] == "reset_breaker"]
    assert (row["before"]["state"], row["after"]["state"], row["actor"]) == ("open", "closed", "ann")
    assert row["before"]["last_error"] == "503"
    with pytest.raises(
        InvalidInput, match=r"p_name: gemini is not allowed; one of pipeline:content_pipeline"
    ):
        operations.reset_breaker(play.db, "gemini")


def test_a_setting_is_changed_within_its_range(play: Play) -> None:
    answer = operations.change_setting(
        play.db, "daily_budget_usd", Decimal("12.5"), actor="ann", reason="May"
    )
    assert answer == operations.SettingChanged("daily_budget_usd", "500", "12.5", "US dollars")
    with pytest.raises(
        InvalidInput, match="max_concurrent_workflows: 11 is out of range, 1 to 10 executions"
    ):
        operations.change_setting(play.db, "max_concurrent_workflows", 11)
    with pytest.raises(InvalidInput, match=r"p_name: budget is not allowed; one of .*daily_budget_usd"):
        operations.change_setting(play.db, "budget", 1)
    (row,) = audited(play)
    assert (row["action"], row["subject"], row["actor"], row["reason"]) == (
        "change_setting",
        "setting:daily_budget_usd",
        "ann",
        "May",
    )
    assert (row["before"], row["after"]) == ({"value": "500"}, {"value": "12.5"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_batch": 0}, "p_changes.max_batch: 0 is not allowed; a whole number from 1 to 1000 is needed"),
        ({"max_batch": 1.5}, "p_changes.max_batch: 1.5 is not allowed; a whole number from 1 to 1000"),
        ({"base_priority": "high"}, "p_changes.base_priority: high is not allowed; a whole number from 0"),
        ({"target_success_rate": 2}, "p_changes.target_success_rate: 2 is not allowed; a number from 0 to 1"),
        ({"item_cost_limit_usd": None}, "p_changes.item_cost_limit_usd: NULL is not allowed; a number from"),
        ({"enabled": "yes"}, "p_changes.enabled: yes is not allowed; true or false is needed"),
        ({"daily_cost_limit_usd": -1}, "a number from 0 to 1000000, or null, is needed"),
        ({"workflow_type": "x"}, "p_changes: workflow_type is not allowed; a policy's columns that may be"),
        ({}, "p_changes: {} is not allowed; an object of columns"),
    ],
)
def test_a_policy_is_changed_within_its_ranges_or_not_at_all(
    play: Play, changes: dict[str, Any], said: str
) -> None:
    before = play.db.rows("SELECT * FROM lead.workflow_policy ORDER BY 1")
    with pytest.raises(InvalidInput) as refused:
        operations.change_policy(
            play.db, "content_pipeline", {**changes, **({"memory_mb": 64} if changes else {})}
        )
    assert said in str(refused.value)
    assert play.db.rows("SELECT * FROM lead.workflow_policy ORDER BY 1") == before


def test_a_changed_policy_says_what_is_different(play: Play) -> None:
    answer = operations.change_policy(
        play.db,
        "content_pipeline",
        {"max_batch": 5, "base_priority": 90, "daily_cost_limit_usd": Decimal("2.5")},
        actor="ann",
    )
    assert answer.before == {"max_batch": 10, "daily_cost_limit_usd": None}, "90 it was already"
    assert answer.after == {"max_batch": 5, "daily_cost_limit_usd": Decimal("2.5000000000")}
    (row,) = audited(play)
    assert (row["action"], row["subject"]) == ("change_policy", "policy:content_pipeline")
    assert row["before"] == {"max_batch": 10, "daily_cost_limit_usd": None}
    back = operations.change_policy(play.db, "content_pipeline", {"daily_cost_limit_usd": None})
    assert back.after == {"daily_cost_limit_usd": None}
    with pytest.raises(InvalidInput, match="p_workflow_type: poetry is not allowed; one of content_pipeline"):
        operations.change_policy(play.db, "poetry", {"max_batch": 5})


def test_who_pauses_ends_with_the_function(play: Play) -> None:
    with play.db.connection() as connection, connection.transaction():
        operations.pause_queue(play.db, tenant="garden", actor="ann", reason="unpaid", current_time=play.now)
        connection.execute("UPDATE lead.setting SET value = '4' WHERE name = 'retry_limit'")
    rows = play.db.rows("SELECT actor, reason FROM lead.audit_log WHERE subject = 'setting:retry_limit'")
    assert rows[-1]["actor"] != "ann"
    assert rows[-1]["reason"] is None


def test_who_acts_ends_with_the_function(play: Play) -> None:
    """The name a function was given must not stick to what the same transaction changes afterwards."""
    with play.db.connection() as connection, connection.transaction():
        connection.execute("SELECT set_config('lead.actor', 'nightly job', true)")
        connection.execute("SELECT change_setting('retry_limit', '2', 'ann', 'less')")
        connection.execute("UPDATE lead.setting SET value = '1' WHERE name = 'retry_limit'")
    assert [(row["actor"], row["reason"], row["after"]["value"]) for row in audited(play)] == [
        ("ann", "less", "2"),
        ("nightly job", None, "1"),
    ]
