"""The Dagster face of a pipeline: an asset whose materialisation works one reserved batch, and its job.

The run takes its execution over first thing (`start_execution`), works the batch, and ends. A task that
fails is the queue's business and doesn't fail the run: the run fails only when the batch itself couldn't be
worked. Whatever happens to the process, the database gets the work back: the lease ends 30 seconds after the
last heartbeat.

What may happen:
- Started by hand, or re-executed: there is no reserved execution for it. Refused, with how to submit
  instead.
- The lease is lost in mid-batch: the run stops at once, writes nothing more and fails, so that it shows.
- Cancelled in the UI: tasks that aren't done go back to the queue.
- The process hangs and no signal reaches it: a watchdog thread ends it. Recovery has given its work away by
  then and its fencing number is old, so nothing is lost and nothing is done twice.

The SDKs of the providers and the pipeline's own logic are imported when a run starts and nowhere else:
loading the definitions must stay quick.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dagster import (
    AssetExecutionContext,
    AssetMaterialization,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    Config,
    DagsterExecutionInterruptedError,
    Failure,
    MaterializeResult,
    define_asset_job,
    in_process_executor,
    multi_asset,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from lead_coordinator import tags
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import start_execution
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.errors import NotFound, StaleLease
from lead_coordinator.pipelines.watchdog import ended_if_hung
from lead_coordinator.settings import Settings

if TYPE_CHECKING:
    from lead_coordinator.pipelines.report import BatchEvent, BatchReport
    from lead_coordinator.pipelines.runtime import TaskHandler

T = TypeVar("T")

# For a run without a tag of its own; the dispatch sensor gives each run its execution's timeout and some
# grace.
MAX_RUNTIME_SECONDS = 600


@dataclass(frozen=True)
class Logic:
    """A pipeline's domain logic, loaded in a run's process. `metadata` and `output` turn the batch's report
    into what the asset shows and what the execution keeps. `further`: assets without an op of their own that
    the batch changed too, by name, each with its metadata."""

    handler: "Callable[[Settings], TaskHandler]"
    metadata: "Callable[[BatchReport], Mapping[str, Any]]"
    output: "Callable[[BatchReport], Mapping[str, Any]]"
    further: "Callable[[BatchReport], Mapping[str, Mapping[str, Any]]]" = lambda report: {}


@dataclass(frozen=True)
class Face:
    """A pipeline as Dagster sees it. `load` imports its logic. `works`: what its job does, for the UI.
    `submit`: an example of how its work is submitted."""

    pipeline: tags.Pipeline
    spec: AssetSpec
    load: Callable[[], Logic]
    works: str
    submit: str

    @property
    def how_to_submit(self) -> str:
        return (
            "This job works executions that the coordinator has reserved; it can't be started or re-executed "
            f"by hand. Submit the work instead: {self.submit}. A run follows within seconds."
        )


class BatchConfig(Config):
    """Which reserved execution to work; filled in by `dispatch_sensor`."""

    execution_id: str = Field(
        default="", description="The reserved execution, e.g. content-20261124T053000-4f2a9c1b."
    )
    launch_number: int = Field(
        default=0, ge=0, description="Which launch of it this is; an older one is refused."
    )


def pipeline_asset(face: Face) -> AssetsDefinition:
    """The asset that a run of the pipeline materialises: once a batch, with the batch's figures."""

    @multi_asset(
        name=face.pipeline.op, specs=[face.spec], description=f"Works one reserved batch: {face.works}."
    )
    def work_batch(
        context: AssetExecutionContext, config: BatchConfig, database: DatabaseResource
    ) -> Iterator[MaterializeResult[None]]:
        if not config.execution_id:
            raise Failure(face.how_to_submit, allow_retries=False)
        logic = face.load()
        try:
            with cancelled_by_interrupt() as start:
                report = asyncio.run(start(work(context, config, database.url, Settings.load(), logic)))
        except (StaleLease, NotFound) as refused:
            raise Failure(f"{refused} {face.how_to_submit}", allow_retries=False) from None
        except asyncio.CancelledError:
            raise DagsterExecutionInterruptedError from None
        if report.completed:
            shown = {**logic.metadata(report), "execution_id": report.execution_id}
            yield MaterializeResult(asset_key=face.spec.key, metadata=shown)
            for name, details in logic.further(report).items():
                context.log_event(
                    AssetMaterialization(name, metadata={**details, "execution_id": report.execution_id})
                )
        if report.outcome != "finished":
            raise Failure(
                f"{report.execution_id} ended early ({report.outcome}): {report.reason}. Its unfinished "
                "tasks go back to the queue.",
                metadata=report.metadata(),
                allow_retries=False,
            )

    return work_batch


