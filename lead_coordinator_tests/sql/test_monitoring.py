"""What watches: health, metrics, usage, status, dashboard, advice, alerts, validation, and the masking of
secrets."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lead_coordinator.database import reports
from lead_coordinator.database.connection import Database, connect
from lead_coordinator.errors import ClockOff, InvalidInput
from lead_coordinator_tests.sql.play import Play


def row_of(db: Database, query: str, params: Any = None) -> dict[str, Any]:
    row = db.row(query, params)
    assert row is not None
    return row


def set_to(db: Database, **values: object) -> None:
    for name, value in values.items():
        Play(db).set(name, value)


def ended(
    db: Database, now: datetime, status: str, count: int, *, seconds: int = 30, kind: str = "content_pipeline"
) -> None:
    db.execute(
        "INSERT INTO workflow_orchestration (execution_id, workflow_type, worker_id, status, created_at, "
        "started_at, completed_at) "
        "SELECT gen_random_uuid()::text, %(kind)s, 'tester', %(status)s, %(now)s - %(span)s, %(now)s - "
        "%(span)s, %(now)s "
        "FROM generate_series(1, %(count)s)",
        {"kind": kind, "status": status, "now": now, "span": timedelta(seconds=seconds), "count": count},
    )


def alerts(db: Database, now: datetime) -> dict[str, dict[str, Any]]:
    return {row["alert_type"]: row for row in db.rows("SELECT * FROM check_coordinator_alerts(%s)", [now])}


# ---- secrets
# ----------------------------------------------------------------------------------------------------

SECRET = "hunter2hunter2hunter2"


SECRETS = [
    f"sk-{SECRET}",
    f"sk-proj-{SECRET}",
    f"AIza{SECRET}",
    f"xoxb-{SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"authorization=Basic {SECRET}",
    f"eyJ{SECRET}.{SECRET}.{SECRET}",
    f"postgresql://someone:{SECRET}@db.example.org:5432/x",
    f"postgresql://someone:{SECRET}@{SECRET}@db.example.org/x",
    f"redis://:{SECRET}@host",
    f"https://example.org/v1?key={SECRET}&alt=json",
    f"host=x password={SECRET} dbname=y",
    f"password = '{SECRET} {SECRET}'",
    f'{{"api_key": "{SECRET}"}}',
    f'{{\\"api_key\\": \\"{SECRET}\\"}}',
    f"OPENAI_API_KEY={SECRET}",
    f"SUPABASE_SERVICE_ROLE_KEY: {SECRET}",
    f"x-goog-api-key: {SECRET}",
    f"https://hooks.slack.com/services/T0/B0/{SECRET}",
    f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
]
INNOCENT = [
    "risk-assessment of task-12345678 took 3 s",
    "duplicate key value violates unique constraint: Key (idempotency_key)=(row 7) already exists.",
    "max_output_tokens: 1200, tokens=5",
    "https://example.org/a-path?page=2",
]


def test_a_secret_is_masked_wherever_it_stands(db: Database) -> None:
    for text in SECRETS:
        clean = row_of(db, "SELECT lead.sanitise(%s::text) AS clean", [f"It failed: {text} (twice)"])["clean"]
        assert SECRET not in clean, f"the secret in {text!r} was expected to be masked, not {clean!r}"
        assert clean.startswith("It failed: "), (
            f"what is no secret was expected to stay readable, not {clean!r}"
        )


def test_what_is_no_secret_is_left_alone(db: Database) -> None:
    for text in INNOCENT:
        assert row_of(db, "SELECT lead.sanitise(%s::text) AS clean", [text])["clean"] == text


def test_a_document_is_masked_by_name_and_by_shape(db: Database) -> None:
    document = {
        "api_key": {"nested": SECRET},
        "list": [{"Password": SECRET, "max_tokens": 7}, f"sk-{SECRET}"],
        "token": None,
        "idempotency_key": "row-7",
        "note": "fine",
    }
    clean = row_of(db, "SELECT lead.sanitise(%s::jsonb) AS clean", [json.dumps(document)])["clean"]
    assert clean == {
        "api_key": "***",
        "list": [{"Password": "***", "max_tokens": 7}, "***"],
        "token": None,
        "idempotency_key": "row-7",
        "note": "fine",
    }


def test_what_is_kept_is_bounded(db: Database) -> None:
    row = row_of(
        db,
        "SELECT length(lead.sanitise(repeat('x ', 1000000))) AS text, "
        "jsonb_array_length(lead.sanitise(jsonb_agg(n))) AS items, "
        "lead.sanitise(repeat('[', 40)::text || repeat(']', 40))::text AS deep "
        "FROM generate_series(1, 1000) AS g (n)",
    )
    assert row["text"] <= 4000
    assert row["items"] == 201, "200 items, and one that says how many were left out"
    deep = row_of(db, "SELECT lead.sanitise((repeat('[', 40) || repeat(']', 40))::jsonb) AS clean")["clean"]
    assert "[too deep]" in json.dumps(deep)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40),
    secret=st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyzABCDEF0123456789_-"), min_size=24, max_size=60),
)
def test_no_text_before_a_key_hides_it(db: Database, before: str, secret: str) -> None:
    key = f"AIza{secret}"
    clean = row_of(db, "SELECT lead.sanitise(%s::text) AS clean", [f"{before} {key}"])["clean"]
    assert key not in clean
    again = row_of(db, "SELECT lead.sanitise(%s::text) AS clean", [clean])["clean"]
    assert key not in again


def test_an_error_is_logged_without_its_secrets(db: Database) -> None:
    db.call(
        "log_orchestration_error",
        error_code="E1",
        error_message=f"refused sk-{SECRET}",
        execution_context={"url": f"postgresql://a:{SECRET}@h/d", "step": "draft"},
        worker_id="tester",
    )
    row = row_of(db, "SELECT error_code, error_message, context, worker_id FROM lead.error_log")
    assert row == {
        "error_code": "E1",
        "error_message": "refused ***",
        "context": {"url": "postgresql://a:***@h/d", "step": "draft"},
        "worker_id": "tester",
    }


# ---- health
# -----------------------------------------------------------------------------------------------------


def test_a_rested_platform_is_healthy(db: Database) -> None:
    health = db.call("check_system_health_comprehensive")
    assert health["can_proceed"] is True
    assert health["overall_status"] == "healthy"
    assert health["critical_issues"] == health["warnings"] == []
    assert health["reason"] is None
    assert health["next_check_in_seconds"] == 300


def test_a_full_house_stops_and_says_so(db: Database, play: Play) -> None:
    set_to(db, memory_limit_mb=100_000)
    play.only("content_pipeline")
    play.submit(60)
    play.decide()
    health = db.call("check_system_health_comprehensive", current_time=play.now)
    assert health["metrics"]["active_executions"] == 3
    assert (health["can_proceed"], health["reason"]) == (False, "3 of 3 slots busy")
    assert health["overall_status"] == "warning", "a full house is no illness"


def test_nothing_left_to_spend_is_critical(db: Database) -> None:
    set_to(db, daily_budget_usd=0)
    health = db.call("check_system_health_comprehensive")
    assert (health["overall_status"], health["can_proceed"]) == ("critical", False)
    assert health["critical_issues"] == ["budget 0.00 of 0.00 USD held or spent"]
    assert health["next_check_in_seconds"] == 30


def test_memory_counts_the_reported_baseline(db: Database, play: Play) -> None:
    db.call(
        "record_health_metric",
        name="platform_baseline_memory_mb",
        value=3000,
        unit="MB",
        current_time=play.now,
    )
    health = db.call("check_system_health_comprehensive", current_time=play.now)
    assert health["critical_issues"] == ["memory 3000 of 2048 MB in use"]


def test_open_connections_are_counted_by_our_name(db: Database) -> None:
    set_to(db, database_connection_limit=1)
    health = db.call("check_system_health_comprehensive")
    assert health["critical_issues"] == ["1 of 1 database connections in use"]


def test_an_outage_of_all_providers_is_critical_until_a_probe_may_go(db: Database, play: Play) -> None:
    db.execute(
        "UPDATE lead.circuit_breaker SET state = 'open', retry_at = %s WHERE name LIKE 'provider:%%'",
        [play.now + timedelta(seconds=90)],
    )
    health = db.call("check_system_health_comprehensive", current_time=play.now)
    assert health["critical_issues"] == [
        "0 of 2 providers can be called: gemini: breaker open for another 90 s; openai: breaker open for "
        "another 90 s"
    ]
    assert (
        db.call("check_system_health_comprehensive", current_time=play.pass_time(seconds=90))["can_proceed"]
        is True
    )


# ---- metrics
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "warning", "critical", "healthy"),
    [
        (5, 10, 20, True),
        (10, 10, 20, False),
        (25, None, 20, False),
        (5, None, None, True),
        (3, 10, 5, False),
        (11, 10, 5, True),
    ],
)
def test_a_metric_knows_whether_it_is_healthy(
    db: Database, value: int, warning: int | None, critical: int | None, healthy: bool
) -> None:
    db.call("record_health_metric", name="m", value=value, unit="things", warning=warning, critical=critical)
    assert row_of(db, "SELECT is_healthy FROM system_health WHERE metric_name = 'm'")["is_healthy"] is healthy


def test_a_metric_keeps_what_it_was(db: Database) -> None:
    for value in (Decimal(10), Decimal(15), Decimal(15), Decimal(3)):
        db.call("record_health_metric", name="m", value=value, unit="things", warning=12)
    row = row_of(db, "SELECT * FROM system_health WHERE metric_name = 'm'")
    assert (row["previous_value"], row["metric_value"], row["trend_direction"], row["change_rate"]) == (
        15,
        3,
        "down",
        -80,
    )
    assert row_of(db, "SELECT count(*) AS n FROM system_health")["n"] == 1


@pytest.mark.parametrize(
    ("params", "part"),
    [
        ({"name": "Bad Name", "value": 1}, "p_name: Bad Name is not allowed"),
        ({"name": "m", "value": Decimal("NaN")}, "p_value: NaN is not allowed"),
        ({"name": "m", "value": Decimal("1e14")}, "p_value: 100000000000000"),
        ({"name": "m", "value": None}, "p_value: NULL is not allowed"),
        ({"name": "m", "value": 1, "critical": Decimal("NaN")}, "p_critical: NaN"),
    ],
)
def test_a_bad_metric_is_refused_by_name(db: Database, params: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidInput, match=part):
        db.call("record_health_metric", unit="things", **params)


def test_a_decision_is_kept_as_metrics(db: Database) -> None:
    db.call(
        "record_orchestration_metrics",
        execution_plan={"total_workflows": 2},
        system_health={
            "metrics": {"queue_depth": 41, "failure_rate_percent": 60, "active_executions": "three"}
        },
        timestamp=datetime(2026, 11, 24, tzinfo=UTC),
    )
    rows = {r["metric_name"]: r for r in db.rows("SELECT * FROM system_health")}
    assert {name: row["metric_value"] for name, row in rows.items()} == {
        "workflows_planned": 2,
        "queue_depth": 41,
        "failure_rate_percent": 60,
    }
    assert rows["failure_rate_percent"]["is_healthy"] is False


# ---- usage and status
# -------------------------------------------------------------------------------------------


def test_usage_is_the_truth(db: Database, play: Play) -> None:
    play.submit(1)
    run = play.run_started()
    play.pay(run, run.task_ids[0], "0.0012")
    answer = db.call("refresh_resource_usage", current_time=play.now)
    assert answer["api_calls"]["gemini"]["used"] == 1
    assert answer["budget"]["spent_usd"] == Decimal("0.0012")
    assert answer["budget"]["held_usd"] == Decimal("0.0888"), (
        "the execution's promise of 0.09, less what is spent"
    )
    rows = db.rows(
        "SELECT resource_type, provider, used_amount FROM resource_usage ORDER BY resource_type, provider"
    )
    assert [(r["resource_type"], r["provider"]) for r in rows] == [
        ("api_calls", "gemini"),
        ("api_calls", "openai"),
        ("budget", None),
        ("database_connections", None),
        ("memory", None),
    ]
    limits = row_of(db, "SELECT * FROM api_rate_limits WHERE provider = 'gemini'")
    assert limits["requests_used_current_minute"] == 1
    assert limits["daily_cost_used"] == Decimal("0.0012")
    assert limits["day_reset_at"] == datetime(2026, 11, 25, tzinfo=UTC)
    assert limits["minute_reset_at"] == play.now + timedelta(seconds=60.5)
    later = db.call("refresh_resource_usage", current_time=play.pass_time(seconds=61))
    assert later["api_calls"]["gemini"]["used"] == 0


def test_usage_of_another_day_is_refused_on_a_production_database(db: Database) -> None:
    set_to(db, scratch_database="false")
    with pytest.raises(ClockOff, match="p_current_time"):
        db.call("refresh_resource_usage", current_time=datetime.now(UTC) + timedelta(days=1))


def test_status_follows_a_task_to_its_end(db: Database, play: Play) -> None:
    play.only("content_pipeline", "seo_monitor")
    status = reports.get_platform_status(db, current_time=play.now)
    assert status["queue"]["content_generation"]["queued"] == 0
    assert status["enabled_types"] == ["content_generation", "seo_analysis"]
    assert status["wait_seconds"] == {"p50": None, "p95": None}

    (task_id,) = play.submit(1)
    play.pass_time(seconds=4)
    run = play.run_started()
    status = reports.get_platform_status(db, current_time=play.now)
    assert status["totals"]["processing"] == 1
    assert status["executions"]["running"] == 1

    play.pay(run, task_id, "0.0012")
    play.pass_time(seconds=6)
    play.complete(run, task_id)
    status = reports.get_platform_status(db, current_time=play.now)
    assert status["budget"] == {
        "limit_usd": 500,
        "spent_usd": Decimal("0.0012"),
        "held_usd": Decimal("0.0888"),
        "day": "2026-11-24",
    }
    play.finish(run)
    status = reports.get_platform_status(db, current_time=play.now)
    assert status["queue"]["content_generation"]["completed"] == 1
    assert (status["executions"]["completed"], status["executions"]["running"]) == (1, 0)
    assert (status["executions"]["peak_concurrent"], status["executions"]["max_concurrent"]) == (1, 3)
    assert (status["budget"]["spent_usd"], status["budget"]["held_usd"]) == (Decimal("0.0012"), 0)
    gemini = status["providers"]["gemini"]
    assert (gemini["calls_today"], gemini["used_last_60s"], gemini["refused_429_today"]) == (1, 1, 0)
    assert gemini["spent_usd_today"] == status["cost_per_article_usd"] == Decimal("0.0012")
    assert status["wait_seconds"] == {"p50": 4, "p95": 4}
    assert status["latency_seconds"] == {"p50": 10, "p95": 10}
    assert status["connections"]["ours"] >= 1


def test_status_is_for_whoever_may_read(db: Database, admin_url: str) -> None:
    with Database(admin_url) as admin:
        assert row_of(
            admin,
            "SELECT has_function_privilege('lead_dashboard', 'get_platform_status(timestamptz)', 'EXECUTE') "
            "AS may, "
            "has_function_privilege('lead_dashboard', 'refresh_resource_usage(timestamptz)', 'EXECUTE') AS "
            "writes",
        ) == {"may": True, "writes": False}


def test_the_peak_counts_what_overlapped(db: Database, play: Play) -> None:
    minute = timedelta(minutes=1)
    spans = [(0, 10), (5, 15), (10, 20), (12, 13), (30, 31)]
    for number, (start, end) in enumerate(spans):
        db.execute(
            "INSERT INTO workflow_orchestration (execution_id, workflow_type, worker_id, status, "
            "created_at, started_at, completed_at) "
            "VALUES (%s, 'content_pipeline', 'tester', 'completed', %s, %s, %s)",
            [f"e{number}", play.now, play.now + start * minute, play.now + end * minute],
        )
    status = reports.get_platform_status(db, current_time=play.pass_time(hours=1))
    assert status["executions"]["peak_concurrent"] == 3
    status = reports.get_platform_status(db, current_time=play.pass_time(hours=24))
    assert status["executions"]["peak_concurrent"] == 0, "only the last 24 hours count"


# ---- dashboard, advice, alerts
# ----------------------------------------------------------------------------------


def test_the_dashboard_sums_real_outcomes(db: Database, play: Play) -> None:
    play.submit(2)
    for _ in range(2):
        play.decide()
        run = play.start(play.launchable()[0])
        play.pass_time(seconds=10)
        for task_id in run.task_ids:
            play.complete(run, task_id)
        play.finish(run)
        if not row_of(db, "SELECT count(*) AS n FROM lead.task WHERE status <> 'completed'")["n"]:
            break
    board = db.call("get_coordinator_dashboard", hours_back=1, current_time=play.now)["coordinator_dashboard"]
    assert set(board) == {
        "generated_at",
        "time_range_hours",
        "execution_stats",
        "resource_stats",
        "performance_stats",
        "health_stats",
        "recommendations",
    }
    stats = board["execution_stats"]
    ended_executions = row_of(
        db, "SELECT count(*) AS n FROM workflow_orchestration WHERE completed_at IS NOT NULL"
    )["n"]
    assert stats["total_executions"] == stats["successful_executions"] == ended_executions
    assert stats["items_processed"] == 2
    assert stats["success_rate_percent"] == 100
    assert stats["by_workflow"]["content_pipeline"]["total_executions"] == ended_executions
    assert (
        board["performance_stats"]["decisions"]["total"]
        == row_of(db, "SELECT count(*) AS n FROM lead.tick")["n"]
    )
    hour = datetime.fromisoformat(stats["by_hour"][-1]["hour"])
    assert hour == play.now.replace(minute=0, second=0, microsecond=0), "a moment, with its offset"
    later = db.call("get_coordinator_dashboard", hours_back=1, current_time=play.pass_time(hours=3))
    assert later["coordinator_dashboard"]["execution_stats"]["total_executions"] == 0


@pytest.mark.parametrize("hours", [0, -1, 2161])
def test_a_range_out_of_bounds_is_refused(db: Database, hours: int) -> None:
    with pytest.raises(InvalidInput, match=f"p_hours_back: {hours} is not allowed; 1 to 2160"):
        reports.get_coordinator_dashboard(db, hours_back=hours)


def test_advice_names_what_was_seen(db: Database) -> None:
    advice = reports.generate_recommendations(
        db,
        {"total_executions": 10, "failed_executions": 5, "active_executions": 0},
        {"budget": {"utilization_percent": 90}, "api_limits": {"gemini": {"breaker_state": "open"}}},
        {"queue_depth": 7, "dead_letters": 0},
    )
    assert [(a["category"], a["priority"]) for a in advice] == [
        ("reliability", "high"),
        ("budget", "high"),
        ("provider", "high"),
    ]
    assert advice[0]["metric_value"] == 50
    assert reports.generate_recommendations(db, {}, {}, {}) == []


def test_a_quiet_platform_has_its_daily_summary_only(db: Database, play: Play) -> None:
    found = alerts(db, play.now)
    assert set(found) == {"daily_summary"}
    assert found["daily_summary"]["severity"] == "info"


def test_failures_become_critical_with_their_rate(db: Database, play: Play) -> None:
    ended(db, play.now, "completed", 3)
    ended(db, play.now, "failed", 1)
    assert "high_error_rate" not in alerts(db, play.now), "four executions are too few to judge a rate"
    ended(db, play.now, "timeout", 1)
    rising = alerts(db, play.now)["error_rate_rising"]
    assert (rising["severity"], rising["metric_value"], rising["threshold"]) == ("warning", 40, 20)
    ended(db, play.now, "failed", 1)
    high = alerts(db, play.now)["high_error_rate"]
    assert (high["severity"], high["metric_value"], high["threshold"]) == ("critical", 50, 50)
    assert high["message"] == "3 of 6 executions failed in the last 60 minutes"


@pytest.mark.parametrize(
    ("held", "alert", "severity", "threshold"),
    [
        (340, None, None, None),
        (350, "budget_near_limit", "warning", 70),
        (425, "budget_near_limit", "warning", 85),
        (500, "budget_exceeded", "critical", 500),
    ],
)
def test_the_budget_warns_twice_and_stops(
    db: Database, play: Play, held: int, alert: str | None, severity: str | None, threshold: int | None
) -> None:
    db.execute(
        "INSERT INTO lead.budget_account (budget_day, scope, scope_key, held_usd) VALUES ('2026-11-24', "
        "'total', 'all', %s)",
        [held],
    )
    found = {name: row for name, row in alerts(db, play.now).items() if name.startswith("budget")}
    assert list(found) == ([alert] if alert else [])
    if alert:
        assert (found[alert]["severity"], found[alert]["threshold"]) == (severity, threshold)


@pytest.mark.parametrize(
    ("spent", "expected"),
    [("6.90", None), ("7", ("account_near_limit", 70)), ("8.50", ("account_near_limit", 85)),
     ("10", ("account_exceeded", 100))],
)  # fmt: skip
@pytest.mark.parametrize("scope", ["workflow", "provider", "tenant"])
def test_an_account_of_its_own_warns_like_the_whole(
    db: Database, play: Play, scope: str, spent: str, expected: tuple[str, int] | None
) -> None:
    db.execute("INSERT INTO lead.tenant (tenant, daily_cost_limit_usd) VALUES ('garden', 10)")
    db.execute("UPDATE lead.workflow_policy SET daily_cost_limit_usd = 10")
    db.execute("UPDATE api_rate_limits SET daily_cost_limit = 10")
    key = {"workflow": "content_pipeline", "provider": "gemini", "tenant": "garden"}[scope]
    db.execute(
        "INSERT INTO lead.budget_account (budget_day, scope, scope_key, spent_usd, held_usd)"
        " VALUES (lead.budget_day(%s), %s, %s, %s::numeric - 0.5, 0.5)",
        [play.now, scope, key, spent],
    )
    found = [
        (alert_type, row["threshold"], row["message"])
        for alert_type, row in alerts(db, play.now).items()
        if alert_type.startswith("account")
    ]
    if expected is None:
        assert found == []
    else:
        ((alert_type, threshold, message),) = found
        assert (alert_type, threshold) == expected
        assert message.startswith(f"budget of {scope} {key}: ")


def test_the_dashboard_shows_what_each_account_has_used(db: Database, play: Play) -> None:
    db.execute("INSERT INTO lead.tenant (tenant, daily_cost_limit_usd) VALUES ('garden', 10)")
    play.submit(2, tenant="garden")
    run = play.run_started()
    play.pay(run, run.task_ids[0], "0.004")
    dashboard = db.call("get_coordinator_dashboard", current_time=play.now)["coordinator_dashboard"]
    accounts = {(a["scope"], a["scope_key"]): a for a in dashboard["resource_stats"]["budget"]["accounts"]}
    assert accounts.keys() == {
        ("provider", "gemini"),
        ("tenant", "garden"),
        ("workflow", "content_pipeline"),
    }
    garden = accounts["tenant", "garden"]
    assert (garden["spent_usd"], garden["held_usd"], garden["limit_usd"]) == (Decimal("0.004"), 0, 10)
    assert garden["utilization_percent"] == Decimal("0.04")
    assert accounts["workflow", "content_pipeline"]["held_usd"] == Decimal("0.18")
    assert accounts["provider", "gemini"]["limit_usd"] is None


def test_work_that_nobody_decides_on_is_a_system_failure(db: Database, play: Play) -> None:
    play.submit(1)
    play.decide()
    play.submit(1)
    assert "system_failure" not in alerts(db, play.pass_time(minutes=14))
    failure = alerts(db, play.pass_time(minutes=1))["system_failure"]
    assert failure["severity"] == "critical"
    assert (failure["metric_value"], failure["threshold"]) == (15, 15)


def test_a_lease_that_nothing_recovers_is_a_system_failure(db: Database, play: Play) -> None:
    play.submit(1)
    play.run_started()
    assert "system_failure" not in alerts(db, play.pass_time(seconds=150))
    assert alerts(db, play.pass_time(seconds=1))["system_failure"]["metric_value"] == 121


def test_slower_than_last_week_is_a_warning(db: Database, play: Play) -> None:
    db.execute(
        "INSERT INTO execution_history (workflow_type, execution_date, hour_of_day, total_executions, "
        "avg_duration_ms) "
        "VALUES ('content_pipeline', '2026-11-20', 9, 100, 20000)"
    )
    ended(db, play.now, "completed", 5, seconds=30)
    assert "performance_degraded" not in alerts(db, play.now), "30 s is just the threshold"
    ended(db, play.now, "completed", 1, seconds=60)
    slow = alerts(db, play.now)["performance_degraded"]
    assert (slow["metric_value"], slow["threshold"]) == (35000, 30000)


def test_an_open_breaker_and_its_error_are_named(db: Database, play: Play) -> None:
    db.execute(
        "UPDATE lead.circuit_breaker SET state = 'half_open', consecutive_failures = 5, last_error = 'HTTP "
        "503' WHERE name = 'provider:openai'"
    )
    breaker = alerts(db, play.now)["circuit_breaker_open"]
    assert (
        breaker["message"] == "the circuit breaker of provider openai is half-open after 5 failures: HTTP 503"
    )


# ---- validation
# -------------------------------------------------------------------------------------------------


@pytest.mark.every_server
def test_a_deployment_is_valid(db: Database) -> None:
    found = reports.validate_coordinator_deployment(db)
    assert (found["errors"], found["deployment_valid"], found["status"]) == ([], True, "READY")
    assert found["warnings"] == [
        "scratch_database is true: any p_current_time is accepted; a production database must say false"
    ]


DAMAGES = [
    (
        "ALTER TABLE system_health DISABLE ROW LEVEL SECURITY",
        "table public.system_health has no row-level security",
    ),
    (
        "ALTER TABLE lead.task NO FORCE ROW LEVEL SECURITY",
        "table lead.task does not force row-level security on its owner",
    ),
    ("DROP POLICY service_all ON lead.task", "policy lead.task.service_all is missing"),
    (
        "CREATE POLICY leak ON lead.task TO PUBLIC USING (true)",
        "policy lead.task.leak was added by somebody else",
    ),
    ("GRANT SELECT ON workflow_states TO anon", "grant too many: SELECT on public.workflow_states for anon"),
    (
        "REVOKE INSERT ON task_queue FROM service_role",
        "grant missing: INSERT on public.task_queue for service_role",
    ),
    (
        "REVOKE SELECT ON lead.tick FROM lead_dashboard",
        "grant missing: SELECT on lead.tick for lead_dashboard",
    ),
    (
        "GRANT EXECUTE ON FUNCTION check_coordinator_alerts(timestamptz) TO PUBLIC",
        "grant too many: EXECUTE on public.check_coordinator_alerts(timestamp with time zone) for PUBLIC",
    ),
    (
        "DELETE FROM api_rate_limits WHERE provider = 'openai'",
        "provider row openai is missing in api_rate_limits",
    ),
    (
        "DELETE FROM lead.rate_slot WHERE provider = 'gemini' AND slot_no = 7",
        "provider gemini has 59 rate slots, its limit is 60",
    ),
    (
        "DELETE FROM lead.circuit_breaker WHERE name = 'pipeline:seo_monitor'",
        "circuit breaker pipeline:seo_monitor is missing",
    ),
    (
        "DELETE FROM lead.workflow_policy WHERE workflow_type = 'seo_monitor'",
        "policy row seo_monitor is missing in lead.workflow_policy",
    ),
    ("DROP FUNCTION run_coordinator_test_suite()", "function public.run_coordinator_test_suite is missing"),
    ("DROP INDEX lead.ready_in_order", "index lead.ready_in_order is missing"),
    ("ALTER TABLE lead.tick ALTER COLUMN reason TYPE varchar(9)", "column lead.tick.reason is altered"),
    (
        "ALTER TABLE execution_history DROP COLUMN revenue_generated",
        "column public.execution_history.revenue_generated is missing",
    ),
    ("DROP VIEW coordinator_monitoring", "relation public.coordinator_monitoring is missing"),
    ("DROP TRIGGER task_inserted ON lead.task", "trigger lead.task.task_inserted is missing"),
    ("ALTER TABLE lead.task DISABLE TRIGGER task_inserted", "trigger lead.task.task_inserted is altered"),
    (
        "CREATE OR REPLACE FUNCTION lead.percent_of(p_part numeric, p_whole numeric) RETURNS numeric "
        "LANGUAGE sql AS 'SELECT 1.0'",
        "function lead.percent_of(numeric, numeric) is altered",
    ),
    (
        "ALTER FUNCTION check_coordinator_alerts(timestamptz) SECURITY INVOKER",
        "function public.check_coordinator_alerts(timestamp with time zone) is not SECURITY DEFINER",
    ),
]


def test_damage_is_named(database_url: str) -> None:
    with connect(database_url) as connection:
        for damage, error in DAMAGES:
            with connection.transaction(force_rollback=True):
                connection.execute(damage)
                row = connection.execute("SELECT validate_coordinator_deployment() AS found").fetchone()
                assert row is not None
                found = row["found"]
                assert any(text.startswith(error) for text in found["errors"]), f"after {damage!r}: {found}"
                assert (found["deployment_valid"], found["status"]) == (False, "FAILED")


def test_a_second_function_of_a_name_is_ambiguous(db: Database) -> None:
    db.execute(
        "CREATE FUNCTION get_platform_status(p_current_time timestamptz, p_more integer DEFAULT 1) RETURNS "
        "jsonb LANGUAGE sql "
        "SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp AS $$ SELECT '{}'::jsonb $$"
    )
    assert (
        "function public.get_platform_status exists 2 times: calls are ambiguous"
        in reports.validate_coordinator_deployment(db)["errors"]
    )
