"""What every client of a race has, and how it works one task: call by call, noting each step."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from lead_coordinator.database.calls import (
    Candidate,
    Grant,
    Outcome,
    begin_api_call,
    mark_api_call_sent,
    release_api_call,
    settle_api_call,
)
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import (
    ClaimedTask,
    Lease,
    complete_task,
    fail_task,
    heartbeat_execution,
)
from lead_coordinator.errors import ErrorClass, StaleLease
from lead_coordinator_tests.races.journal import Journal
from lead_coordinator_tests.races.scenario import (
    GRANT_SECONDS,
    LEASE_SECONDS,
    LEAST_CALL,
    MOST_CALL,
    PROVIDERS,
    Scenario,
)

CALLS_AT_ONCE = 8
TRAVEL_SECONDS = 0.25
# Said where waiting doesn't help, and where it does but not now.
GIVEN_UP: dict[str, ErrorClass] = {
    "budget": "budget_exhausted",
    "item_cost_limit": "budget_exhausted",
    "rate_limited": "rate_limited",
    "breaker_open": "destination_down",
}


class GivenUp(Exception):
    """The task can't be done now: what to say to `fail_task`."""

    def __init__(self, error_class: ErrorClass, retry_after_ms: int | None = None) -> None:
        super().__init__(error_class)
        self.error_class: ErrorClass = error_class
        self.retry_after_ms = retry_after_ms


