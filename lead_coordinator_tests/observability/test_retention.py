"""The nightly pruning: what is old goes from both stores, in steps, and what still runs stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from dagster import DagsterInstance, DagsterRunStatus, job, op
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from sqlalchemy import update

from lead_coordinator.database import operations
from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.observability.retention import (
    prune_dagster,
    prune_job,
    prune_schedule,
    prune_ticks,
    until_done,
)

NOW = datetime.now(UTC)
AddRun = Callable[..., str]


@op
def noop() -> None:
    """Does nothing: its run leaves events."""


@job
def some_job() -> None:
    noop()


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as local:
        yield local


@pytest.fixture
def add_run(instance: DagsterInstance) -> AddRun:
    """A real run with its events, then dated back, in the status given."""

    def add(days_old: float, status: DagsterRunStatus = DagsterRunStatus.SUCCESS) -> str:
        run_id = some_job.execute_in_process(instance=instance).run_id
        storage = instance.run_storage
        assert isinstance(storage, SqlRunStorage)
        created = (NOW - timedelta(days=days_old)).replace(tzinfo=None)
        with storage.connect() as connection:
            connection.execute(
                update(RunsTable)
                .where(RunsTable.c.run_id == run_id)
                .values(create_timestamp=created, status=status.value)
            )
        return run_id

    return add


def events(instance: DagsterInstance, run_id: str) -> int:
    return len(instance.all_logs(run_id))


def test_old_runs_go_with_their_events_and_the_others_stay(instance: DagsterInstance, add_run: AddRun):
    old, failed, young = add_run(15), add_run(20, DagsterRunStatus.FAILURE), add_run(13)
    assert events(instance, old) > 0
    pruned = prune_dagster(instance, timedelta(days=14), now=NOW)
    assert (pruned.deleted, pruned.more) == (2, False)
    assert instance.get_run_ids() == [young]
    assert (events(instance, old), events(instance, failed)) == (0, 0)
    assert events(instance, young) > 0


def test_a_run_that_has_not_ended_stays_whatever_its_age(instance: DagsterInstance, add_run: AddRun):
    started = add_run(400, DagsterRunStatus.STARTED)
    queued = add_run(400, DagsterRunStatus.QUEUED)
    assert prune_dagster(instance, timedelta(days=14), now=NOW).deleted == 0
    assert set(instance.get_run_ids()) == {started, queued}


def test_a_step_takes_the_oldest_and_says_that_there_is_more(instance: DagsterInstance, add_run: AddRun):
    runs = [add_run(20 - number) for number in range(3)]
    assert prune_dagster(instance, timedelta(days=14), 2, now=NOW).more
    assert instance.get_run_ids() == runs[2:], "the oldest two are gone"
    assert prune_dagster(instance, timedelta(days=14), 2, now=NOW).deleted == 1
    assert instance.get_run_ids() == []


def test_ticks_of_a_sensor_that_is_no_longer_loaded_go_too(instance: DagsterInstance):
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("lead_coordinator"), "__repository__")
    origin = RemoteInstigatorOrigin(repository, "removed_sensor")
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
    instance.add_instigator_state(state)
    for days_old in (100, 80):
        instance.create_tick(
            TickData(
                instigator_origin_id=state.instigator_origin_id,
                instigator_name="removed_sensor",
                instigator_type=InstigatorType.SENSOR,
                status=TickStatus.SUCCESS,
                timestamp=(NOW - timedelta(days=days_old)).timestamp(),
                selector_id=state.selector_id,
                run_ids=[],
            )
        )
    assert prune_ticks(instance, timedelta(days=90), now=NOW) == 1
    (left,) = instance.get_ticks(state.instigator_origin_id, state.selector_id)
    assert NOW.timestamp() - left.timestamp < 81 * 86400


def test_steps_end_with_the_work_or_with_the_time():
    steps = count(1)
    assert until_done(lambda: next(steps) < 5)
    assert next(steps) == 6, "five steps were enough"
    assert not until_done(lambda: True, timedelta(0)), "work without an end ends with the time"


def test_the_job_prunes_both_by_the_settings_and_shows_what_it_did(
    instance: DagsterInstance, add_run: AddRun, db: Database, database_url: str
):
    db.execute(
        "INSERT INTO task_queue (task_type, payload, status, created_at, processed_at)"
        " SELECT 'content_generation', '{}', 'completed', ended.at, ended.at"
        " FROM generate_series(1, 40) AS days,"
        " LATERAL (SELECT now() - days * interval '1 day' AS at) AS ended"
    )
    operations.change_setting(db, "history_keep_days", 30)
    operations.change_setting(db, "dagster_keep_days", 5)
    old, young = add_run(6), add_run(4)
    result = prune_job.execute_in_process(
        instance=instance, resources={"database": DatabaseResource(database_url=database_url)}
    )
    assert result.success
    assert set(instance.get_run_ids()) == {young, result.run_id}
    assert events(instance, old) == 0
    left = db.row("SELECT count(*) AS n FROM task_queue")
    assert left == {"n": 29}
    shown = {
        name: value.value
        for event in result.all_events
        if event.is_successful_output
        for name, value in event.step_output_data.metadata.items()
    }
    assert (shown["task"], shown["runs_deleted"], shown["done"]) == (11, 1, True)


def test_it_runs_at_night_by_itself():
    assert prune_schedule.cron_schedule == "30 3 * * *"
    hour = int(str(prune_schedule.cron_schedule).split()[1])
    assert not 9 <= hour < 17, "outside business hours"
