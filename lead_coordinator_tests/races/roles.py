"""The clients: workers of one's own, the platform's runs, upkeep, and submitters."""

from __future__ import annotations

import time
from typing import Any

from lead_coordinator.database.executions import (
    ClaimedTask,
    Lease,
    claim_tasks,
    complete_tasks,
    finish_execution,
    give_back_tasks,
    start_execution,
)
from lead_coordinator_tests.races.client import Client, GivenUp
from lead_coordinator_tests.races.scenario import LEASE_SECONDS, MAX_CONCURRENT, TASK_TYPES, TENANTS


class BulkWorker(Client):
    """An external worker: claims 50 to 200 at once and completes what is plain in one call."""

    async def one_round(self) -> None:
        asked_at = time.time()
        batch = await claim_tasks(
            self.db,
            self.name,
            self.dice.choice(TASK_TYPES),
            limit=self.dice.randint(50, 200),
            lease_seconds=LEASE_SECONDS,
        )
        if batch is None:
            await self.pause(0.3)
            return
        self.note_claim(asked_at, batch.lease, batch.tasks, platform=False)
        self.crossing()
        async with self.beating(batch.lease):
            await self.work_batch(batch.lease, list(batch.tasks))
        await self.pause(self.scenario.bulk_pause_seconds)

    async def work_batch(self, lease: Lease, tasks: list[ClaimedTask]) -> None:
        paid = [task for task in tasks if task.payload["calls"]]
        plain = [task for task in tasks if not task.payload["calls"]]
        if paid:
            await self.work_all(lease, paid)
        if plain and self.chance(0.3):
            await self.fail(lease, plain.pop(), GivenUp("task_error"))
        if plain and self.chance(0.1):
            given_back, plain = plain[:10], plain[10:]
            await give_back_tasks(self.db, lease, [task.task_id for task in given_back], "of no use here")
        self.freeze()
        if plain and self.chance(0.3):
            half = len(plain) // 2
            await self.complete(lease, plain[:half], one_by_one=True, finish=False)
            plain = plain[half:]
            self.crossing()
        await self.complete(lease, plain, one_by_one=self.chance(0.3), finish=True)
        self.crossing()

    async def complete(self, lease: Lease, tasks: list[ClaimedTask], one_by_one: bool, finish: bool) -> None:
        """`one_by_one`: a result each, else whatever the execution still holds."""
        ids = [task.task_id for task in tasks]
        self.note_completing(lease, ids)
        results = {task_id: {"by": self.name} for task_id in ids} if one_by_one else None
        answered = await complete_tasks(self.db, lease, results, finish=finish)
        self.note_completed(lease, ids)
        if answered != len(ids):
            self.journal.note(
                "error", kind="count", why=f"{answered} of {len(ids)} held tasks were completed"
            )


class PipelineRun(Client):
    """What the platform does: decide, start whatever is reserved, work it task by task, finish."""

    async def one_round(self) -> None:
        decision = await self.db.call(
            "orchestrate_workflow_execution", worker_id=self.name, max_concurrent=MAX_CONCURRENT
        )
        self.journal.note(
            "decided", dispatched=decision["workflows_dispatched"], reason=decision.get("reason")
        )
        self.crossing()
        offered = await self.db.call_rows("launchable_executions", limit=10)
        if not offered:
            await self.pause(0.5)
            return
        chosen = self.dice.choice(offered)
        if chosen["stale"]:
            await self.db.call(
                "relaunch_execution",
                execution_id=chosen["execution_id"],
                launch_number=chosen["launch_number"],
            )
            return
        await self.work_execution(chosen)

    async def work_execution(self, offered: dict[str, Any]) -> None:
        asked_at = time.time()
        run_id = f"{self.name} {offered['run_key']}"
        started = await start_execution(
            self.db, offered["execution_id"], offered["launch_number"], run_id, memory_mb=60
        )
        self.note_claim(asked_at, started.lease, started.tasks, platform=True)
        self.crossing()
        async with self.beating(started.lease):
            await self.work_all(started.lease, started.tasks)
            self.freeze()
            status = "failed" if self.chance(0.03) else "completed"
            self.journal.note("finishing", execution=started.lease.execution_id)
            await finish_execution(self.db, started.lease, status)
        self.journal.note("finished", execution=started.lease.execution_id)
        await self.pause(0.2)


