"""A batch of tasks of one pipeline, worked concurrently under the lease of one execution.

Invariants:
- Each task is completed or failed on its own, the moment it is done. A failing task costs the others nothing.
- A task's follow-ups are in the queue before it is completed, by idempotency key: whatever dies in between,
  the next run of the task submits them again, and no second task comes of it.
- When the lease is lost, or the coordinator says stop, everything is cancelled and nothing more is written:
  no file, no row. What isn't done is the recovery's.
- The execution's timeout is kept from inside: no step is started that can't end in time, and what isn't done
  then is given back with `finish_execution`. So it is when the run is cancelled, and when the batch as such
  can't be worked.
- A database that can't be reached fails no task: the task stays ours, and goes back to the queue with the
  execution.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, Literal

import psutil

from lead_coordinator.database import executions
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import ClaimedTask, Lease, StartedExecution
from lead_coordinator.errors import DatabaseUnavailable, StaleLease
from lead_coordinator.pipelines import report as kinds
from lead_coordinator.pipelines.profile import SiteProfiles
from lead_coordinator.pipelines.report import BatchEvent, BatchReport
from lead_coordinator.pipelines.runtime import TaskHandler
from lead_coordinator.pipelines.task import TaskWorker
from lead_coordinator.providers.base import ModelCaller
from lead_coordinator.settings import Settings

logger = logging.getLogger(__name__)

# What a heartbeat may take that comes after its time, in seconds.
LAST_BEAT_SECONDS = 5.0
# To give back what isn't done before the execution's timeout.
FINISH_SECONDS = 5.0
MAX_CONCURRENCY = 50
MAX_REASON = 2000

OpenCaller = Callable[[AsyncDatabase, Lease], AbstractAsyncContextManager[ModelCaller]]
Listener = Callable[[BatchEvent], None]
Output = Callable[[BatchReport], Mapping[str, Any]]


class _Stopped(Exception):
    """The coordinator says stop; the reason."""


async def run_batch(
    db: AsyncDatabase,
    open_caller: OpenCaller,
    execution: StartedExecution,
    handler: TaskHandler,
    on_event: Listener = lambda event: None,
    *,
    settings: Settings,
    profiles: SiteProfiles | None = None,
    output: Output = BatchReport.output,
    concurrency: int = MAX_CONCURRENCY,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> BatchReport:
    """Works every task of a started execution and closes it; returns what became of them.

    `open_caller(db, lease)` opens the ModelCaller of the run (`providers.factory.open_gateway` with its
    settings). `on_event` is told each event as it happens, and must return quickly. `profiles`: the sites'
    own settings; without them every site has its defaults. `output`: what the execution keeps of the report.

    Returns, with `outcome` lease_lost or stopped, also where the batch had to be dropped; nothing was written
    after that. Cancelled, it gives the tasks back before it raises CancelledError. Other exceptions mean that
    the batch as such couldn't be worked (no provider, no settings); the tasks were given back if the database
    could be reached.
    """
    batch = _Batch(
        db, execution, handler, on_event, settings, profiles or SiteProfiles(), output, concurrency, now
    )
    return await batch.run(open_caller)


def process_memory_mb() -> int:
    """Memory of this process in MB: its proportional share (PSS) where the system tells it, else its resident
    set."""
    process = psutil.Process()
    try:
        share = getattr(process.memory_full_info(), "pss", None)
    except psutil.Error:
        share = None
    return round((process.memory_info().rss if share is None else share) / 1_000_000)


def opened(handler: TaskHandler) -> AbstractAsyncContextManager[Any]:
    """The handler as a context manager, where it is one; else one that does nothing."""
    return handler if isinstance(handler, AbstractAsyncContextManager) else nullcontext()


class _Batch:
    def __init__(
        self,
        db: AsyncDatabase,
        execution: StartedExecution,
        handler: TaskHandler,
        on_event: Listener,
        settings: Settings,
        profiles: SiteProfiles,
        output: Output,
        concurrency: int,
        now: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._execution = execution
        self._lease = execution.lease
        self._lease_expires_at = execution.lease_expires_at
        self._handler = handler
        self._on_event = on_event
        self._output = output
        self._places = asyncio.Semaphore(max(1, concurrency))
        self._now = now
        self._report = BatchReport(self._lease.execution_id, len(execution.tasks), started_at=now())
        self._worker = TaskWorker(
            db,
            self._lease,
            settings,
            profiles,
            self._report,
            self._tell,
            seconds_left=self._seconds_left,
            now=now,
        )

    # ---- the batch -----------------------------------------------------------------------------------------

    async def run(self, open_caller: OpenCaller) -> BatchReport:
        try:
            # Entered and left here, outside of what is cancelled: a handler always gets to end what it began.
            async with opened(self._handler):
                await self._beat_while(self._work(open_caller))
            await self._finish()
        except StaleLease as error:
            self._drop("lease_lost", str(error))
        except _Stopped as error:
            self._drop("stopped", str(error))
        except asyncio.CancelledError:
            await self._give_back("cancelled", "the run was cancelled")
            raise
        except Exception as error:
            await self._give_back("failed", f"{type(error).__name__}: {error}")
            raise
        self._report.ended_at = self._now()
        return self._report

    async def _beat_while(self, working: Any) -> None:
        heart = asyncio.ensure_future(self._beat())
        work = asyncio.ensure_future(working)
        try:
            await asyncio.wait({heart, work}, return_when=asyncio.FIRST_COMPLETED)
            if heart.done():
                heart.result()
            work.result()
        finally:
            # Also when we are cancelled: nothing of the batch may outlive it.
            for task in (heart, work):
                task.cancel()
            await asyncio.gather(heart, work, return_exceptions=True)

    async def _work(self, open_caller: OpenCaller) -> None:
        try:
            async with asyncio.timeout(max(0.0, self._seconds_left())) as limit:
                async with open_caller(self._db, self._lease) as caller:
                    await self._work_all(caller)
        except TimeoutError:
            if not limit.expired():
                raise
            self._tell(
                kinds.OUT_OF_TIME, f"the execution's time is over at {self._execution.timeout_at.isoformat()}"
            )

    async def _work_all(self, caller: ModelCaller) -> None:
        running = [asyncio.ensure_future(self._work_one(caller, task)) for task in self._execution.tasks]
        try:
            # A task's own failures don't come out as exceptions: what does ends the batch.
            await asyncio.gather(*running)
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _work_one(self, caller: ModelCaller, task: ClaimedTask) -> None:
        async with self._places:
            await self._worker.work(self._handler, caller, task)

    async def _beat(self) -> None:
        """Renews the lease until it is lost or we are told to stop; ends only by raising."""
        pause = self._execution.heartbeat_seconds
        while True:
            await asyncio.sleep(pause)
            memory_mb = process_memory_mb()
            self._report.peak_memory_mb = max(self._report.peak_memory_mb, memory_mb)
            try:
                left = (self._lease_expires_at - self._now()).total_seconds()
                # A loop that came late asks all the same: while nobody took over, the lease is still ours.
                async with asyncio.timeout(max(LAST_BEAT_SECONDS, left)):
                    beat = await executions.heartbeat_execution(self._db, self._lease, memory_mb=memory_mb)
            except (DatabaseUnavailable, TimeoutError) as error:
                if self._now() >= self._lease_expires_at:
                    raise StaleLease("the lease ran out without an answer from the database") from None
                self._tell(kinds.DATABASE, f"heartbeat: {error or 'no answer'}")
                pause = min(1.0, self._execution.heartbeat_seconds)
                continue
            self._lease_expires_at = beat.lease_expires_at
            pause = self._execution.heartbeat_seconds
            if beat.stop:
                raise _Stopped(beat.reason or "the coordinator says stop")

    async def _finish(self) -> None:
        report = self._report
        report.ended_at = self._now()
        status = report.execution_status()
        error = None
        if status != "completed":
            error = {"message": "no task was completed", "failures": report.failure_rows()}
        finished = await executions.finish_execution(
            self._db, self._lease, status, output=self._output(report), error=error
        )
        self._tell(
            kinds.FINISHED,
            f"{finished.completed} completed, {finished.failed} failed, {finished.returned} given back",
            data={"status": finished.status, "cost_usd": finished.actual_cost},
        )

    def _drop(self, outcome: Literal["lease_lost", "stopped"], reason: str) -> None:
        self._report.outcome = outcome
        self._report.reason = reason
        self._tell(outcome, reason)

    async def _give_back(self, status: str, reason: str) -> None:
        """Closes the execution so that its tasks are in the queue again at once; otherwise recovery does
        it."""

        async def close() -> None:
            error = {"message": reason[:MAX_REASON]}
            async with asyncio.timeout(FINISH_SECONDS):
                await executions.finish_execution(
                    self._db, self._lease, status, output=self._output(self._report), error=error
                )

        try:
            await asyncio.shield(asyncio.ensure_future(close()))
        except (Exception, asyncio.CancelledError) as error:
            self._tell(kinds.DATABASE, f"recovery will give the tasks back: {type(error).__name__}")
        else:
            self._tell(kinds.GIVEN_BACK, f"{self._report.given_back} tasks given back: {reason}")

    # ---- small things --------------------------------------------------------------------------------------

    def _seconds_left(self) -> float:
        return (self._execution.timeout_at - self._now()).total_seconds() - FINISH_SECONDS

    def _tell(
        self, kind: str, message: str, task_id: int | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        try:
            self._on_event(BatchEvent(kind, message, task_id, data or {}))
        except Exception:
            # Who listens must not decide what becomes of a task.
            logger.exception("the listener of %s failed at %s", self._lease.execution_id, kind)
