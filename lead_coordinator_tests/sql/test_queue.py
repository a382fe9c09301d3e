"""Submitting, ranking and counting tasks."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lead_coordinator.errors import InvalidInput, NotFound, TypeDisabled
from lead_coordinator_tests.sql.play import NOON, Play


def test_a_bare_insert_of_what_has_no_default_is_a_task(play: Play) -> None:
    row = play.db.row(
        "INSERT INTO task_queue (task_type, payload) VALUES ('content_generation', '{\"title\": \"A\"}')"
        " RETURNING id, status, priority_base, priority_calculated, age_minutes"
    )
    assert row is not None
    assert (row["status"], row["priority_base"], row["age_minutes"]) == ("queued", 50, 0)
    assert row["priority_calculated"] == 50
    assert play.counted() == {"queued": 1}


def test_an_idempotency_key_makes_one_task(play: Play) -> None:
    first = play.call("submit_task", task_type="content_generation", payload={}, idempotency_key="brief 1")
    again = play.call("submit_task", task_type="content_generation", payload={}, idempotency_key="brief 1")
    assert first["created"]
    assert not again["created"]
    assert first["task_id"] == again["task_id"]
    assert play.statuses() == {"queued": 1}


def test_a_bulk_with_a_key_twice_and_a_known_key_makes_each_once(play: Play) -> None:
    known = play.call("submit_task", task_type="content_generation", payload={}, idempotency_key="known")
    answer = play.call(
        "submit_tasks",
        tasks=[
            {"task_type": "content_generation", "payload": {}, "idempotency_key": key}
            for key in ("a", "known", "a", "b")
        ],
    )
    assert (answer["submitted"], answer["duplicates"]) == (2, 2)
    ids = [task["task_id"] for task in answer["tasks"]]
    assert ids[0] == ids[2]
    assert ids[1] == known["task_id"]
    assert ids[3] not in ids[:3]
    assert [task["created"] for task in answer["tasks"]] == [True, False, False, True]
    assert play.statuses() == {"queued": 3}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task_type": "poetry"}, "task_type: poetry is not one of content_generation"),
        ({"payload": [1]}, "payload: [1] is not a JSON object"),
        ({"priority": 101}, "priority: 101 is not a whole number from 0 to 100"),
        ({"priority": -1}, "priority: -1 is not a whole number from 0 to 100"),
        ({"value_usd": -0.5}, "value_usd: -0.5 is out of range, 0 to 1000000"),
        ({"idempotency_key": ""}, "idempotency_key:  is not text of 1 to 200 characters"),
        ({"tenant": "a\nb"}, "tenant: a\nb is not text of 1 to 200 characters"),
        ({"deadline": "soon"}, "deadline: soon is not a time"),
        ({"deadline": "2020-01-01T00:00:00Z"}, "deadline: 2020-01-01T00:00:00Z has passed"),
        ({"dependencies": [77]}, "dependencies: there is no task 77"),
        ({"dependencies": ["x"]}, "dependencies: "),
        ({"colour": "red"}, "colour: is not a field of a task"),
        ({"payload": {"t": "x" * 300_000}}, "262144 are allowed"),
    ],
)
def test_bad_input_names_field_value_and_range_and_nothing_is_taken(
    play: Play, fields: dict[str, Any], said: str
) -> None:
    good = {"task_type": "content_generation", "payload": {}}
    with pytest.raises(InvalidInput) as refused:
        play.call("submit_tasks", tasks=[good, {**good, **fields}], current_time=NOON)
    assert said in str(refused.value), "the message names the field, the value and what is allowed"
    assert "tasks[1]" in str(refused.value), "the message says which task it was"
    assert play.statuses() == {}, "a bulk is taken as a whole or not at all"


def test_a_type_that_policy_disables_says_so(play: Play) -> None:
    play.db.execute(
        "UPDATE lead.workflow_policy SET enabled = false, disabled_reason = 'moving house'"
        " WHERE workflow_type = 'seo_monitor'"
    )
    with pytest.raises(TypeDisabled, match="seo_analysis is disabled by policy: moving house"):
        play.call("submit_task", task_type="seo_analysis", payload={})


def test_the_most_valuable_go_first_and_equal_ones_in_order_of_arrival(play: Play) -> None:
    play.db.execute("UPDATE lead.workflow_policy SET max_batch = 3")
    (low,) = play.submit(priority=10)
    (high,) = play.submit(priority=80)
    play.pass_time(seconds=1)
    (valued,) = play.submit(priority=50, value_usd=1000)
    (first,) = play.submit(priority=50)
    play.set("max_concurrent_workflows", 1)
    run = play.run_started()
    assert set(run.task_ids) == {high, valued, first}
    assert play.task(low)["status"] == "queued"


def test_of_equal_tasks_the_cheap_one_goes_first(play: Play) -> None:
    play.db.execute("UPDATE lead.workflow_policy SET max_batch = 1")
    play.set("max_concurrent_workflows", 1)
    (dear,) = play.submit(value_usd=10, estimated_cost=9)
    (cheap,) = play.submit(value_usd=10, estimated_cost=0.01)
    assert play.run_started().task_ids == [cheap]
    assert play.task(dear)["status"] == "queued"


def test_a_starving_task_gains_fifty_points(play: Play) -> None:
    play.db.execute("UPDATE lead.workflow_policy SET max_batch = 1")
    play.set("max_concurrent_workflows", 1)
    (old,) = play.submit(priority=20)
    play.pass_time(minutes=29)
    (young,) = play.submit(priority=60)
    run = play.run_started()
    assert run.task_ids == [young], "after 29 minutes 20 points are fewer than 60"
    play.complete(run, young)
    play.finish(run)
    (better,) = play.submit(priority=69)
    play.pass_time(minutes=1)
    run = play.run_started()
    assert run.task_ids == [old], f"20 + 50 points after 30 minutes are more than 69 of task {better}"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tasks=st.lists(
        st.tuples(st.integers(0, 100), st.integers(0, 70), st.sampled_from([None, 1, 20, 5000])),
        min_size=1,
        max_size=25,
    ),
    limit=st.integers(1, 30),
)
def test_picking_equals_sorting_by_the_effective_score(
    play: Play, tasks: list[tuple[int, int, int | None]], limit: int
) -> None:
    """The two probes of one index, against the definition: effective score, then age, then id."""
    play.db.execute("DELETE FROM lead.task")
    for priority, age_minutes, value in tasks:
        play.db.execute(
            "INSERT INTO lead.task (task_type, payload, priority_base, value_usd, queued_at)"
            " VALUES ('content_generation', '{}', %s, %s, %s)",
            [priority, value, NOON - timedelta(minutes=age_minutes)],
        )
    picked = play.db.row(
        "SELECT task_ids AS ids FROM lead.take_out_tasks('content_generation', %s, %s)", [limit, NOON]
    )
    expected = play.db.rows(
        "SELECT id FROM lead.task ORDER BY score + CASE WHEN queued_at <= %s THEN 50 ELSE 0 END DESC,"
        " queued_at, id LIMIT %s",
        [NOON - timedelta(minutes=30), limit],
    )
    assert picked is not None
    assert picked["ids"] == [row["id"] for row in expected]


def test_a_task_waits_for_those_it_depends_on(play: Play) -> None:
    (first,) = play.submit()
    (second,) = play.submit(dependencies=[first])
    assert play.task(second)["status"] == "deferred"
    run = play.run_started()
    assert run.task_ids == [first]
    play.complete(run, first)
    play.finish(run)
    assert play.task(second)["status"] == "queued", "its last dependency completed"
    (third,) = play.submit(dependencies=[first])
    assert play.task(third)["status"] == "queued", "a dependency that completed long ago keeps nothing back"


def test_a_task_is_kept_until_its_time(play: Play) -> None:
    (later,) = play.submit(not_before=(NOON + timedelta(hours=1)).isoformat())
    assert play.decide()["workflows_dispatched"] == 0
    play.pass_time(minutes=61)
    assert play.decide()["workflows_dispatched"] == 1
    assert play.task(later)["status"] == "processing"


def test_cancelling_takes_what_waits_and_leaves_what_runs(play: Play) -> None:
    waiting, running = play.submit(2)
    assert play.call("cancel_task", task_id=waiting, reason="not wanted", current_time=play.now)
    run = play.run_started()
    assert run.task_ids == [running]
    assert not play.call("cancel_task", task_id=running, reason="too late", current_time=play.now)
    with pytest.raises(NotFound, match="there is no task 999"):
        play.call("cancel_task", task_id=999, reason="who?")


def test_money_keeps_ten_digits(play: Play) -> None:
    (task_id,) = play.submit(value_usd=Decimal("0.1234567891"))
    assert play.task(task_id)["value_usd"] == Decimal("0.1234567891")


def test_a_task_that_waits_for_another_and_for_its_time_waits_for_both(play: Play) -> None:
    (first,) = play.submit()
    later = NOON + timedelta(hours=1)
    (second,) = play.submit(dependencies=[first], not_before=later.isoformat())
    run = play.run_started()
    play.complete(run, first)
    play.finish(run)
    assert play.task(second)["deferred_until"] == later
