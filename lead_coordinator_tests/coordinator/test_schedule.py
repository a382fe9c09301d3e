"""The tick every five minutes: started once, and not while the one before still runs."""

from datetime import UTC, datetime

import pytest
from dagster import DagsterInstance, DagsterRunStatus, RunRequest, SkipReason, build_schedule_context

from lead_coordinator import tags
from lead_coordinator.coordinator.runs import UNFINISHED
from lead_coordinator.coordinator.schedule import coordinator_schedule
from lead_coordinator_tests.coordinator.conftest import AddRun

TICK = datetime(2026, 11, 24, 9, 5, tzinfo=UTC)
ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


def evaluate(instance: DagsterInstance) -> RunRequest | SkipReason:
    with build_schedule_context(instance=instance, scheduled_execution_time=TICK) as context:
        return coordinator_schedule(context)


def test_it_starts_a_tick_once_for_each_turn(instance: DagsterInstance):
    first, again = evaluate(instance), evaluate(instance)
    assert isinstance(first, RunRequest)
    assert isinstance(again, RunRequest)
    assert first.run_key == again.run_key, "an overdue turn that is evaluated twice must start one tick"


@pytest.mark.parametrize("status", UNFINISHED)
def test_it_skips_while_a_tick_is_unfinished(
    instance: DagsterInstance, add_run: AddRun, status: DagsterRunStatus
):
    run = add_run(tags.COORDINATOR_JOB, status)
    skipped = evaluate(instance)
    assert isinstance(skipped, SkipReason)
    assert run.run_id in (skipped.skip_message or ""), "the reason names the unfinished run"
    assert status.value in (skipped.skip_message or "")


def test_every_status_of_dagster_is_either_unfinished_or_ended():
    others = set(DagsterRunStatus) - set(UNFINISHED) - set(ENDED)
    assert {status.value for status in others} <= {"SUSPENDED"}


@pytest.mark.parametrize("status", ENDED)
def test_a_finished_tick_and_other_jobs_stop_nothing(
    instance: DagsterInstance, add_run: AddRun, status: DagsterRunStatus
):
    add_run(tags.COORDINATOR_JOB, status)
    add_run(tags.CONTENT_JOB, DagsterRunStatus.STARTED)
    assert isinstance(evaluate(instance), RunRequest)
