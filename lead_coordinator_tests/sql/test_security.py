"""Who may do what, and who may not: shown by trying, under Supabase's default privileges, as each role.

The functions of `lead_coordinator.database` work for a login that is only a member of lead_application.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from lead_coordinator.database import control, operations, queue, reports
from lead_coordinator.database.connection import Database, connect
from lead_coordinator.database.deploy import sql_files
from lead_coordinator.database.queue import NewTask
from lead_coordinator.settings import Settings
from lead_coordinator_tests.database.filled import fill
from lead_coordinator_tests.psql import as_role, as_user, deploy_all, run_file
from lead_coordinator_tests.sql.play import NOON, Play

PACKAGE = Path(queue.__file__).parent.parent
REFUSED = (psycopg.errors.InsufficientPrivilege,)
TABLES = (
    "SELECT format('%I.%I', schema_name, relation_name) AS it FROM lead.our_relations() WHERE relkind = 'r'"
)
PUBLIC_FUNCTIONS = (
    "SELECT f.name, p.prosecdef, p.proconfig, p.provolatile::text AS volatility, f.oid, f.function_name"
    " FROM lead.our_functions() AS f INNER JOIN pg_proc AS p ON p.oid = f.oid WHERE f.schema_name = 'public'"
)
# What a dashboard may call: what only reads.
DASHBOARD = {
    "check_comprehensive_resource_availability",
    "check_coordinator_alerts",
    "check_system_health_comprehensive",
    "estimate_tasks",
    "explain_task",
    "find_publication",
    "find_sparse_indexes",
    "generate_coordinator_recommendations",
    "get_article",
    "get_coordinator_dashboard",
    "get_intelligent_scheduled_tasks",
    "get_platform_status",
    "get_seo_audit",
    "get_seo_pages",
    "get_site",
    "get_task",
    "kept_steps",
    "launchable_executions",
    "list_articles",
    "list_dead_letters",
    "list_experiments",
    "list_publications",
    "list_seo_audits",
    "list_seo_findings",
    "list_sites",
    "next_seo_pages",
    "published_signatures",
    "validate_coordinator_deployment",
}


def every(db: Database, query: str) -> list[Any]:
    return [row["it"] for row in db.rows(query)]


@pytest.fixture
def application_url(owner_url: str, superuser_url: str) -> Iterator[str]:
    """A deployed database, for a login that is a member of lead_application and nothing else."""
    deploy_all(owner_url)
    with connect(superuser_url) as admin:
        admin.execute("DROP ROLE IF EXISTS some_platform")
        admin.execute("CREATE ROLE some_platform LOGIN NOSUPERUSER NOBYPASSRLS IN ROLE lead_application")
    with Database(owner_url) as db:
        db.execute("UPDATE lead.setting SET value = 'true' WHERE name = 'scratch_database'")
    yield as_user(superuser_url, "some_platform")
    with connect(superuser_url) as admin:
        admin.execute("DROP OWNED BY some_platform")
        admin.execute("DROP ROLE some_platform")


# ---- the application ---------------------------------------------------------------------------------------


def used_by_python() -> set[str]:
    """The SQL functions that the package calls by name."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        found |= set(re.findall(r"\.call(?:_rows|_without_flush)?\(\s*\"(\w+)\"", text))
        found |= set(re.findall(r"(?:FROM|SELECT) (?:public\.)?([a-z]+(?:_[a-z]+)+)\(%", text))
    return found - {"to_regclass"}


