"""What became of a batch: events as they happen, and totals that turn themselves into metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from statistics import fmean, quantiles
from typing import Any, Literal, Protocol

EventKind = Literal[
    "step",  # a call was answered
    "published",  # an article is out and its task completed
    "failed",  # a task failed; the queue decided what happens to it
    "given_back",  # a task wasn't finished and goes back to the queue
    "lease_lost",  # the batch isn't ours any more
    "stopped",  # the coordinator told us to stop
    "out_of_time",  # the execution's timeout came
    "database",  # the database couldn't be reached
    "finished",  # the execution is closed
]
Outcome = Literal["finished", "lease_lost", "stopped"]


@dataclass(frozen=True)
class BatchEvent:
    """One thing that happened; `message` is a sentence for a log, `data` the same for a machine."""

    kind: EventKind
    message: str
    task_id: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


class Tell(Protocol):
    """Reports an event of the batch."""

    def __call__(
        self, kind: EventKind, message: str, task_id: int | None = None, data: dict[str, Any] | None = None
    ) -> None: ...


@dataclass(frozen=True)
class PublishedArticle:
    """An article that the batch brought out. `seconds`: from the start of the batch to the completed task.

    `recovered`: an earlier run had published it and died before it could complete the task; nothing was
    written again.
    """

    task_id: int
    slug: str
    url: str
    title: str
    words: int
    score: int
    cost_usd: Decimal
    seconds: float
    recovered: bool = False


@dataclass(frozen=True)
class Failure:
    """A task that failed. `status`: what the queue made of it, deferred (again at `retry_at`) or
    dead_letter."""

    task_id: int
    error_class: str
    message: str
    status: str
    retry_at: datetime | None


@dataclass
class BatchReport:
    """The totals of a run. `outcome`: finished, or ended early because the lease was lost or the run told to
    stop.

    Every task is in exactly one of `published`, `failed` and `given_back`. `cost_usd` adds up the answered
    calls; the ledger in the database also knows what failed calls cost.
    """

    execution_id: str
    tasks: int
    started_at: datetime
    ended_at: datetime | None = None
    outcome: Outcome = "finished"
    reason: str | None = None
    articles: list[PublishedArticle] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    calls: int = 0
    calls_by_provider: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    peak_memory_mb: int = 0

    @property
    def published(self) -> int:
        return len(self.articles)

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    def deferred(self) -> int:
        """Failed tasks that the queue tries again."""
        return sum(failure.status == "deferred" for failure in self.failures)

    @property
    def dead_lettered(self) -> int:
        return sum(failure.status == "dead_letter" for failure in self.failures)

    @property
    def given_back(self) -> int:
        return self.tasks - self.published - self.failed

    @property
    def duration_seconds(self) -> float:
        return 0.0 if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()

    @property
    def written(self) -> list[PublishedArticle]:
        """The articles that this run wrote: without those that an earlier one had published."""
        return [article for article in self.articles if not article.recovered]

    @property
    def cost_per_article_usd(self) -> Decimal | None:
        """Mean cost of what this run wrote; None when it wrote nothing."""
        new = self.written
        return sum((article.cost_usd for article in new), Decimal(0)) / len(new) if new else None

    def execution_status(self) -> Literal["completed", "failed", "cancelled"]:
        """How the execution ends: failed where its tasks failed by themselves and none succeeded.

        A destination that is down, an exhausted budget or a brief that is none are no failures of the
        pipeline: its breaker mustn't open for them. A batch of which no task ended, for lack of time, is
        cancelled.
        """
        if self.published:
            return "completed"
        if any(failure.error_class == "task_error" for failure in self.failures):
            return "failed"
        return "cancelled" if self.given_back and not self.failures else "completed"

    def metadata(self) -> dict[str, int | float | str]:
        """Flat, one key and one unit each, so that it can be plotted; keys without a value are left out."""
        values: dict[str, int | float | str] = {
            "batch_tasks": self.tasks,
            "articles_published": self.published,
            "articles_recovered": sum(article.recovered for article in self.articles),
            "tasks_deferred": self.deferred,
            "tasks_dead_lettered": self.dead_lettered,
            "tasks_given_back": self.given_back,
            "provider_calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "spend_usd": float(self.cost_usd),
            "words": sum(article.words for article in self.articles),
            "duration_seconds": round(self.duration_seconds, 3),
            "peak_memory_mb": self.peak_memory_mb,
        }
        values |= {f"provider_calls_{name}": count for name, count in sorted(self.calls_by_provider.items())}
        new, each = self.written, self.cost_per_article_usd
        if each is not None:
            values["score_mean"] = round(fmean(article.score for article in new), 1)
            values["cost_per_article_usd"] = float(each)
            seconds = sorted(article.seconds for article in new)
            cuts = quantiles(seconds, n=20, method="inclusive") if len(seconds) > 1 else seconds * 19
            values["article_seconds_p50"] = round(cuts[9], 3)
            values["article_seconds_p95"] = round(cuts[18], 3)
        return values

    def output(self) -> dict[str, Any]:
        """The totals as the execution keeps them; money stays exact."""
        each = self.cost_per_article_usd
        return {
            **self.metadata(),
            "spend_usd": self.cost_usd,
            **({} if each is None else {"cost_per_article_usd": each}),
            "articles": [{"task_id": a.task_id, "slug": a.slug, "url": a.url} for a in self.articles],
            "failures": self.failure_rows(),
        }

    def failure_rows(self) -> list[dict[str, Any]]:
        return [asdict(failure) for failure in self.failures]
