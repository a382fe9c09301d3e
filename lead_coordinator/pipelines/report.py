"""What became of a batch: events as they happen, and totals that turn themselves into metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, Protocol

Outcome = Literal["finished", "lease_lost", "stopped"]

# The runtime's own kinds of events. A pipeline may tell further ones, in words of its own.
STEP: Final = "step"  # a call of a model was answered
COMPLETED: Final = "completed"  # a task is done
FAILED: Final = "failed"  # a task failed; the queue decided what happens to it
FOLLOW_UPS: Final = "follow_ups"  # a task's follow-ups aren't wanted now: their type is disabled
GIVEN_BACK: Final = "given_back"  # a task wasn't finished and goes back to the queue
LEASE_LOST: Final = "lease_lost"  # the batch isn't ours any more
STOPPED: Final = "stopped"  # the coordinator told us to stop
OUT_OF_TIME: Final = "out_of_time"  # the execution's timeout came
DATABASE: Final = "database"  # the database couldn't be reached
FINISHED: Final = "finished"  # the execution is closed

# What a person should look at.
WARNINGS: Final = frozenset({FAILED, FOLLOW_UPS, GIVEN_BACK, LEASE_LOST, STOPPED, OUT_OF_TIME, DATABASE})


@dataclass(frozen=True)
class BatchEvent:
    """One thing that happened; `message` is a sentence for a log, `data` the same for a machine."""

    kind: str
    message: str
    task_id: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


class Tell(Protocol):
    """Reports an event of the batch."""

    def __call__(
        self, kind: str, message: str, task_id: int | None = None, data: Mapping[str, Any] | None = None
    ) -> None: ...


@dataclass(frozen=True)
class CallRecord:
    """One call that was answered: which step, by whom, for how many tokens and US dollars."""

    step: str
    call_id: int
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    latency_ms: int


@dataclass(frozen=True)
class CompletedTask:
    """A task that is done, with its result. `seconds`: from the start of the batch to the completed task."""

    task_id: int
    result: Mapping[str, Any]
    seconds: float


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

    Every task is in exactly one of `completed`, `failures` and `given_back`. `cost_usd` adds up the answered
    calls; the ledger in the database also knows what failed calls cost.
    """

    execution_id: str
    tasks: int
    started_at: datetime
    ended_at: datetime | None = None
    outcome: Outcome = "finished"
    reason: str | None = None
    completed: list[CompletedTask] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    calls: int = 0
    calls_by_provider: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    follow_ups: int = 0
    peak_memory_mb: int = 0

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
        return self.tasks - len(self.completed) - self.failed

    @property
    def duration_seconds(self) -> float:
        return 0.0 if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """The results of the completed tasks, in the order in which they were done."""
        return [task.result for task in self.completed]

    def count(self, call: CallRecord) -> None:
        """Adds an answered call to the totals."""
        self.calls += 1
        self.calls_by_provider[call.provider] += 1
        self.input_tokens += call.input_tokens
        self.output_tokens += call.output_tokens
        self.cost_usd += call.cost_usd

    def execution_status(self) -> Literal["completed", "failed", "cancelled"]:
        """How the execution ends: failed where its tasks failed by themselves and none succeeded.

        A destination that is down, an exhausted budget or a task that is none are no failures of the
        pipeline: its breaker mustn't open for them. A batch of which no task ended, for lack of time, is
        cancelled.
        """
        if self.completed:
            return "completed"
        if any(failure.error_class == "task_error" for failure in self.failures):
            return "failed"
        return "cancelled" if self.given_back and not self.failures else "completed"

    def metadata(self) -> dict[str, int | float | str]:
        """Flat, one key and one unit each, so that it can be plotted."""
        values: dict[str, int | float | str] = {
            "batch_tasks": self.tasks,
            "tasks_completed": len(self.completed),
            "tasks_deferred": self.deferred,
            "tasks_dead_lettered": self.dead_lettered,
            "tasks_given_back": self.given_back,
            "follow_ups": self.follow_ups,
            "provider_calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "spend_usd": float(self.cost_usd),
            "duration_seconds": round(self.duration_seconds, 3),
            "peak_memory_mb": self.peak_memory_mb,
        }
        return values | {
            f"provider_calls_{name}": count for name, count in sorted(self.calls_by_provider.items())
        }

    def output(self) -> dict[str, Any]:
        """The totals as the execution keeps them; money stays exact."""
        return {**self.metadata(), "spend_usd": self.cost_usd, "failures": self.failure_rows()}

    def failure_rows(self) -> list[dict[str, Any]]:
        return [asdict(failure) for failure in self.failures]
