"""The figures of a day, from rows whose figures are known."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator.observability.figures import (
    CostFigures,
    ExecutionFigures,
    advice,
    cost_figures,
    execution_figures,
)
from lead_coordinator_tests.observability.rows import add_attempt, add_call, add_execution, set_timezone

DAY = date(2026, 11, 24)
NINE = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
ZERO = timedelta(0)


class TestExecutions:
    def test_a_day_without_work_has_no_rates_and_no_times(self, db: Database):
        work = execution_figures(db, DAY)
        assert (work.completed, work.retried, work.dead_letters, work.executions) == (0, 0, 0, 0)
        assert work.success_rate is None
        assert work.latency_p50_seconds is None
        assert work.by_hour == []

    def test_latency_and_wait_count_from_submission(self, db: Database):
        for seconds in (10, 20, 30):
            add_attempt(db, created=NINE, started=NINE + timedelta(seconds=seconds / 2), took=seconds)
        work = execution_figures(db, DAY)
        assert work.completed == 3
        assert work.latency_p50_seconds == 20
        assert work.latency_p95_seconds == pytest.approx(29)
        assert work.wait_p50_seconds == 10

    def test_success_counts_tasks_that_ended_and_not_their_tries(self, db: Database):
        for _ in range(3):
            add_attempt(db, created=NINE, outcome="completed")
        add_attempt(db, created=NINE, outcome="dead_letter")
        for outcome in ("retried", "retried", "deferred", "returned", "stalled"):
            add_attempt(db, created=NINE, outcome=outcome)
        work = execution_figures(db, DAY)
        assert work.success_rate == 0.75
        assert (work.retried, work.dead_letters, work.stalled) == (2, 1, 1)

    def test_work_is_shown_by_the_hour_in_which_it_ended(self, db: Database):
        add_attempt(db, created=NINE, took=60)
        add_attempt(db, created=NINE + timedelta(hours=3), took=60)
        rows = execution_figures(db, DAY).by_hour
        assert [(row["workflow_type"], row["hour"], row["completed"]) for row in rows] == [
            ("content_pipeline", "09:00", 1),
            ("content_pipeline", "12:00", 1),
        ]

    def test_lost_executions_are_counted(self, db: Database):
        for status in ("completed", "completed", "failed", "timeout", "cancelled"):
            add_execution(db, status=status, completed=NINE)
        work = execution_figures(db, DAY)
        assert (work.executions, work.executions_lost) == (5, 2)

    @pytest.mark.parametrize(
        ("timezone", "ended", "day"),
        [
            ("UTC", "2026-11-24T23:59:59+00:00", "2026-11-24"),
            ("UTC", "2026-11-25T00:00:00+00:00", "2026-11-25"),
            ("Europe/Berlin", "2026-11-24T23:30:00+00:00", "2026-11-25"),
            ("America/New_York", "2026-11-25T04:30:00+00:00", "2026-11-24"),
            # The day on which Berlin's clocks go back has 25 hours.
            ("Europe/Berlin", "2026-10-24T22:00:00+00:00", "2026-10-25"),
            ("Europe/Berlin", "2026-10-25T22:59:59+00:00", "2026-10-25"),
        ],
    )
    def test_a_day_is_a_calendar_day_of_the_coordinator_s_time_zone(
        self, db: Database, timezone: str, ended: str, day: str
    ):
        set_timezone(db, timezone)
        add_attempt(db, created=datetime.fromisoformat(ended), took=0)
        right = date.fromisoformat(day)
        counts = [execution_figures(db, right + timedelta(days=off)).completed for off in (-1, 0, 1)]
        assert counts == [0, 1, 0]


class TestCosts:
    def test_a_day_without_calls_costs_nothing_and_has_no_cost_an_article(self, db: Database):
        cost = cost_figures(db, DAY)
        assert cost.spent_usd == 0
        assert cost.cost_per_article_usd is None
        assert cost.budget_limit_usd == 500

    def test_sums_are_exact_to_the_last_digit_and_equal_the_ledger(self, db: Database):
        execution_id = add_execution(db)
        amounts = [Decimal("0.1000000001"), Decimal("0.2000000002"), Decimal("0.0000000004")]
        for amount in amounts:
            add_call(db, execution_id, cost=amount, day=DAY)
        cost = cost_figures(db, DAY)
        assert cost.spent_usd == Decimal("0.3000000007")
        assert cost.ledger_difference_usd == 0
        assert advice(execution_figures(db, DAY), cost) == []

    def test_a_ledger_that_disagrees_is_the_first_thing_said(self, db: Database):
        add_call(db, add_execution(db), cost=Decimal("0.5"), day=DAY, booked=Decimal("0.4"))
        cost = cost_figures(db, DAY)
        assert cost.ledger_difference_usd == Decimal("-0.1")
        assert "-0.1000000000 USD" in advice(execution_figures(db, DAY), cost)[0]

    def test_calls_are_grouped_by_provider_model_and_pipeline(self, db: Database):
        execution_id = add_execution(db)
        add_call(db, execution_id, provider="gemini", cost=Decimal("0.01"), day=DAY)
        add_call(db, execution_id, provider="gemini", cost=Decimal("0.02"), day=DAY, outcome="server_error")
        add_call(db, execution_id, provider="openai", cost=Decimal(0), day=DAY, outcome="rate_limited")
        cost = cost_figures(db, DAY)
        shown = [(row["provider"], row["calls"], row["failed"], row["cost_usd"]) for row in cost.by_model]
        assert shown == [("gemini", 2, 1, Decimal("0.03")), ("openai", 1, 1, Decimal(0))]
        assert cost.by_model[0]["output_tokens"] == 2 * 700, "thinking tokens are part of the output tokens"
        assert cost.refused_429 == 1

    def test_open_calls_are_held_and_released_ones_never_were(self, db: Database):
        execution_id = add_execution(db)
        add_call(db, execution_id, cost=None, day=DAY, status="sent", maximum=Decimal("0.05"))
        add_call(db, execution_id, cost=None, day=DAY, status="released", maximum=Decimal("0.07"))
        cost = cost_figures(db, DAY)
        assert (cost.spent_usd, cost.open_usd, cost.calls) == (0, Decimal("0.05"), 1)

    def test_a_call_belongs_to_the_budget_day_it_was_reserved_on(self, db: Database):
        midnight = datetime(2026, 11, 25, 0, 0, 5, tzinfo=UTC)
        add_call(db, add_execution(db), cost=Decimal("0.5"), day=DAY, reserved=midnight)
        assert cost_figures(db, DAY).spent_usd == Decimal("0.5")
        assert cost_figures(db, date(2026, 11, 25)).spent_usd == 0


def test_the_same_day_read_again_gives_the_same_figures(db: Database):
    execution_id = add_execution(db, completed=NINE)
    add_attempt(db, created=NINE, execution_id=execution_id)
    add_call(db, execution_id, cost=Decimal("0.01"), day=DAY)
    assert execution_figures(db, DAY) == execution_figures(db, DAY)
    assert cost_figures(db, DAY) == cost_figures(db, DAY)


WELL = ExecutionFigures(
    by_hour=[],
    completed=100,
    retried=0,
    dead_letters=0,
    stalled=0,
    executions=10,
    executions_lost=0,
    success_rate=1.0,
    wait_p50_seconds=1.0,
    wait_p95_seconds=2.0,
    latency_p50_seconds=8.0,
    latency_p95_seconds=11.0,
    latency_p99_seconds=12.0,
    run_p50_seconds=5.0,
)
CHEAP = CostFigures(
    by_model=[],
    calls=300,
    refused_429=0,
    spent_usd=Decimal(1),
    open_usd=Decimal(0),
    ledger_spent_usd=Decimal(1),
    ledger_held_usd=Decimal(0),
    budget_limit_usd=Decimal(500),
    articles=100,
)


@pytest.mark.parametrize(
    ("work", "cost", "said"),
    [
        ({"success_rate": 0.8, "completed": 80, "dead_letters": 20}, {}, "20 of 100 tasks ended in the dead"),
        ({"executions_lost": 3}, {}, "3 of 10 executions were lost"),
        ({}, {"refused_429": 7}, "7 requests were refused for their rate"),
        ({}, {"spent_usd": Decimal(430), "ledger_spent_usd": Decimal(430)}, "86 % of the day's budget"),
    ],
)
def test_each_advice_names_the_figure_that_caused_it(
    work: dict[str, object], cost: dict[str, object], said: str
):
    from dataclasses import replace

    assert advice(WELL, CHEAP) == []
    (sentence,) = advice(replace(WELL, **work), replace(CHEAP, **cost))
    assert said in sentence
