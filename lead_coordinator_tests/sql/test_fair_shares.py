"""Fair shares over hours of virtual time: what each type and tenant gets, against what it is entitled to."""

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from lead_coordinator_tests.sql.fair_play import (
    Arrival,
    Simulation,
    entitled_tenants,
    entitled_types,
    make_room,
    max_min,
    tenants_of,
)
from lead_coordinator_tests.sql.play import Play

FLOOD = "content_generation"
TRICKLES = ("seo_analysis", "revenue_optimization", "intelligence_analysis")
SEO = TRICKLES[0]
HOUR = 3600.0
SHARE = 0.95


def flood(
    tasks: int, seconds: float, task_type: str = FLOOD, at: float = 0.0, tenant: str = ""
) -> list[Arrival]:
    """Tasks that come all at once; the time that one takes is random, `seconds` on average."""
    chance = random.Random(f"{task_type}{seconds}")
    return [Arrival(at, task_type, chance.uniform(0.5, 1.5) * seconds, tenant) for _ in range(tasks)]


def trickle(
    every: float, seconds: float, until: float, task_type: str, since: float = 0.0, tenant: str = ""
) -> list[Arrival]:
    """Tasks that come one by one, at random moments."""
    chance = random.Random(f"{task_type}{every}{tenant}")
    arrivals, at = [], since
    while (at := at + chance.expovariate(1 / every)) < until:
        arrivals.append(Arrival(at, task_type, chance.uniform(0.5, 1.5) * seconds, tenant))
    return arrivals


def assert_fair(
    simulation: Simulation, weights: Mapping[str, float], until: float, batch: int = 10, since: float = 0.0
) -> None:
    entitled = entitled_types(simulation.arrivals, simulation.slots, batch, weights, until)
    for task_type, curve in entitled.items():
        due = curve.at(until) - curve.at(since)
        had = simulation.served(task_type, until) - simulation.served(task_type, since)
        assert had >= SHARE * due, (
            f"{task_type} had {had:.0f} of {due:.0f} slot-seconds that it was entitled to"
        )


def test_the_reference_is_max_min_fair() -> None:
    equal = dict.fromkeys("abcd", 1.0)
    textbook = max_min(10, {"a": 2, "b": 2.6, "c": 4, "d": 5}, equal)
    assert {key: round(share, 9) for key, share in textbook.items()} == {"a": 2, "b": 2.6, "c": 2.7, "d": 2.7}
    assert max_min(6, {"a": 9, "b": 9}, {"a": 2, "b": 1}) == {"a": 4, "b": 2}
    assert max_min(6, {"a": 1, "b": 9}, {"a": 2, "b": 1}) == {"a": 1, "b": 5}, "what one doesn't need is lent"
    arrivals = [Arrival(0, "a", 100), Arrival(0, "a", 100), Arrival(50, "b", 30)]
    curves = entitled_types(arrivals, 2, 1, {"a": 1, "b": 1}, 1000)
    assert [curves["a"].at(t) for t in (50, 80, 1000)] == [50, 80, 200], "one of two slots is for others"
    assert [curves["b"].at(t) for t in (50, 65, 80)] == [0, 15, 30]


def test_a_flood_takes_no_more_than_its_share_and_lets_whoever_trickles_pass(play: Play) -> None:
    weights = dict.fromkeys((FLOOD, *TRICKLES), 1.0)
    make_room(play, 3, weights)
    arrivals = flood(1500, 12)
    for task_type in TRICKLES:
        arrivals += trickle(every=240, seconds=60, until=2 * HOUR, task_type=task_type)
    simulation = Simulation(play, arrivals, 3)
    simulation.run(2 * HOUR)
    assert_fair(simulation, weights, 2 * HOUR)
    waited = 0
    for task_type in TRICKLES:
        for task in simulation.started_of(task_type):
            assert simulation.overtaken_by(task, FLOOD) == 0, "the flood never goes before who trickles"
            assert task.waited <= simulation.longest_left(task) + 1e-6, (
                "what ran when it came is all it waits for"
            )
            waited += task.waited > 0
    assert waited > 20, "the slots were expected to be busy often, or nothing is shown"


@pytest.mark.parametrize(
    ("slots", "floods"),
    [
        (3, {FLOOD: (1.0, 24.0), SEO: (1.0, 4.0)}),
        (3, {FLOOD: (2.0, 12.0), SEO: (1.0, 12.0)}),
        (1, {FLOOD: (1.0, 24.0), SEO: (1.0, 4.0)}),
        (5, {FLOOD: (1.0, 4.0), SEO: (2.0, 8.0), TRICKLES[1]: (3.0, 16.0)}),
    ],
    ids=["long and short batches", "weights 2 to 1", "one slot", "three with weights"],
)
def test_floods_share_slot_time_by_weight_however_long_their_batches_take(
    play: Play, slots: int, floods: dict[str, tuple[float, float]]
) -> None:
    weights = {task_type: weight for task_type, (weight, _) in floods.items()}
    make_room(play, slots, weights)
    arrivals = []
    for task_type, (_, seconds) in floods.items():
        arrivals += flood(2000, seconds, task_type)
    simulation = Simulation(play, arrivals, slots)
    simulation.run(2 * HOUR)
    assert_fair(simulation, weights, 2 * HOUR)


