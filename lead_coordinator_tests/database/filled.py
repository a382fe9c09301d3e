"""A database with work in every state: for upgrades, and for whatever wants to meet all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lead_coordinator.database.connection import Database
from lead_coordinator.settings import Settings
from lead_coordinator_tests.sql.play import Play, Run

TABLES = (
    "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class AS c"
    " INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND n.nspname IN ('public', 'lead') ORDER BY 1"
)
LEDGER = "SELECT budget_day, scope, scope_key, held_usd, spent_usd FROM lead.budget_account ORDER BY 1, 2, 3"
# Notes about the deployment itself, and the depth log, whose sums `Play.counted` compares.
NOT_DATA = {"lead.deployment", "lead.deployed_object", "lead.queue_depth_delta"}
# What was dropped on purpose.
DROPPED_COLUMNS = {"slots_served"}


@dataclass
class Filled:
    """A database of an older version with work in every state, and the run that is under way."""

    url: str
    play: Play
    run: Run
    sent: int  # the call that has left and wasn't answered
    rows: dict[str, list[Any]]


def rows_of(db: Database, table: str) -> list[dict[str, Any]]:
    return [row["row"] for row in db.rows(f"SELECT to_jsonb(x) AS row FROM {table} AS x")]


def lost_rows(filled: Filled) -> dict[str, list[dict[str, Any]]]:
    """Rows that are no longer there as they were; what a table gained since doesn't count."""
    lost = {}
    for table, before in filled.rows.items():
        columns = set(before[0]) - DROPPED_COLUMNS if before else set()
        if table == "lead.workflow_policy":
            columns -= {"updated_at"}
        now = {
            repr(sorted((name, row.get(name, "gone")) for name in columns))
            for row in rows_of(filled.play.db, table)
        }
        kept = [brought_forward(row) for row in before]
        missing = [row for row in kept if repr(sorted((name, row[name]) for name in columns)) not in now]
        if missing:
            lost[table] = missing
    return lost


def brought_forward(row: dict[str, Any]) -> dict[str, Any]:
    """What becomes of a policy that an older version had switched off for want of a pipeline."""
    if str(row.get("disabled_reason")).startswith("this version has no"):
        return row | {"enabled": True, "disabled_reason": None}
    return row


def fill(url: str) -> Filled:
    """Tasks and calls in every status, executions that wait, run and ended in every way, money."""
    db = Database(url)
    db.execute("UPDATE lead.setting SET value = 'true' WHERE name = 'scratch_database'")
    play = Play(db)
    play.call("configure_platform", settings=Settings.load({}).platform_settings())
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
    for seconds, ending in ((31, None), (301, None), (1, "cancelled")):
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
    run = play.start(max(play.launchable(), key=lambda offered: int(offered["batch_size"])))
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
    tables = [row["name"] for row in db.rows(TABLES) if row["name"] not in NOT_DATA]
    return Filled(url, play, run, sent["call_id"], {table: rows_of(db, table) for table in tables})
