"""The steps that a task has paid for, kept in the database with the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lead_coordinator.database import articles
from lead_coordinator.pipelines.runtime import TaskRun


class KeptInDatabase:
    """Read once, at the first question; written under the lease."""

    def __init__(self, run: TaskRun) -> None:
        self._run = run
        self._kept: dict[str, tuple[str, Mapping[str, Any]]] | None = None

    async def get(self, step: str, asked: str) -> Mapping[str, Any] | None:
        """What was kept of a step under that digest."""
        if self._kept is None:
            self._kept = await articles.kept_steps(self._run.db, self._run.task_id)
        digest, kept = self._kept.get(step, ("", {}))
        return kept if digest == asked else None

    async def put(self, step: str, asked: str, kept: Mapping[str, Any]) -> None:
        """Keeps it for a later attempt. Raises StaleLease."""
        await articles.keep_step(self._run.db, self._run.lease, self._run.task_id, step, asked, kept)
