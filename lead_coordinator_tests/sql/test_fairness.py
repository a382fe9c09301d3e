"""Fair shares over task types and tenants, pausing, pacing, tenants' money, and workers of one's own."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from lead_coordinator.errors import InvalidInput, StaleLease, TypeDisabled
from lead_coordinator_tests.sql.play import NOON, Play

pytestmark = pytest.mark.every_server

TYPES = ("content_generation", "seo_analysis", "revenue_optimization", "intelligence_analysis")


@pytest.fixture(autouse=True)
def _all_types_enabled(play: Play) -> None:
    play.db.execute(
        "UPDATE lead.workflow_policy SET enabled = true, max_batch = 10, item_cost_limit_usd = 0.01"
    )
    play.set("memory_limit_mb", 100_000)


def claim(play: Play, limit: int, task_type: str = "content_generation") -> list[int]:
    return [row["task_id"] for row in play.claim(limit, task_type)]


def tenants_of(play: Play, task_ids: list[int]) -> Counter[str | None]:
    rows = play.db.rows("SELECT tenant FROM task_queue WHERE id = ANY(%s)", [task_ids])
    return Counter(row["tenant"] for row in rows)


def test_a_flood_of_one_type_leaves_the_last_slot_to_others(play: Play) -> None:
    play.submit(100)
    assert play.decide()["workflows_dispatched"] == 2, "the last free slot isn't for who holds all others"
    play.submit(1, "seo_analysis")
    assert play.decide()["workflows_dispatched"] == 1
    assert {row["workflow_type"] for row in play.launchable()} == {"content_pipeline", "seo_monitor"}


def test_idle_shares_are_lent_while_only_one_type_is_enabled(play: Play) -> None:
    play.db.execute(
        "UPDATE lead.workflow_policy SET enabled = false WHERE workflow_type <> 'content_pipeline'"
    )
    play.submit(100)
    assert play.decide()["workflows_dispatched"] == 3


def test_two_floods_share_over_time(play: Play) -> None:
    """Three slots, two types: each holds one, and the third goes back and forth."""
    play.submit(600)
    play.submit(600, "seo_analysis")
    served: Counter[str] = Counter()
    for _ in range(30):
        play.decide()
        offered = play.launchable()
        run = play.start(offered[0])
        served[offered[0]["workflow_type"]] += 1
        for task_id in run.task_ids:
            play.complete(run, task_id)
        play.finish(run)
    shares = sorted(served.values())
    assert shares[0] >= 13, f"30 batches were expected to be shared nearly evenly, not {served}"


def test_weights_share_slots(play: Play) -> None:
    play.set("max_concurrent_workflows", 10)
    play.db.execute(
        "UPDATE lead.workflow_policy SET fair_weight = 2 WHERE workflow_type = 'content_pipeline'"
    )
    play.submit(600)
    play.submit(600, "seo_analysis")
    play.decide(max_concurrent=10)
    held = Counter(row["workflow_type"] for row in play.launchable())
    assert held == {"content_pipeline": 7, "seo_monitor": 3} or held == {
        "content_pipeline": 6,
        "seo_monitor": 4,
    }


def test_tenants_share_a_batch_however_many_tasks_one_has(play: Play) -> None:
    play.submit(500, tenant="loud", priority=90)
    play.submit(20, tenant="quiet", priority=10)
    assert tenants_of(play, claim(play, 10)) == {"loud": 5, "quiet": 5}
    assert tenants_of(play, claim(play, 100)) == {"loud": 85, "quiet": 15}, "an idle share is lent out"


def test_a_tenants_weight_counts_and_who_was_away_earns_no_credit(play: Play) -> None:
    play.db.execute("INSERT INTO lead.tenant (tenant, fair_weight) VALUES ('big', 3)")
    play.submit(300, tenant="big")
    play.submit(300, tenant="small")
    total: Counter[str | None] = Counter()
    for _ in range(5):
        total += tenants_of(play, claim(play, 20))
    assert total == {"big": 75, "small": 25}
    play.submit(300, tenant="late")
    assert tenants_of(play, claim(play, 50)) == {"big": 30, "small": 10, "late": 10}


def test_tasks_without_a_tenant_are_a_share_of_their_own(play: Play) -> None:
    play.submit(50)
    play.submit(50, tenant="a")
    assert tenants_of(play, claim(play, 10)) == {None: 5, "a": 5}


def test_a_paused_type_takes_tasks_and_starts_none(play: Play) -> None:
    play.call(
        "pause_queue", task_type="content_generation", tenant=None, actor="anna", reason="CMS is moving"
    )
    play.submit(5)
    decision = play.decide(debug_mode=True)
    assert decision["workflows_dispatched"] == 0
    assert "paused by an operator" in str(decision["passed_over"])
    assert claim(play, 5) == []
    answer = play.call(
        "resume_queue", task_type="content_generation", tenant=None, actor="anna", reason="CMS is back"
    )
    assert (answer["was"], answer["waiting"]) == ("paused", 5)
    assert play.decide()["workflows_dispatched"] == 1


def test_a_paused_tenant_waits_and_the_others_go_on(play: Play) -> None:
    play.submit(5, tenant="a")
    play.submit(5, tenant="b")
    play.call("pause_queue", task_type=None, tenant="a", actor="anna", reason="unpaid")
    assert tenants_of(play, claim(play, 10)) == {"b": 5}
    play.call("resume_queue", task_type=None, tenant="a", actor="anna", reason="paid")
    assert tenants_of(play, claim(play, 10)) == {"a": 5}


def test_draining_takes_no_new_tasks_and_works_off_the_rest(play: Play) -> None:
    play.submit(3)
    play.submit(2, tenant="a", task_type="seo_analysis")
    play.call("drain_queue", task_type="content_generation", tenant=None, actor="anna", reason="closing")
    play.call("drain_queue", task_type=None, tenant="a", actor="anna", reason="leaving")
    with pytest.raises(TypeDisabled, match="task_type: content_generation is draining"):
        play.submit()
    with pytest.raises(TypeDisabled, match="tenant: a is draining"):
        play.submit(1, tenant="a", task_type="seo_analysis")
    assert len(claim(play, 10)) == 3
    assert len(claim(play, 10, "seo_analysis")) == 2


def test_pausing_nothing_or_the_unknown_is_refused(play: Play) -> None:
    with pytest.raises(InvalidInput, match="either p_task_type or p_tenant is needed"):
        play.call("pause_queue", task_type=None, tenant=None, actor="a", reason="r")
    with pytest.raises(InvalidInput, match="p_task_type: poetry is not allowed; one of content_generation"):
        play.call("pause_queue", task_type="poetry", tenant=None, actor="a", reason="r")


@pytest.mark.parametrize(
    ("hour", "priority", "dollars"),
    [
        (0, 50, "25"), (12, 50, "62.5"), (24, 50, "100"),
        (0, 100, "100"), (0, 75, "62.5"), (12, 75, "81.25"), (12, 10, "62.5"),
    ],
)  # fmt: skip
def test_pacing_follows_the_clock_and_holds_valued_work_back_less(
    play: Play, hour: int, priority: int, dollars: str
) -> None:
    play.set("daily_budget_usd", 100)
    moment = datetime(2026, 11, 24, tzinfo=UTC) + timedelta(hours=hour, microseconds=-1 if hour == 24 else 0)
    row = play.db.row("SELECT lead.paced_budget(%s, %s) AS usd", [priority, moment])
    assert row is not None
    assert round(row["usd"], 4) == Decimal(dollars)


def test_a_day_of_25_hours_is_paced_over_25_hours(play: Play) -> None:
    play.set("coordinator_timezone", "Europe/Berlin")
    play.set("daily_budget_usd", 100)
    noon_and_a_half = datetime(2026, 10, 24, 22, tzinfo=UTC) + timedelta(hours=12.5)
    row = play.db.row("SELECT lead.paced_budget(50, %s) AS usd", [noon_and_a_half])
    assert row is not None
    assert round(row["usd"], 4) == Decimal("62.5")


def test_pacing_starts_before_the_limit_and_says_so(play: Play) -> None:
    play.set("daily_budget_usd", "1.00")
    play.db.execute(
        "UPDATE lead.workflow_policy SET base_priority = 40, item_cost_limit_usd = 0.10"
        " WHERE workflow_type = 'seo_monitor'"
    )
    play.now = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
    play.submit(20, "seo_analysis")
    play.decide()
    assert sum(row["batch_size"] for row in play.launchable()) == 2, "a quarter of the budget by midnight"
    decision = play.decide()
    assert "pacing: 0.20 of 1.00 USD held or spent, 0.25 may be by now at priority" in decision["reason"]
    play.set("pacing_enabled", "false")
    play.decide()
    assert sum(row["batch_size"] for row in play.launchable()) == 10


def test_a_tenant_never_spends_more_than_its_limit(play: Play) -> None:
    play.db.execute("INSERT INTO lead.tenant (tenant, daily_cost_limit_usd) VALUES ('thrifty', 0.005)")
    play.submit(2, tenant="thrifty")
    run = play.run_started()
    assert play.begin_call(run, run.task_ids[0], ("gemini", "0.004"))["granted"]
    assert play.begin_call(run, run.task_ids[1], ("gemini", "0.004"))["reason"] == "budget"
    play.finish(run)
    assert play.account("tenant", "thrifty") == (0, 0)


def test_workers_of_their_own_claim_complete_and_lose_nothing(play: Play) -> None:
    first, second, third = play.submit(3)
    answer = play.claim(10)[0]
    done = play.call(
        "complete_tasks",
        execution_id=answer["execution_id"], fence=answer["fence"], finish=False,
        results=[{"task_id": first, "result": {"url": "/a"}}], current_time=play.now,
    )  # fmt: skip
    assert done == 1
    assert play.task(first)["result"] == {"url": "/a"}
    assert play.call("recover_executions", current_time=play.pass_time(seconds=61))["requeued"] == 2
    with pytest.raises(StaleLease):
        play.call("complete_tasks", execution_id=answer["execution_id"], fence=answer["fence"])
    rows = play.claim(10)
    again = rows[0]
    assert {row["task_id"] for row in rows} == {second, third}
    assert play.call("complete_tasks", execution_id=again["execution_id"], fence=again["fence"],
                     current_time=play.now) == 2  # fmt: skip
    assert play.statuses() == play.counted() == {"completed": 3}
    history = play.db.row("SELECT sum(tasks_completed) AS tasks FROM execution_history")
    assert history == {"tasks": 3}
    assert play.decide()["resource_status"]["constraints"]["active_executions"] == 0


def test_a_worker_of_its_own_pays_from_the_day(play: Play) -> None:
    (task_id,) = play.submit()
    (answer,) = play.claim(1)
    granted = play.call(
        "begin_api_call",
        execution_id=answer["execution_id"], fence=answer["fence"], task_id=task_id, step="draft",
        candidates=[{"provider": "gemini", "model": "m", "max_cost_usd": Decimal("0.004")}],
        current_time=play.now,
    )  # fmt: skip
    # It draws for several calls at once, up to what one task may cost.
    assert play.account() == (Decimal("0.01"), 0)
    play.call("mark_api_call_sent", call_id=granted["call_id"], fence=answer["fence"], current_time=play.now)
    play.settle(granted["call_id"], dollars="0.002")
    play.call(
        "complete_tasks", execution_id=answer["execution_id"], fence=answer["fence"], current_time=play.now
    )
    assert play.account() == (0, Decimal("0.002"))
    assert play.task(task_id)["cost_usd"] == Decimal("0.002")


@pytest.mark.parametrize(
    ("hours", "inside"),
    [
        ((22, 6), {22, 23, 0, 5}),
        ((9, 17), {9, 16}),
        ((9, 9), set()),
        ((0, 24), {0, 5, 6, 8, 9, 16, 17, 21, 22, 23}),
    ],
)
def test_hours_may_pass_midnight(play: Play, hours: tuple[int, int], inside: set[int]) -> None:
    for name, hour in zip(("peak_hours_start", "peak_hours_end"), hours, strict=True):
        play.set(name, hour)
    found = set()
    for hour in (0, 5, 6, 8, 9, 16, 17, 21, 22, 23):
        answer = play.call("get_intelligent_scheduled_tasks", current_time=NOON.replace(hour=hour))
        if answer["analysis_context"]["is_peak_hours"]:
            found.add(hour)
    assert found == inside


def test_hours_decide_between_types_that_are_equal_else(play: Play) -> None:
    """At noon readers are there; at night and at weekends standing work goes first."""
    play.db.execute("UPDATE lead.workflow_policy SET base_priority = 80")
    play.set("max_concurrent_workflows", 1)
    given = {}
    for name, moment in (
        ("noon", NOON),
        ("night", NOON.replace(hour=23)),
        ("weekend", NOON + timedelta(days=4)),
    ):
        with play.db.connection() as connection, connection.transaction(force_rollback=True):
            play.now = moment
            for task_type in ("content_generation", "seo_analysis"):
                play.submit(1, task_type)
            (workflow,) = play.decide()["execution_plan"]["workflows_to_execute"]
            given[name] = workflow["workflow_type"]
    assert given == {"noon": "content_pipeline", "night": "seo_monitor", "weekend": "seo_monitor"}


def test_hours_steer_between_types(play: Play) -> None:
    quiet = play.call("get_intelligent_scheduled_tasks", current_time=NOON.replace(hour=3))
    peak = play.call("get_intelligent_scheduled_tasks", current_time=NOON)
    weekend = play.call("get_intelligent_scheduled_tasks", current_time=NOON + timedelta(days=4))

    def priority(answer: dict[str, list[dict[str, object]]], workflow_type: str) -> object:
        return next(t["priority"] for t in answer["tasks"] if t["workflow_type"] == workflow_type)

    assert (priority(quiet, "content_pipeline"), priority(peak, "content_pipeline")) == (90, 95)
    assert (priority(quiet, "seo_monitor"), priority(peak, "seo_monitor")) == (65, 60)
    assert priority(weekend, "content_pipeline") == 90
