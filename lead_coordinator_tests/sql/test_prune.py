"""Retention: what ended long ago goes, in bounded steps; what is open, owed or unique stays."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from lead_coordinator.database import operations
from lead_coordinator.database.connection import Database
from lead_coordinator.database.operations import DeadLetterFilter
from lead_coordinator.database.upkeep import rebuild_sparse_indexes
from lead_coordinator.errors import InvalidInput
from lead_coordinator_tests.sql.play import Play, Run

pytestmark = pytest.mark.every_server
WEEK = timedelta(days=7)
GROWING = (
    "lead.task",
    "lead.task_attempt",
    "lead.api_call",
    "lead.dead_letter",
    "public.workflow_orchestration",
    "public.workflow_states",
    "lead.tick",
    "public.resource_usage",
    "lead.error_log",
)


def rows(play: Play, table: str) -> int:
    answer = play.db.row(f"SELECT count(*) AS n FROM {table}")
    assert answer is not None
    return int(answer["n"])


def prune(play: Play, *, keep: timedelta = WEEK, limit: int | None = None) -> dict[str, int]:
    """All steps; answers what they deleted together."""
    deleted: dict[str, int] = {}
    for _ in range(200):
        step = operations.prune_history(play.db, keep=keep, limit=limit, current_time=play.now)
        for table, count in step.deleted.items():
            assert limit is None or count <= limit or table in ("task_attempt", "dead_letter"), (
                f"a step of {limit} deleted {count} rows of {table}"
            )
            deleted[table] = deleted.get(table, 0) + count
        if not step.more:
            return {table: count for table, count in deleted.items() if count}
    raise AssertionError("pruning was expected to come to an end")


def work_day(play: Play, tasks: int = 3) -> list[int]:
    """A run whose tasks each make a call and complete; a usage row and an error besides."""
    task_ids = play.submit(tasks)
    run = play.run_started()
    for task_id in task_ids:
        play.pay(run, task_id)
        play.complete(run, task_id)
    play.finish(run)
    play.call("refresh_resource_usage", current_time=play.now)
    play.db.execute(
        "INSERT INTO lead.error_log (occurred_at, error_code, error_message) VALUES (%s, 'E1', 'x')",
        [play.now],
    )
    return task_ids


def unfinished(play: Play) -> Run:
    play.submit(1)
    return play.run_started()


def test_what_ended_before_goes_and_what_ended_since_stays(play: Play) -> None:
    old = work_day(play)
    play.pass_time(days=5)
    recent = work_day(play)
    assert prune(play) == {}, "nothing is seven days old"
    before = {table: rows(play, table) for table in GROWING}
    play.pass_time(days=3)
    deleted = prune(play)
    assert (deleted["task"], deleted["task_attempt"], deleted["api_call"]) == (3, 3, 3)
    assert (deleted["workflow_orchestration"], deleted["tick"], deleted["error_log"]) == (1, 1, 1)
    left = [row["id"] for row in play.db.rows("SELECT id FROM task_queue ORDER BY id")]
    assert left == recent
    assert not set(left) & set(old)
    for table in GROWING:
        assert before[table] - deleted.get(table.partition(".")[2], 0) == rows(play, table)
    assert play.counted() == play.statuses() == {"completed": 3}
    states = play.db.rows(
        "SELECT DISTINCT execution_id FROM workflow_states WHERE entered_at < %s", [play.now - WEEK]
    )
    assert states == [], "the coordinator's states go with time, an execution's with it"
    assert prune(play) == {}, "done is done"


def test_what_has_not_ended_stays_whatever_its_age(play: Play) -> None:
    (dead,) = play.submit(1)
    run = play.run_started()
    play.pay(run, dead)
    play.fail(run, dead, "invalid_input")
    play.finish(run)
    (waiting,) = play.submit(1, not_before=(play.now + timedelta(days=400)).isoformat())
    (stuck,) = play.submit(1, dependencies=[dead])
    running = unfinished(play)
    play.pass_time(days=100)
    deleted = prune(play)
    assert "task" not in deleted
    assert "api_call" not in deleted, "the calls of an open dead letter are its context"
    statuses = {row["id"]: row["status"] for row in play.db.rows("SELECT id, status FROM task_queue")}
    assert statuses == {
        dead: "dead_letter",
        waiting: "deferred",
        stuck: "deferred",
        running.task_ids[0]: "processing",
    }
    assert [letter.task_id for letter in operations.list_dead_letters(play.db)] == [dead]
    (left,) = play.db.rows("SELECT execution_id FROM workflow_orchestration")
    assert left["execution_id"] == running.execution_id
    held = play.db.rows(
        "SELECT state FROM workflow_states WHERE execution_id = %s ORDER BY id", [running.execution_id]
    )
    assert [row["state"] for row in held] == ["DISPATCHING", "MONITORING"]

    operations.discard_dead_letters(play.db, DeadLetterFilter(all=True), "no", current_time=play.now)
    play.pass_time(days=8)
    assert "task" not in prune(play), "another task still waits for it"
    play.call("cancel_task", task_id=stuck, reason="no", current_time=play.now)
    play.pass_time(days=8)
    deleted = prune(play)
    assert deleted["task"] == 1, "the one that waited for it"
    assert prune(play)["task"] == 1, "and then the one it waited for, with its letter"
    assert (rows(play, "lead.dead_letter"), rows(play, "lead.api_call")) == (0, 0)


def test_keys_money_history_and_audit_outlive_pruning(play: Play) -> None:
    (task_id,) = play.submit(1, idempotency_key="brief 1")
    run = play.run_started()
    play.pay(run, task_id)
    lease = {"execution_id": run.execution_id, "fence": run.fence, "current_time": play.now}
    published = play.call("begin_publication", task_id=task_id, site="s", slug="a", title="A", **lease)
    play.call(
        "confirm_publication",
        publication_id=published["publication_id"],
        url="http://localhost/a",
        content_sha256="0" * 64,
        **lease,
    )
    play.complete(run, task_id)
    play.finish(run)
    kept = [
        "lead.submission",
        "lead.publication",
        "lead.audit_log",
        "execution_history",
        "lead.budget_account",
    ]
    before = {table: play.db.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in kept}
    assert all(before.values())
    play.pass_time(days=30)
    assert prune(play)["task"] == 1
    assert {table: play.db.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in kept} == before
    again = play.call(
        "submit_task",
        task_type="content_generation",
        payload={},
        idempotency_key="brief 1",
        current_time=play.now,
    )
    assert (again["task_id"], again["created"]) == (task_id, False), "the key still makes no second task"


def test_a_step_is_bounded_and_steps_get_past_survivors(play: Play) -> None:
    """Twenty tasks that may not go lie before ten that may: steps of four must not stop at the first."""
    play.submit(20, not_before=(play.now + timedelta(days=400)).isoformat())
    gone = work_day(play, 10)
    play.pass_time(days=30)
    first = operations.prune_history(play.db, keep=WEEK, limit=4, current_time=play.now)
    assert (first.more, first.deleted["task"]) == (True, 0)
    deleted = prune(play, limit=4)
    assert (deleted["task"], deleted["task_attempt"], deleted["api_call"]) == (10, 10, 10)
    assert rows(play, "lead.task") == 20
    assert not play.db.rows("SELECT 1 FROM task_queue WHERE id = ANY (%s)", [gone])
    progress = play.db.rows("SELECT table_name, position FROM lead.prune_progress WHERE position <> 0")
    assert progress == [], "the next day it begins anew"


def test_a_row_from_the_future_does_not_end_the_search(play: Play) -> None:
    """An outsider's row with a creation time to come lies among old ones."""
    play.submit(2)
    play.db.execute(
        "INSERT INTO task_queue (task_type, payload, created_at) VALUES ('content_generation', '{}', %s)",
        [play.now + timedelta(days=900)],
    )
    play.submit(2)
    play.db.execute("UPDATE task_queue SET status = 'cancelled' WHERE created_at < %s", [play.now + WEEK])
    play.pass_time(days=30)
    assert prune(play, limit=2)["task"] == 4


