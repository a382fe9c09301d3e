"""One content task of a batch, from its payload to its end.

It ends completed, failed (the queue decides by the error's class what happens then), or not at all: for lack
of time, or because the database couldn't be reached, it stays held and goes back to the queue with the
execution. Only a lost lease comes out as an exception: that ends the batch.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from lead_coordinator.database import executions
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import ClaimedTask, Lease
from lead_coordinator.errors import DatabaseUnavailable, StaleLease, TaskError
from lead_coordinator.pipelines.content.article import QualityPolicy, quality_problems
from lead_coordinator.pipelines.content.brief import Brief, parse_brief
from lead_coordinator.pipelines.content.publish import Publisher
from lead_coordinator.pipelines.content.report import BatchReport, Failure, PublishedArticle, Tell
from lead_coordinator.pipelines.content.steps import StepRecord, Written, write_article
from lead_coordinator.providers.base import ModelCaller

COMPLETE_PAUSES_SECONDS = (0.2, 1.0, 3.0)
MAX_MESSAGE = 2000


class QualityProblem(TaskError):
    """The article isn't good enough to be published; the sentence holds the reasons."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the article " + "; ".join(problems))
        self.problems = problems


class OutOfTime(Exception):
    """The task can't be finished within the execution's time: it goes back to the queue."""


class TaskWorker:
    """Works single tasks of one run, many at once. `check_time` is told each step and may raise OutOfTime."""

    def __init__(
        self,
        db: AsyncDatabase,
        lease: Lease,
        publisher: Publisher,
        report: BatchReport,
        tell: Tell,
        *,
        policy: QualityPolicy,
        sandbox: bool,
        check_time: Callable[[str], None],
        now: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._lease = lease
        self._publisher = publisher
        self._report = report
        self._tell = tell
        self._policy = policy
        self._sandbox = sandbox
        self._check_time = check_time
        self._now = now

    async def work(self, caller: ModelCaller, task: ClaimedTask) -> None:
        """Completes or fails the task, or leaves it held. Raises StaleLease, and nothing else."""
        calls: list[StepRecord] = []
        try:
            try:
                await self._make_article(caller, task, calls)
            except (StaleLease, DatabaseUnavailable):
                raise
            except OutOfTime as error:
                self._tell("given_back", str(error), task.task_id)
            except Exception as error:
                await self._fail(task, error, calls)
        except DatabaseUnavailable as error:
            self._tell("database", f"the task goes back to the queue: {error}", task.task_id)

    async def _make_article(self, caller: ModelCaller, task: ClaimedTask, calls: list[StepRecord]) -> None:
        brief = parse_brief(task.payload)
        if await self._complete_if_published(task, brief):
            return
        written = await write_article(
            caller,
            task.task_id,
            brief,
            before_step=self._check_time,
            after_step=lambda record: self._count(task.task_id, record, calls),
        )
        article = written.article
        if problems := quality_problems(article, self._policy):
            raise QualityProblem(problems)
        row = await self._publisher.publish(task.task_id, brief.site, article, _provenance(written))
        assert row.url is not None
        result = {
            "site": brief.site,
            "slug": row.slug,
            "url": row.url,
            "title": article.title,
            "words": article.words,
            "score": article.score,
            "cost_usd": written.cost_usd,
            "calls": len(written.calls),
            "providers": written.providers,
            "models": written.models,
            "prompt_versions": written.prompt_versions,
            "sandbox": self._sandbox,
            "steps": [asdict(record) for record in written.calls],
            "issues": [asdict(issue) for issue in article.issues],
            "repairs": list(article.repairs),
        }
        await self._complete(task, result)
        self._published(task, result)

    async def _complete_if_published(self, task: ClaimedTask, brief: Brief) -> bool:
        """A run that died between publishing and completing left only the completing to do."""
        found = await self._db.call("get_task", task_id=task.task_id)
        row = (found or {}).get("publication")
        if not row or row["status"] != "published":
            return False
        await self._publisher.refresh(brief.site)
        details = row["details"]
        result = {
            "site": row["site"],
            "slug": row["slug"],
            "url": row["url"],
            "title": row["title"],
            "words": details.get("words", 0),
            "score": details.get("score", 0),
            "cost_usd": Decimal(0),
            "calls": 0,
            "recovered": True,
        }
        await self._complete(task, result)
        self._published(task, result)
        return True

    async def _complete(self, task: ClaimedTask, result: dict[str, Any]) -> None:
        for pause in (*COMPLETE_PAUSES_SECONDS, None):
            try:
                # Repeated under the same lease it changes nothing, so an answer that got lost does no harm.
                await executions.complete_task(self._db, self._lease, task.task_id, result)
                return
            except DatabaseUnavailable:
                if pause is None:
                    raise
                await asyncio.sleep(pause)

    async def _fail(self, task: ClaimedTask, error: Exception, calls: list[StepRecord]) -> None:
        known = isinstance(error, TaskError)
        error_class = error.error_class if isinstance(error, TaskError) else "task_error"
        message = (str(error) if known else f"{type(error).__name__}: {error}")[:MAX_MESSAGE]
        context: dict[str, Any] = {
            "exception": type(error).__name__,
            "attempt": task.attempt,
            "steps": [asdict(record) for record in calls],
        }
        if isinstance(error, QualityProblem):
            context["problems"] = error.problems[:50]
        if not known:
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
        self._tell("failed", f"{failed.status}: {message}", task.task_id, asdict(failure))

    def _count(self, task_id: int, record: StepRecord, calls: list[StepRecord]) -> None:
        calls.append(record)
        report = self._report
        report.calls += 1
        report.calls_by_provider[record.provider] += 1
        report.input_tokens += record.input_tokens
        report.output_tokens += record.output_tokens
        report.cost_usd += record.cost_usd
        message = f"{record.step} by {record.model}: {record.latency_ms} ms, {record.cost_usd:.6f} USD"
        self._tell("step", message, task_id, asdict(record))

    def _published(self, task: ClaimedTask, result: dict[str, Any]) -> None:
        article = PublishedArticle(
            task_id=task.task_id,
            slug=result["slug"],
            url=result["url"],
            title=result["title"],
            words=result["words"],
            score=result["score"],
            cost_usd=result["cost_usd"],
            seconds=(self._now() - self._report.started_at).total_seconds(),
            recovered="recovered" in result,
        )
        self._report.articles.append(article)
        self._tell("published", f"{article.title!r} at {article.url}", task.task_id, asdict(article))


def _provenance(written: Written) -> dict[str, Any]:
    """For the front matter: plain values, money as text."""
    return {
        "models": written.models,
        "providers": written.providers,
        "prompts": list(written.prompt_versions.values()),
        "cost_usd": str(written.cost_usd),
    }
