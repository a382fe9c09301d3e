"""Ending the runs of recovered executions: what was never started, what is gone, and what is frozen."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus

from lead_coordinator import tags
from lead_coordinator.coordinator.runs import end_run, kill_if_frozen, process_id, unfinished_run_of_execution
from lead_coordinator_tests.coordinator.conftest import AddRun

LOG = logging.getLogger(__name__)


def status(instance: DagsterInstance, run: DagsterRun) -> DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def end(instance: DagsterInstance, run_id: str | None) -> bool:
    """`end_run`, and waits for what it does in the background."""
    ended = end_run(instance, run_id, "recovered", LOG)
    for thread in threading.enumerate():
        if thread.name == f"end-run-{run_id}":
            thread.join()
    return ended


def test_a_run_that_waits_in_the_queue_is_taken_out(instance: DagsterInstance, add_run: AddRun):
    run = add_run(tags.CONTENT_JOB, DagsterRunStatus.QUEUED)
    assert end(instance, run.run_id)
    assert status(instance, run) == DagsterRunStatus.CANCELED


def test_a_run_whose_process_is_gone_is_recorded_as_ended(instance: DagsterInstance, add_run: AddRun):
    run = add_run(tags.CONTENT_JOB, DagsterRunStatus.STARTED)
    assert end(instance, run.run_id)
    assert status(instance, run) == DagsterRunStatus.CANCELED


@pytest.mark.parametrize("ended", [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE])
def test_a_run_that_has_ended_is_left_as_it_is(
    instance: DagsterInstance, add_run: AddRun, ended: DagsterRunStatus
):
    run = add_run(tags.CONTENT_JOB, ended)
    assert not end(instance, run.run_id)
    assert status(instance, run) == ended


@pytest.mark.parametrize("run_id", [None, "", "00000000-0000-0000-0000-000000000000"])
def test_an_unknown_run_is_no_error(instance: DagsterInstance, run_id: str | None):
    assert not end(instance, run_id)


def test_only_unfinished_runs_of_the_very_execution_count(instance: DagsterInstance, add_run: AddRun):
    add_run(tags.CONTENT_JOB, DagsterRunStatus.FAILURE, {tags.EXECUTION_ID: "one"})
    add_run(tags.CONTENT_JOB, DagsterRunStatus.QUEUED, {tags.EXECUTION_ID: "two"})
    assert unfinished_run_of_execution(instance, "one") is None
    waiting = add_run(tags.CONTENT_JOB, DagsterRunStatus.QUEUED, {tags.EXECUTION_ID: "one"})
    found = unfinished_run_of_execution(instance, "one")
    assert found is not None
    assert found.run_id == waiting.run_id


class TestFrozen:
    @pytest.fixture
    def child(self) -> Iterator[psutil.Process]:
        """A process started as Dagster's code server starts a run's."""
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
        process.start()
        assert process.pid is not None
        yield psutil.Process(process.pid)
        process.kill()
        process.join()

    def started(self, instance: DagsterInstance, add_run: AddRun, pid: int) -> DagsterRun:
        run = add_run(tags.CONTENT_JOB, DagsterRunStatus.STARTING)
        instance.report_engine_event(f"Started process for run (pid: {pid}).", run)
        start = DagsterEvent(event_type_value=DagsterEventType.RUN_START.value, job_name=run.job_name)
        instance.report_dagster_event(start, run.run_id)
        return run

    def test_the_process_of_a_run_is_known(self, instance: DagsterInstance, add_run: AddRun):
        assert process_id(instance, self.started(instance, add_run, 4711).run_id) == 4711

    def test_a_frozen_process_is_killed(
        self, instance: DagsterInstance, add_run: AddRun, child: psutil.Process
    ):
        run = self.started(instance, add_run, child.pid)
        os.kill(child.pid, signal.SIGSTOP)
        wait_until_stopped(child)
        assert kill_if_frozen(instance, run.run_id)
        assert child.wait(timeout=30) is not None or not child.is_running()

    def test_a_process_that_runs_is_asked_and_not_killed(
        self, instance: DagsterInstance, add_run: AddRun, child: psutil.Process
    ):
        run = self.started(instance, add_run, child.pid)
        assert not kill_if_frozen(instance, run.run_id)
        assert child.is_running()

    def test_another_process_under_that_number_is_never_touched(
        self, instance: DagsterInstance, add_run: AddRun
    ):
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        with subprocess.Popen(command) as stranger:
            try:
                run = self.started(instance, add_run, stranger.pid)
                os.kill(stranger.pid, signal.SIGSTOP)
                wait_until_stopped(psutil.Process(stranger.pid))
                assert not kill_if_frozen(instance, run.run_id)
                assert psutil.Process(stranger.pid).status() == psutil.STATUS_STOPPED
            finally:
                stranger.kill()


def wait_until_stopped(process: psutil.Process) -> None:
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
