"""Plays the part of runs and providers against the real SQL, for tests: a task from submission to its end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from lead_coordinator.database.connection import Database

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@dataclass
class Run:
    """A started execution: what a pipeline run holds."""

    execution_id: str
    fence: int
    task_ids: list[int]


@dataclass
class Play:
    """The control plane, and a clock that only moves when a test moves it."""

    db: Database
    now: datetime = NOON

    def pass_time(self, **span: float) -> datetime:
        self.now += timedelta(**span)
        return self.now

    def call(self, function: str, **params: Any) -> Any:
        return self.db.call(function, **params)

    def submit(self, count: int = 1, task_type: str = "content_generation", **fields: Any) -> list[int]:
        tasks = [{"task_type": task_type, "payload": {"n": n}, **fields} for n in range(count)]
        answer = self.call("submit_tasks", tasks=tasks, current_time=self.now)
        return [task["task_id"] for task in answer["tasks"]]

    def decide(self, worker: str = "tester", **params: Any) -> Any:
        return self.call("orchestrate_workflow_execution", worker_id=worker, current_time=self.now, **params)

    def launchable(self) -> list[dict[str, Any]]:
        return self.db.rows("SELECT * FROM launchable_executions(100, %s)", [self.now])

    def start(self, offered: dict[str, Any]) -> Run:
        started = self.call(
            "start_execution",
            execution_id=offered["execution_id"],
            launch_number=offered["launch_number"],
            run_id=f"run of {offered['run_key']}",
            current_time=self.now,
        )
        return Run(started["execution_id"], started["fence"], [task["task_id"] for task in started["tasks"]])

    def claim(self, limit: int, task_type: str = "content_generation") -> list[dict[str, Any]]:
        """What a worker of its own gets: a row a task."""
        return self.db.rows("SELECT * FROM claim_tasks('w', %s, %s, 60, %s)", [task_type, limit, self.now])

    def run_started(self) -> Run:
        """Decides, and starts the one execution that is expected to come of it."""
        self.decide()
        (offered,) = self.launchable()
        return self.start(offered)

    def begin_call(
        self, run: Run, task_id: int, *candidates: tuple[str, str], step: str = "draft"
    ) -> dict[str, Any]:
        answer: dict[str, Any] = self.call(
            "begin_api_call",
            execution_id=run.execution_id,
            fence=run.fence,
            task_id=task_id,
            step=step,
            candidates=[
                {"provider": provider, "model": "some-model", "max_cost_usd": Decimal(dollars)}
                for provider, dollars in candidates or (("gemini", "0.004"),)
            ],
            current_time=self.now,
        )
        return answer

    def send(self, run: Run, call_id: int) -> bool:
        answer = self.call("mark_api_call_sent", call_id=call_id, fence=run.fence, current_time=self.now)
        return bool(answer["ok"])

    def settle(
        self, call_id: int, outcome: str = "ok", dollars: str | None = "0.001", **params: Any
    ) -> dict[str, Any]:
        answer: dict[str, Any] = self.call(
            "settle_api_call",
            call_id=call_id,
            outcome=outcome,
            cost_usd=None if dollars is None else Decimal(dollars),
            current_time=self.now,
            **params,
        )
        return answer

    def pay(self, run: Run, task_id: int, dollars: str = "0.001") -> None:
        """One whole call that succeeds."""
        granted = self.begin_call(run, task_id)
        assert granted["granted"], f"a call was expected to be granted: {granted}"
        assert self.send(run, granted["call_id"])
        self.settle(granted["call_id"], dollars=dollars)

    def complete(self, run: Run, task_id: int, **result: Any) -> None:
        self.call(
            "complete_task",
            task_id=task_id,
            execution_id=run.execution_id,
            fence=run.fence,
            result=result,
            current_time=self.now,
        )

    def fail(self, run: Run, task_id: int, error_class: str = "task_error", **params: Any) -> Any:
        return self.call(
            "fail_task",
            task_id=task_id,
            execution_id=run.execution_id,
            fence=run.fence,
            error_class=error_class,
            error_message=params.pop("message", "it broke"),
            current_time=self.now,
            **params,
        )

    def finish(self, run: Run, status: str = "completed") -> Any:
        return self.call(
            "finish_execution",
            execution_id=run.execution_id,
            fence=run.fence,
            status=status,
            current_time=self.now,
        )

    def task(self, task_id: int) -> dict[str, Any]:
        row = self.db.row("SELECT * FROM task_queue WHERE id = %s", [task_id])
        assert row is not None
        return row

    def statuses(self) -> dict[str, int]:
        return {
            row["status"]: row["tasks"]
            for row in self.db.rows("SELECT status, count(*) AS tasks FROM task_queue GROUP BY status")
        }

    def counted(self) -> dict[str, int]:
        """What the depth log says, which must always equal `statuses`."""
        return {
            row["status"]: row["tasks"]
            for row in self.db.rows(
                "SELECT status, sum(tasks)::integer AS tasks FROM lead.queue_depth_delta"
                " GROUP BY status HAVING sum(tasks) <> 0"
            )
        }

    def account(self, scope: str = "total", key: str = "all") -> tuple[Decimal, Decimal]:
        row = self.db.row(
            "SELECT coalesce(sum(held_usd), 0) AS held, coalesce(sum(spent_usd), 0) AS spent"
            " FROM lead.budget_account WHERE scope = %s AND scope_key = %s",
            [scope, key],
        )
        assert row is not None
        return row["held"], row["spent"]

    def only(self, *workflow_types: str) -> None:
        """No other pipeline is enabled; the last slot is then kept for nobody."""
        self.db.execute(
            "UPDATE lead.workflow_policy SET enabled = workflow_type = ANY (%s)", [list(workflow_types)]
        )

    def set(self, name: str, value: object) -> None:
        self.db.execute("UPDATE lead.setting SET value = %s WHERE name = %s", [str(value), name])

    def breaker(self, name: str = "provider:gemini") -> dict[str, Any]:
        row = self.db.row("SELECT * FROM lead.circuit_breaker WHERE name = %s", [name])
        assert row is not None
        return row