@pytest.mark.parametrize("away", ["nothing to do", "paused"])
def test_who_was_away_earns_no_credit_and_takes_none_from_others(play: Play, away: str) -> None:
    """Two share for two hours; then a third comes back with a flood, and all three share alike."""
    weights = dict.fromkeys((FLOOD, *TRICKLES[:2]), 1.0)
    third, back = TRICKLES[1], 2 * HOUR
    make_room(play, 3, weights)
    seen = [Arrival(0, third, 60)]
    two = flood(3000, 12) + flood(3000, 6, SEO)
    late = flood(1500, 12, third, at=back)
    if away == "paused":
        simulation = Simulation(play, [*seen, *two, *(replace(task, at=30) for task in late)], 3)
        simulation.at(20, lambda: set_mode(play, "pause_queue", third))
        simulation.at(back, lambda: set_mode(play, "resume_queue", third))
    else:
        simulation = Simulation(play, [*seen, *two, *late], 3)
    simulation.run(back + 2 * HOUR)
    simulation.arrivals = [*seen, *two, *late]
    assert simulation.served(third, back) <= 60
    assert_fair(simulation, weights, back)
    assert_fair(simulation, weights, back + 2 * HOUR, since=back)


def set_mode(play: Play, function: str, task_type: str) -> None:
    play.call(
        function, task_type=task_type, tenant=None, actor="ann", reason="CMS is moving", current_time=play.now
    )


def test_a_flood_of_one_tenant_leaves_the_others_their_places(play: Play) -> None:
    weights = {"loud": 1.0, "quiet": 1.0, "calm": 1.0, "": 1.0}
    make_room(play, 3, {FLOOD: 1.0})
    arrivals = flood(3000, 12, tenant="loud")
    for tenant in ("quiet", "calm", ""):
        arrivals += trickle(every=60, seconds=12, until=HOUR, task_type=FLOOD, tenant=tenant)
    simulation = Simulation(play, arrivals, 3)
    simulation.run(HOUR)
    had = tenants_of(simulation)
    for tenant, places in entitled_tenants(simulation, weights).items():
        assert had[tenant] >= SHARE * places, f"{tenant!r} had {had[tenant]} of {places:.1f} places"
    tasks = list(simulation.tasks.values())
    for batch in simulation.batches:
        taken = {simulation.tasks[task_id].arrival.tenant for task_id in batch.task_ids}
        waiting = {
            task.arrival.tenant
            for task in tasks
            if task.arrival.at <= batch.started and (task.started is None or task.started >= batch.started)
        }
        assert taken == waiting, "each tenant that waits has a place in the next batch"


def test_tenants_share_places_by_weight(play: Play) -> None:
    weights = {"big": 3.0, "small": 1.0, "tiny": 1.0}
    make_room(play, 2, {FLOOD: 1.0})
    play.db.execute("INSERT INTO lead.tenant (tenant, fair_weight) VALUES ('big', 3)")
    arrivals = flood(1000, 12, tenant="big") + flood(1000, 12, tenant="small")
    arrivals += trickle(every=120, seconds=12, until=HOUR, task_type=FLOOD, tenant="tiny")
    simulation = Simulation(play, arrivals, 2)
    simulation.run(HOUR)
    had = tenants_of(simulation)
    for tenant, places in entitled_tenants(simulation, weights).items():
        assert had[tenant] >= SHARE * places, f"{tenant} had {had[tenant]} of {places:.1f} places"


# -- what is scarce beside slots -----------------------------------------------------------------------------


def test_small_runs_do_not_keep_a_large_one_out_of_memory_for_ever(play: Play) -> None:
    """Two small ones fit beside each other, the large one only beside none."""
    make_room(play, 3, {FLOOD: 1.0, SEO: 1.0})
    play.db.execute(
        "UPDATE lead.workflow_policy SET memory_mb = CASE task_type WHEN %s THEN 900 ELSE 400 END", [SEO]
    )
    play.set("memory_baseline_mb", 1000)
    play.set("memory_limit_mb", 2000)
    simulation = Simulation(play, [*flood(400, 12), Arrival(60, SEO, 60)], 3)
    simulation.run(HOUR)
    (large,) = simulation.started_of(SEO)
    assert large.waited <= simulation.longest_left(large) or large.waited <= 300
    assert simulation.overtaken_by(large, FLOOD) == 0, "memory that comes free is kept for it"
    assert len(simulation.started_of(FLOOD)) == 400 or simulation.served(FLOOD, HOUR) > 0.9 * HOUR, (
        "and afterwards the small ones go on"
    )


