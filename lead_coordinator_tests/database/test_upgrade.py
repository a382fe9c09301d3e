"""An older deployment is brought forward without losing a row; a newer one is never taken back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lead_coordinator import __version__
from lead_coordinator.database.connection import Database, connect
from lead_coordinator.database.deploy import apply_files, deploy, sql_files
from lead_coordinator.errors import DeployError
from lead_coordinator.settings import Settings
from lead_coordinator_tests.database.filled import LEDGER, Filled, fill, lost_rows
from lead_coordinator_tests.database.older import VERSIONS, older_files
from lead_coordinator_tests.psql import deploy_all, run_file


@pytest.fixture
def filled(empty_database_url: str, older_version: str) -> Iterator[Filled]:
    with connect(empty_database_url) as connection:
        apply_files(connection, older_files(older_version))
    filled = fill(empty_database_url)
    yield filled
    filled.play.db.close()


@pytest.mark.every_server
@pytest.mark.parametrize("older_version", VERSIONS)
def test_an_older_deployment_is_brought_forward_and_work_goes_on(
    filled: Filled, older_version: str, database_url: str
) -> None:
    play, db = filled.play, filled.play.db
    statuses, ledger = play.statuses(), db.rows(LEDGER)
    deploy(filled.url, Settings.load({}))

    assert lost_rows(filled) == {}, "no row was expected to be lost or changed"
    assert play.statuses() == statuses
    assert play.counted() == statuses, "the counters were expected to be right"
    assert db.rows(LEDGER) == ledger, "no cent was expected to move"

    answer = db.call("validate_coordinator_deployment")
    assert answer["errors"] == [], "the upgraded database was expected to be what a fresh one is"
    assert [text for text in answer["warnings"] if "scratch_database" not in text] == []
    versions = {row["version"] for row in db.rows("SELECT version FROM lead.deployment")}
    assert __version__ in versions
    # The next deployment drops what only calls of the older version needed.
    assert deploy(filled.url, Settings.load({}), dry_run=True).count("added") == 0
    deploy(filled.url, Settings.load({}))
    with Database(database_url) as fresh:
        query = "SELECT kind, name FROM lead.object_definitions() ORDER BY 1, 2"
        assert db.rows(query) == fresh.rows(query)
    assert deploy(filled.url, Settings.load({}), dry_run=True).changes_nothing

    # The run that was under way ends as if nothing had happened.
    play.settle(filled.sent, dollars="0.002")
    for task_id in filled.run.task_ids:
        play.complete(filled.run, task_id)
    assert play.finish(filled.run)["completed"] == len(filled.run.task_ids)
    _, spent = play.account()
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


@pytest.mark.parametrize("older_version", VERSIONS)
def test_psql_brings_it_forward_file_by_file_while_work_goes_on(owner_url: str, older_version: str) -> None:
    for path in older_files(older_version):
        assert run_file(owner_url, path).returncode == 0
    filled = fill(owner_url)
    play = filled.play
    for number, path in enumerate(sql_files()):
        done = run_file(owner_url, path)
        assert done.returncode == 0, done.stderr
        if number == 0:
            assert lost_rows(filled) == {}
        play.pass_time(seconds=1)
        play.submit(3, tenant=f"tenant {number}")
        play.decide()
        for offered in play.launchable():
            run = play.start(offered)
            for task_id in run.task_ids:
                play.complete(run, task_id)
            play.finish(run)
        assert play.counted() == play.statuses(), f"the counters were expected to be right after {path.name}"
    with Database(owner_url) as db:
        assert db.call("validate_coordinator_deployment")["errors"] == []
        before = db.rows("SELECT * FROM lead.deployment")
        deploy_all(owner_url)
        assert db.rows("SELECT * FROM lead.deployment") == before, "deploying again writes nothing down"
        lanes = db.rows(
            "SELECT task_type, coalesce(tenant, '') AS lane, status, count(*) AS tasks FROM lead.task"
            " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        )
        counted = db.rows(
            "SELECT task_type, lane, status, sum(tasks) AS tasks FROM lead.queue_depth_delta"
            " GROUP BY 1, 2, 3 HAVING sum(tasks) <> 0 ORDER BY 1, 2, 3"
        )
        assert counted == lanes, "each tenant's counters were expected to be right"


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
            pytest.raises(
                DeployError, match=f"Nothing was changed: version: this database is at {__version__}"
            ),
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
            f"Nothing was changed: version: this database is at 0.10.0, and {__version__} may not be"
            " deployed over it: there is no way back; deploy version 0.10.0 or a newer one."
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
def test_a_file_of_another_version_does_not_follow(owner_url: str, tmp_path: Path, number: int) -> None:
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
