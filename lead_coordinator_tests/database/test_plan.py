"""A dry run says what a deployment would change, and changes nothing."""

from __future__ import annotations

import pytest

from lead_coordinator import __version__
from lead_coordinator.database.connection import Database, connect
from lead_coordinator.database.deploy import apply_files, deploy
from lead_coordinator.database.plan import Change, DeployPlan, compare
from lead_coordinator.settings import Settings
from lead_coordinator_tests.database.older import older_files

SHAPE = (
    "SELECT (SELECT count(*) FROM pg_class) AS relations, (SELECT count(*) FROM pg_proc) AS functions,"
    " (SELECT count(*) FROM pg_namespace) AS schemas, (SELECT count(*) FROM pg_policy) AS policies"
)


@pytest.mark.every_server
def test_on_an_empty_database_everything_would_be_added(empty_database_url: str) -> None:
    with Database(empty_database_url) as db:
        before = db.row(SHAPE)
        plan = deploy(empty_database_url, Settings.load({}), dry_run=True)
        assert db.row(SHAPE) == before, "a dry run leaves nothing behind"
    assert (plan.version_before, plan.version_after) == (None, __version__)
    assert plan.count("changed") == plan.count("dropped") == 0
    names = {(change.kind, change.name) for change in plan.changes}
    assert {
        ("schema", "lead"),
        ("schema", "dagster"),
        ("table", "lead.task"),
        ("column", "lead.task.score"),
        ("view", "public.task_queue"),
        ("policy", "lead.task.owner_all"),
        ("setting", "daily_budget_usd"),
        ("version", __version__),
        ("grant", "SELECT on TABLE lead.task for lead_dashboard"),
    } <= names
    assert str(plan).startswith(f"A new deployment of version {__version__} would be made: ")


def test_on_a_deployed_database_nothing_would_change(database_url: str) -> None:
    deploy(database_url, Settings.load({}))
    plan = deploy(database_url, Settings.load({}), dry_run=True)
    assert plan.changes == ()
    assert str(plan) == f"Version {__version__} is deployed already: nothing would change."


def test_what_was_altered_would_be_put_right_and_is_shown(db: Database, database_url: str) -> None:
    deploy(database_url, Settings.load({}))
    db.execute("DROP POLICY readers ON lead.tick")
    db.execute("GRANT DELETE ON lead.task TO anon")
    db.execute("ALTER TABLE lead.tick NO FORCE ROW LEVEL SECURITY")
    db.execute("ALTER FUNCTION lead.seconds(numeric) STRICT")
    db.execute("DROP VIEW coordinator_monitoring")
    db.execute("DELETE FROM lead.setting WHERE name = 'grant_seconds'")
    db.execute("DELETE FROM lead.setting WHERE name = 'max_concurrent_workflows'")
    plan = deploy(database_url, Settings.load({"MAX_CONCURRENT_WORKFLOWS": "5"}), dry_run=True)
    lines = str(plan).splitlines()
    assert lines[0].startswith(f"Version {__version__} again: ")
    assert "  ~ row security lead.tick: enabled not forced -> enabled forced" in lines
    assert "  ~ function lead.seconds(numeric)" in lines
    assert "  + setting max_concurrent_workflows: 5" in lines, "as the environment says"
    assert "  + setting grant_seconds: 5" in lines
    assert "  - grant DELETE on TABLE lead.task for anon" in lines
    assert any(line.startswith("  + policy lead.tick.readers: SELECT TO lead_application") for line in lines)
    assert any(line.startswith("  + view public.coordinator_monitoring") for line in lines)
    row = db.row("SELECT value FROM lead.setting WHERE name = 'max_concurrent_workflows'")
    assert row is None, "a dry run changes no row"


def test_from_an_older_version_the_way_is_shown(empty_database_url: str) -> None:
    with connect(empty_database_url) as connection:
        apply_files(connection, older_files("0.1.0"))
    plan = deploy(empty_database_url, Settings.load({}), dry_run=True)
    assert plan.version_before == "0.1.0"
    assert str(plan).startswith(f"From version 0.1.0 to {__version__}: ")
    assert plan.count("changed") > 10
    assert Change("added", "column", "lead.api_call.tenant", None, "text") in plan.changes
    with Database(empty_database_url) as db:
        assert (
            db.rows(
                "SELECT 1 FROM pg_attribute WHERE attrelid = 'lead.api_call'::regclass AND attname = 'tenant'"
            )
            == []
        )


def test_changes_are_found_by_kind_and_name() -> None:
    changes = compare(
        {("table", "b"): "", ("column", "b.x"): "integer", ("setting", "s"): "1"},
        {("table", "a"): "", ("column", "b.x"): "text", ("setting", "s"): "1"},
    )
    assert [str(change) for change in changes] == ["table a", "table b", "column b.x: integer -> text"]
    assert [change.action for change in changes] == ["added", "dropped", "changed"]
    plan = DeployPlan("18.4", "0.2.0", "0.3.0", changes)
    assert str(plan).splitlines() == [
        "From version 0.2.0 to 0.3.0: 1 added, 1 changed, 1 dropped.",
        "  + table a",
        "  - table b",
        "  ~ column b.x: integer -> text",
    ]