def test_a_run_that_never_fits_into_memory_holds_nobody_up(play: Play) -> None:
    make_room(play, 3, {FLOOD: 1.0, SEO: 1.0})
    play.db.execute(
        "UPDATE lead.workflow_policy SET memory_mb = CASE task_type WHEN %s THEN 1500 ELSE 400 END", [SEO]
    )
    play.set("memory_baseline_mb", 1000)
    play.set("memory_limit_mb", 2000)
    play.submit(30)
    play.submit(1, SEO)
    decision = play.decide(debug_mode=True)
    assert decision["workflows_dispatched"] == 2
    assert "a run needs 1500 MB" in str(decision["passed_over"])


@pytest.mark.parametrize("short", ["its own limit of the day", "the pace of the day"])
def test_a_type_without_money_takes_no_slot_from_one_that_has_some(play: Play, short: str) -> None:
    make_room(play, 3, {FLOOD: 1.0, SEO: 1.0})
    play.db.execute("UPDATE lead.workflow_policy SET item_cost_limit_usd = 1, base_priority = 100")
    if short == "its own limit of the day":
        play.db.execute(
            "UPDATE lead.workflow_policy SET daily_cost_limit_usd = 0.50 WHERE task_type = %s", [SEO]
        )
        reason = "budget of seo_monitor: 0.00 of 0.50 USD held or spent"
    else:
        play.set("daily_budget_usd", 1000)
        play.now = play.now.replace(hour=0)
        play.db.execute("UPDATE lead.workflow_policy SET base_priority = 10 WHERE task_type = %s", [SEO])
        play.db.execute(
            "INSERT INTO lead.budget_account (budget_day, scope, scope_key, spent_usd)"
            " VALUES (%s, 'total', 'all', 300)",
            [play.now.date()],
        )
        reason = "pacing: "
    play.submit(100)
    play.submit(100, SEO)
    decision = play.decide(debug_mode=True)
    passed_over = {row["workflow_type"]: row["reason"] for row in decision["passed_over"]}
    assert passed_over["seo_monitor"].startswith(reason)
    assert [row["workflow_type"] for row in play.launchable()] == ["content_pipeline"] * 2


# -- nothing waits for ever ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [10, 1])
def test_better_work_without_end_does_not_keep_a_task_waiting_for_ever(play: Play, batch: int) -> None:
    """More of the best arrives than can be worked, so that a starving task's 50 points don't help."""
    make_room(play, 2, {FLOOD: 1.0}, batch)
    play.set("overdue_minutes", 60)
    poor = [Arrival(10, FLOOD, 60, priority=number) for number in (0, 5, 20)]
    rich = [Arrival(max(0, n - 20) * 20, FLOOD, 60, priority=100) for n in range(600)]
    simulation = Simulation(play, [*rich, *poor], 2)
    simulation.run(2 * HOUR)
    waited = {
        task.arrival.priority: task.waited
        for task in simulation.started_of(FLOOD)
        if task.arrival.priority < 100
    }
    assert waited.keys() == {0, 5, 20}, "each was expected to be taken once it was overdue"
    assert all(seconds >= HOUR for seconds in waited.values()), "and not before"
    assert any(task.started is None for task in simulation.tasks.values()), "while better work still waited"
    assert play.statuses() == play.counted()


# -- what is charged -----------------------------------------------------------------------------------------


def test_a_type_is_charged_for_the_time_that_a_run_held_its_slot_however_it_ended(play: Play) -> None:
    weights = {FLOOD: 2.0, SEO: 1.0}
    make_room(play, 3, weights)

    def served() -> dict[str, float]:
        rows = play.db.rows("SELECT workflow_type, served FROM lead.type_service(%s)", [play.now])
        return {row["workflow_type"]: round(float(row["served"]), 1) for row in rows}

    play.submit(10)
    done = play.run_started()
    play.pass_time(seconds=40)
    assert served()["content_pipeline"] == 20, "a run under way counts up to now, by weight"
    for task_id in done.task_ids:
        play.complete(done, task_id)
    play.finish(done)
    play.pass_time(minutes=5)
    assert served()["content_pipeline"] == 20, "and not after its end"

    play.submit(10, SEO)
    lost = play.run_started()
    assert served()["seo_monitor"] == 0
    play.pass_time(minutes=20)
    recovered = play.call("recover_executions", current_time=play.now)["recovered"]
    assert [row["execution_id"] for row in recovered] == [lost.execution_id]
    assert served()["seo_monitor"] == 1200, "a run that was lost held its slot too"

    play.db.execute(
        "INSERT INTO workflow_orchestration (execution_id, workflow_type, worker_id, created_at)"
        " VALUES ('theirs', 'seo_monitor', 'n8n', %s)",
        [play.now - timedelta(hours=5)],
    )
    assert play.call("adopt_executions", current_time=play.now)["adopted"] == ["theirs"]
    play.pass_time(seconds=60)
    assert served()["seo_monitor"] == 1260, "an outsider's row from when it was adopted"
    rows = play.claim(5, SEO)
    assert rows == [] or served()["seo_monitor"] == 1260, "a worker of its own takes no slot"