class Upkeep(Client):
    """Recovers, promotes, replays, adopts, reports; and an operator who pauses a tenant or a type shortly."""

    _took_over = False

    async def one_round(self) -> None:
        if not self._took_over:
            await self.resume_all()  # whoever was here before may have died in a pause
            self._took_over = True
        recovered = await self.db.call("recover_executions")
        if recovered["recovered"]:
            self.journal.note("recovered", executions=len(recovered["recovered"]))
        await self.db.call("promote_due_tasks")
        if self.chance(0.5):
            replayed = await self.db.call(
                "replay_dead_letters", filter={"all": True}, actor=self.name, reason="once more"
            )
            if replayed["replayed"]:
                self.journal.note("replayed", tasks=replayed["task_ids"])
        if self.chance(0.1):
            await self.insert_as_an_outsider()
        if self.chance(0.05):
            await self.report_a_live_run_as_failed()
        if self.chance(0.2):
            await self.db.call("refresh_resource_usage")
        await self.db.call("adopt_executions")
        if self.chance(0.1):
            await self.reprioritise()
        if self.chance(0.05):
            await self.pause_for_a_moment()
        await self.pause(0.3)

    async def insert_as_an_outsider(self) -> None:
        execution_id = f"outsider {self.name} {self.dice.randrange(10**9)}"
        kind = self.dice.choice(("content_pipeline", "seo_monitor"))
        await self.db.execute(
            "INSERT INTO workflow_orchestration (execution_id, workflow_type, worker_id, batch_size)"
            " VALUES (%s, %s, %s, 5)",
            [execution_id, kind, self.name],
        )

    async def report_a_live_run_as_failed(self) -> None:
        """The platform may be wrong about a run; whoever works it finds its lease stale."""
        row = await self.db.row(
            "SELECT execution_id, run_id FROM workflow_orchestration"
            " WHERE status = 'running' AND NOT is_external ORDER BY id LIMIT 1"
        )
        if row is not None:
            reported = await self.db.call("report_run_failure", reason="a mistake", **row)
            self.journal.note("reported", execution=row["execution_id"], answer=reported.get("ignored"))

    async def reprioritise(self) -> None:
        row = await self.db.row(
            "SELECT id FROM task_queue WHERE status IN ('queued', 'deferred') AND id >= %s"
            " ORDER BY id LIMIT 1",
            [self.dice.randrange(self.scenario.tasks)],
        )
        if row is not None:
            await self.db.call(
                "reprioritise_task", task_id=row["id"], priority=self.dice.randint(0, 100), actor=self.name
            )

    async def pause_for_a_moment(self) -> None:
        task_type, tenant = self.dice.choice(((self.dice.choice(TASK_TYPES), None), (None, "globex")))
        await self.set_mode("pause_queue", task_type, tenant)
        await self.pause(0.4)
        await self.set_mode("resume_queue", task_type, tenant)

    async def resume_all(self) -> None:
        for task_type in TASK_TYPES:
            await self.set_mode("resume_queue", task_type, None)
        for tenant in filter(None, TENANTS):
            await self.set_mode("resume_queue", None, tenant)

    async def set_mode(self, function: str, task_type: str | None, tenant: str | None) -> None:
        await self.db.call(
            function, task_type=task_type, tenant=tenant, actor=self.name, reason="a race is on"
        )


class Submitter(BulkWorker):
    """Submits what the setup left, in an order of its own, with the keys that its rivals use as well."""

    _waiting: list[list[dict[str, Any]]] | None = None

    async def one_round(self) -> None:
        if self._waiting is None:
            chunks = self.scenario.chunks(self.scenario.submitted_in_setup, self.scenario.tasks)
            self._waiting = list(chunks)
            self.dice.shuffle(self._waiting)
        if not self._waiting:
            await super().one_round()
            return
        # Both submitters get the same ids, whoever came first; the next chunk depends on some of them.
        answer = await self.db.call("submit_tasks", tasks=self._waiting[-1])
        self._waiting.pop()
        self.journal.note("submitted", created=answer["submitted"], duplicates=answer["duplicates"])
        self.crossing()
        if self._waiting:
            ids = [task["task_id"] for task in answer["tasks"]]
            for task in self._waiting[-1][:20]:
                task["dependencies"] = self.dice.sample(ids, 2)
        await self.pause(0.05)


ROLES: dict[str, type[Client]] = {
    "bulk": BulkWorker,
    "run": PipelineRun,
    "upkeep": Upkeep,
    "submit": Submitter,
}
