"""The audit log: it records bare statements too, it can't be changed, and the hot path writes none of it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from lead_coordinator.database.connection import connect
from lead_coordinator_tests.sql.play import Play

pytestmark = pytest.mark.every_server
REFUSED = psycopg.errors.InsufficientPrivilege


def audited(play: Play) -> list[dict[str, Any]]:
    """All but the row that marked this database as a scratch one."""
    return play.db.rows(
        "SELECT * FROM lead.audit_log WHERE subject <> 'setting:scratch_database' ORDER BY id"
    )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE lead.audit_log SET actor = 'nobody'",
        "DELETE FROM lead.audit_log",
        "DELETE FROM lead.audit_log WHERE false",
        "TRUNCATE lead.audit_log",
        "INSERT INTO lead.audit_log OVERRIDING SYSTEM VALUE SELECT * FROM lead.audit_log"
        " ON CONFLICT (id) DO UPDATE SET actor = 'nobody'",
    ],
)
@pytest.mark.parametrize("who", ["owner", "superuser", "replica", "service_role", "lead_application"])
def test_nobody_changes_what_was_recorded(
    play: Play, admin_url: str, database_url: str, who: str, statement: str
) -> None:
    play.set("retry_limit", 2)
    before = play.db.rows("SELECT * FROM lead.audit_log ORDER BY id")
    assert before
    with connect(database_url if who == "owner" else admin_url) as connection:
        if who == "replica":
            connection.execute("SET session_replication_role = replica")
        elif who.endswith(("role", "application")):
            connection.execute(f"SET ROLE {who}")
        with pytest.raises(REFUSED):
            connection.execute(statement)
    assert play.db.rows("SELECT * FROM lead.audit_log ORDER BY id") == before


@pytest.mark.parametrize(
    ("statement", "action", "subject", "before", "after"),
    [
        (
            "UPDATE lead.setting SET value = '7' WHERE name = 'retry_limit'",
            "change_setting",
            "setting:retry_limit",
            {"value": "3"},
            {"value": "7"},
        ),
        (
            "UPDATE lead.workflow_policy SET max_batch = 4, memory_mb = 256"
            " WHERE workflow_type = 'content_pipeline'",
            "change_policy",
            "policy:content_pipeline",
            {"max_batch": 10, "memory_mb": 512},
            {"max_batch": 4, "memory_mb": 256},
        ),
        (
            "UPDATE api_rate_limits SET requests_per_minute = 30, is_available = false"
            " WHERE provider = 'gemini'",
            "change_provider",
            "provider:gemini",
            {"requests_per_minute": 60, "is_available": True},
            {"requests_per_minute": 30, "is_available": False},
        ),
        (
            "UPDATE api_rate_limits SET daily_cost_limit = 5, burst_capacity = 2 WHERE provider = 'openai'",
            "change_provider",
            "provider:openai",
            {"daily_cost_limit": None, "burst_capacity": 0},
            {"daily_cost_limit": 5, "burst_capacity": 2},
        ),
        (
            "INSERT INTO api_rate_limits (provider, requests_per_minute) VALUES ('claude', 10)",
            "add_provider",
            "provider:claude",
            None,
            {
                "provider": "claude",
                "requests_per_minute": 10,
                "is_available": True,
                "burst_capacity": 0,
            },
        ),
        (
            "DELETE FROM api_rate_limits WHERE provider = 'openai'",
            "remove_provider",
            "provider:openai",
            {
                "provider": "openai",
                "requests_per_minute": 50,
                "is_available": True,
                "burst_capacity": 0,
            },
            None,
        ),
    ],
)
def test_a_bare_statement_of_an_operator_is_recorded(
    play: Play,
    admin_url: str,
    statement: str,
    action: str,
    subject: str,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    with connect(admin_url) as service:
        service.execute("SET ROLE service_role")
        service.execute(statement)
    (row,) = audited(play)
    assert (row["action"], row["subject"], row["database_role"]) == (action, subject, "service_role")
    for which, expected in (("before", before), ("after", after)):
        found = row[which]
        if found is not None:
            found = {name: value for name, value in found.items() if value is not None or name in expected}
        assert found == expected, which


def test_a_tenants_row_is_recorded(play: Play) -> None:
    play.db.execute("INSERT INTO lead.tenant (tenant) VALUES ('garden')")
    play.db.execute("UPDATE lead.tenant SET fair_weight = 2 WHERE tenant = 'garden'")
    play.db.execute("DELETE FROM lead.tenant")
    assert [(row["action"], row["subject"]) for row in audited(play)] == [
        ("add_tenant", "tenant:garden"),
        ("change_tenant", "tenant:garden"),
        ("remove_tenant", "tenant:garden"),
    ]


def test_a_statement_that_changes_nothing_is_not_recorded(play: Play) -> None:
    play.db.execute("UPDATE lead.setting SET value = value")
    play.db.execute("UPDATE lead.workflow_policy SET max_batch = max_batch, updated_at = now()")
    play.db.execute("UPDATE api_rate_limits SET requests_per_minute = requests_per_minute")
    assert audited(play) == []


def test_the_hot_path_writes_nothing_here(play: Play) -> None:
    (task_id,) = play.submit()
    run = play.run_started()
    play.pay(run, task_id)
    throttled = play.begin_call(run, task_id)
    play.send(run, throttled["call_id"])
    play.settle(throttled["call_id"], "rate_limited", "0", retry_after_ms=5000)
    limits = play.db.row("SELECT adaptive_limit FROM api_rate_limits WHERE provider = 'gemini'")
    assert limits == {"adaptive_limit": 54}, "the limit in force was lowered, which is no operator's doing"
    play.complete(run, task_id)
    play.finish(run)
    assert audited(play) == []


def test_who_acts_is_the_argument_else_the_setting_else_the_login(play: Play, admin_url: str) -> None:
    with play.db.connection() as connection:
        user = connection.execute("SELECT session_user AS name").fetchone()
        assert user is not None
        connection.execute("SELECT change_setting('retry_limit', '1')")
        with connection.transaction():
            connection.execute("SELECT set_config('lead.actor', 'nightly job', true)")
            connection.execute("SELECT change_setting('retry_limit', '2')")
            connection.execute("SELECT change_setting('retry_limit', '4', 'ann')")
    with connect(admin_url) as service:
        service.execute("SET ROLE service_role")
        service.execute("SET lead.actor = 'web'")
        service.execute("SELECT change_setting('retry_limit', '5')")
    rows = audited(play)
    assert [row["actor"] for row in rows] == [user["name"], "nightly job", "ann", "web"]
    assert [row["database_role"] for row in rows] == [user["name"]] * 3 + ["service_role"], (
        "the role is what the server knows, whatever the caller says"
    )


def test_an_actor_is_a_name_and_no_secret_is_kept(play: Play) -> None:
    play.call(
        "change_setting", name="retry_limit", value="1", actor="ann", reason="api_key=AIzaSy0123456789abc"
    )
    (row,) = audited(play)
    assert row["reason"] == "api_key=***"
    for actor in ("", "a\nb", "x" * 201):
        with pytest.raises(Exception, match="p_actor"):
            play.call("change_setting", name="retry_limit", value="2", actor=actor)


def test_seeding_from_the_environment_says_so(play: Play) -> None:
    play.db.execute("UPDATE lead.setting SET seeded_at = NULL WHERE name = 'daily_budget_usd'")
    play.call("configure_platform", settings={"daily_budget_usd": "20"})
    (row,) = audited(play)
    assert (row["actor"], row["reason"], row["after"]) == (
        "configuration",
        "seeded from the environment",
        {"value": "20"},
    )
