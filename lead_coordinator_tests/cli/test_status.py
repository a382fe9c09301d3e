"""`status` says what needs attention, to people and to machines."""

from __future__ import annotations

import json

import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.cli.conftest import Run


def spend(db: Database, scope: str, key: str, dollars: str) -> None:
    db.execute(
        "INSERT INTO lead.budget_account (budget_day, scope, scope_key, spent_usd)"
        " VALUES (lead.budget_day(now()), %s, %s, %s)"
        " ON CONFLICT (budget_day, scope, scope_key) DO UPDATE SET spent_usd = excluded.spent_usd",
        [scope, key, dollars],
    )


def test_a_platform_where_all_is_well_says_nothing_of_alerts(run: Run, database_url: str) -> None:
    shown = run("status", DATABASE_URL=database_url)
    assert shown.exit_code == 0, shown.output
    assert "warning" not in shown.output
    assert "critical" not in shown.output
    alerts = json.loads(run("status", "--json", DATABASE_URL=database_url).stdout)["alerts"]
    assert [alert["severity"] for alert in alerts] == ["info"], "the daily summary is always there"


@pytest.mark.parametrize(
    ("dollars", "line"),
    [
        ("349", None),
        ("350", "warning  budget 350.00 of 500.00 USD held or spent (70 %)"),
        ("425", "warning  budget 425.00 of 500.00 USD held or spent (85 %)"),
        ("500", "critical  budget 500.00 of 500.00 USD held or spent: nothing more starts today"),
    ],
)
def test_the_budgets_warnings_are_shown(
    run: Run, db: Database, database_url: str, dollars: str, line: str | None
) -> None:
    spend(db, "total", "all", dollars)
    shown = run("status", DATABASE_URL=database_url, COLUMNS="200").output.splitlines()
    found = [text for text in shown if text.startswith(("warning", "critical"))]
    assert found == ([] if line is None else [line])


def test_the_threshold_tells_the_second_warning_from_the_first(
    run: Run, db: Database, database_url: str
) -> None:
    thresholds = []
    for dollars in ("350", "425"):
        spend(db, "total", "all", dollars)
        answer = json.loads(run("status", "--json", DATABASE_URL=database_url).stdout)
        (alert,) = [alert for alert in answer["alerts"] if alert["alert_type"] == "budget_near_limit"]
        thresholds.append(float(alert["threshold"]))
    assert thresholds == [70, 85]


def test_a_tenant_near_its_own_limit_is_named(run: Run, db: Database, database_url: str) -> None:
    db.execute("INSERT INTO lead.tenant (tenant, daily_cost_limit_usd) VALUES ('garden', 10)")
    spend(db, "tenant", "garden", "9")
    shown = run("status", DATABASE_URL=database_url, COLUMNS="200").output
    assert "warning  budget of tenant garden: 9.00 of 10.00 USD held or spent (90 %)" in shown
