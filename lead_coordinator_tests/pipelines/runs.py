"""A handler that does what a test says, and what a run needs around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.executions import ClaimedTask, Lease, StartedExecution, start_execution
from lead_coordinator.pipelines.batch import run_batch
from lead_coordinator.pipelines.report import BatchReport
from lead_coordinator.pipelines.runtime import TaskOutcome, TaskRun
from lead_coordinator.providers.base import CallRequest, CallResult, Message, Usage
from lead_coordinator.settings import Settings

Work = Callable[[TaskRun, ClaimedTask], Awaitable[TaskOutcome]]


class Answer(BaseModel):
    text: str = "an answer"


QUESTION = CallRequest("look", (Message("user", "well?"),), Answer, 100)


class Caller:
    """A ModelCaller that answers every question with the same."""

    async def call(self, task_id: int, request: CallRequest) -> CallResult:
        return CallResult(
            value=Answer(),
            provider="gemini",
            model="scripted",
            usage=Usage(input_tokens=10, output_tokens=5),
            cost_usd=Decimal("0.01"),
            latency_ms=3,
            call_id=task_id * 100,
        )


@asynccontextmanager
async def open_caller(db: AsyncDatabase, lease: Lease) -> AsyncIterator[Caller]:
    yield Caller()


class Handler:
    """Works a task as `work` says; without it, its payload is its result."""

    def __init__(self, work: Work | None = None) -> None:
        self._work = work

    async def work(self, run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        return TaskOutcome(dict(task.payload)) if self._work is None else await self._work(run, task)


def submit(db: Database, count: int = 1, task_type: str = "seo_analysis", **payload: Any) -> list[int]:
    return [
        db.call("submit_task", task_type=task_type, payload=payload | {"number": number})["task_id"]
        for number in range(count)
    ]


async def start(db: AsyncDatabase) -> StartedExecution:
    """Has the coordinator plan, and starts the first execution that it offers, as a run does."""
    decision = await db.call("orchestrate_workflow_execution", worker_id="test")
    offered = await db.call_rows("launchable_executions")
    assert offered, f"the coordinator reserves an execution for the waiting tasks; it said {decision}"
    return await start_execution(db, offered[0]["execution_id"], offered[0]["launch_number"], "run-1")


async def work_off(db: AsyncDatabase, handler: Any, **more: Any) -> BatchReport:
    """One batch with the handler."""
    more = {"settings": Settings.load({})} | more
    return await run_batch(db, open_caller, await start(db), handler, **more)
