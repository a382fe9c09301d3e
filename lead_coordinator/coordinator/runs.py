"""What is asked of Dagster's own records of runs, and nothing else.

The database says whether an execution lives (lease, heartbeat, timeout); Dagster says whether a process was
asked for. Both are needed twice: before an execution is launched again (a run that only waits in the queue
must not get a twin), and after one was recovered (a run that hangs must not live on; it can no longer write,
but it holds memory).
"""

import logging
import re
import threading
from collections.abc import Sequence

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.tags import RUN_KEY_TAG

from lead_coordinator import tags

logger = logging.getLogger(__name__)

STARTED_PROCESS = re.compile(r"Started process for run \(pid: (\d+)\)")

UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.MANAGED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def unfinished_run_of_job(instance: DagsterInstance, job_name: str) -> DagsterRun | None:
    """The newest run of the job that hasn't ended, or None."""
    runs = instance.get_runs(RunsFilter(job_name=job_name, statuses=UNFINISHED), limit=1)
    return runs[0] if runs else None


def unfinished_run_of_execution(instance: DagsterInstance, execution_id: str) -> DagsterRun | None:
    """The newest run that carries the execution's tag and hasn't ended, or None."""
    filters = RunsFilter(tags={tags.EXECUTION_ID: execution_id}, statuses=UNFINISHED)
    runs = instance.get_runs(filters, limit=1)
    return runs[0] if runs else None


def requested_run_keys(instance: DagsterInstance, run_keys: Sequence[str]) -> set[str]:
    """Those of the keys for which Dagster has a run, whatever became of it: a key is used up for ever."""
    if not run_keys:
        return set()
    runs = instance.get_runs(RunsFilter(tags={RUN_KEY_TAG: list(run_keys)}))
    return {run.tags[RUN_KEY_TAG] for run in runs}


def end_run(instance: DagsterInstance, run_id: str | None, reason: str, log: logging.Logger) -> bool:
    """Ends a run whose execution was recovered; True if it was still unfinished.

    Doesn't wait: asking a process that hangs to stop takes up to a minute, and a sensor or a tick that waits
    for it keeps all other work waiting too. Never raises: the execution is already recovered and fenced.
    """
    if not run_id:
        return False
    try:
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if run.status == DagsterRunStatus.QUEUED:
            instance.report_run_canceled(run, reason)
            return True
        threading.Thread(
            target=_terminate,
            args=(instance.get_ref(), run_id, reason),
            name=f"end-run-{run_id}",
            daemon=True,
        ).start()
        return True
    except Exception:
        log.exception("Run %s of a recovered execution could not be ended: %s", run_id, reason)
        return False


def _terminate(reference: InstanceRef, run_id: str, reason: str) -> None:
    """Asks the run's process to stop, and records its end where there is no process any more.

    With an instance of its own: the caller's is closed when its tick is over. Whatever doesn't succeed here
    is left to run monitoring, which ends a run that was asked to stop and didn't (`cancel_timeout_seconds`).
    """
    try:
        with DagsterInstance.from_ref(reference) as instance:
            if kill_if_frozen(instance, run_id) or instance.run_launcher.terminate(run_id):
                return
            run = instance.get_run_by_id(run_id)
            if run is not None and not run.is_finished:
                instance.report_run_canceled(run, reason)
    except Exception:
        logger.warning("Run %s did not stop yet; run monitoring ends it.", run_id, exc_info=True)


def kill_if_frozen(instance: DagsterInstance, run_id: str) -> bool:
    """Kills the run's process if it is stopped (SIGSTOP, a debugger) on this machine; True if it was.

    Such a process can't be asked: Dagster's code server would wait for its answer and launch nothing
    meanwhile. The code server sees that it is gone and records the run as failed. Only what is surely the
    run's process is touched: a child of a code server, born between the run's creation and its start.
    """
    import psutil

    record = instance.get_run_record_by_id(run_id)
    pid = process_id(instance, run_id)
    if record is None or record.start_time is None or pid is None:
        return False
    try:
        process = psutil.Process(pid)
        born = process.create_time()
        ours = "multiprocessing.spawn" in " ".join(process.cmdline())
        in_time = record.create_timestamp.timestamp() - 1 <= born <= record.start_time + 1
        if not (ours and in_time and process.status() == psutil.STATUS_STOPPED):
            return False
        process.kill()
    except psutil.Error:
        return False
    logger.warning("Run %s was frozen: its process %s is killed.", run_id, pid)
    return True


def process_id(instance: DagsterInstance, run_id: str) -> int | None:
    """The process that Dagster's launcher started for the run, from the run's own record; None if it is
    unknown.
    """
    records = instance.get_records_for_run(run_id, of_type=DagsterEventType.ENGINE_EVENT).records
    for record in records:
        found = STARTED_PROCESS.search(record.event_log_entry.get_dagster_event().message or "")
        if found:
            return int(found[1])
    return None
