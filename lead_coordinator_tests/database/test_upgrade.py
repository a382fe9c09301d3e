"""An older deployment is brought forward without losing a row; a newer one is never taken back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lead_coordinator import __version__
from lead_coordinator.database.connection import Database, connect
from lead_coordinator.database.deploy import apply_files, deploy, sql_files
from lead_coordinator.errors import DeployError
from lead_coordinator.settings import Settings
from lead_coordinator_tests.database.older import VERSIONS, older_files
from lead_coordinator_tests.psql import deploy_all, run_file
from lead_coordinator_tests.sql.play import Play, Run

TABLES = (
    "SELECT format('%I.%I', n.nspname, c.relname) AS name,"
    " (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute AS a"
    "  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns"
    " FROM pg_class AS c INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND n.nspname IN ('public', 'lead') ORDER BY 1"
)
# Notes about the deployment itself, and the depth log, which may be written in another way (`counted` compares its sums).
NOT_DATA = {"lead.deployment", "lead.deployed_object", "lead.queue_depth_delta"}


@dataclass
class Filled:
    """A database of an older version with work in every state, and the run that is under way."""

    url: str
    play: Play
    run: Run
    sent: int  # the call that has left and wasn't answered
    rows: dict[str, list[Any]]


def rows_of(db: Database, tables: dict[str, str]) -> dict[str, list[Any]]:
    return {
        name: sorted(
            row["row"] for row in db.rows(f"SELECT (x)::text AS row FROM (SELECT {columns} FROM {name}) AS x")
        )
        for name, columns in tables.items()
    }


def fill(url: str) -> Filled:
    """Tasks in every status, executions that wait, run and ended in every way, calls in every status, money."""
    db = Database(url)
    db.execute("UPDATE lead.setting SET value = 'true' WHERE name = 'scratch_database'")
    play = Play(db)
    play.set("max_concurrent_workflows", 6)
    play.set("memory_limit_mb", 100000)
    (first, second, third) = play.submit(3, tenant="acme", value_usd=10)
    run = play.run_started()
    play.pay(run, first, "0.0123456789")
    play.complete(run, first, score=88)
    play.fail(run, second, "invalid_input", message="no topic")
    play.fail(run, third, "task_error")
    play.finish(run)
    # One is lost with its run, one is timed out, one is called off.
    for seconds, ending in ((20, None), (301, None), (1, "cancelled")):
        play.submit(2)
        run = play.run_started()
        if ending:
            play.finish(run, ending)
        else:
            play.pass_time(seconds=seconds)
            if seconds > 300:
                play.db.execute("UPDATE workflow_orchestration SET lease_expires_at = timeout_at")
            play.call("recover_executions", current_time=play.now)
    play.submit(4)
    play.db.execute("UPDATE lead.task SET status = 'failed' WHERE id = (SELECT max(id) FROM lead.task)")
    waiting = play.submit(2, tenant="acme", idempotency_key=None)
    play.submit(1, idempotency_key="once")
    play.submit(1, dependencies=[waiting[0]])
    (cancelled,) = play.submit(1)
    play.call("cancel_task", task_id=cancelled, reason="not wanted", current_time=play.now)
    play.decide()
    offered = play.launchable()
    run = play.start(offered[0])
    sent = play.begin_call(run, run.task_ids[0])
    assert play.send(run, sent["call_id"])
    released = play.begin_call(run, run.task_ids[1])
    play.call("release_api_call", call_id=released["call_id"], fence=run.fence, current_time=play.now)
    assert play.begin_call(run, run.task_ids[1])["granted"]
    for _ in range(3):  # an execution that waits to be launched
        play.submit(1)
    play.decide()
    play.submit(2, tenant="other")
    statuses = play.statuses()
    assert set(statuses) == {
        "queued",
        "processing",
        "completed",
        "failed",
        "deferred",
        "cancelled",
        "dead_letter",
    }, statuses
    executions = {row["status"] for row in db.rows("SELECT DISTINCT status FROM workflow_orchestration")}
    assert executions == {"pending", "running", "completed", "failed", "timeout", "cancelled"}
    calls = {row["status"] for row in db.rows("SELECT DISTINCT status FROM lead.api_call")}
    assert calls == {"reserved", "sent", "settled", "released"}
    tables = {row["name"]: row["columns"] for row in db.rows(TABLES) if row["name"] not in NOT_DATA}
    return Filled(url, play, run, sent["call_id"], rows_of(db, tables))


@pytest.fixture
def filled(empty_database_url: str, older_version: str) -> Iterator[Filled]:
    with connect(empty_database_url) as connection:
        apply_files(connection, older_files(older_version))
    filled = fill(empty_database_url)
    yield filled
    filled.play.db.close()


def assert_nothing_is_lost(filled: Filled) -> None:
    db = filled.play.db
    kept_columns = {row["name"]: row["columns"] for row in db.rows(TABLES)}
    for table, before in filled.rows.items():
        assert table in kept_columns, f"the table {table} was expected to stay"
    assert filled.play.counted() == filled.play.statuses(), "the counters were expected to be right"
    # Compared column by column of the old version, so that a table may gain columns.
    for table, before in filled.rows.items():
        now = db.row(f"SELECT count(*) AS rows FROM {table}")
        assert now is not None
        assert now["rows"] >= len(before), f"{table} was expected to keep all its rows"


@pytest.mark.every_server
@pytest.mark.parametrize("older_version", VERSIONS)
def test_an_older_deployment_is_brought_forward_and_work_goes_on(
    filled: Filled, older_version: str, database_url: str
) -> None:
    play, db = filled.play, filled.play.db
    columns = {row["name"]: row["columns"] for row in db.rows(TABLES) if row["name"] in filled.rows}
    statuses, ledger = play.statuses(), db.rows(LEDGER)
    deploy(filled.url, Settings.load({}))

    present = {row["name"]: set(row["columns"].split(", ")) for row in db.rows(TABLES)}
    same = {
        name: ", ".join(column for column in text.split(", ") if column in present[name])
        for name, text in columns.items()
    }
    changed = [
        name
        for name, rows in rows_of(db, same).items()
        if same[name] == columns[name] and not set(filled.rows[name]) <= set(rows)
    ]
    assert changed == [], "no row of these tables was expected to be lost or changed"
    assert_nothing_is_lost(filled)
    assert play.statuses() == statuses
    assert db.rows(LEDGER) == ledger, "no cent was expected to move"

    answer = db.call("validate_coordinator_deployment")
    assert answer["errors"] == [], "the upgraded database was expected to be what a fresh one is"
    assert [text for text in answer["warnings"] if "scratch_database" not in text] == []
    with Database(database_url) as fresh:
        query = "SELECT kind, name FROM lead.object_definitions() ORDER BY 1, 2"
        assert db.rows(query) == fresh.rows(query)
    versions = {row["version"] for row in db.rows("SELECT version FROM lead.deployment")}
    assert __version__ in versions

    # The run that was under way ends as if nothing had happened.
    play.settle(filled.sent, dollars="0.002")
    for task_id in filled.run.task_ids:
        play.complete(filled.run, task_id)
    assert play.finish(filled.run)["completed"] == len(filled.run.task_ids)
    held, spent = play.account()
    paid = db.row("SELECT sum(cost_usd) AS sum FROM lead.api_call")
    assert paid is not None
    assert spent == paid["sum"]
    for _ in range(20):
        play.pass_time(minutes=2)
        play.call("recover_executions", current_time=play.now)
        play.decide()
        for offered in play.launchable():
            run = play.start(offered)
            for task_id in run.task_ids:
                play.complete(run, task_id)
            play.finish(run)
    left = play.statuses()
    assert set(left) == {"completed", "failed", "cancelled", "dead_letter"}, (
        f"everything was expected to end: {left}"
    )
    assert play.counted() == left
    assert play.account()[0] == 0, "nothing was expected to be held once all is done"
    failed = db.rows(
        "SELECT test_name, result_summary FROM run_coordinator_test_suite() WHERE status <> 'PASS'"
    )
    assert failed == []


LEDGER = "SELECT budget_day, scope, scope_key, held_usd, spent_usd FROM lead.budget_account ORDER BY 1, 2, 3"


@pytest.mark.parametrize("older_version", VERSIONS)
def test_psql_brings_it_forward_too_and_twice_changes_nothing(owner_url: str, older_version: str) -> None:
    for path in older_files(older_version):
        assert run_file(owner_url, path).returncode == 0
    filled = fill(owner_url)
    deploy_all(owner_url)
    assert_nothing_is_lost(filled)
    with Database(owner_url) as db:
        assert db.call("validate_coordinator_deployment")["errors"] == []
        before = db.rows("SELECT * FROM lead.deployment")
        deploy_all(owner_url)
        assert db.rows("SELECT * FROM lead.deployment") == before, "deploying again writes nothing down"


@pytest.mark.parametrize("older_version", VERSIONS)
def test_older_files_are_refused_over_newer_ones(database_url: str, older_version: str) -> None:
    shape = (
        "SELECT oid::regprocedure::text AS name, prosrc FROM pg_proc"
        " WHERE pronamespace IN ('lead'::regnamespace, 'public'::regnamespace) ORDER BY 1"
    )
    with Database(database_url) as db:
        before = db.rows(shape)
        with (
            connect(database_url) as connection,
            pytest.raises(DeployError, match=f"Nothing was changed: version: this database is at {__version__}"),
        ):
            apply_files(connection, older_files(older_version))
        done = run_file(database_url, older_files(older_version)[0])
        assert done.returncode != 0, "psql was expected to report it in its exit code"
        assert f"version: this database is at {__version__}" in done.stderr
        assert db.rows(shape) == before


def test_a_newer_version_is_not_taken_back(database_url: str) -> None:
    with Database(database_url) as db:
        db.execute("INSERT INTO lead.deployment (version) VALUES ('0.10.0')")
        with pytest.raises(DeployError) as caught:
            deploy(database_url, Settings.load({}))
        assert str(caught.value) == (
            f"Nothing was changed: version: this database is at 0.10.0, and {__version__} may not be deployed over"
            " it: there is no way back; deploy version 0.10.0 or a newer one."
        )
        done = run_file(database_url, sql_files()[0])
        assert done.returncode != 0
        assert "deploy version 0.10.0 or a newer one" in done.stderr


def test_the_version_is_one_everywhere(db: Database) -> None:
    row = db.row("SELECT lead.schema_version() AS version")
    assert row is not None
    assert row["version"] == __version__
    first, *others = (path.read_text() for path in sql_files())
    assert re.findall(r"^RETURN '([0-9.]+)';$", first, re.MULTILINE) == [__version__]
    for text in others:
        assert re.findall(r"lead\.schema_version\(\) <> '([0-9.]+)'", text) == [__version__]
        assert re.findall(r"this file is of ([0-9.]+)'", text) == [__version__]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_file_of_another_version_does_not_follow(
    owner_url: str, tmp_path: Path, number: int
) -> None:
    deploy_all(owner_url)
    other = tmp_path / "other.sql"
    other.write_text(sql_files()[number].read_text().replace(f"'{__version__}'", "'9.9.9'"))
    done = run_file(owner_url, other)
    assert done.returncode != 0
    assert f"version: sql/database-schema.sql is deployed in {__version__}" in done.stderr


def test_a_deployment_is_noted_once(db: Database, database_url: str) -> None:
    (noted,) = db.rows("SELECT * FROM lead.deployment")
    assert noted["version"] == __version__
    row = db.row("SELECT current_user::text AS role")
    assert row is not None
    assert noted["deployed_by"] == row["role"]
    assert re.fullmatch(r"[0-9a-f]{64}", noted["fingerprint"])
    deploy(database_url, Settings.load({}))
    assert db.rows("SELECT * FROM lead.deployment") == [noted]
