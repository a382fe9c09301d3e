"""The asset `articles`: a thin face over `worker.run_batch`.

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

The SDKs of the providers are imported here when a run starts and nowhere else: loading the definitions must
stay quick.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetSpec,
    Config,
    DagsterExecutionInterruptedError,
    Failure,
    MaterializeResult,
    multi_asset,
)
from pydantic import Field

from lead_coordinator import tags
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import start_execution
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.errors import NotFound, StaleLease
from lead_coordinator.metadata import markdown_table
from lead_coordinator.pipelines.watchdog import ended_if_hung
from lead_coordinator.settings import Settings

if TYPE_CHECKING:
    from lead_coordinator.pipelines.content.report import BatchEvent, BatchReport

T = TypeVar("T")

HOW_TO_SUBMIT = (
    "This job works executions that the coordinator has reserved; it can't be started or re-executed by "
    "hand. Submit the work instead: `lead-coordinator submit topics.csv`, or in SQL "
    "`SELECT submit_task('content_generation', '{\"title\": \"…\"}')`. A run follows within seconds."
)

articles_spec = AssetSpec(
    "articles",
    deps=[AssetKey("executions")],
    description="Articles that were written from briefs and published to the site: Markdown with front "
    "matter and HTML, each published once. One materialisation is one batch.",
    group_name=tags.GROUP_CONTENT,
    owners=[tags.OWNER_CONTENT],
    kinds={"python", "gemini", "openai", "markdown"},
    skippable=True,
)


class ContentBatchConfig(Config):
    """Which reserved execution to work; filled in by `dispatch_sensor`."""

    execution_id: str = Field(
        default="", description="The reserved execution, e.g. content-20261124T053000-4f2a9c1b."
    )
    launch_number: int = Field(
        default=0, ge=0, description="Which launch of it this is; an older one is refused."
    )


@multi_asset(name=tags.CONTENT_OP, specs=[articles_spec])
def work_content_batch(
    context: AssetExecutionContext, config: ContentBatchConfig, database: DatabaseResource
) -> Iterator[MaterializeResult[None]]:
    """Works one batch of content tasks to published articles."""
    if not config.execution_id:
        raise Failure(HOW_TO_SUBMIT, allow_retries=False)
    try:
        with cancelled_by_interrupt() as start:
            report = asyncio.run(start(work(context, config, database.url, Settings.load())))
    except (StaleLease, NotFound) as refused:
        raise Failure(f"{refused} {HOW_TO_SUBMIT}", allow_retries=False) from None
    except asyncio.CancelledError:
        raise DagsterExecutionInterruptedError from None
    if report.articles:
        yield MaterializeResult(asset_key="articles", metadata=articles_metadata(report))
    if report.outcome != "finished":
        raise Failure(
            f"{report.execution_id} ended early ({report.outcome}): {report.reason}. Its unfinished tasks go "
            "back to the queue.",
            metadata=report.metadata(),
            allow_retries=False,
        )


async def work(
    context: AssetExecutionContext, config: ContentBatchConfig, url: str, settings: Settings
) -> "BatchReport":
    """Takes the execution over and works it. Raises `StaleLease` or `NotFound` where it isn't this run's to
    work.
    """
    from lead_coordinator.pipelines.content.site import StaticSite
    from lead_coordinator.pipelines.content.worker import process_memory_mb, run_batch
    from lead_coordinator.providers.factory import build_providers, open_gateway

    # Before the lease begins: importing the SDKs keeps the loop, and with it the heartbeat, for seconds.
    providers = build_providers(settings)
    async with AsyncDatabase(url) as db:
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
                StaticSite(settings.site_dir, settings.site_url),
                lambda event: tell(context, event),
                sandbox=settings.use_sandbox,
            )


def tell(context: AssetExecutionContext, event: "BatchEvent") -> None:
    """What a person wants to read of a run. Not each call of each task: a line here is a row in Dagster's
    event log.
    """
    if event.kind == "step":
        return
    level = "info" if event.kind in ("published", "finished") else "warning"
    task = "" if event.task_id is None else f"task {event.task_id}: "
    getattr(context.log, level)(f"{event.kind}: {task}{event.message}")


def articles_metadata(report: "BatchReport") -> dict[str, Any]:
    """The batch's figures, and its articles as a table with links."""
    rows = [
        {
            "title": f"[{link_text(article.title)}]({article.url})",
            "words": article.words,
            "score": article.score,
            "cost": article.cost_usd,
            "seconds": round(article.seconds, 1),
            "task": article.task_id,
        }
        for article in report.articles
    ]
    columns = {
        "title": "article",
        "words": "words",
        "score": "score",
        "cost": "cost (USD)",
        "seconds": "seconds",
        "task": "task",
    }
    return {
        **report.metadata(),
        "execution_id": report.execution_id,
        "articles": markdown_table(rows, columns),
    }


def link_text(title: str) -> str:
    return title.replace("[", "(").replace("]", ")")


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
