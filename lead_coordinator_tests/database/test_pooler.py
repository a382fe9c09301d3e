"""Behind a transaction pooler: each transaction may meet another session, and nothing depends on its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from lead_coordinator.database import calls, control, executions, operations, queue, reports
from lead_coordinator.database.calls import Candidate, Grant
from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.deploy import deploy
from lead_coordinator.database.queue import NewTask
from lead_coordinator.settings import Settings
from lead_coordinator_tests.pooler import TransactionPooler

CONTENT = "content_generation"


@pytest.fixture
def pooled_url(empty_database_url: str) -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="lc-pool-") as folder,
        TransactionPooler(empty_database_url, Path(folder)) as pooler,
    ):
        yield pooler.url


def test_the_pooler_changes_the_session_with_each_transaction(pooled_url: str) -> None:
    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as connection:
        pids = {connection.execute("SELECT pg_backend_pid()").fetchone() for _ in range(4)}
        assert len(pids) == 2
        with connection.transaction():
            pids = {connection.execute("SELECT pg_backend_pid()").fetchone() for _ in range(4)}
            assert len(pids) == 1
    # What would fail behind one does fail here: it is prepared in one session and called in the other.
    with (
        psycopg.connect(pooled_url, autocommit=True, prepare_threshold=0) as connection,
        pytest.raises(psycopg.errors.InvalidSqlStatementName),
    ):
        connection.execute("SELECT 1 + 1")


async def test_everything_works_through_it_and_no_session_keeps_anything(pooled_url: str) -> None:
    settings = Settings.load({})
    assert deploy(pooled_url, settings, dry_run=True).version_before is None
    deploy(pooled_url, settings)
    assert deploy(pooled_url, settings, dry_run=True).changes == ()
    said = {"actor": "ann", "reason": "a try"}
    with Database(pooled_url) as db, Database(pooled_url) as other:
        async with AsyncDatabase(pooled_url, max_size=2) as adb:
            assert control.acquire_coordinator_lease(db, "one").acquired
            assert not control.acquire_coordinator_lease(other, "two").acquired
            operations.pause_queue(db, tenant="garden", **said)
            operations.resume_queue(other, tenant="garden", **said)
            operations.change_setting(db, "retry_limit", 2, **said)
            queue.submit_tasks(db, [NewTask(CONTENT, {"n": number}) for number in range(3)])
            assert control.orchestrate_workflow_execution(db, "one")["workflows_dispatched"] == 1
            (offered,) = control.launchable_executions(other)
            run = await executions.start_execution(adb, offered.execution_id, offered.launch_number, "run")
            one, two, three = (task.task_id for task in run.tasks)
            for task_id in (one, two):
                grant = await calls.begin_api_call(
                    adb, run.lease, task_id, "draft", [Candidate("gemini", "m", Decimal("0.001"), 1, 1)]
                )
                assert isinstance(grant, Grant)
                await calls.mark_api_call_sent(adb, run.lease, grant.call_id)
                await calls.settle_api_call(adb, grant.call_id, "ok", Decimal("0.0005"))
                await executions.heartbeat_execution(adb, run.lease)
                await executions.complete_task(adb, run.lease, task_id)
            await executions.fail_task(adb, run.lease, three, "invalid_input", "no title")
            assert (await executions.finish_execution(adb, run.lease, "completed")).completed == 2
        assert operations.replay_dead_letters(db, operations.DeadLetterFilter(all=True), actor="ann") == (
            three,
        )
        assert operations.explain_task(other, three)["status"] == "queued"
        operations.prune_history(db)
        assert reports.failures(reports.run_coordinator_test_suite(db)) == []
        validation = reports.validate_coordinator_deployment(other)
        assert validation["errors"] == []
        audited = db.rows("SELECT actor FROM lead.audit_log WHERE subject = 'setting:retry_limit'")
        assert [row["actor"] for row in audited] == ["ann"]
        seen = set()
        for _ in range(4):
            row = db.row(
                "SELECT pg_backend_pid() AS pid, current_setting('lead.actor', true) AS actor,"
                " current_setting('search_path') AS path, current_setting('lock_timeout') AS patience,"
                " (SELECT count(*) FROM pg_prepared_statements) AS prepared,"
                " (SELECT count(*) FROM pg_listening_channels()) AS channels,"
                " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS locks,"
                " (SELECT count(*) FROM pg_cursors WHERE name <> '') AS cursors"
            )
            assert row is not None
            seen.add(row["pid"])
            assert row["actor"] in (None, "")
            assert (row["path"], row["patience"]) == ('"$user", public', "0")
            assert (row["prepared"], row["channels"], row["locks"], row["cursors"]) == (0, 0, 0, 0)
        assert len(seen) == 2, "both sessions were looked at"
