"""Deploying: all or nothing, twice changes nothing, never in the way, errors name file and line."""

import threading
from pathlib import Path

import psycopg
import pytest

from lead_coordinator import __version__
from lead_coordinator.database import deploy as deploy_module
from lead_coordinator.database.connection import Database, connect, dagster_url
from lead_coordinator.database.deploy import (
    SQL_FILES,
    apply_files,
    deploy,
    prepare_dagster_storage,
    sql_files,
)
from lead_coordinator.database.embedded import EmbeddedServer
from lead_coordinator.errors import DatabaseUnavailable, DeployError, UnsupportedServer
from lead_coordinator.settings import Settings

SHAPE = (
    "SELECT c.oid::regclass::text AS name, c.relfilenode, c.relkind::text FROM pg_class AS c"
    " WHERE c.relnamespace IN ('public'::regnamespace, 'lead'::regnamespace) ORDER BY 1"
)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "some-file.sql"


def tables(url: str) -> list[str]:
    with Database(url) as db:
        rows = db.rows(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
    return sorted(row["relname"] for row in rows)


def test_the_four_files_are_found_in_order() -> None:
    assert [f"sql/{path.name}" for path in sql_files()] == list(SQL_FILES)
    assert all(path.is_file() for path in sql_files())


@pytest.mark.every_server
def test_a_deployed_database_works_and_deploying_again_changes_nothing(empty_database_url: str) -> None:
    first = deploy(empty_database_url, Settings.load({"MAX_CONCURRENT_WORKFLOWS": "4"}))
    assert [file.name for file in first.files] == [path.name for path in sql_files()]
    assert "max_concurrent_workflows" in first.seeded
    assert first.differing == ()
    with Database(empty_database_url) as db:
        task = db.call("submit_task", task_type="content_generation", payload={"title": "Kept"})
        before = db.rows(SHAPE)
        second = deploy(empty_database_url, Settings.load({"MAX_CONCURRENT_WORKFLOWS": "4"}))
        assert db.rows(SHAPE) == before, "no table was rewritten or made anew"
        assert db.call("get_task", task_id=task["task_id"])["payload"] == {"title": "Kept"}
        assert db.rows("SELECT version FROM lead.deployment") == [{"version": __version__}]
    assert [file.sha256 for file in second.files] == [file.sha256 for file in first.files]
    assert second.seeded == ()


def test_a_row_wins_over_the_environment_and_the_difference_is_told(empty_database_url: str) -> None:
    deploy(empty_database_url, Settings.load({"DAILY_BUDGET_USD": "20"}))
    report = deploy(empty_database_url, Settings.load({"DAILY_BUDGET_USD": "30"}))
    assert [(d.name, float(d.row), float(d.environment)) for d in report.differing] == [
        ("daily_budget_usd", 20, 30)
    ]


def test_an_error_changes_nothing_and_names_file_and_line(empty_database_url: str, script: Path) -> None:
    script.write_text(
        "BEGIN;\nCREATE TABLE public.one (a int);\n\nSELECT 1,\n  nonsense FROM public.one;\nCOMMIT;\n"
    )
    with (
        connect(empty_database_url) as connection,
        pytest.raises(DeployError, match=r'Nothing was changed: some-file\.sql, line 5: column "nonsense"'),
    ):
        apply_files(connection, [script])
    assert tables(empty_database_url) == []


def test_an_error_in_a_later_file_takes_the_earlier_ones_back(
    empty_database_url: str, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.sql", tmp_path / "bad.sql"
    good.write_text("BEGIN; CREATE TABLE public.one (a int); COMMIT;")
    bad.write_text("DO $$ BEGIN RAISE EXCEPTION 'role is missing' USING HINT = 'run CREATE ROLE'; END $$;")
    with (
        connect(empty_database_url) as connection,
        pytest.raises(DeployError, match=r"bad\.sql, line 1: role is missing \(run CREATE ROLE\)"),
    ):
        apply_files(connection, [good, bad])
    assert tables(empty_database_url) == []


def test_a_script_for_psql_only_is_refused(empty_database_url: str, script: Path) -> None:
    script.write_text("CREATE TABLE public.one (a int);\n\\i other.sql\n")
    with (
        connect(empty_database_url) as connection,
        pytest.raises(DeployError, match=r"line 2: \\i other\.sql can't"),
    ):
        apply_files(connection, [script])
    assert tables(empty_database_url) == []


def test_a_lock_that_is_held_too_long_ends_the_deployment_and_frees_who_waits_behind_it(
    empty_database_url: str, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy_module, "LOCK_PATIENCE", "50ms")
    monkeypatch.setattr(deploy_module, "LOCK_ATTEMPTS", 2)
    script.write_text("SET LOCAL lock_timeout = '1h'; ALTER TABLE public.busy ADD COLUMN b int;")
    with connect(empty_database_url) as holder, connect(empty_database_url) as connection:
        holder.execute("CREATE TABLE public.busy (a int)")
        with holder.transaction():
            holder.execute("SELECT * FROM public.busy")
            with pytest.raises(DeployError, match="2 times 50ms long"):
                apply_files(connection, [script])
        apply_files(connection, [script])


def test_two_deployments_at_once_follow_each_other(empty_database_url: str) -> None:
    problems: list[BaseException] = []

    def run() -> None:
        try:
            deploy(empty_database_url, Settings.load({}))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_an_old_server_is_refused(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy_module, "MINIMUM_SERVER", 990000)
    with pytest.raises(UnsupportedServer, match="needs PostgreSQL 15 or newer"):
        deploy(empty_database_url, Settings.load({}))


def test_a_role_that_may_not_create_schemas_is_told_what_it_needs(
    empty_database_url: str, postgres_server: EmbeddedServer
) -> None:
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as admin:
        database = empty_database_url.partition("?")[0].rpartition("/")[2]
        admin.execute(f"ALTER DATABASE {database} OWNER TO postgres")
    with pytest.raises(
        DeployError, match=f"may not create schemas in the database {database}: deploy as its owner"
    ):
        deploy(empty_database_url, Settings.load({}))


def test_a_dead_database_is_named_without_its_password() -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        deploy("postgresql://u:s3cret@127.0.0.1:1/d", Settings.load({}))
    assert "s3cret" not in str(caught.value)


def test_dagsters_tables_are_made_once_in_a_schema_of_their_own(database_url: str) -> None:
    assert prepare_dagster_storage(database_url) is True
    with Database(database_url) as db:
        rows = db.rows(
            "SELECT nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE c.relname IN ('runs', 'event_logs', 'alembic_version') ORDER BY 1"
        )
    assert [row["nspname"] for row in rows] == ["dagster"] * 3, "public is what Supabase shows over REST"
    assert prepare_dagster_storage(database_url) is False, "the second start doesn't pay for it"
    assert "dagster" in dagster_url(database_url)
