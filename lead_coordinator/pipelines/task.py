"""One task of a batch, from its payload to its end.

It ends completed, failed (the queue decides by the error's class what happens then), or not at all: for lack
of time, or because the database couldn't be reached, it stays held and goes back to the queue with the
execution. Only a lost lease comes out as an exception: that ends the batch.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from lead_coordinator.database import executions, json
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import ClaimedTask, Lease
from lead_coordinator.database.queue import NewTask
from lead_coordinator.errors import DatabaseUnavailable, StaleLease, TaskError, TypeDisabled
from lead_coordinator.pipelines import report as kinds
from lead_coordinator.pipelines.profile import SiteProfiles
from lead_coordinator.pipelines.report import BatchReport, CallRecord, CompletedTask, Failure, Tell
from lead_coordinator.pipelines.runtime import (
    MAX_RESULT_BYTES,
    OutOfTime,
    RecordedCaller,
    TaskHandler,
    TaskOutcome,
    TaskRun,
)
from lead_coordinator.providers.base import ModelCaller
from lead_coordinator.settings import Settings

PAUSES_SECONDS = (0.2, 1.0, 3.0)
MAX_MESSAGE = 2000

T = TypeVar("T")


class TaskWorker:
    """Works single tasks of one run, many at once."""

    def __init__(
        self,
        db: AsyncDatabase,
        lease: Lease,
        settings: Settings,
        profiles: SiteProfiles,
        report: BatchReport,
        tell: Tell,
        *,
        seconds_left: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._lease = lease
        self._settings = settings
        self._profiles = profiles
        self._report = report
        self._tell = tell
        self._seconds_left = seconds_left
        self._now = now

    async def work(self, handler: TaskHandler, caller: ModelCaller, task: ClaimedTask) -> None:
        """Completes or fails the task, or leaves it held. Raises StaleLease, and nothing else."""
        calls: list[CallRecord] = []
        try:
            try:
                outcome = await handler.work(self._run(caller, task, calls), task)
                result = checked_result(outcome)
                await self._submit(task, outcome.follow_ups)
                # Repeated under the same lease it changes nothing, so an answer that got lost does no harm.
                await repeated(lambda: executions.complete_task(self._db, self._lease, task.task_id, result))
                self._done(task, outcome)
            except (StaleLease, DatabaseUnavailable):
                raise
            except OutOfTime as error:
                self._tell(kinds.GIVEN_BACK, str(error), task.task_id)
            except Exception as error:
                await self._fail(task, error, calls)
        except DatabaseUnavailable as error:
            self._tell(kinds.DATABASE, f"the task goes back to the queue: {error}", task.task_id)

    def _run(self, caller: ModelCaller, task: ClaimedTask, calls: list[CallRecord]) -> TaskRun:
        return TaskRun(
            db=self._db,
            lease=self._lease,
            caller=RecordedCaller(caller, calls, self._report.count, self._tell),
            settings=self._settings,
            profiles=self._profiles,
            calls=calls,
            task_id=task.task_id,
            seconds_left=self._seconds_left,
            now=self._now,
            tell_batch=self._tell,
        )

    async def _submit(self, task: ClaimedTask, follow_ups: Sequence[NewTask]) -> None:
        """Puts the follow-ups into the queue. A type that an operator has disabled gets none, and that is no
        failure of the task."""
        by_type: dict[str, list[NewTask]] = defaultdict(list)
        for follow_up in follow_ups:
            by_type[follow_up.task_type].append(follow_up)
        for task_type, tasks in sorted(by_type.items()):
            objects = [one.as_parameters() for one in tasks]
            try:
                answer = await repeated(partial(self._db.call, "submit_tasks", tasks=objects))
            except TypeDisabled as error:
                self._tell(
                    kinds.FOLLOW_UPS, f"{len(tasks)} of {task_type} not submitted: {error}", task.task_id
                )
            else:
                self._report.follow_ups += int(answer["submitted"])

    def _done(self, task: ClaimedTask, outcome: TaskOutcome) -> None:
        seconds = (self._now() - self._report.started_at).total_seconds()
        self._report.completed.append(CompletedTask(task.task_id, outcome.result, seconds))
        self._tell(kinds.COMPLETED, outcome.message or "done", task.task_id, outcome.result)

    async def _fail(self, task: ClaimedTask, error: Exception, calls: list[CallRecord]) -> None:
        known = isinstance(error, TaskError)
        error_class = error.error_class if isinstance(error, TaskError) else "task_error"
        message = (str(error) if known else f"{type(error).__name__}: {error}")[:MAX_MESSAGE]
        context: dict[str, Any] = {
            "exception": type(error).__name__,
            "attempt": task.attempt,
            "steps": [asdict(record) for record in calls],
        }
        if isinstance(error, TaskError):
            context |= error.facts()
        else:
            context["traceback"] = "".join(traceback.format_exception(error))[-MAX_MESSAGE:]
        failed = await executions.fail_task(
            self._db,
            self._lease,
            task.task_id,
            error_class,
            message,
            error_context=context,
            retry_after_ms=error.retry_after_ms if isinstance(error, TaskError) else None,
        )
        failure = Failure(task.task_id, error_class, message, failed.status, failed.retry_at)
        self._report.failures.append(failure)
        self._tell(kinds.FAILED, f"{failed.status}: {message}", task.task_id, asdict(failure))


async def repeated(call: Callable[[], Awaitable[T]]) -> T:
    """What the call answers, asked again where the database couldn't be reached: for calls that may be
    repeated. Raises DatabaseUnavailable in the end."""
    for pause in PAUSES_SECONDS:
        try:
            return await call()
        except DatabaseUnavailable:
            await asyncio.sleep(pause)
    return await call()


def checked_result(outcome: TaskOutcome) -> dict[str, Any]:
    """The result as the queue keeps it. ValueError where it is too large to lie in a row."""
    result = dict(outcome.result)
    size = len(json.dumps(result))
    if size > MAX_RESULT_BYTES:
        raise ValueError(f"result is {size} bytes of JSON; at most {MAX_RESULT_BYTES} are allowed")
    return result
