"""Validation compares with what the files define.

A fresh deployment is right on every server, and whatever is missing, altered or added is named.
"""

from __future__ import annotations

import pytest

from lead_coordinator.database.connection import Database, connect
from lead_coordinator.database.deploy import sql_files
from lead_coordinator_tests.database.expected_objects import BEGIN, END, definitions, expected_lines
from lead_coordinator_tests.psql import deploy_all, run_file

TASK = "lead.task"
ALTERATIONS = {
    # what somebody did: what validation says
    "DROP FUNCTION lead.backoff(numeric, integer, bigint)": (
        "function lead.backoff(numeric, integer, bigint) is missing"
    ),
    "CREATE OR REPLACE FUNCTION lead.budget_day(p_current_time timestamptz) RETURNS date LANGUAGE sql STABLE"
    " SET search_path = pg_catalog, public, lead, pg_temp RETURN p_current_time::date": (
        "function lead.budget_day(timestamp with time zone) is altered"
    ),
    "ALTER FUNCTION lead.setting_number(text) RESET search_path": (
        "function lead.setting_number(text) is altered"
    ),
    "ALTER FUNCTION public.get_task(bigint) SECURITY INVOKER": (
        "function public.get_task(bigint) is not SECURITY DEFINER"
    ),
    "ALTER FUNCTION lead.check_name(text, text) STRICT": "function lead.check_name(text, text) is altered",
    "ALTER TABLE lead.error_log DROP COLUMN worker_id": "column lead.error_log.worker_id is missing",
    "ALTER TABLE lead.publication ALTER COLUMN url SET NOT NULL": (
        "column lead.publication.url is altered: text NOT NULL"
    ),
    "ALTER TABLE lead.task ALTER COLUMN priority_base SET DEFAULT 99": (
        "column lead.task.priority_base is altered: integer NOT NULL DEFAULT 99"
    ),
    "ALTER TABLE lead.tick DROP CONSTRAINT tick_outcome_check": (
        "constraint lead.tick.tick_outcome_check is missing"
    ),
    "ALTER TABLE lead.budget_account DROP CONSTRAINT budget_account_held_usd_check,"
    " ADD CONSTRAINT budget_account_held_usd_check CHECK (held_usd >= -1)": (
        "constraint lead.budget_account.budget_account_held_usd_check is altered:"
        " CHECK ((held_usd >= ('-1'::integer)::numeric))"
    ),
    "DROP INDEX lead.ready_in_order": "index lead.ready_in_order is missing",
    "DROP INDEX lead.tick_decided; CREATE INDEX tick_decided ON lead.tick (worker_id)": (
        "index lead.tick_decided is altered: CREATE INDEX tick_decided ON lead.tick USING btree (worker_id)"
    ),
    "DROP TRIGGER setting_checked ON lead.setting": "trigger lead.setting.setting_checked is missing",
    "ALTER TABLE lead.task DISABLE TRIGGER task_updated": "trigger lead.task.task_updated is altered",
    "CREATE TRIGGER mine BEFORE UPDATE ON lead.budget_account FOR EACH ROW"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger()": (
        "trigger lead.budget_account.mine was added by somebody else"
    ),
    "DROP POLICY readers ON lead.tick": "policy lead.tick.readers is missing",
    "ALTER POLICY service_all ON lead.task USING (tenant IS NULL)": "policy lead.task.service_all is altered",
    "CREATE POLICY open_door ON lead.api_call FOR SELECT TO PUBLIC USING (true)": (
        "policy lead.api_call.open_door was added by somebody else"
    ),
    "ALTER TABLE lead.dead_letter DISABLE ROW LEVEL SECURITY": (
        "table lead.dead_letter has no row-level security"
    ),
    "ALTER TABLE lead.dead_letter NO FORCE ROW LEVEL SECURITY": (
        "table lead.dead_letter does not force row-level security on its owner"
    ),
    "DROP TABLE lead.error_log": "table lead.error_log is missing",
    "DROP VIEW public.coordinator_monitoring": "relation public.coordinator_monitoring is missing",
    "ALTER VIEW public.task_queue RESET (security_invoker)": "view public.task_queue is altered",
    "GRANT EXECUTE ON FUNCTION public.get_platform_status(timestamptz) TO anon": (
        "grant too many: EXECUTE on public.get_platform_status(timestamp with time zone) for anon"
    ),
    "GRANT UPDATE (cost_usd) ON lead.task TO authenticated": (
        "grant too many: UPDATE (cost_usd) on lead.task for authenticated"
    ),
    "GRANT DELETE ON lead.audit_log TO service_role": (
        "grant too many: DELETE on lead.audit_log for service_role"
    ),
    "GRANT INSERT ON lead.api_call TO lead_application": (
        "grant too many: INSERT on lead.api_call for lead_application"
    ),
    "REVOKE SELECT ON lead.task FROM lead_dashboard": "grant missing: SELECT on lead.task for lead_dashboard",
    "REVOKE EXECUTE ON FUNCTION public.cancel_task FROM lead_application": (
        "grant missing: EXECUTE on public.cancel_task("
    ),
    "REVOKE USAGE ON SCHEMA lead FROM service_role": "grant missing: USAGE on SCHEMA lead for service_role",
    "DROP SEQUENCE lead.fence": "sequence lead.fence is missing",
    "DELETE FROM lead.deployment": "version: the files are",
    "DELETE FROM public.api_rate_limits WHERE provider = 'openai'": (
        "provider row openai is missing in api_rate_limits"
    ),
    "DELETE FROM lead.setting WHERE name = 'grant_seconds'": (
        "setting grant_seconds has no row in lead.setting: deploy again"
    ),
    "DELETE FROM lead.setting WHERE name = 'coordinator_timezone'": (
        "setting coordinator_timezone has no row in lead.setting: deploy again"
    ),
    "DELETE FROM lead.state_transition WHERE from_state = 'IDLE' AND to_state = 'ANALYZING'": (
        "state transition missing: coordinator from IDLE to ANALYZING"
    ),
}
# The same, of roles, which only an administrator can alter.
ROLE_ALTERATIONS = {
    "ALTER ROLE lead_application BYPASSRLS": (
        "role lead_application passes by row-level security (BYPASSRLS)"
    ),
    "ALTER ROLE anon SUPERUSER": "role anon is a superuser",
    "GRANT lead_application TO authenticated": "role authenticated may act as lead_application",
    "GRANT service_role TO lead_dashboard": "role lead_dashboard may act as service_role",
    "ALTER ROLE service_role SET session_replication_role = replica": (
        "session_replication_role is set to replica for role service_role: triggers are off"
    ),
}


