"""What a pipeline is made of: a handler that turns one task into an outcome, and what it is given for that.

A handler knows nothing of leases that run out, heartbeats, retries or the end of a batch: `batch.py` and
`task.py` keep those for all pipelines. It raises a `TaskError` where the task can't be done (its class
decides whether the queue tries again), `OutOfTime` through `TaskRun.check_time` where it can't be done in
time, and never catches `StaleLease`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import ClaimedTask, Lease
from lead_coordinator.database.queue import NewTask
from lead_coordinator.pipelines.profile import SiteProfiles
from lead_coordinator.pipelines.report import STEP, CallRecord, Tell
from lead_coordinator.providers.base import CallRequest, CallResult, ModelCaller
from lead_coordinator.settings import Settings

# A result lies in the task's row, which is read with it.
MAX_RESULT_BYTES = 64_000


class OutOfTime(Exception):
    """The task can't be finished within the execution's time: it goes back to the queue."""


@dataclass(frozen=True)
class TaskOutcome:
    """What a completed task leaves. `result`: JSON-able, under 64 kB. `message`: a sentence for the log.

    `follow_ups` are submitted before the task completes. Each has an idempotency key: a run that dies between
    the two submits them again, and nothing is done twice.
    """

    result: Mapping[str, Any]
    follow_ups: Sequence[NewTask] = ()
    message: str = ""

    def __post_init__(self) -> None:
        for task in self.follow_ups:
            if not task.idempotency_key:
                raise ValueError(f"follow_ups: the {task.task_type} task has no idempotency_key")


@dataclass(frozen=True)
class TaskRun:
    """One task's way through a run. `db`, `lease`, `settings` are those of the batch.

    `profiles` are the site profiles as they were when the run began. `calls` holds the record of each call
    that `caller` answered for this task.
    """

    db: AsyncDatabase
    lease: Lease
    caller: ModelCaller
    settings: Settings
    profiles: SiteProfiles
    calls: list[CallRecord]
    task_id: int
    seconds_left: Callable[[], float]
    now: Callable[[], datetime]
    tell_batch: Tell = field(repr=False)

    def check_time(self, step: str, seconds: float) -> None:
        """Raises `OutOfTime` where less than `seconds` are left: the step isn't started then."""
        left = self.seconds_left()
        if left < seconds:
            raise OutOfTime(f"{max(0.0, left):.0f} s are left, step {step} may take {seconds:.0f}")

    def tell(self, kind: str, message: str, data: Mapping[str, Any] | None = None) -> None:
        """Tells an event of this task: a line in the run's log. Sparingly: each is a row in Dagster."""
        self.tell_batch(kind, message, self.task_id, data)


class TaskHandler(Protocol):
    """Works the tasks of one run, many at once, on one event loop.

    A handler may be an async context manager: it is entered before the first task and left after the last,
    whatever becomes of the batch. Entering must be quick: the lease isn't renewed meanwhile.
    """

    async def work(self, run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        """The outcome of one task, or an exception that says why there is none."""
        ...


class RecordedCaller:
    """A ModelCaller that writes down each answered call and tells it."""

    def __init__(
        self, caller: ModelCaller, calls: list[CallRecord], count: Callable[[CallRecord], None], tell: Tell
    ):
        self._caller = caller
        self._calls = calls
        self._count = count
        self._tell = tell

    async def call(self, task_id: int, request: CallRequest) -> CallResult:
        answer = await self._caller.call(task_id, request)
        record = CallRecord(
            step=request.step,
            call_id=answer.call_id,
            provider=answer.provider,
            model=answer.model,
            input_tokens=answer.usage.input_tokens,
            output_tokens=answer.usage.output_tokens,
            cost_usd=answer.cost_usd,
            latency_ms=answer.latency_ms,
        )
        self._calls.append(record)
        self._count(record)
        message = f"{record.step} by {record.model}: {record.latency_ms} ms, {record.cost_usd:.6f} USD"
        self._tell(STEP, message, task_id, vars(record))
        return answer
