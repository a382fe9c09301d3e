"""Deploying to a database that is being worked on: no call fails, no task is lost, none is done twice."""

from __future__ import annotations

import threading
import time

import pytest

from lead_coordinator.database.connection import Database, connect
from lead_coordinator.database.deploy import apply_files, deploy
from lead_coordinator.settings import Settings
from lead_coordinator_tests.database.load import Load, make_room
from lead_coordinator_tests.database.older import VERSIONS, older_files


@pytest.mark.every_server
@pytest.mark.parametrize("older_version", VERSIONS)
def test_an_upgrade_and_a_deployment_again_under_load_fail_no_call(
    empty_database_url: str, older_version: str
) -> None:
    with connect(empty_database_url) as connection:
        apply_files(connection, older_files(older_version))
    with Database(empty_database_url) as db:
        make_room(db)
        load = Load(empty_database_url)
        with load.running():
            load.until_completed(30)
            deploy(empty_database_url, Settings.load({}))
            load.until_completed(30)
            for _ in range(3):
                deploy(empty_database_url, Settings.load({}))
            assert deploy(empty_database_url, Settings.load({}), dry_run=True).changes_nothing
            load.until_completed(30)
        assert load.errors == [], "no call was expected to fail"
        assert db.call("validate_coordinator_deployment")["errors"] == []
        assert_nothing_is_lost(db, load)


def test_a_client_that_holds_what_the_upgrade_needs_is_let_through(empty_database_url: str) -> None:
    """A transaction that has one table and wants another is no deadlock's victim; the upgrade waits.

    By then it has filled its new tables; what changes while it waits is made up for.
    """
    with connect(empty_database_url) as connection:
        apply_files(connection, older_files("0.1.0"))
        for n in range(6):
            connection.execute(
                "SELECT submit_task('content_generation', '{}', p_tenant => %s)", ["acme" if n % 2 else None]
            )
    problems: list[BaseException] = []

    def upgrade() -> None:
        try:
            deploy(empty_database_url, Settings.load({}))
        except BaseException as problem:
            problems.append(problem)

    deploying = threading.Thread(target=upgrade)
    with Database(empty_database_url) as db, connect(empty_database_url) as client:
        with client.transaction():
            client.execute("SELECT FROM public.workflow_orchestration")
            deploying.start()
            deadline = time.monotonic() + 30
            while not db.rows(
                "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
                " AND relation = 'public.workflow_orchestration'::regclass"
            ):
                assert time.monotonic() < deadline, "the upgrade was expected to wait for the client"
            client.execute("SELECT FROM lead.task")  # which the upgrade has locked meanwhile
            db.execute("SELECT submit_task('content_generation', '{}', 80)")
            db.execute("SELECT cancel_task(1, 'changed my mind')")
            db.execute("UPDATE task_queue SET priority_base = 70 WHERE id = 2")
            db.execute("UPDATE task_queue SET status = 'deferred', deferred_until = now() WHERE id = 3")
            db.execute("DELETE FROM lead.task WHERE id = 4")
        deploying.join()
        assert problems == []
        assert db.call("validate_coordinator_deployment")["errors"] == []
        ready = db.rows("SELECT task_type, lane, score, queued_at, task_id FROM lead.ready ORDER BY task_id")
        assert ready == db.rows(
            "SELECT task_type, coalesce(tenant, '') AS lane, score, queued_at, id AS task_id FROM lead.task"
            " WHERE status = 'queued' ORDER BY id"
        ), "what may be claimed was expected to be what waits"
        assert [row["task_id"] for row in ready] == [2, 5, 6, 7]
        assert [row["task_id"] for row in db.rows("SELECT task_id FROM lead.due")] == [3]


def assert_nothing_is_lost(db: Database, load: Load) -> None:
    counted = db.row(
        "SELECT count(*) AS tasks, count(*) FILTER (WHERE status = 'completed') AS completed,"
        " count(*) FILTER (WHERE status = 'processing') AS processing FROM lead.task"
    )
    assert counted is not None
    assert counted["tasks"] == load.submitted
    assert counted["completed"] == load.completed
    assert counted["processing"] == 0, "a task was expected to be held by nobody once all clients are done"
    twice = db.rows(
        "SELECT task_id FROM lead.task_attempt WHERE outcome = 'completed' GROUP BY 1 HAVING count(*) > 1"
    )
    assert twice == []
    wrong = db.rows(
        "SELECT task_type, lane, status FROM ("
        "  SELECT task_type, coalesce(tenant, '') AS lane, status, -count(*) AS tasks"
        "  FROM lead.task GROUP BY 1, 2, 3"
        "  UNION ALL SELECT task_type, lane, status, tasks FROM lead.queue_depth_delta"
        ") AS x GROUP BY 1, 2, 3 HAVING sum(tasks) <> 0"
    )
    assert wrong == [], "the counters were expected to be right"
    held = db.row("SELECT coalesce(sum(held_usd), 0) AS held FROM lead.budget_account")
    assert held is not None
    assert held["held"] == 0
