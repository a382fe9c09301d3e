"""What the dispatch sensor says and asks for: plain functions over what the database answered.

Nothing here decides which work runs; SQL did. These functions turn reserved executions into run requests,
and the figures of the moment into the sentence that a person reads when nothing was started.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from dagster import RunRequest

from lead_coordinator import tags
from lead_coordinator.database.control import Launchable

# Beside the execution's own timeout, which SQL enforces first: what starting and ending a process may take.
RUN_GRACE_SECONDS = 120

# A breaker that cools down or a budget day that begins changes what may run without changing any figure here.
ASK_AGAIN_SECONDS = 20


@dataclass(frozen=True)
class Situation:
    """The figures of one moment. Money in US dollars.

    `queued` and `deferred` count tasks of the types that may be claimed now; `disabled` those that wait for a
    type whose policy is switched off: a bare INSERT may leave such tasks, and the planner can't take them.
    """

    queued: int
    deferred: int
    disabled: int
    slots_busy: int
    slots: int
    budget_used: Decimal
    budget_limit: Decimal
    state: str

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> "Situation":
        """From the answer of `get_platform_status`."""
        executions, budget, enabled = status["executions"], status["budget"], set(status["enabled_types"])
        queue: Mapping[str, Mapping[str, Any]] = status["queue"]
        waiting = {name: (int(counts["queued"]), int(counts["deferred"])) for name, counts in queue.items()}
        return cls(
            queued=sum(queued for name, (queued, _) in waiting.items() if name in enabled),
            deferred=sum(deferred for name, (_, deferred) in waiting.items() if name in enabled),
            disabled=sum(sum(counts) for name, counts in waiting.items() if name not in enabled),
            slots_busy=int(executions["pending"]) + int(executions["running"]),
            slots=int(executions["max_concurrent"]),
            budget_used=Decimal(budget["spent_usd"]) + Decimal(budget["held_usd"]),
            budget_limit=Decimal(budget["limit_usd"]),
            state=str(status["coordinator_state"]),
        )

    @property
    def can_plan(self) -> bool:
        return self.queued > 0 and self.slots_busy < self.slots

    @property
    def money(self) -> str:
        return f"budget {dollars(self.budget_used)} of {dollars(self.budget_limit)} USD held or spent"

    @property
    def slots_sentence(self) -> str:
        return f"{self.slots_busy} of {self.slots} slots busy"

    def nothing_fits(self) -> str:
        """Why nothing is started, in numbers."""
        deferred = f"; {self.deferred} deferred" if self.deferred else ""
        return (
            f"{self.money}; 0 of {self.queued} waiting tasks fit; {self.slots_sentence}"
            f"{deferred}{self._disabled_sentence}"
        )

    def figures(self) -> str:
        return (
            f"{self.queued} tasks wait, {self.deferred} are deferred; {self.slots_sentence}; {self.money}"
            f"{self._disabled_sentence}"
        )

    @property
    def _disabled_sentence(self) -> str:
        return f"; {self.disabled} more wait for a disabled type" if self.disabled else ""


@dataclass(frozen=True)
class Planning:
    """What the planner said last, and about what: the dispatch sensor's cursor.

    Every call of the planner is a decision on record. Where nothing could run and nothing has changed since,
    asking again every five seconds would only fill that record: it is asked again after `ASK_AGAIN_SECONDS`.
    """

    about: str = ""
    said: str = ""
    at: datetime | None = None

    @classmethod
    def read(cls, cursor: str | None) -> "Planning":
        if not cursor:
            return cls()
        fields = json.loads(cursor)
        at = fields["at"]
        return cls(fields["about"], fields["said"], None if at is None else datetime.fromisoformat(at))

    @classmethod
    def after(cls, situation: Situation, decision: Mapping[str, Any], now: datetime) -> "Planning":
        """Nothing to remember where something was dispatched: the next question is a new one."""
        if workflows_dispatched(decision):
            return cls()
        return cls(
            about=situation.nothing_fits(), said=str(decision.get("reason") or "nothing may run now"), at=now
        )

    def is_due(self, situation: Situation, now: datetime) -> bool:
        if self.at is None or self.about != situation.nothing_fits():
            return True
        return (now - self.at).total_seconds() >= ASK_AGAIN_SECONDS

    def write(self) -> str:
        return json.dumps({"about": self.about, "said": self.said, "at": self.at and self.at.isoformat()})


def workflows_dispatched(decision: Mapping[str, Any]) -> int:
    """`workflows_dispatched` of a decision; 0 where it is missing because nothing was decided."""
    return int(decision.get("workflows_dispatched") or 0)


def dollars(amount: Decimal) -> str:
    """Whole dollars where there are many, cents where they matter: 431, 12.50, 0.0042."""
    if amount == amount.to_integral_value():
        return str(int(amount))
    if amount >= 1:
        return f"{amount:.2f}"
    return f"{amount:.4f}"


def run_request(launchable: Launchable, timeout_seconds: int) -> RunRequest:
    """The request for one reserved execution. The same row always makes the same request and run key."""
    pipeline = tags.PIPELINE_OF_WORKFLOW[launchable.workflow_type]
    return RunRequest(
        run_key=launchable.run_key,
        job_name=pipeline.job,
        run_config={
            "ops": {
                pipeline.op: {
                    "config": {
                        "execution_id": launchable.execution_id,
                        "launch_number": launchable.launch_number,
                    }
                }
            }
        },
        tags={
            tags.EXECUTION_ID: launchable.execution_id,
            tags.WORKFLOW_TYPE: launchable.workflow_type,
            tags.ATTEMPT: str(launchable.launch_number),
            tags.PRIORITY: str(launchable.priority_score),
            tags.MAX_RUNTIME: str(timeout_seconds + RUN_GRACE_SECONDS),
        },
    )


def without_pipeline(rows: Sequence[Launchable]) -> list[str]:
    """Workflow types among the rows that no job here works."""
    return sorted({row.workflow_type for row in rows} - tags.PIPELINE_OF_WORKFLOW.keys())