@pytest.mark.every_server
def test_the_application_can_do_the_whole_work(application_url: str, superuser_url: str) -> None:
    called: set[str] = set()

    class Watched(Database):
        def call(self, function: str, **params: Any) -> Any:
            called.add(function)
            return super().call(function, **params)

        def call_rows(self, function: str, **params: Any) -> list[dict[str, Any]]:
            called.add(function)
            return super().call_rows(function, **params)

    with Watched(application_url) as db:
        play = Play(db)
        control.configure_platform(db, Settings.load({}).platform_settings())
        assert control.acquire_coordinator_lease(db, "tester", current_time=play.now).acquired
        queue.submit_task(db, NewTask("content_generation", {"topic": "a"}), current_time=play.now)
        play.submit(4)
        run = play.run_started()
        play.call("heartbeat_execution", execution_id=run.execution_id, fence=run.fence, memory_mb=100,
                  current_time=play.now)  # fmt: skip
        first, second, third, fourth, fifth = run.task_ids
        play.pay(run, first)
        dropped = play.begin_call(run, second)
        play.call("release_api_call", call_id=dropped["call_id"], fence=run.fence, current_time=play.now)
        held = {"execution_id": run.execution_id, "fence": run.fence, "current_time": play.now}
        intent = play.call("begin_publication", task_id=first, site="s", slug="a", title="A", **held)
        play.call("confirm_publication", publication_id=intent["publication_id"], url="http://localhost/a",
                  content_sha256="0" * 64, **held)  # fmt: skip
        assert [row["slug"] for row in db.call_rows("list_publications", site="s")] == ["a"]
        play.complete(run, first)
        play.fail(run, second, "invalid_input")
        play.fail(run, third)
        play.call("give_back_tasks", task_ids=[fourth], reason="later", **held)
        play.call("complete_tasks", results=[{"task_id": fifth}], finish=False, **held)
        play.finish(run)
        control.adopt_executions(db, current_time=play.now)
        control.recover_executions(db, current_time=play.now)
        control.promote_due_tasks(db, current_time=play.now)
        control.refresh_resource_usage(db, current_time=play.now)
        control.log_orchestration_error(db, "code", "message", {}, "tester")
        reports.get_platform_status(db)
        reports.get_coordinator_dashboard(db)
        reports.check_coordinator_alerts(db)
        assert reports.validate_coordinator_deployment(db)["errors"] == []
        control.release_coordinator_lease(db, "tester")
        cancelled = play.submit(1)[0]
        assert play.call("cancel_task", task_id=cancelled, reason="no", current_time=play.now)
        assert reports.failures(reports.run_coordinator_test_suite(db)) == []
        # For whatever else the package calls, the privilege decides.
        wanting = {function for function in used_by_python() if function not in called}
        refused = db.rows(
            "SELECT proname AS it FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            " AND proname = ANY (%s) AND NOT has_function_privilege(oid, 'EXECUTE')",
            [sorted(wanting | called)],
        )
        assert refused == []
        assert used_by_python() >= {"submit_task", "begin_api_call", "orchestrate_workflow_execution"}
        known = set(
            every(db, "SELECT proname AS it FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
        )
        assert used_by_python() <= known, "the package was expected to call functions that exist"


@pytest.mark.every_server
def test_the_application_changes_no_table_and_calls_no_helper(application_url: str, owner_url: str) -> None:
    with Database(owner_url) as db:
        tables = every(db, TABLES)
        sequences = every(
            db,
            "SELECT oid::regclass::text AS it FROM pg_class WHERE relkind = 'S'"
            " AND relnamespace IN ('lead'::regnamespace, 'public'::regnamespace)",
        )
        helpers = every(
            db,
            "SELECT name AS it FROM lead.our_functions() WHERE schema_name = 'lead'"
            " AND has_function_privilege('lead_application', oid, 'EXECUTE')",
        )
    assert helpers == []
    assert len(tables) > 25
    with connect(application_url) as application:
        for table in tables:
            application.execute(f"SELECT FROM {table}")
            for statement in (
                f"INSERT INTO {table} DEFAULT VALUES",
                f"DELETE FROM {table}",
                f"TRUNCATE {table}",
                f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
                f"DROP TABLE {table}",
                f"CREATE POLICY p ON {table} USING (true)",
            ):
                with pytest.raises(REFUSED):
                    application.execute(statement)
        for sequence in sequences:
            with pytest.raises(REFUSED):
                application.execute("SELECT nextval(%s::text::regclass)", [sequence])
        for statement in (
            "UPDATE lead.setting SET value = '1'",
            "UPDATE lead.audit_log SET actor = 'nobody'",
            "DELETE FROM lead.audit_log",
            "UPDATE public.task_queue SET status = 'queued'",
            "SELECT lead.apply_security()",
            "SELECT lead.setting_text('daily_budget_usd')",
            "SELECT lead.stage()",
            "CREATE FUNCTION lead.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE TABLE lead.mine (a int)",
            "CREATE OR REPLACE FUNCTION public.get_task(p_task_id bigint) RETURNS jsonb"
            " LANGUAGE sql AS 'SELECT NULL'",
            "SET ROLE service_role",
        ):
            with pytest.raises(REFUSED):
                application.execute(statement)


def test_nobody_alters_the_audit_log(application_url: str, owner_url: str, superuser_url: str) -> None:
    """Not the application, not the service role, and not even its owner by mistake."""
    with Database(application_url) as db:
        operations.change_setting(db, "daily_budget_usd", 20, actor="tester", reason="smaller")
        noted = db.rows("SELECT * FROM lead.audit_log ORDER BY id")
    assert (noted[-1]["actor"], noted[-1]["reason"]) == ("tester", "smaller")
    alterations = (
        "UPDATE lead.audit_log SET actor = 'nobody'",
        "DELETE FROM lead.audit_log",
        "TRUNCATE lead.audit_log",
    )
    for connection in (as_role(superuser_url, "service_role"), connect(owner_url)):
        with connection:
            for alteration in alterations:
                with pytest.raises(psycopg.Error):
                    connection.execute(alteration)
    with Database(owner_url) as db:
        assert db.rows("SELECT * FROM lead.audit_log ORDER BY id") == noted


# ---- dashboards, the service role, outsiders ---------------------------------------------------------------


@pytest.mark.every_server
def test_a_dashboard_only_reads(owner_url: str, superuser_url: str) -> None:
    deploy_all(owner_url)
    with Database(owner_url) as db:
        may_call = every(
            db,
            "SELECT function_name AS it FROM lead.our_functions()"
            " WHERE has_function_privilege('lead_dashboard', oid, 'EXECUTE')",
        )
        functions = db.rows(PUBLIC_FUNCTIONS)
        tables = every(db, TABLES)
    assert set(may_call) == DASHBOARD
    assert {f["function_name"] for f in functions if f["volatility"] == "s"} == DASHBOARD
    with as_role(superuser_url, "lead_dashboard") as dashboard:
        for table in (*tables, "public.task_queue", "public.coordinator_monitoring"):
            dashboard.execute(f"SELECT FROM {table}")
            with pytest.raises(REFUSED):
                dashboard.execute(f"DELETE FROM {table}")
        dashboard.execute("SELECT get_coordinator_dashboard(), get_platform_status()")
        # A function that only reads can't be made to write either: PostgreSQL itself refuses.
        dashboard.execute("BEGIN READ ONLY")
        dashboard.execute(
            "SELECT get_coordinator_dashboard(), get_platform_status(), check_coordinator_alerts()"
        )
        dashboard.execute("ROLLBACK")


@pytest.mark.every_server
def test_the_service_role_writes_what_existing_callers_write(owner_url: str, superuser_url: str) -> None:
    deploy_all(owner_url)
    with as_role(superuser_url, "service_role") as service:
        task = service.execute(
            "INSERT INTO task_queue (task_type, payload) VALUES ('content_generation', '{}') RETURNING id"
        ).fetchone()
        assert task is not None
        service.execute("UPDATE task_queue SET priority_base = 70 WHERE id = %s", [task["id"]])
        seen = service.execute("SELECT priority_calculated, status FROM task_queue").fetchall()
        assert seen == [{"priority_calculated": 70, "status": "queued"}]
        service.execute(
            "INSERT INTO workflow_orchestration (execution_id, workflow_type, worker_id)"
            " VALUES ('mine', 'content_pipeline', 'me')"
        )
        service.execute(
            "INSERT INTO execution_history (workflow_type, execution_date, hour_of_day)"
            " VALUES ('content_pipeline', '2026-01-01', 3)"
        )
        for table in (
            "workflow_states",
            "resource_usage",
            "api_rate_limits",
            "system_health",
            "coordinator_monitoring",
        ):
            service.execute(f"SELECT * FROM {table}")
        service.execute("DELETE FROM task_queue WHERE id = %s", [task["id"]])
        for table in ("lead.budget_account", "lead.api_call", "lead.audit_log", "lead.deployment"):
            with pytest.raises(REFUSED):
                service.execute(f"DELETE FROM {table}")
    with Database(owner_url) as db:
        assert Play(db).counted() == {}


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_what_a_later_deployment_brings_is_closed_to_outsiders_too(
    owner_url: str, superuser_url: str, tmp_path: Path, role: str
) -> None:
    """Supabase's default privileges open each new object in public; the end of each file closes it."""
    deploy_all(owner_url)
    later = tmp_path / "later.sql"
    later.write_text(
        sql_files()[1]
        .read_text()
        .replace(
            "-- Counting --",
            "CREATE TABLE IF NOT EXISTS lead.later (a integer);\n"
            "CREATE OR REPLACE FUNCTION public.later() RETURNS integer\n"
            "LANGUAGE sql VOLATILE SECURITY DEFINER\n"
            "SET search_path = pg_catalog, public, lead, pg_temp AS $$ SELECT 1 $$;\n-- Counting --",
            1,
        )
    )
    assert run_file(owner_url, later).returncode == 0
    with Database(owner_url) as db:
        row = db.row(
            "SELECT relrowsecurity AND relforcerowsecurity AS secured FROM pg_class"
            " WHERE oid = 'lead.later'::regclass"
        )
        assert row == {"secured": True}
    with as_role(superuser_url, role) as outsider:
        for statement in ("SELECT later()", "SELECT FROM lead.later", "INSERT INTO lead.later VALUES (1)"):
            with pytest.raises(REFUSED):
                outsider.execute(statement)
    with as_role(superuser_url, "lead_application") as application:
        assert application.execute("SELECT later() AS it").fetchone() == {"it": 1}


# ---- all functions and tables ------------------------------------------------------------------------------


@pytest.mark.every_server
def test_every_function_is_pinned_and_closed(owner_url: str) -> None:
    deploy_all(owner_url)
    with Database(owner_url) as db:
        functions = db.rows(
            "SELECT f.name, f.schema_name, p.prosecdef, p.proconfig, p.prosqlbody IS NOT NULL AS parsed,"
            " p.prorettype = 'trigger'::regtype AS is_trigger,"
            " EXISTS (SELECT 1 FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a"
            "   WHERE a.grantee = 0) AS open_to_all"
            " FROM lead.our_functions() AS f INNER JOIN pg_proc AS p ON p.oid = f.oid"
        )
        strangers = every(
            db,
            "SELECT p.oid::regprocedure::text AS it FROM pg_proc AS p"
            " WHERE p.pronamespace = 'public'::regnamespace"
            " AND p.oid NOT IN (SELECT oid FROM lead.our_functions())",
        )
    assert strangers == [], "every function that the files put into public was expected to be one of ours"
    pinned = "search_path=pg_catalog, public, lead, pg_temp"
    assert [f["name"] for f in functions if f["open_to_all"]] == []
    assert [f["name"] for f in functions if f["schema_name"] == "public" and not f["prosecdef"]] == []
    # A body that is parsed when it is made (RETURN …) holds object ids and looks nothing up by name.
    unpinned = [f["name"] for f in functions if pinned not in (f["proconfig"] or []) and not f["parsed"]]
    assert unpinned == []
    # Helpers run with the rights of who calls them, and only our own functions call them; triggers on tables
    # that outsiders write are the exception.
    definers = {f["name"] for f in functions if f["schema_name"] == "lead" and f["prosecdef"]}
    assert definers <= {f["name"] for f in functions if f["is_trigger"]}


@pytest.mark.every_server
def test_rows_are_secured_on_every_table_and_the_owner_sees_them(owner_url: str) -> None:
    deploy_all(owner_url)
    with Database(owner_url) as db:
        rights = db.row("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
        assert rights == {"rolsuper": False, "rolbypassrls": False}
        unsecured = every(
            db,
            "SELECT o.relation_name AS it FROM lead.our_relations() AS o"
            " INNER JOIN pg_class AS c ON c.oid = o.oid"
            " WHERE o.relkind = 'r' AND NOT (c.relrowsecurity AND c.relforcerowsecurity)",
        )
        assert unsecured == []
        invokers = every(
            db,
            "SELECT o.relation_name AS it FROM lead.our_relations() AS o"
            " INNER JOIN pg_class AS c ON c.oid = o.oid"
            " WHERE o.relkind = 'v' AND NOT 'security_invoker=true' = ANY (coalesce(c.reloptions, '{}'))",
        )
        assert invokers == [], "a view was expected to show only what its reader may see"
        db.call("submit_task", task_type="content_generation", payload={})
        assert len(db.rows("SELECT 1 FROM lead.task")) == 1


# ---- attacks -----------------------------------------------------------------------------------------------


@pytest.mark.every_server
def test_objects_of_the_caller_are_never_used(application_url: str, superuser_url: str) -> None:
    with connect(superuser_url) as admin:
        admin.execute("CREATE SCHEMA evil AUTHORIZATION some_platform")
    with connect(application_url) as attacker:
        for table in ("task", "setting", "workflow_policy", "workflow_orchestration", "task_queue"):
            attacker.execute(f"CREATE TEMP TABLE {table} (id bigint, name text, value text, task_type text)")
        for function in (
            "evil.lower(text) RETURNS text", "evil.now() RETURNS timestamptz",
            "pg_temp.now() RETURNS timestamptz", "evil.submit_tasks(jsonb, timestamptz) RETURNS jsonb",
            "pg_temp.submit_tasks(jsonb, timestamptz) RETURNS jsonb",
            "evil.jsonb_build_object(VARIADIC \"any\") RETURNS jsonb",
        ):  # fmt: skip
            if "VARIADIC" in function:
                continue  # only C functions may take it
            attacker.execute(
                f"CREATE FUNCTION {function} LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$"
            )
        attacker.execute("CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE plpgsql"
                         " AS $$ BEGIN RAISE 'trapped'; END $$")  # fmt: skip
        attacker.execute("CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never)")
        attacker.execute("SET search_path = evil, pg_temp, public, lead, pg_catalog")
        answer = attacker.execute(
            "SELECT public.submit_task('content_generation'::pg_catalog.text,"
            " '{\"a\": 1}'::pg_catalog.jsonb) AS it"
        ).fetchone()
        assert answer is not None
        assert answer["it"]["created"] is True
        attacker.execute("SELECT public.orchestrate_workflow_execution('attacker')")
        attacker.execute("SELECT public.get_platform_status()")
        mine = attacker.execute("SELECT count(*) AS rows FROM pg_temp.task").fetchone()
        assert mine == {"rows": 0}, "the task was expected to be in the real table"
        real = attacker.execute("SELECT count(*) AS rows FROM lead.task").fetchone()
        assert real == {"rows": 1}


def test_text_of_a_caller_is_never_run_as_sql(db: Database) -> None:
    nasty = "x'; DROP TABLE lead.task; --"
    answer = db.call("submit_task", task_type="content_generation", payload={"a": nasty}, tenant=nasty,
                     idempotency_key=nasty)  # fmt: skip
    assert db.call("get_task", task_id=answer["task_id"])["tenant"] == nasty
    calls: list[Callable[[], Any]] = [
        lambda: db.call("change_setting", name=nasty, value=nasty),
        lambda: db.call("pause_queue", task_type=nasty, tenant=None, actor="a", reason="b"),
        lambda: db.call_rows("list_dead_letters", filter={nasty: nasty}),
        lambda: db.call("reset_breaker", name=nasty),
    ]
    for call in calls:
        with pytest.raises(Exception, match="DROP TABLE"):
            call()
    assert len(db.rows("SELECT 1 FROM lead.task")) == 1


def test_secrets_are_masked_before_they_are_stored(database_url: str) -> None:
    filled = fill(database_url)
    play, run = filled.play, filled.run
    secret = "sk-" + "a1B2c3D4" * 4
    play.fail(run, run.task_ids[1], message=f"401 from https://user:{secret}@host/ with key {secret}",
              error_context={"headers": {"Authorization": f"Bearer {secret}"}})  # fmt: skip
    play.settle(filled.sent, "auth_error", error=f"bad key {secret}")
    play.finish(run, "failed")
    play.call(
        "record_health_metric", name="a", value=1, unit=secret, source=f"key={secret}", tags={"token": secret}
    )
    play.call("change_policy", workflow_type="seo_monitor", changes={"disabled_reason": f"key {secret}"},
              actor="ann", reason=secret)  # fmt: skip
    play.db.execute("UPDATE lead.workflow_policy SET disabled_reason = 'key ' || %s"
                    " WHERE workflow_type = 'revenue_optimizer'", [secret])  # fmt: skip
    play.db.execute(
        "UPDATE lead.workflow_policy SET disabled_reason = NULL WHERE workflow_type = 'revenue_optimizer'"
    )
    play.call("pause_queue", task_type=None, tenant="garden", actor="ann", reason=f"password: {secret}",
              current_time=play.now)  # fmt: skip
    play.call("update_coordinator_state", state="ERROR_RECOVERY", worker_id="w", current_time=play.now,
              execution_plan={"transition_reason": f"Bearer {secret}"})  # fmt: skip
    play.submit(1)
    play.decide()
    for offered in play.launchable():
        play.call("cancel_execution", execution_id=offered["execution_id"], reason=f"key {secret}",
                  current_time=play.now)  # fmt: skip
    play.call("log_orchestration_error", error_code="x", error_message=secret,
              execution_context={"api_key": secret},
              worker_id="w")  # fmt: skip
    leaking = []
    for table in every(play.db, TABLES):
        query = sql.SQL("SELECT count(*) AS rows FROM {} AS x WHERE to_jsonb(x)::text LIKE %s").format(
            sql.SQL(table)
        )
        row = play.db.row(query, [f"%{secret}%"])
        if row != {"rows": 0}:
            leaking.append(table)
    play.db.close()
    assert leaking == []


def test_a_time_that_is_off_is_refused_on_a_production_database(db: Database) -> None:
    """By whatever writes or decides; a report may look at yesterday."""
    db.execute("UPDATE lead.setting SET value = 'false' WHERE name = 'scratch_database'")
    writers = [
        row["function_name"]
        for row in db.rows(
            "SELECT f.function_name FROM lead.our_functions() AS f INNER JOIN pg_proc AS p ON p.oid = f.oid"
            " WHERE f.schema_name = 'public' AND p.provolatile = 'v'"
            " AND 'p_current_time' = ANY (p.proargnames)"
        )
    ]
    not_guarded = []
    for function in writers:
        body = db.row(
            "SELECT lead.function_definition(oid) AS text FROM lead.our_functions()"
            " WHERE function_name = %s AND schema_name = 'public'",
            [function],
        )
        assert body is not None
        if not re.search(r"\b(check_clock|set_mode|resolve_dead_letters|submit_tasks)\(", body["text"]):
            not_guarded.append(function)
    # These record what was measured or what went wrong, and decide nothing.
    assert set(not_guarded) <= {"record_health_metric", "log_orchestration_error"}
    tomorrow = NOON.replace(year=2099)
    for call in (
        lambda: db.call("orchestrate_workflow_execution", worker_id="a", current_time=tomorrow),
        lambda: db.call("settle_api_call", call_id=1, outcome="ok", cost_usd=0, current_time=tomorrow),
        lambda: db.call("heartbeat_execution", execution_id="a", fence=1, current_time=tomorrow),
    ):
        with pytest.raises(Exception, match="off this server's clock"):
            call()
    db.call("get_platform_status", current_time=tomorrow)