class Client:
    """One client: its database, its journal, its dice. `stopping` is set by SIGTERM."""

    def __init__(self, url: str, folder: Path, scenario: Scenario, name: str) -> None:
        self.name = name
        self.scenario = scenario
        self.folder = folder
        self.journal = Journal(folder, name)
        self.db = AsyncDatabase(url, application_name=f"race {name}")
        self.dice = random.Random(f"{scenario.seed} {name}")
        self.stopping = asyncio.Event()

    async def one_round(self) -> None:
        """What the client does again and again; each role says what that is."""
        raise NotImplementedError

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stopping.set)
        race = os.getppid()
        async with self.db:
            while not self.stopping.is_set() and os.getppid() == race:  # no client outlives its race
                try:
                    await self.one_round()
                except StaleLease as stale:
                    self.journal.note("refused", why=str(stale))
                except Exception as error:
                    self.journal.note("error", kind=type(error).__name__, why=str(error))

    def chance(self, probability: float) -> bool:
        return self.dice.random() < probability

    async def pause(self, seconds: float) -> None:
        """Waits about that long, and no longer than until the race ends."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), self.dice.uniform(0.5, 1.5) * seconds)

    def crossing(self) -> None:
        """Between two steps that belong together: sometimes the process dies here."""
        if self.chance(self.scenario.self_kill):
            self.journal.note("dies")
            os.kill(os.getpid(), signal.SIGKILL)

    def freeze(self) -> None:
        """Sometimes a process stands still, heartbeats too, until others took its work; then it goes on."""
        if self.chance(0.01):
            self.journal.note("freezes")
            time.sleep(1.6 * LEASE_SECONDS)

    @asynccontextmanager
    async def beating(self, lease: Lease) -> AsyncIterator[None]:
        """Heartbeats while the block runs. A stale lease is left to the block's own calls to find."""

        async def beat() -> None:
            with contextlib.suppress(StaleLease):
                while True:
                    await asyncio.sleep(LEASE_SECONDS / 4)
                    await heartbeat_execution(self.db, lease, memory_mb=60)

        beats = asyncio.create_task(beat())
        try:
            yield
        finally:
            beats.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beats

    def note_claim(self, asked_at: float, lease: Lease, tasks: Iterable[ClaimedTask], platform: bool) -> None:
        self.journal.note(
            "claimed",
            asked_at=asked_at,
            execution=lease.execution_id,
            fence=lease.fence,
            tasks=[task.task_id for task in tasks],
            platform=platform,
        )

    # ---- tasks

    async def work_all(self, lease: Lease, tasks: Sequence[ClaimedTask]) -> None:
        """Works tasks side by side, each to its end, and raises afterwards what went wrong first."""
        places = asyncio.Semaphore(CALLS_AT_ONCE)

        async def work_one(task: ClaimedTask) -> None:
            async with places:
                await self.work(lease, task)

        endings = await asyncio.gather(*(work_one(task) for task in tasks), return_exceptions=True)
        wrong = [ending for ending in endings if ending is not None]
        for ending in wrong:
            if not isinstance(ending, StaleLease):
                raise ending
        if wrong:
            raise wrong[0]

    async def work(self, lease: Lease, task: ClaimedTask) -> None:
        """Pays the task's calls, then completes or fails it."""
        try:
            if self.chance(0.02):
                raise GivenUp("invalid_input" if self.chance(0.2) else "task_error")
            for number in range(task.payload["calls"]):
                await self.pay_call(lease, task, f"step {number}")
        except GivenUp as reason:
            await self.fail(lease, task, reason)
            return
        self.note_completing(lease, [task.task_id])
        await complete_task(self.db, lease, task.task_id, {"by": self.name})
        self.note_completed(lease, [task.task_id])
        self.crossing()

    async def fail(self, lease: Lease, task: ClaimedTask, reason: GivenUp) -> None:
        failed = await fail_task(
            self.db,
            lease,
            task.task_id,
            reason.error_class,
            f"{self.name} gave up",
            retry_after_ms=reason.retry_after_ms,
        )
        self.journal.note(
            "failed",
            task=task.task_id,
            execution=lease.execution_id,
            error=reason.error_class,
            to=failed.status,
        )
        self.crossing()

    def note_completing(self, lease: Lease, tasks: list[int]) -> None:
        self.journal.note("completing", execution=lease.execution_id, fence=lease.fence, tasks=tasks)

    def note_completed(self, lease: Lease, tasks: list[int]) -> None:
        self.journal.note("completed", execution=lease.execution_id, fence=lease.fence, tasks=tasks)

    # ---- calls

    async def pay_call(self, lease: Lease, task: ClaimedTask, step: str) -> None:
        """One call that is answered, after as many tries as it takes, four at most."""
        for _ in range(4):
            grant, most = await self.begin(lease, task, step)
            if grant is None:
                continue
            self.crossing()
            if await self.changes_its_mind(lease, grant):
                continue
            if await self.send(lease, task, grant, most) == "ok":
                return
        raise GivenUp("destination_down", self.dice.randint(500, 3000))

    async def begin(self, lease: Lease, task: ClaimedTask, step: str) -> tuple[Grant | None, Decimal]:
        """A grant and the most it may cost; None after a short wait."""
        most = Decimal(self.dice.randint(int(LEAST_CALL * 1000), int(MOST_CALL * 1000))) / 1000
        candidates = [Candidate(provider, "some-model", most, 100, 100) for provider in PROVIDERS]
        self.dice.shuffle(candidates)
        answer = await begin_api_call(self.db, lease, task.task_id, step, candidates)
        if isinstance(answer, Grant):
            return answer, most
        self.journal.note(
            "blocked",
            reason=answer.reason,
            providers={blocked.provider: blocked.reason for blocked in answer.blocked},
            wait_ms=answer.wait_ms,
        )
        if answer.wait_ms is not None and answer.wait_ms <= 200:
            await asyncio.sleep(answer.wait_ms / 1000)
            return None, most
        wait_ms = min(answer.wait_ms or 1000, 10_000)
        raise GivenUp(GIVEN_UP[answer.reason], int(wait_ms * self.dice.uniform(0.5, 1.2)))

    async def changes_its_mind(self, lease: Lease, grant: Grant) -> bool:
        """Sometimes a grant is given back, or used too late."""
        if self.chance(0.03):
            released = await release_api_call(self.db, lease, grant.call_id)
            self.journal.note("released", call=grant.call_id, gave_back=released)
            return True
        if self.chance(0.005):
            await asyncio.sleep(1.1 * GRANT_SECONDS)
            late = await mark_api_call_sent(self.db, lease, grant.call_id)
            self.journal.note("late", call=grant.call_id, ok=late.ok)
            return True
        return False

    async def send(self, lease: Lease, task: ClaimedTask, grant: Grant, most: Decimal) -> str:
        """The request, its way to the provider (the moment the journal holds), its answer, its price."""
        marked_at = time.time()
        sent = await mark_api_call_sent(self.db, lease, grant.call_id)
        if not sent.ok:
            self.journal.note("late", call=grant.call_id, ok=False)
            return "late"
        await asyncio.sleep(self.dice.uniform(0, TRAVEL_SECONDS))
        self.journal.note(
            "sent",
            call=grant.call_id,
            marked_at=marked_at,
            provider=grant.provider,
            tenant=task.tenant,
            task=task.task_id,
            task_type=task.task_type,
            most=most,
        )
        self.crossing()
        await asyncio.sleep(self.dice.uniform(0.005, 0.06))
        outcome, price, more = self.answer(grant, most)
        self.journal.note("settling", call=grant.call_id, outcome=outcome, price=price)
        settled = await settle_api_call(self.db, grant.call_id, outcome, price, **more)
        self.journal.note("settled", call=grant.call_id, cost=settled.cost_usd)
        self.crossing()
        return outcome

    def answer(self, grant: Grant, most: Decimal) -> tuple[Outcome, Decimal | None, dict[str, Any]]:
        """What the provider says, what it bills in US dollars (None: unknown), and what else it tells."""
        if self.scenario.is_down(grant.provider, grant.call_id, self.folder):
            return "server_error", Decimal(0), {"http_status": 503}
        thrown = self.dice.random()
        if thrown < 0.02:
            return "server_error", Decimal(0), {"http_status": 500}
        if thrown < 0.025:
            return "rate_limited", Decimal(0), {"http_status": 429, "retry_after_ms": 300}
        if thrown < 0.04:
            return "timeout", None, {}
        return "ok", most * self.dice.randint(50, 100) / 100, {"http_status": 200}
