"""Calls to providers: slots, breakers, money, and what dead runs leave behind."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from lead_coordinator.errors import InvalidInput, StaleLease
from lead_coordinator_tests.sql.play import Play, Run


@pytest.fixture
def run(play: Play) -> Run:
    play.submit(10)
    play.set("max_concurrent_workflows", 1)
    play.set("execution_timeout_minutes", 60)
    play.set("lease_seconds", 900)
    return play.run_started()


def test_a_call_is_held_sent_and_settled(play: Play, run: Run) -> None:
    task_id = run.task_ids[0]
    granted = play.begin_call(run, task_id, ("gemini", "0.004"))
    assert granted["granted"]
    assert granted["provider"] == "gemini"
    assert play.account("provider", "gemini") == (Decimal("0.004"), 0)
    assert play.send(run, granted["call_id"])
    assert play.settle(granted["call_id"], dollars="0.0012345678")["cost_usd"] == Decimal("0.0012345678")
    assert play.account("provider", "gemini") == (0, Decimal("0.0012345678"))
    play.complete(run, task_id)
    finished = play.finish(run)
    assert finished["actual_cost"] == Decimal("0.0012345678")
    assert play.account() == (0, Decimal("0.0012345678")), "what was not spent is released"
    assert play.account("workflow", "content_pipeline") == (0, Decimal("0.0012345678"))


def test_settling_twice_counts_once(play: Play, run: Run) -> None:
    granted = play.begin_call(run, run.task_ids[0])
    play.send(run, granted["call_id"])
    play.settle(granted["call_id"])
    assert play.settle(granted["call_id"], dollars="0.003")["already_settled"]
    assert play.account("provider", "gemini") == (0, Decimal("0.001"))


def test_an_unknown_cost_is_settled_at_its_maximum(play: Play, run: Run) -> None:
    granted = play.begin_call(run, run.task_ids[0], ("gemini", "0.004"))
    play.send(run, granted["call_id"])
    play.settle(granted["call_id"], "timeout", None)
    assert play.account("provider", "gemini") == (0, Decimal("0.004"))


def test_what_a_dead_run_sent_is_paid_and_what_it_held_is_released(play: Play, run: Run) -> None:
    sent = play.begin_call(run, run.task_ids[0], ("gemini", "0.004"))
    play.send(run, sent["call_id"])
    play.begin_call(run, run.task_ids[1], ("gemini", "0.004"))
    used = "SELECT count(*) AS used FROM lead.rate_slot WHERE free_at > %s"
    assert play.db.row(used, [play.now]) == {"used": 2}
    (row,) = play.db.rows("SELECT run_id FROM workflow_orchestration")
    play.call(
        "report_run_failure",
        execution_id=run.execution_id, run_id=row["run_id"], reason="killed", current_time=play.now,
    )  # fmt: skip
    assert play.account() == (0, Decimal("0.004"))
    assert play.account("provider", "gemini") == (0, Decimal("0.004"))
    assert play.db.row(used, [play.now]) == {"used": 1}, "the slot of the unsent call is free again"
    late = play.settle(sent["call_id"], dollars="0.001")
    assert late["already_settled"], "a run that wakes late changes no money"


def test_no_sixty_seconds_hold_more_calls_than_the_limit(play: Play, run: Run) -> None:
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 3 WHERE provider = 'gemini'")
    sent_at = []
    for _ in range(200):
        granted = play.begin_call(run, run.task_ids[0], ("gemini", "0"))
        if granted["granted"]:
            play.send(run, granted["call_id"])
            play.settle(granted["call_id"], dollars="0")
            sent_at.append(play.now)
        else:
            assert granted["reason"] == "rate_limited"
            assert granted["wait_ms"] > 0
        play.pass_time(seconds=1.7)
    for index in range(len(sent_at) - 3):
        assert (sent_at[index + 3] - sent_at[index]).total_seconds() >= 60
    assert len(sent_at) >= 15, "close to the limit under pressure: 3 a minute for 340 seconds"


def test_a_limit_that_falls_and_rises_forgets_no_request(play: Play, run: Run) -> None:
    play.now = datetime.now(UTC)  # an operator changes a limit by the server's clock

    def granted() -> int:
        answers = (play.begin_call(run, run.task_ids[0], ("gemini", "0")) for _ in range(10))
        return sum(answer["granted"] for answer in answers)

    def limit(requests: int) -> None:
        play.db.execute(
            "UPDATE api_rate_limits SET requests_per_minute = %s WHERE provider = 'gemini'", [requests]
        )

    limit(6)
    assert granted() == 6
    limit(4)
    limit(6)
    assert granted() == 0, "all six of this minute have been granted before"
    assert play.call("validate_coordinator_deployment")["errors"] == []
    limit(4)
    play.pass_time(seconds=61)
    assert granted() == 4
    limit(3)
    play.pass_time(seconds=61)
    limit(6)
    play.db.execute(
        "UPDATE lead.rate_slot SET free_at = %s WHERE provider = 'gemini' AND slot_no > 4",
        [play.now + timedelta(seconds=60)],
    )
    limit(4)
    assert granted() == 2, "two of the four that are allowed now have been made under the higher limit"


def test_the_cheapest_with_a_free_slot_wins_then_the_other(play: Play, run: Run) -> None:
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 1")
    both = (("gemini", "0.001"), ("openai", "0.002"))
    providers = [play.begin_call(run, run.task_ids[0], *both).get("provider") for _ in range(3)]
    assert providers == ["gemini", "openai", None]
    refused = play.begin_call(run, run.task_ids[0], *both)
    assert {row["provider"]: row["reason"] for row in refused["blocked"]} == {
        "gemini": "rate_limited", "openai": "rate_limited",
    }  # fmt: skip
    assert 59_000 < refused["wait_ms"] <= 61_000


def test_a_slot_given_back_is_free_at_once(play: Play, run: Run) -> None:
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 1 WHERE provider = 'gemini'")
    first = play.begin_call(run, run.task_ids[0])
    assert play.call("release_api_call", call_id=first["call_id"], fence=run.fence, current_time=play.now)
    assert play.begin_call(run, run.task_ids[0])["granted"]


def test_a_grant_must_be_used_in_time(play: Play, run: Run) -> None:
    granted = play.begin_call(run, run.task_ids[0])
    play.pass_time(seconds=6)
    assert not play.send(run, granted["call_id"])
    assert play.account("provider", "gemini") == (0, 0)


def test_a_429_holds_the_provider_back_and_counts_no_failure(play: Play, run: Run) -> None:
    for _ in range(6):
        granted = play.begin_call(run, run.task_ids[0])
        play.send(run, granted["call_id"])
        play.settle(granted["call_id"], "rate_limited", "0", http_status=429, retry_after_ms=7000)
        refused = play.begin_call(run, run.task_ids[0])
        assert (refused["granted"], refused["reason"], refused["wait_ms"]) == (False, "rate_limited", 7000)
        play.pass_time(seconds=8)
    assert play.breaker()["state"] == "closed"
    row = play.db.row("SELECT adaptive_limit FROM api_rate_limits WHERE provider = 'gemini'")
    assert row is not None
    assert 30 <= row["adaptive_limit"] < 60


def test_the_limit_in_force_rises_again_with_what_succeeds(play: Play, run: Run) -> None:
    def in_force() -> int:
        row = play.db.row("SELECT adaptive_limit FROM api_rate_limits WHERE provider = 'gemini'")
        assert row is not None
        return int(row["adaptive_limit"])

    granted = play.begin_call(run, run.task_ids[0])
    play.send(run, granted["call_id"])
    play.settle(granted["call_id"], "rate_limited", "0", http_status=429, retry_after_ms=600_000)
    assert in_force() == 54
    assert play.begin_call(run, run.task_ids[0])["wait_ms"] == 120_000, "two minutes, then it is asked again"
    play.pass_time(seconds=120)
    limits = []
    for _ in range(7):
        play.pay(run, run.task_ids[0], "0")
        play.pay(run, run.task_ids[0], "0")
        limits.append(in_force())
        play.pass_time(seconds=5)
    assert limits == [55, 56, 57, 58, 59, 60, 60], "one more every five seconds, up to what the operator set"


@pytest.mark.parametrize("margin_ms", [0, 500, 2000])
def test_a_slot_is_taken_for_sixty_seconds_and_the_margin_from_its_sending(
    play: Play, run: Run, margin_ms: int
) -> None:
    play.set("rate_margin_ms", margin_ms)
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 1 WHERE provider = 'gemini'")
    granted = play.begin_call(run, run.task_ids[0], ("gemini", "0"))
    play.pass_time(seconds=4)
    assert play.send(run, granted["call_id"])
    assert play.begin_call(run, run.task_ids[0], ("gemini", "0"))["wait_ms"] == 60_000 + margin_ms
    play.pass_time(seconds=60, milliseconds=margin_ms - 1)
    assert play.begin_call(run, run.task_ids[0], ("gemini", "0"))["wait_ms"] == 20, "never a busy loop"
    play.pass_time(milliseconds=1)
    assert play.begin_call(run, run.task_ids[0], ("gemini", "0"))["granted"]


def open_breaker(play: Play, run: Run, failures: int = 5) -> None:
    for _ in range(failures):
        granted = play.begin_call(run, run.task_ids[0])
        play.send(run, granted["call_id"])
        play.settle(granted["call_id"], "server_error", "0", http_status=503)


def test_five_failures_in_a_row_open_the_breaker(play: Play, run: Run) -> None:
    open_breaker(play, run, 4)
    play.pay(run, run.task_ids[0])
    open_breaker(play, run, 4)
    assert play.breaker()["state"] == "closed", "a success in between starts the count anew"
    open_breaker(play, run, 1)
    assert play.breaker()["state"] == "open"
    refused = play.begin_call(run, run.task_ids[0])
    assert (refused["reason"], refused["wait_ms"]) == ("breaker_open", 300_000)
    assert (
        play.begin_call(run, run.task_ids[0], ("gemini", "0.001"), ("openai", "0.001"))["provider"]
        == "openai"
    )


def test_half_open_lets_one_two_four_through_and_closes(play: Play, run: Run) -> None:
    open_breaker(play, run)
    play.pass_time(minutes=5)
    for probes in (1, 2, 4):
        calls = []
        for _ in range(probes):
            granted = play.begin_call(run, run.task_ids[0])
            assert granted["granted"]
            assert granted["probe"]
            play.send(run, granted["call_id"])
            calls.append(granted["call_id"])
        assert play.begin_call(run, run.task_ids[0])["reason"] == "breaker_open"
        for call_id in calls:
            play.settle(call_id)
    assert play.breaker()["state"] == "closed"


def test_a_failed_probe_waits_thirty_seconds_and_an_unanswered_one_wedges_nothing(
    play: Play, run: Run
) -> None:
    open_breaker(play, run)
    play.pass_time(minutes=5)
    open_breaker(play, run, 1)
    assert play.begin_call(run, run.task_ids[0])["wait_ms"] == 30_000
    play.pass_time(seconds=30)
    probe = play.begin_call(run, run.task_ids[0])
    assert probe["probe"]
    play.send(run, probe["call_id"])
    play.settle(probe["call_id"], "cancelled", None)
    assert play.begin_call(run, run.task_ids[0])["probe"], "a probe that said nothing is given back"


def test_what_waits_for_a_destination_is_due_when_it_answers_again(play: Play, run: Run) -> None:
    open_breaker(play, run)
    waiting = run.task_ids[1]
    play.fail(run, waiting, "destination_down", retry_after_ms=900_000)
    play.pass_time(minutes=5)
    play.pay(run, run.task_ids[0])
    assert play.task(waiting)["deferred_until"] == play.now


def test_an_invalid_key_and_a_billing_stop_open_the_breaker_at_once(play: Play, run: Run) -> None:
    for outcome, provider in (("auth_error", "gemini"), ("billing_stop", "openai")):
        granted = play.begin_call(run, run.task_ids[0], (provider, "0.001"))
        play.send(run, granted["call_id"])
        play.settle(granted["call_id"], outcome, "0")
        assert play.breaker(f"provider:{provider}")["state"] == "open"


def test_an_item_never_costs_more_than_its_limit(play: Play, run: Run) -> None:
    task_id = run.task_ids[0]
    for _ in range(2):
        granted = play.begin_call(run, task_id, ("gemini", "0.04"))
        play.send(run, granted["call_id"])
        play.settle(granted["call_id"], dollars="0.04")
    refused = play.begin_call(run, task_id, ("gemini", "0.04"))
    assert (refused["granted"], refused["reason"]) == (False, "item_cost_limit")
    assert play.begin_call(run, run.task_ids[1], ("gemini", "0.04"))["granted"]


def test_a_provider_has_a_limit_of_its_own(play: Play, run: Run) -> None:
    play.db.execute("UPDATE api_rate_limits SET daily_cost_limit = 0.01 WHERE provider = 'gemini'")
    assert play.begin_call(run, run.task_ids[0], ("gemini", "0.008"))["granted"]
    assert play.begin_call(run, run.task_ids[1], ("gemini", "0.008"))["reason"] == "budget"
    assert (
        play.begin_call(run, run.task_ids[1], ("gemini", "0.008"), ("openai", "0.009"))["provider"]
        == "openai"
    )


def test_calls_beyond_the_envelope_draw_on_the_day_or_are_refused(play: Play, run: Run) -> None:
    play.db.execute("UPDATE lead.workflow_policy SET item_cost_limit_usd = 2")  # after 0.90 were held
    play.set("daily_budget_usd", "1.5")
    assert play.begin_call(run, run.task_ids[0], ("gemini", "1.4"))["granted"]
    assert play.account()[0] == Decimal("1.4")
    assert play.begin_call(run, run.task_ids[1], ("gemini", "0.2"))["reason"] == "budget"
    assert play.begin_call(run, run.task_ids[1], ("gemini", "0.1"))["granted"]


def test_bad_calls_are_refused_by_name(play: Play, run: Run) -> None:
    task_id = run.task_ids[0]
    with pytest.raises(
        InvalidInput, match=r"p_candidates\.provider: aol is not allowed; one of gemini, openai"
    ):
        play.begin_call(run, task_id, ("aol", "0.1"))
    with pytest.raises(InvalidInput, match=r"p_candidates\.max_cost_usd: -1 is not allowed"):
        play.begin_call(run, task_id, ("gemini", "-1"))
    with pytest.raises(StaleLease, match="does not hold task 4711"):
        play.begin_call(run, 4711)
    granted = play.begin_call(run, task_id)
    with pytest.raises(InvalidInput, match="never marked as sent"):
        play.settle(granted["call_id"])
    with pytest.raises(InvalidInput, match="p_outcome: fine is not allowed"):
        play.settle(granted["call_id"], "fine")


def begin_several(play: Play, run: Run, *wishes: tuple[int, str, str]) -> list[dict[str, Any]]:
    """Wishes are (task, provider, dollars)."""
    answer: list[dict[str, Any]] = play.call(
        "begin_api_calls",
        execution_id=run.execution_id,
        fence=run.fence,
        calls=[
            {
                "task_id": task_id,
                "step": "draft",
                "candidates": [{"provider": provider, "model": "m", "max_cost_usd": Decimal(dollars)}],
            }
            for task_id, provider, dollars in wishes
        ],
        current_time=play.now,
    )
    return answer


def test_several_slots_are_taken_at_a_time_and_each_is_answered_by_itself(play: Play) -> None:
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = 2 WHERE provider = 'gemini'")
    play.submit(4)
    run = play.run_started()
    first, second, third, fourth = run.task_ids
    answers = begin_several(
        play, run, (first, "gemini", "0.004"), (second, "openai", "0.010"), (third, "gemini", "0.004"),
        (fourth, "gemini", "0.004"), (first, "gemini", "0.089"),
    )  # fmt: skip
    assert [answer["task_id"] for answer in answers] == [first, second, third, fourth, first]
    assert [answer["granted"] for answer in answers] == [True, True, True, False, False]
    assert (answers[3]["reason"], answers[3]["wait_ms"]) == ("rate_limited", 60_500)
    assert answers[4]["reason"] == "item_cost_limit", "0.004 + 0.089 is more than an item may cost"
    assert play.account("provider", "gemini") == (Decimal("0.008"), 0)
    assert len({answer["call_id"] for answer in answers[:3]}) == 3
    for answer in answers[:3]:
        assert play.send(run, answer["call_id"])
        play.settle(answer["call_id"])


def test_several_calls_are_begun_all_or_none_where_one_is_wrong(play: Play) -> None:
    play.submit(2)
    run = play.run_started()
    with pytest.raises(StaleLease, match="does not hold task 999"):
        begin_several(play, run, (run.task_ids[0], "gemini", "0.004"), (999, "gemini", "0.004"))
    for calls, said in (
        ([], r"p_calls: \[\] is not allowed; an array of 1 to 100"),
        ([1], r"p_calls\[0\]: 1 is not allowed; an object is needed"),
        ([{"task_id": "x"}], r"p_calls\[0\].task_id: x is not allowed"),
        ([{"task_id": 1, "step": "draft"}], r"p_calls\[0\].candidates: NULL is not allowed"),
    ):
        with pytest.raises(InvalidInput, match=said):
            play.call("begin_api_calls", execution_id=run.execution_id, fence=run.fence, calls=Jsonb(calls))
    assert play.account("provider", "gemini") == (0, 0)
    assert play.db.rows("SELECT 1 FROM lead.api_call") == []


def test_a_publication_is_one_row_per_task_and_per_address(play: Play, run: Run) -> None:
    first, second = run.task_ids[:2]

    def begin(task_id: int) -> dict[str, object]:
        answer: dict[str, object] = play.call(
            "begin_publication", task_id=task_id, execution_id=run.execution_id, fence=run.fence,
            site="default", slug="a-title", title="A title", current_time=play.now,
        )  # fmt: skip
        return answer

    one, again, other = begin(first), begin(first), begin(second)
    assert one["publication_id"] == again["publication_id"]
    assert not again["already_published"]
    assert (one["slug"], other["slug"]) == ("a-title", "a-title-2")
    play.call(
        "confirm_publication", publication_id=one["publication_id"], execution_id=run.execution_id,
        fence=run.fence, url="/a-title/", content_sha256="0" * 64, current_time=play.now,
    )  # fmt: skip
    assert begin(first)["already_published"]
    listed = play.db.rows("SELECT * FROM list_publications('default')")
    assert [row["slug"] for row in listed] == ["a-title"], "an intent is not yet a publication"