@pytest.mark.every_server
def test_the_generated_list_is_that_of_a_fresh_deployment(db: Database) -> None:
    text = sql_files()[3].read_text()
    generated = text.partition(BEGIN)[2].partition(END)[0].splitlines(keepends=True)
    assert generated == expected_lines(definitions(db)), (
        "lead.expected_objects was expected to list what the files make:"
        " run python -m lead_coordinator_tests.database.expected_objects"
    )
    answer = db.call("validate_coordinator_deployment")
    assert answer["errors"] == []
    assert answer["status"] == "READY"


@pytest.mark.every_server
def test_whatever_is_missing_altered_or_added_is_named(db: Database) -> None:
    unnoticed = {}
    for alteration, expected in ALTERATIONS.items():
        with db.connection() as connection, connection.transaction(force_rollback=True):
            connection.execute(alteration)
            row = connection.execute("SELECT validate_coordinator_deployment() AS answer").fetchone()
            assert row is not None
        if not any(error.startswith(expected) for error in row["answer"]["errors"]):
            unnoticed[alteration] = row["answer"]["errors"]
        assert row["answer"]["status"] == "FAILED", alteration
    assert unnoticed == {}, "each alteration was expected to be named"


def test_roles_that_would_make_the_grants_mean_nothing_are_named(admin_url: str) -> None:
    unnoticed = {}
    with connect(admin_url) as admin:
        for alteration, expected in ROLE_ALTERATIONS.items():
            with admin.transaction(force_rollback=True):  # roles belong to the whole server
                admin.execute(alteration.encode())
                row = admin.execute("SELECT validate_coordinator_deployment() AS answer").fetchone()
                assert row is not None
            if expected not in row["answer"]["errors"]:
                unnoticed[alteration] = row["answer"]["errors"]
        # Supabase's service_role has it, and works.
        with admin.transaction(force_rollback=True):
            admin.execute("ALTER ROLE service_role BYPASSRLS")
            row = admin.execute("SELECT validate_coordinator_deployment() AS answer").fetchone()
            assert row is not None
            assert row["answer"]["errors"] == []
    assert unnoticed == {}, "each alteration was expected to be named"


def test_objects_of_another_owner_are_named(db: Database, admin_url: str) -> None:
    with connect(admin_url) as admin:
        admin.execute("ALTER FUNCTION public.get_task(bigint) OWNER TO postgres")
        admin.execute("ALTER TABLE lead.tenant OWNER TO postgres")
    errors = db.call("validate_coordinator_deployment")["errors"]
    for named in ("function public.get_task(bigint)", "table lead.tenant"):
        assert any(error.startswith(f"{named} belongs to postgres, not to ") for error in errors), errors


def test_tuning_and_additions_are_only_warned_of(db: Database) -> None:
    db.execute("ALTER TABLE lead.task SET (autovacuum_vacuum_scale_factor = 0.01)")
    db.execute("CREATE INDEX mine ON lead.task (tenant)")
    db.execute("INSERT INTO lead.state_transition VALUES ('coordinator', 'IDLE', 'MONITORING')")
    answer = db.call("validate_coordinator_deployment")
    assert answer["errors"] == []
    assert any(text.startswith("storage lead.task is altered") for text in answer["warnings"])
    assert "index lead.mine was added by somebody else" in answer["warnings"]
    assert (
        "state transition added by somebody else: coordinator from IDLE to MONITORING" in answer["warnings"]
    )


def test_applying_one_file_again_does_not_take_an_altered_function_of_another_for_right(
    owner_url: str,
) -> None:
    deploy_all(owner_url)
    with Database(owner_url) as db:
        db.execute("ALTER FUNCTION lead.seconds(numeric) STRICT")  # of the second file
        assert run_file(owner_url, sql_files()[3]).returncode == 0
        assert db.call("validate_coordinator_deployment")["errors"] == [
            "function lead.seconds(numeric) is altered"
        ]
        assert run_file(owner_url, sql_files()[1]).returncode == 0
        assert db.call("validate_coordinator_deployment")["errors"] == []


def test_what_an_earlier_alteration_left_is_found_after_the_next_deployment(owner_url: str) -> None:
    """The list is the files', not a record of whatever the catalog held when they were applied."""
    deploy_all(owner_url)
    with Database(owner_url) as db:
        db.execute("ALTER TABLE lead.budget_account DROP CONSTRAINT budget_account_spent_usd_check")
        db.execute("ALTER TABLE lead.task ADD COLUMN theirs text")
        db.execute("GRANT ALL ON lead.task TO anon")
        deploy_all(owner_url)
        answer = db.call("validate_coordinator_deployment")
    assert answer["errors"] == ["constraint lead.budget_account.budget_account_spent_usd_check is missing"], (
        "and the grant was taken back by the deployment"
    )
    assert "column lead.task.theirs was added by somebody else" in answer["warnings"]
