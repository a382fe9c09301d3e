"""Clients that submit, decide, work and finish all the time, while something else happens to the database.

They use only what every version since 0.1.0 offers. Each call that ends in an error is kept: a deployment
is expected to cause none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lead_coordinator.database.connection import Database


@dataclass
class Load:
    """`seconds`: how long each call took, by function; `errors`: what went wrong, with the function."""

    url: str
    submitters: int = 2
    workers: int = 3
    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    errors: list[tuple[str, BaseException]] = field(default_factory=list)
    submitted: int = 0
    completed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _drain: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Clients work inside the block; at its end they stop submitting and finish what they hold."""
        targets: list[Callable[[int], None]] = [self._submit] * self.submitters + [self._work] * self.workers
        threads = [
            threading.Thread(target=target, args=(number,), name=f"client {number}")
            for number, target in enumerate(targets)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def until_completed(self, more: int, patience: float = 60) -> None:
        """Waits until the clients have completed that many tasks more."""
        goal, deadline = self.completed + more, time.monotonic() + patience
        while self.completed < goal:
            assert time.monotonic() < deadline, f"{self.completed} of {goal} tasks completed; {self.errors}"
            time.sleep(0.01)

    def slowest(self, function: str, since: float = 0) -> float:
        """Seconds of the slowest call of a function that began after `since` (time.monotonic)."""
        return max((took for began, took in self.seconds.get(function, []) if began >= since), default=0.0)

    def _call(self, db: Database, function: str, **params: Any) -> Any:
        began = time.monotonic()
        try:
            return db.call(function, **params)
        except BaseException as error:
            with self._lock:
                self.errors.append((function, error))
            raise
        finally:
            with self._lock:
                self.seconds.setdefault(function, []).append((began, time.monotonic() - began))

    def _submit(self, number: int) -> None:
        with Database(self.url) as db:
            while not self._stop.is_set():
                tasks = [
                    {"task_type": "content_generation", "payload": {"n": n}, "tenant": f"t{n % 3}"}
                    for n in range(5)
                ]
                try:
                    self._call(db, "submit_tasks", tasks=tasks)
                except Exception:
                    continue
                with self._lock:
                    self.submitted += len(tasks)
                self._stop.wait(0.02)

    def _work(self, number: int) -> None:
        with Database(self.url) as db:
            while not self._stop.is_set():
                try:
                    self._one_round(db, f"worker {number}")
                except Exception:
                    continue

    def _one_round(self, db: Database, worker: str) -> None:
        decided = self._call(db, "orchestrate_workflow_execution", worker_id=worker, max_concurrent=10)
        if not decided["workflows_dispatched"]:
            self._stop.wait(0.005)
            return
        for planned in decided["execution_plan"]["workflows_to_execute"]:
            execution_id = planned["execution_id"]
            row = db.row("SELECT 1 FROM workflow_orchestration WHERE execution_id = %s", [execution_id])
            if row is None:  # planned, and nothing was left to claim
                continue
            started = self._call(
                db,
                "start_execution",
                execution_id=execution_id,
                launch_number=1,
                run_id=f"run {execution_id}",
            )
            held = {"execution_id": execution_id, "fence": started["fence"]}
            for task in started["tasks"]:
                self._call(db, "complete_task", task_id=task["task_id"], **held)
            self._call(db, "finish_execution", status="completed", **held)
            with self._lock:
                self.completed += len(started["tasks"])


def make_room(db: Database) -> None:
    """Settings under which only the database limits what the clients do."""
    for name, value in {
        "max_concurrent_workflows": 10,
        "memory_limit_mb": 1000000,
        "database_connection_limit": 1000,
        "daily_budget_usd": 1000000,
    }.items():
        db.execute(
            "UPDATE lead.setting SET value = %s, seeded_at = now() WHERE name = %s", [str(value), name]
        )
