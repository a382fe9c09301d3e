"""The four files under plain psql: by an owner without any privilege, under Supabase's defaults, twice, and
when one is broken."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from lead_coordinator.database.connection import Database, connect
from lead_coordinator.database.deploy import SQL_FILES, sql_files
from lead_coordinator_tests.psql import as_role, deploy_all, psql, run_file

REFUSED = psycopg.errors.InsufficientPrivilege


@pytest.mark.every_server
def test_an_owner_without_privileges_deploys_twice(owner_url: str, superuser_url: str) -> None:
    deploy_all(owner_url)
    with Database(owner_url) as db:
        before = db.rows("SELECT kind, name, fingerprint FROM lead.deployed_object ORDER BY 1, 2")
        assert db.call("validate_coordinator_deployment")["errors"] == []

    with as_role(superuser_url, "service_role") as service:
        task = service.execute(
            "INSERT INTO task_queue (task_type, payload) VALUES ('content_generation', '{\"topic\": \"a\"}') "
            "RETURNING id, status, priority_base, priority_calculated, age_minutes"
        ).fetchone()
        assert task is not None
        assert (task["status"], task["priority_base"], task["priority_calculated"], task["age_minutes"]) == (
            "queued",
            50,
            50,
            0,
        )
        service.execute(
            "INSERT INTO workflow_orchestration (execution_id, workflow_type, worker_id) VALUES ('mine', "
            "'content_pipeline', 'me')"
        )
        service.execute(
            "INSERT INTO execution_history (workflow_type, execution_date, hour_of_day) VALUES "
            "('content_pipeline', '2026-01-01', 3)"
        )
        decided = service.execute("SELECT orchestrate_workflow_execution('psql') AS answer").fetchone()
        assert decided is not None
        assert decided["answer"]["workflows_dispatched"] == 1, decided["answer"]
        failed = service.execute(
            "SELECT test_name, result_summary FROM run_coordinator_test_suite() WHERE status <> 'PASS'"
        ).fetchall()
        assert failed == []

    deploy_all(owner_url)
    with Database(owner_url) as db:
        assert db.rows("SELECT kind, name, fingerprint FROM lead.deployed_object ORDER BY 1, 2") == before, (
            "deploying again changes no object"
        )
        assert db.rows("SELECT status FROM lead.task") == [{"status": "processing"}], "and loses no row"
        assert db.call("validate_coordinator_deployment")["errors"] == []


@pytest.mark.every_server
@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_outsiders_can_do_nothing(owner_url: str, superuser_url: str, role: str) -> None:
    deploy_all(owner_url)
    with connect(superuser_url) as admin:
        relations = [
            row["name"]
            for row in admin.execute(
                "SELECT c.oid::regclass::text AS name FROM pg_class AS c INNER JOIN pg_namespace AS n ON "
                "n.oid = c.relnamespace "
                "WHERE n.nspname IN ('public', 'lead') AND c.relkind IN ('r', 'v')"
            )
        ]
        sequences = [
            row["name"]
            for row in admin.execute(
                "SELECT c.oid::regclass::text AS name FROM pg_class AS c INNER JOIN pg_namespace AS n ON "
                "n.oid = c.relnamespace "
                "WHERE n.nspname IN ('public', 'lead') AND c.relkind = 'S'"
            )
        ]
        callable_ones = [
            row["name"]
            for row in admin.execute(
                "SELECT p.oid::regprocedure::text AS name FROM pg_proc AS p INNER JOIN pg_namespace AS n ON "
                "n.oid = p.pronamespace "
                "WHERE n.nspname IN ('public', 'lead') AND has_function_privilege(%s, p.oid, 'EXECUTE')",
                [role],
            )
        ]
    assert len(relations) >= 28
    assert callable_ones == [], f"{role} may call nothing"
    with as_role(superuser_url, role) as outsider:
        for relation in relations:
            for statement in (
                f"SELECT FROM {relation}",
                f"INSERT INTO {relation} DEFAULT VALUES",
                f"DELETE FROM {relation}",
            ):
                with pytest.raises(REFUSED):
                    outsider.execute(statement)
        for sequence in sequences:
            with pytest.raises(REFUSED):
                outsider.execute("SELECT nextval(%s::text::regclass)", [sequence])
        with pytest.raises(REFUSED):
            outsider.execute("SELECT get_platform_status()")


def test_readers_read_and_nothing_else(owner_url: str, superuser_url: str) -> None:
    deploy_all(owner_url)
    with as_role(superuser_url, "lead_dashboard") as dashboard:
        dashboard.execute("SELECT * FROM coordinator_monitoring")
        dashboard.execute("SELECT * FROM task_queue")
        dashboard.execute("SELECT get_coordinator_dashboard()")
        for statement in (
            "SELECT submit_task('content_generation', '{}')",
            "INSERT INTO task_queue (task_type, payload) VALUES ('content_generation', '{}')",
            "UPDATE lead.setting SET value = '1'",
        ):
            with pytest.raises(REFUSED):
                dashboard.execute(statement)
    with as_role(superuser_url, "lead_application") as application:
        application.execute("SELECT submit_task('content_generation', '{}')")
        for table in ("lead.budget_account", "lead.api_call", "lead.task"):
            with pytest.raises(REFUSED):
                application.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_file_names_the_one_that_comes_before_it(owner_url: str, number: int) -> None:
    done = run_file(owner_url, sql_files()[number])
    assert done.returncode != 0
    assert SQL_FILES[number - 1] in done.stderr, "the error was expected to name the file to apply first"


@pytest.mark.parametrize("number", range(4))
def test_an_error_half_way_changes_nothing(owner_url: str, tmp_path: Path, number: int) -> None:
    for path in sql_files()[:number]:
        assert run_file(owner_url, path).returncode == 0
    count = "SELECT (SELECT count(*) FROM pg_class) AS relations, (SELECT count(*) FROM pg_proc) AS functions"
    with Database(owner_url) as db:
        before = db.row(count)
        text = sql_files()[number].read_text()
        broken = tmp_path / "broken.sql"
        broken.write_text(text.replace("COMMIT;", "SELECT 1 / 0;\nCOMMIT;"))
        done = run_file(owner_url, broken)
        assert done.returncode != 0, "psql was expected to report the error in its exit code"
        assert "division by zero" in done.stderr
        assert db.row(count) == before


def test_missing_roles_are_named_where_they_can_not_be_created(superuser_url: str) -> None:
    text = sql_files()[0].read_text().replace("'lead_dashboard']", "'lead_dashboard', 'not_there_yet']")
    with connect(superuser_url) as admin:
        admin.execute("DROP ROLE IF EXISTS powerless")
        admin.execute("CREATE ROLE powerless LOGIN NOCREATEROLE")
        admin.execute(f"ALTER DATABASE {urlsplit(superuser_url).path.lstrip('/')} OWNER TO powerless")
        try:
            user = urlsplit(superuser_url).username
            url = superuser_url.replace(f"//{user}", "//powerless", 1)
            done = subprocess.run(
                [psql(), url, "--no-psqlrc", "--quiet"],
                input=text,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode != 0
            assert "CREATE ROLE not_there_yet NOLOGIN" in done.stderr, (
                "it was expected to say what an administrator runs"
            )
        finally:
            admin.execute("REASSIGN OWNED BY powerless TO postgres")
            admin.execute("DROP OWNED BY powerless")
            admin.execute(f"ALTER DATABASE {urlsplit(superuser_url).path.lstrip('/')} OWNER TO postgres")
            admin.execute("DROP ROLE powerless")
