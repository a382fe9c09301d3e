"""`prune_job`: what ended long ago is deleted every night, so that tables and indexes stay bounded.

Two stores grow: the control plane's tables (`prune_history`, kept `history_keep_days`) and Dagster's own
runs with their event logs (kept `dagster_keep_days`), of which `dagster.yaml` prunes only the ticks of
schedules and sensors that still exist. Both are pruned in bounded steps, each a transaction of its own, until
nothing old is left or the time is over; what is left then goes the next night. It may be killed at any
moment, and run as often as one likes: a second one finds nothing, or leaves the database to the first.

Deleting a run takes its event log with it, and so the materialisations that it made: an asset's history in
the UI is as long as `dagster_keep_days`. The figures themselves are in the database, where reports read them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    In,
    Nothing,
    OpExecutionContext,
    RunsFilter,
    ScheduleDefinition,
    in_process_executor,
    job,
    op,
)

from lead_coordinator import tags
from lead_coordinator.database import operations
from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.database.upkeep import rebuild_sparse_indexes
from lead_coordinator.metadata import numbers
from lead_coordinator.settings import Settings

# Each of the two ends after this and leaves the rest to the next night.
TIME_BOUND = timedelta(minutes=10)
MAX_RUNTIME_SECONDS = 1800

# A step of a few tenths of a second: it holds no lock that work waits for, and dies with little lost.
ROWS_A_STEP = 5_000
RUNS_A_STEP = 50

FINISHED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
COMPONENT = {"lead/component": "insight"}


@dataclass(frozen=True)
class PrunedRuns:
    """One step: Dagster runs deleted. `more`: there were as many as a step may take."""

    deleted: int
    more: bool


def prune_dagster(
    instance: DagsterInstance, keep: timedelta, limit: int = RUNS_A_STEP, *, now: datetime | None = None
) -> PrunedRuns:
    """Deletes at most `limit` ended runs that were created before `keep` ago, oldest first, with their
    events.

    Unfinished runs stay, whatever their age: run monitoring ends them.
    """
    before = (now or datetime.now(UTC)) - keep
    runs = instance.get_runs(
        RunsFilter(statuses=FINISHED, created_before=before), limit=limit, ascending=True
    )
    for run in runs:
        instance.delete_run(run.run_id)
    return PrunedRuns(len(runs), len(runs) == limit)


def prune_ticks(instance: DagsterInstance, keep: timedelta, *, now: datetime | None = None) -> int:
    """Deletes ticks older than `keep` of every schedule and sensor there ever was; answers of how many.

    Dagster's daemon does so (`retention` in dagster.yaml) for those that are loaded; ticks of one that was
    removed or renamed would stay for ever.
    """
    before = ((now or datetime.now(UTC)) - keep).timestamp()
    states = instance.all_instigator_state()
    for state in states:
        instance.purge_ticks(state.instigator_origin_id, state.selector_id, before)
    return len(states)


def until_done(step: Callable[[], bool], bound: timedelta = TIME_BOUND) -> bool:
    """Repeats a step until it says that no more is left; False when the time was over first."""
    end = time.monotonic() + bound.total_seconds()
    while step():
        if time.monotonic() >= end:
            return False
    return True


def days_kept(db: Database, setting: str) -> timedelta:
    row = db.row("SELECT value FROM lead.setting WHERE name = %s", [setting])
    assert row is not None, f"{setting} is seeded with every deployment"
    return timedelta(days=float(row["value"]))


@op(
    description="Deletes ended tasks, executions, ticks and usage older than `history_keep_days`, in bounded "
    "steps. Keys, publications, the audit log, hourly history and budget accounts stay. Then rebuilds "
    "indexes that have become sparse, beside the old ones.",
    tags=COMPONENT,
)
def prune_database(context: OpExecutionContext, database: DatabaseResource) -> None:
    db = database.db
    keep = days_kept(db, "history_keep_days")
    deleted: dict[str, int] = {}

    def step() -> bool:
        pruned = operations.prune_history(db, keep=keep, limit=ROWS_A_STEP)
        for table, count in pruned.deleted.items():
            deleted[table] = deleted.get(table, 0) + count
        if pruned.reason is not None:
            context.log.info("Nothing was pruned: %s.", pruned.reason)
        return pruned.more

    done = until_done(step)
    rebuilt = rebuild_sparse_indexes(db)
    for index in rebuilt:
        context.log.info(
            "Index %s was sparse: %s bytes are now %s.",
            index.index_name,
            index.bytes_before,
            index.bytes_after,
        )
    context.log.info(
        "%s rows older than %s days are deleted%s.",
        sum(deleted.values()),
        keep.days,
        "" if done else "; the time is over, the rest goes the next night",
    )
    context.add_output_metadata(
        {
            **numbers(deleted),
            "days_kept": keep.days,
            "done": done,
            "indexes_rebuilt": len(rebuilt),
            "index_bytes_freed": sum(index.bytes_before - index.bytes_after for index in rebuilt),
        }
    )


@op(
    description="Deletes ended Dagster runs with their event logs older than `dagster_keep_days`, and ticks "
    "older than `history_keep_days`, in bounded steps.",
    ins={"database_pruned": In(Nothing)},
    tags=COMPONENT,
)
def prune_dagster_runs(context: OpExecutionContext, database: DatabaseResource) -> None:
    keep = days_kept(database.db, "dagster_keep_days")
    deleted = 0

    def step() -> bool:
        nonlocal deleted
        pruned = prune_dagster(context.instance, keep)
        deleted += pruned.deleted
        return pruned.more

    done = until_done(step)
    prune_ticks(context.instance, days_kept(database.db, "history_keep_days"))
    context.log.info(
        "%s Dagster runs older than %s days are deleted%s.",
        deleted,
        keep.days,
        "" if done else "; the time is over, the rest goes the next night",
    )
    context.add_output_metadata({"runs_deleted": deleted, "days_kept": keep.days, "done": done})


@job(
    name=tags.PRUNE_JOB,
    description="Deletes what ended long ago: tasks, executions, ticks and usage in the database, and "
    "Dagster's own runs with their event logs. Safe to start by hand at any time, and to kill.",
    executor_def=in_process_executor,
    tags={tags.MAX_RUNTIME: str(MAX_RUNTIME_SECONDS), tags.PRIORITY: "-20", **COMPONENT},
    owners=[tags.OWNER_PLATFORM],
)
def prune_job() -> None:
    prune_dagster_runs(database_pruned=prune_database())


prune_schedule = ScheduleDefinition(
    name="prune_schedule",
    job=prune_job,
    cron_schedule="30 3 * * *",
    execution_timezone=Settings.load().coordinator_timezone,
    default_status=DefaultScheduleStatus.RUNNING,
    description="Starts `prune_job` every night at 03:30 in the coordinator's time zone, when least goes on.",
    tags=COMPONENT,
    owners=[tags.OWNER_PLATFORM],
)