def pipeline_job(face: Face) -> UnresolvedAssetJobDefinition:
    """The job of which each run works one batch, in one process.

    A process a run and not a process a step: a run costs seconds of CPU to start as it is, and the batch
    inside is worked concurrently by asyncio. Retries belong to the queue, task by task, so the job has none.
    """
    return define_asset_job(
        name=face.pipeline.job,
        selection=AssetSelection.assets(face.spec.key),
        description=f"Works a reserved batch: {face.works}. Started by `dispatch_sensor` for executions that "
        f"are reserved in the database, never by hand. To submit work: {face.submit}; a run follows within "
        "seconds.",
        executor_def=in_process_executor,
        run_tags={tags.MAX_RUNTIME: str(MAX_RUNTIME_SECONDS)},
        tags={"lead/component": "pipeline"},
        owners=list(face.spec.owners),
    )


async def work(
    context: AssetExecutionContext, config: BatchConfig, url: str, settings: Settings, logic: Logic
) -> "BatchReport":
    """Takes the execution over and works it. Raises `StaleLease` or `NotFound` where it isn't this run's to
    work.
    """
    from lead_coordinator.database.sites import alist_sites
    from lead_coordinator.pipelines.batch import process_memory_mb, run_batch
    from lead_coordinator.pipelines.profile import SiteProfiles
    from lead_coordinator.providers.factory import build_providers, open_gateway

    # Before the lease begins: importing the SDKs keeps the loop, and with it the heartbeat, for seconds.
    providers = build_providers(settings)
    handler = logic.handler(settings)
    async with AsyncDatabase(url) as db:
        profiles = SiteProfiles(await alist_sites(db))
        execution = await start_execution(
            db, config.execution_id, config.launch_number, context.run.run_id, memory_mb=process_memory_mb()
        )
        context.log.info(
            f"{config.execution_id}: {len(execution.tasks)} tasks, until {execution.timeout_at}."
        )
        with ended_if_hung(execution.timeout_at):
            return await run_batch(
                db,
                lambda db, lease: open_gateway(db, lease, settings, providers=providers),
                execution,
                handler,
                lambda event: tell(context, event),
                settings=settings,
                profiles=profiles,
                output=logic.output,
            )


def tell(context: AssetExecutionContext, event: "BatchEvent") -> None:
    """What a person wants to read of a run. Not each call of each task: a line here is a row in Dagster's
    event log.
    """
    from lead_coordinator.pipelines.report import STEP, WARNINGS

    if event.kind == STEP:
        return
    level = "warning" if event.kind in WARNINGS else "info"
    task = "" if event.task_id is None else f"task {event.task_id}: "
    getattr(context.log, level)(f"{event.kind}: {task}{event.message}")


@contextmanager
def cancelled_by_interrupt() -> Iterator[Callable[[Coroutine[Any, Any, T]], Coroutine[Any, Any, T]]]:
    """Turns the interrupt by which Dagster cancels a run into the cancellation of the coroutine, which then
    cleans up.

    Dagster's own handler raises wherever the main thread is at that moment; inside a callback of the event
    loop that would be logged and forgotten.
    """
    before = signal.getsignal(signal.SIGINT)

    async def cancellable(coroutine: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(coroutine)
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
        return await task

    try:
        yield cancellable
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