def test_what_hangs_on_a_task_that_an_outsider_deletes_goes_too(play: Play) -> None:
    dead, done = play.submit(2)
    run = play.run_started()
    play.pay(run, done)
    play.complete(run, done)
    play.fail(run, dead, "invalid_input")
    play.finish(run)
    (dependent,) = play.submit(1, dependencies=[dead])
    play.db.execute("DELETE FROM task_queue WHERE id = ANY (%s)", [[dead, done, dependent]])
    for table in ("lead.task_attempt", "lead.dead_letter", "lead.task_dependency"):
        assert rows(play, table) == 0, f"{table} was expected to be empty"
    assert rows(play, "lead.api_call") == 1, "money stays on the books"
    play.pass_time(days=8)
    assert prune(play)["api_call"] == 1, "until it is old"


def test_two_do_not_prune_at_the_same_time(play: Play, database_url: str) -> None:
    work_day(play)
    play.pass_time(days=8)
    with Database(database_url) as other, other.connection() as connection, connection.transaction():
        connection.execute("SELECT prune_history('7 days', 100, %s)", [play.now])
        answer = operations.prune_history(play.db, keep=WEEK, current_time=play.now)
        assert answer == operations.Pruned({}, False, "somebody else is pruning at this moment")


def test_the_setting_says_how_long_and_the_arguments_are_checked(play: Play) -> None:
    work_day(play)
    play.pass_time(days=89)
    assert operations.prune_history(play.db, current_time=play.now).deleted["task"] == 0
    operations.change_setting(play.db, "history_keep_days", 88)
    assert operations.prune_history(play.db, current_time=play.now).deleted["task"] == 3
    with pytest.raises(InvalidInput, match="p_keep: 00:59:00 is not allowed; 1 day to 10 years"):
        operations.prune_history(play.db, keep=timedelta(minutes=59))
    with pytest.raises(InvalidInput, match="p_limit: 0 is not allowed; 1 to 100000"):
        operations.prune_history(play.db, limit=0)


