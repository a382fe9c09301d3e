"""The SQL test suite, its analysis and the benchmark: they pass, leave no trace and disturb nothing live."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from lead_coordinator.database import reports
from lead_coordinator.database.connection import Database
from lead_coordinator.errors import InvalidInput
from lead_coordinator_tests.sql.play import Play, Run

CATEGORIES = {"core", "health", "resources", "scheduling", "monitoring", "performance", "security"}

TABLES = """
SELECT c.oid::regclass::text AS name
FROM pg_class AS c INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname IN ('public', 'lead')
"""


def content(db: Database) -> dict[str, Any]:
    """Each table of ours with a hash over all its rows. (A number that a sequence gave out is gone for
    good.)"""
    return {
        row["name"]: db.row(
            f"SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {row['name']} AS t"
        )
        for row in db.rows(TABLES)
    }


def failures(results: list[dict[str, Any]]) -> list[str]:
    return [
        f"{r['test_category']}/{r['test_name']}: {r['result_summary']}"
        for r in results
        if r["status"] != "PASS"
    ]


@pytest.fixture
def run(db: Database) -> Run:
    """Tasks waiting, an execution running in mid-batch, one of its calls paid and one under way."""
    play = Play(db, datetime.now(UTC))
    play.set("execution_timeout_minutes", 60)
    play.submit(20)
    play.decide()
    run = play.start(play.launchable()[0])
    play.pay(run, run.task_ids[0])
    play.complete(run, run.task_ids[0])
    assert play.send(run, play.begin_call(run, run.task_ids[1])["call_id"])
    return run


@pytest.mark.every_server
def test_every_test_passes_on_a_fresh_deployment(db: Database) -> None:
    results = reports.run_coordinator_test_suite(db)
    assert failures(results) == []
    assert {r["test_category"] for r in results} == CATEGORIES
    assert len(results) >= 60
    assert all(r["result_summary"] and r["execution_time_ms"] > 0 for r in results), (
        "a test says what it has shown and how long it took, to the microsecond"
    )


def test_passes_in_the_middle_of_work_and_leaves_no_trace(db: Database, run: Run) -> None:
    before = content(db)
    assert failures(reports.run_coordinator_test_suite(db)) == []
    reports.benchmark_coordinator_performance(db, iterations=2)
    reports.analyze_test_results(db)
    after = content(db)
    changed = [name for name in before if before[name] != after[name]]
    assert changed == [], "whatever the suite and the benchmark write is rolled back"


def test_passes_on_a_production_database(db: Database) -> None:
    """Where no other time than now is accepted, and an operator has changed what can be changed."""
    db.execute("UPDATE lead.setting SET value = 'false' WHERE name = 'scratch_database'")
    db.execute(
        "UPDATE lead.setting SET value = '1' "
        "WHERE name IN ('max_concurrent_workflows', 'retry_limit', 'stall_limit')"
    )
    db.execute("UPDATE lead.setting SET value = 'Asia/Kathmandu' WHERE name = 'coordinator_timezone'")
    db.execute("UPDATE lead.workflow_policy SET enabled = NOT enabled")
    db.execute("UPDATE lead.circuit_breaker SET state = 'open', retry_at = now() + interval '1 hour'")
    assert failures(reports.run_coordinator_test_suite(db)) == []


def test_a_broken_function_fails_its_test(db: Database) -> None:
    db.execute(
        "CREATE OR REPLACE FUNCTION lead.dollars(p_amount numeric) RETURNS text LANGUAGE sql IMMUTABLE "
        "SET search_path = pg_catalog, public, lead, pg_temp AS $$ SELECT 'much' $$"
    )
    failed = {r["test_name"] for r in reports.run_coordinator_test_suite(db) if r["status"] != "PASS"}
    assert failed == {
        "spent_budget_is_critical",
        "budget_warns_at_seventy_percent",
        "validation_names_what_is_wrong",
    }
    rows = {(r["analysis_category"], r["metric_name"]): r for r in reports.analyze_test_results(db)}
    assert rows["health", "success_rate_percent"]["status"] == "FAIL"
    assert "spent_budget_is_critical" in rows["health", "success_rate_percent"]["recommendation"]
    assert rows["core", "success_rate_percent"]["status"] == "PASS"


def test_disturbs_nothing_live(db: Database, database_url: str, run: Run) -> None:
    """While the suite runs, a live execution beats, calls and completes, and what it writes stays."""
    play = Play(db, datetime.now(UTC))
    stop = threading.Event()
    suites: list[list[str]] = []

    def run_suites() -> None:
        with Database(database_url) as other:
            while not stop.is_set():
                suites.append(failures(reports.run_coordinator_test_suite(other)))

    suite = threading.Thread(target=run_suites)
    suite.start()
    try:
        for task_id in run.task_ids[1:]:
            for _ in range(10):
                play.now = datetime.now(UTC)
                beat = play.call("heartbeat_execution", execution_id=run.execution_id, fence=run.fence)
                assert beat["stop"] is False
            play.pay(run, task_id)
            play.complete(run, task_id)
    finally:
        stop.set()
        suite.join()
    assert suites
    assert [failed for failed in suites if failed] == []
    states = db.rows("SELECT status FROM lead.task WHERE id = ANY(%s)", [run.task_ids])
    assert [row["status"] for row in states] == ["completed"] * len(run.task_ids)


def test_benchmark_times_what_it_names(db: Database) -> None:
    rows = reports.benchmark_coordinator_performance(db, iterations=2)
    assert {"orchestrate_workflow_execution", "get_coordinator_dashboard_24"} <= {
        r["benchmark_name"] for r in rows
    }
    for row in rows:
        assert row["iterations"] == 2
        assert row["success_rate"] == 1, row
        assert (
            0 < row["min_execution_time_ms"] <= row["avg_execution_time_ms"] <= row["max_execution_time_ms"]
        ), row
    with pytest.raises(InvalidInput, match="p_iterations: 0 is not allowed; 1 to 1000"):
        db.call_rows("benchmark_coordinator_performance", iterations=0)