def scanned(play: Play) -> dict[str, int]:
    answer = play.db.rows(
        "SELECT schemaname || '.' || relname AS name, seq_scan FROM pg_stat_xact_user_tables"
    )
    return {row["name"]: row["seq_scan"] for row in answer if row["name"] in GROWING}


def test_no_step_reads_a_whole_table(play: Play) -> None:
    for _ in range(3):
        work_day(play, 10)
        play.pass_time(days=4)

    def step() -> tuple[dict[str, int], Any]:
        before = scanned(play)
        answer = operations.prune_history(play.db, keep=WEEK, limit=5, current_time=play.now)
        after = scanned(play)
        return {name: after[name] - before[name] for name in after if after[name] != before[name]}, answer

    with play.db.connection() as connection, connection.transaction():
        scans, answer = step()
    assert answer.deleted["task"] > 0
    assert scans == {}, "an index was expected to find every row"


def test_the_hot_tables_are_vacuumed_early(play: Play) -> None:
    options = {
        row["name"]: " ".join(row["options"] or [])
        for row in play.db.rows(
            "SELECT n.nspname || '.' || c.relname AS name, c.reloptions AS options FROM pg_class AS c"
            " INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'r'"
        )
    }
    for table in GROWING:
        if table == "lead.error_log":
            continue  # only ever inserted
        found = re.search(r"autovacuum_vacuum_scale_factor=(\S+)", options[table])
        assert found is not None, f"{table} was expected to be vacuumed early, it has {options[table]!r}"
        assert float(found[1]) <= 0.05


def test_an_index_that_pruning_left_sparse_is_rebuilt(play: Play, admin_url: str) -> None:
    play.db.execute(
        "INSERT INTO task_queue (task_type, payload, status) SELECT 'content_generation', '{}', 'completed'"
        " FROM generate_series(1, 20000)"
    )
    play.db.execute("VACUUM ANALYZE lead.task")
    assert rebuild_sparse_indexes(play.db, minimum_bytes=200_000) == [], "full pages need no rebuild"
    play.db.execute("DELETE FROM task_queue WHERE id % 100 <> 0")  # one survivor on every page of the index
    play.db.execute("VACUUM ANALYZE lead.task")
    (index,) = rebuild_sparse_indexes(play.db, minimum_bytes=200_000)
    assert index.index_name == "lead.task_pkey"
    assert index.bytes_after < index.bytes_before / 10
    assert rebuild_sparse_indexes(play.db, minimum_bytes=200_000) == []
    assert play.call("validate_coordinator_deployment")["errors"] == []


def test_who_may_not_rebuild_is_told_and_a_killed_rebuild_leaves_nothing(
    play: Play, admin_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    play.db.execute(
        "INSERT INTO task_queue (task_type, payload, status) SELECT 'content_generation', '{}', 'completed'"
        " FROM generate_series(1, 20000)"
    )
    play.db.execute("DELETE FROM task_queue WHERE id % 100 <> 0")
    play.db.execute("VACUUM ANALYZE lead.task")
    with Database(admin_url) as application:
        application.execute("SET ROLE lead_application")
        assert rebuild_sparse_indexes(application, minimum_bytes=200_000) == []
    assert "Index lead.task_pkey is left as it is: " in caplog.text
    with Database(admin_url) as admin:
        admin.execute("CREATE INDEX task_pkey_ccnew ON lead.task (id)")
        admin.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'lead.task_pkey_ccnew'::regclass"
        )
    assert len(rebuild_sparse_indexes(play.db, minimum_bytes=200_000)) == 1
    assert play.db.row("SELECT to_regclass('lead.task_pkey_ccnew') IS NULL AS gone") == {"gone": True}
