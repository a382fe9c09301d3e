"""A control plane in plain Python: what docs/SQL-REFERENCE.md, docs/ARCHITECTURE.md and docs/DIAGRAMS.md
promise, with none of the SQL.

It predicts what a call does. Where the documents leave a choice (which tasks a decision takes, how long the
jitter is), it is told what happened, and asserts that it was allowed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from lead_coordinator_tests.properties.limits import LONGEST_REST, MARGIN, WINDOW, Breaker, Ending, Provider
from lead_coordinator_tests.properties.money import ZERO, Ledger

LEASE = timedelta(seconds=30)
TIMEOUT = timedelta(minutes=5)
RESERVATION = timedelta(seconds=60)
STARVATION = timedelta(minutes=30)
STARVATION_POINTS = 50
OVERDUE = timedelta(days=1)
RETRIES = 3
STALLS = 3
# Lost so often with its run, a task is given out alone.
SUSPECT = STALLS - 1
RELAUNCHES = 3
RETRY_BASE = timedelta(seconds=60)
LONGEST_RETRY = timedelta(minutes=16)
JITTER = timedelta(seconds=30)

OPEN_CALLS = ("reserved", "sent")
ENDINGS: dict[str, Ending] = {
    "ok": "success",
    "rate_limited": "neutral",
    "client_error": "neutral",
    "cancelled": "neutral",
    "server_error": "failure",
    "timeout": "failure",
    "connection_error": "failure",
    "bad_response": "failure",
    "auth_error": "failure",
    "billing_stop": "failure",
}
AT_ONCE = ("auth_error", "billing_stop")


@dataclass(slots=True)
class Policy:
    """What operators say about one kind of work."""

    task_type: str
    workflow_type: str
    item_limit: Decimal
    max_batch: int
    daily_limit: Decimal | None = None
    mode: str = "open"
    enabled: bool = True

    @property
    def claimable(self) -> bool:
        return self.enabled and self.mode != "paused"


@dataclass(slots=True)
class Task:
    id: int
    task_type: str
    tenant: str | None
    priority: int
    value: int | None
    created_at: datetime
    queued_at: datetime
    not_before: datetime | None
    status: str
    due: datetime | None = None
    reason: str | None = None
    # Those it depends on and that haven't completed.
    unmet: set[int] = field(default_factory=set)
    attempts: int = 0
    deferrals: int = 0
    stalls: int = 0
    execution_id: str | None = None
    cost: Decimal = ZERO
    outcomes: Counter[str] = field(default_factory=Counter)
    replays: int = 0
    died_of: str | None = None
    processed_at: datetime | None = None

    def rank(self, now: datetime) -> tuple[int, datetime, int]:
        """Lower goes first: the higher score, then whoever waits longer."""
        value = min(15, math.floor(3 * math.log(1 + (self.value or 0))))
        starving = STARVATION_POINTS if now - self.queued_at >= STARVATION else 0
        return (-min(100, self.priority + value) - starving, self.queued_at, self.id)

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


@dataclass(slots=True)
class Execution:
    id: str
    workflow_type: str
    status: str
    day: date
    task_ids: list[int]
    envelope: Decimal = ZERO
    external: bool = False
    probe_of: int | None = None
    # Since the last launch number was given; NULL lengths and moments belong to one that runs.
    launch: int = 1
    fence: int = 0
    run_id: str | None = None
    lease: timedelta = LEASE
    lease_until: datetime | None = None
    timeout_at: datetime | None = None
    ended_at: datetime | None = None
    stop_requested: bool = False
    actual: Decimal = ZERO
    completed: int = 0
    failed: int = 0

    @property
    def active(self) -> bool:
        return self.status in ("pending", "running")


@dataclass(slots=True)
class Reservation:
    """What a plan holds until its execution is made."""

    plan_id: str
    workflow_type: str
    batch: int
    day: date
    amount: Decimal
    probe_of: int | None
    reserved_at: datetime


@dataclass(slots=True)
class Call:
    id: int
    execution_id: str
    task_id: int
    tenant: str | None
    provider: str
    maximum: Decimal
    day: date
    probe_of: int | None
    reserved_at: datetime
    taken_until: datetime
    status: str = "reserved"
    cost: Decimal | None = None
    sent_at: datetime | None = None

    @property
    def open(self) -> bool:
        return self.status in OPEN_CALLS


@dataclass(frozen=True)
class Candidate:
    """One choice of `begin_api_call`."""

    provider: str
    maximum: Decimal


@dataclass
class Model:
    """The whole control plane at one moment. Amounts are US dollars."""

    zone: ZoneInfo
    policies: dict[str, Policy]
    providers: dict[str, Provider]
    daily_budget: Decimal
    max_concurrent: int
    pacing: bool
    tenant_modes: dict[str, str] = field(default_factory=dict)
    tenant_limits: dict[str, Decimal] = field(default_factory=dict)
    tasks: dict[int, Task] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)
    executions: dict[str, Execution] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    breakers: dict[str, Breaker] = field(default_factory=dict)
    state: str = "IDLE"
    decider: tuple[str, datetime] | None = None
    fence: int = 0
    # Ended executions by workflow type: how many, completed tasks, and what they cost.
    history: dict[str, tuple[int, int, Decimal]] = field(default_factory=dict)
    # Rows an outsider inserted that nobody has adopted or refused yet: workflow type, batch.
    strangers: dict[str, tuple[str, int]] = field(default_factory=dict)
    # Each task's publication and its address; and those that are out.
    pages: dict[int, tuple[int, str]] = field(default_factory=dict)
    published: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for name in [
            *(f"provider:{p}" for p in self.providers),
            *(f"pipeline:{p.workflow_type}" for p in self.policies.values()),
        ]:
            self.breakers[name] = Breaker(name)

    # ---- looking ---------------------------------------------------------------------------------------

    def day(self, now: datetime) -> date:
        """The budget day, in the configured time zone."""
        return now.astimezone(self.zone).date()

    def policy_of(self, workflow_type: str) -> Policy:
        return next(p for p in self.policies.values() if p.workflow_type == workflow_type)

    def pipeline(self, workflow_type: str) -> Breaker:
        return self.breakers[f"pipeline:{workflow_type}"]

    def claimable(self, task_type: str) -> list[Task]:
        """Queued tasks whose tenant isn't paused."""
        return [
            t
            for t in self.tasks.values()
            if t.status == "queued"
            and t.task_type == task_type
            and self.tenant_modes.get(t.tenant or "") != "paused"
        ]

    def running(self) -> list[Execution]:
        return [e for e in self.executions.values() if e.status == "running"]

    def pending(self) -> list[Execution]:
        return [e for e in self.executions.values() if e.status == "pending"]

    def held_by(self, execution: Execution) -> list[Task]:
        return [
            t
            for i in execution.task_ids
            if (t := self.tasks.get(i)) is not None
            and t.status == "processing"
            and t.execution_id == execution.id
        ]

    def open_calls(self, execution: Execution) -> list[Call]:
        return [c for c in self.calls.values() if c.open and c.execution_id == execution.id]

    def slots_used(self) -> int:
        return sum(e.active and not e.external for e in self.executions.values()) + len(self.reservations)

    def taken(self, provider: str, now: datetime) -> list[datetime]:
        """Until when each place of a provider's limit that isn't free is taken, the earliest first."""
        return sorted(
            c.taken_until for c in self.calls.values() if c.provider == provider and c.taken_until > now
        )

    # ---- submitting ------------------------------------------------------------------------------------

    def takes(self, task_type: str, tenant: str | None) -> bool:
        """Whether a new task is taken: the type is enabled, and neither it nor the tenant drains."""
        policy = self.policies[task_type]
        return (
            policy.enabled and policy.mode != "draining" and self.tenant_modes.get(tenant or "") != "draining"
        )

    def submitted(
        self,
        task_id: int,
        now: datetime,
        *,
        task_type: str,
        tenant: str | None,
        priority: int,
        value: int | None,
        not_before: datetime | None,
        dependencies: Collection[int],
        key: str | None,
    ) -> Task:
        unmet = {d for d in dependencies if self.tasks[d].status != "completed"}
        waits = not_before is not None and not_before > now
        assert task_id not in self.tasks, f"task {task_id} was submitted before"
        task = self.tasks[task_id] = Task(
            id=task_id,
            task_type=task_type,
            tenant=tenant,
            priority=priority,
            value=value,
            created_at=now,
            queued_at=now,
            not_before=not_before,
            status="deferred" if unmet or waits else "queued",
            due=not_before if waits and not unmet else None,
            unmet=unmet,
        )
        if key is not None:
            assert key not in self.keys, f"the key {key} made a second task"
            self.keys[key] = task_id
        return task

    def promote(self, now: datetime) -> int:
        """Queues what is due; answers how many."""
        due = [
            t for t in self.tasks.values() if t.status == "deferred" and t.due is not None and t.due <= now
        ]
        for task in due:
            assert task.due is not None
            task.status, task.queued_at, task.due, task.reason = (
                "queued",
                max(task.due, task.created_at),
                None,
                None,
            )
        return len(due)

    # ---- claiming --------------------------------------------------------------------------------------

    def check_claim(self, task_type: str, ids: Sequence[int], limit: int, now: datetime) -> None:
        """Asserts that these were the ones to take: within each tenant the best, and suspects only alone."""
        claimable = {t.id: t for t in self.claimable(task_type)}
        assert len(set(ids)) == len(ids) <= limit, f"at most {limit} were asked for, and {ids} were claimed"
        unasked = set(ids) - set(claimable)
        assert not unasked, f"only waiting tasks of {task_type} may be claimed: {unasked} are not"
        assert ids or not claimable, f"{len(claimable)} tasks of {task_type} wait, and none was claimed"
        alone = any(claimable[i].stalls >= SUSPECT for i in ids)
        assert len(ids) == 1 or not alone, f"one of {ids} was lost with {SUSPECT} runs: it goes alone"
        if all(t.stalls < SUSPECT for t in claimable.values()):
            assert len(ids) == min(limit, len(claimable)), (
                f"{len(claimable)} wait and {limit} were asked for; {ids} were claimed at {now}: {claimable}"
            )
        for lane in {claimable[i].tenant for i in ids}:
            taken = [t for t in claimable.values() if t.id in ids and t.tenant == lane]
            left = [
                t
                for t in claimable.values()
                if t.id not in ids and t.tenant == lane and (alone or t.stalls < SUSPECT)
            ]
            if left:
                worst, best = max(t.rank(now) for t in taken), min(t.rank(now) for t in left)
                assert worst < best, f"{best[2]} goes before {worst[2]}: {best} {worst}"

    def check_batch(self, task_type: str, ids: Sequence[int], limit: int, now: datetime) -> None:
        """As `check_claim`, for a decision's batch: a place of it may be for who has waited longest, over a
        day.
        """
        overdue = [t for t in self.claimable(task_type) if now - t.queued_at >= OVERDUE]
        first = min(overdue, key=lambda t: (t.queued_at, t.id), default=None)
        if first is None or first.id not in ids:
            assert first is None or limit == 1, f"{first} is overdue, and none of {limit} places was for it"
            self.check_claim(task_type, ids, limit, now)
            return
        others = [i for i in ids if i != first.id]
        suspected = any(t.stalls >= SUSPECT for t in self.claimable(task_type))
        if others or not (first.stalls or limit == 1 or suspected):
            first.status = "processing"
            self.check_claim(task_type, others, limit - 1, now)
            first.status = "queued"
        suspects = [i for i in ids if self.tasks[i].stalls >= SUSPECT]
        assert len(ids) == 1 or not suspects, (
            f"of {ids} {suspects} were lost with {SUSPECT} runs: they go alone"
        )

    def _claim(self, execution: Execution) -> None:
        # The order in which rows come back is the database's own affair.
        execution.task_ids.sort()
        for task_id in execution.task_ids:
            task = self.tasks[task_id]
            task.status, task.execution_id = "processing", execution.id
        assert execution.id not in self.executions
        self.executions[execution.id] = execution

    def _next_fence(self, fence: int) -> int:
        assert fence > self.fence, f"a fencing number only grows: {fence} came after {self.fence}"
        self.fence = fence
        return fence

    # ---- reserving and deciding ------------------------------------------------------------------------

    def fits(self, day: date, workflow_type: str, amount: Decimal) -> bool:
        """Whether the day and the workflow's own budget have room for an execution's envelope."""
        policy = self.policy_of(workflow_type)
        return self.ledger.fits(day, "total", "all", amount, self.daily_budget) and self.ledger.fits(
            day, "workflow", workflow_type, amount, policy.daily_limit
        )

    def _hold(self, day: date, workflow_type: str, amount: Decimal) -> None:
        assert self.fits(day, workflow_type, amount), (
            f"{amount} USD for {workflow_type} on {day} pass a limit: {self.ledger.used()}"
        )
        self.ledger.hold(day, "total", "all", amount)
        self.ledger.hold(day, "workflow", workflow_type, amount)

    def _settle(self, day: date, workflow_type: str, held: Decimal, spent: Decimal = ZERO) -> None:
        self.ledger.settle(day, "total", "all", held, spent)
        self.ledger.settle(day, "workflow", workflow_type, held, spent)

    def can_reserve(
        self, wanted: Sequence[tuple[str, int]], now: datetime, priority: int | None = None
    ) -> bool:
        """Whether a plan's executions (workflow type, batch) fit, all together; with a priority, also its
        pace.
        """
        if self.slots_used() + len(wanted) > self.max_concurrent:
            return False
        total = ZERO
        for workflow_type in {w for w, _ in wanted}:
            policy = self.policy_of(workflow_type)
            batches = [min(b, policy.max_batch) for w, b in wanted if w == workflow_type]
            places = self.pipeline(workflow_type).places(now)
            amount = sum(batches) * policy.item_limit
            total += amount
            if not policy.claimable or (places is not None and places < len(batches)):
                return False
            if not self.ledger.fits(self.day(now), "workflow", workflow_type, amount, policy.daily_limit):
                return False
        limit = self.daily_budget if priority is None else min(self.daily_budget, self.paced(priority, now))
        return self.ledger.fits(self.day(now), "total", "all", total, limit)

    def last_slot_is_for_others(self, workflow_type: str) -> bool:
        """The last free slot is never for a type that holds all others, while another type may need it."""
        held = Counter(e.workflow_type for e in self.executions.values() if e.active and not e.external)
        return (
            sum(p.enabled for p in self.policies.values()) > 1
            and self.max_concurrent > 1
            and self.max_concurrent - self.slots_used() == 1
            and held[workflow_type] == held.total()
        )

    def reserve(self, plan_id: str, execution_id: str, workflow_type: str, batch: int, now: datetime) -> None:
        policy = self.policy_of(workflow_type)
        batch = min(batch, policy.max_batch)
        amount = batch * policy.item_limit
        probe_of = self.pipeline(workflow_type).admit(now)
        self._hold(self.day(now), workflow_type, amount)
        self.reservations[execution_id] = Reservation(
            plan_id, workflow_type, batch, self.day(now), amount, probe_of, now
        )

    def release_reservation(self, execution_id: str, now: datetime) -> None:
        reservation = self.reservations.pop(execution_id)
        self.pipeline(reservation.workflow_type).record("neutral", reservation.probe_of, now)
        self._settle(reservation.day, reservation.workflow_type, reservation.amount)

    def create(self, execution_id: str, ids: Sequence[int], now: datetime) -> None:
        """A reservation becomes an execution with the tasks that it claimed; the rest of it is free."""
        reservation = self.reservations[execution_id]
        policy = self.policy_of(reservation.workflow_type)
        check = self.check_batch if reservation.plan_id == "tick" else self.check_claim
        check(policy.task_type, ids, min(reservation.batch, policy.max_batch), now)
        if not ids:
            self.release_reservation(execution_id, now)
            return
        del self.reservations[execution_id]
        amount = len(ids) * policy.item_limit
        self._settle(reservation.day, reservation.workflow_type, reservation.amount - amount)
        self._claim(
            Execution(
                execution_id,
                reservation.workflow_type,
                "pending",
                reservation.day,
                list(ids),
                amount,
                probe_of=reservation.probe_of,
            )
        )

    def paced(self, priority: int, now: datetime) -> Decimal:
        """What of the day's budget work of a priority may use by now: a quarter from the start, the rest
        with the clock; the part that is held back shrinks with priorities over 50 and is nothing at 100.
        """
        if not self.pacing:
            return self.daily_budget
        local = now.astimezone(self.zone)
        starts = datetime.combine(local.date(), datetime.min.time(), self.zone)
        ends = datetime.combine(local.date() + timedelta(days=1), datetime.min.time(), self.zone)
        passed = Decimal((now.timestamp() - starts.timestamp()) / (ends.timestamp() - starts.timestamp()))
        by_clock = Decimal("0.25") + Decimal("0.75") * passed
        freed = Decimal(max(0, min(50, priority - 50))) / 50
        return self.daily_budget * (by_clock + (1 - by_clock) * freed)

    def decided(
        self,
        plan: Sequence[tuple[str, str, int, int]],
        claimed: dict[str, list[int]],
        most: int,
        now: datetime,
    ) -> None:
        """A decision made these executions: (id, workflow type, batch, priority) as planned, and their
        tasks.
        """
        for execution_id, workflow_type, batch, priority in plan:
            if execution_id not in claimed:
                continue
            policy = self.policy_of(workflow_type)
            assert policy.claimable, f"{workflow_type} is {policy.mode}, and a decision started it"
            assert self.slots_used() < min(most, self.max_concurrent), "more executions at once than allowed"
            self.reserve("tick", execution_id, workflow_type, batch, now)
            committed = self.ledger.committed(self.day(now), "total", "all")
            assert committed <= self.paced(priority, now) + Decimal("1e-9"), (
                f"{committed} USD held or spent pass what priority {priority} may use by {now}"
            )
        for execution_id, ids in claimed.items():
            assert ids, f"{execution_id} was made without a task"
            self.create(execution_id, ids, now)

    def keeps_back(self, workflow_type: str, batch: int, priority: int, now: datetime) -> bool:
        """Whether an outsider's execution waits although it would fit: for the day's pace, or for other
        types.
        """
        policy = self.policy_of(workflow_type)
        amount = min(batch, policy.max_batch) * policy.item_limit
        if self.ledger.committed(self.day(now), "total", "all") + amount > self.paced(priority, now):
            return True
        holds = sum(
            e.active and not e.external and e.workflow_type == workflow_type for e in self.executions.values()
        )
        return (
            sum(p.enabled for p in self.policies.values()) > 1
            and self.max_concurrent > 1
            and self.max_concurrent - self.slots_used() == 1
            and holds >= self.max_concurrent - 1
        )

    def must_start(self, most: int, priorities: dict[str, int], now: datetime) -> str | None:
        """A workflow type of which a decision has to start something now, because nothing at all is in the
        way.
        """
        free = self.max_concurrent - self.slots_used()
        usable = [p for p in self.providers.values() if self._usable(p, now)]
        if min(most - self.slots_used(), free) < 1 or not usable:
            return None
        day, enabled = self.day(now), [p for p in self.policies.values() if p.enabled]
        live = sum((e.actual for e in self.executions.values() if e.active), ZERO)
        for policy in enabled:
            if self.last_slot_is_for_others(policy.workflow_type):
                continue
            committed = self.ledger.committed(day, "total", "all") + live
            if (
                policy.claimable
                and committed < self.daily_budget
                and self.claimable(policy.task_type)
                and self.pipeline(policy.workflow_type).places(now) != 0
                and committed + policy.item_limit <= self.paced(priorities[policy.workflow_type], now)
                and self.fits(day, policy.workflow_type, policy.item_limit)
            ):
                return policy.workflow_type
        return None

    def _usable(self, provider: Provider, now: datetime) -> bool:
        committed = self.ledger.committed(self.day(now), "provider", provider.name)
        return (
            self.breakers[f"provider:{provider.name}"].places(now) != 0
            and (provider.blocked_until is None or provider.blocked_until <= now)
            and (provider.cost_limit is None or committed < provider.cost_limit)
        )

    # ---- executions ------------------------------------------------------------------------------------

    def started(self, execution: Execution, fence: int, run_id: str, now: datetime) -> None:
        execution.status, execution.run_id, execution.fence = "running", run_id, self._next_fence(fence)
        execution.lease_until, execution.timeout_at = now + LEASE, now + TIMEOUT

    def claimed(
        self,
        worker_id: str,
        execution_id: str,
        fence: int,
        workflow_type: str,
        ids: Sequence[int],
        lease: timedelta,
        now: datetime,
    ) -> Execution:
        """A worker of its own has claimed tasks: it takes no slot, and its calls draw on the day."""
        execution = Execution(
            execution_id, workflow_type, "running", self.day(now), list(ids), external=True, lease=lease
        )
        execution.run_id, execution.fence = worker_id, self._next_fence(fence)
        execution.lease_until, execution.timeout_at = now + lease, now + max(lease, TIMEOUT)
        self._claim(execution)
        return execution

    def beat(self, execution: Execution, now: datetime) -> None:
        execution.lease_until = now + execution.lease

    def lost(self, now: datetime) -> list[Execution]:
        """Executions that timed out or lost their lease."""
        return [
            e
            for e in self.running()
            if (e.lease_until is not None and e.lease_until <= now)
            or (e.timeout_at is not None and e.timeout_at <= now)
        ]

    def recovered(self, now: datetime) -> tuple[int, int]:
        """What recovery does; answers how many tasks are queued again, and how many are parked."""
        requeued = parked = 0
        for execution in self.lost(now):
            timed_out = execution.timeout_at is not None and execution.timeout_at <= now
            back, dead = self.died(execution, "timeout" if timed_out else "failed", now)
            requeued, parked = requeued + back, parked + dead
        for execution_id, reservation in list(self.reservations.items()):
            if reservation.reserved_at + RESERVATION <= now:
                self.release_reservation(execution_id, now)
        if self.state == "MONITORING" and not any(e.active for e in self.executions.values()):
            self.state = "IDLE"
        return requeued, parked

    def died(self, execution: Execution, status: str, now: datetime) -> tuple[int, int]:
        """A run is gone. One that was told to stop has only done so."""
        if execution.stop_requested:
            return self.end(execution, "cancelled", now)
        return self.end(execution, status, now, stalled=True)

    def end(
        self, execution: Execution, status: str, now: datetime, *, stalled: bool = False
    ) -> tuple[int, int]:
        """An execution ends. Unsent calls are released, unanswered ones settled at their maximum; its tasks
        go back.

        `stalled`: they were lost with the run, so it counts against them. Answers how many went back, how
        many were parked.
        """
        for call in self.open_calls(execution):
            if call.status == "reserved":
                self.release(call, now)
            else:
                self._pay(call, call.maximum)
                self.breakers[f"provider:{call.provider}"].record("neutral", call.probe_of, now)
        back = dead = 0
        for task in self.held_by(execution):
            if stalled and task.stalls + 1 >= STALLS:
                task.stalls += 1
                self._end_attempt(task, "dead_letter")
                self._bury(task, "stalled", now)
                dead += 1
            else:
                task.stalls += stalled
                self._end_attempt(task, "stalled" if stalled else "returned")
                task.status = "queued"
                back += 1
        execution.status, execution.ended_at, execution.lease_until = status, now, None
        self._settle(execution.day, execution.workflow_type, execution.envelope, execution.actual)
        execution.envelope = ZERO
        ending: Ending = {"completed": "success", "cancelled": "neutral"}.get(status, "failure")  # type: ignore[assignment]
        if self.pipeline(execution.workflow_type).record(ending, execution.probe_of, now):
            self._answers_again(now)
        runs, done, cost = self.history.get(execution.workflow_type, (0, 0, ZERO))
        self.history[execution.workflow_type] = (
            runs + 1,
            done + execution.completed,
            cost + execution.actual,
        )
        return back, dead

    def _end_attempt(self, task: Task, outcome: str) -> None:
        task.outcomes[outcome] += 1
        task.cost += sum(
            (
                c.cost or ZERO
                for c in self.calls.values()
                if c.task_id == task.id and c.execution_id == task.execution_id and c.status == "settled"
            ),
            ZERO,
        )
        if outcome != "completed":
            task.execution_id = None

    def _bury(self, task: Task, error_class: str, now: datetime) -> None:
        task.status, task.died_of, task.processed_at, task.due = "dead_letter", error_class, now, None

    # ---- tasks -----------------------------------------------------------------------------------------

    def complete(self, execution: Execution, ids: Iterable[int], now: datetime) -> int:
        """Completes those of the tasks that the execution holds; frees what waited only for them."""
        done = [t for t in self.held_by(execution) if t.id in set(ids)]
        for task in done:
            self._end_attempt(task, "completed")
            assert task.outcomes["completed"] == 1, f"task {task.id} was completed twice"
            task.status, task.processed_at = "completed", now
        execution.completed += len(done)
        freed = {t.id for t in done}
        for task in self.tasks.values():
            if task.unmet & freed:
                task.unmet -= freed
                if task.status == "deferred" and task.due is None and not task.unmet:
                    waits = task.not_before is not None and task.not_before > now
                    task.status, task.queued_at = "deferred" if waits else "queued", now
                    task.due = task.not_before if waits else None
        return len(done)

    def retry_window(
        self, task: Task, error_class: str, retry_after: timedelta | None
    ) -> tuple[timedelta, timedelta]:
        """The least and the most that a failed task may be put off."""
        if error_class == "task_error":
            wait = RETRY_BASE * 2**task.attempts
            least, most = min(wait, LONGEST_RETRY) - JITTER, min(wait, LONGEST_RETRY) + JITTER
            asked = retry_after or timedelta(0)
            return max(least, asked), max(most, asked)
        if retry_after is not None:
            return min(retry_after, LONGEST_RETRY), min(retry_after, LONGEST_RETRY)
        return timedelta(microseconds=1), LONGEST_RETRY + JITTER

    def failed(
        self, execution: Execution, task: Task, error_class: str, retry_at: datetime | None, now: datetime
    ) -> str:
        """Ends an attempt that failed; answers what becomes of the task."""
        execution.failed += error_class in ("task_error", "invalid_input")
        if error_class == "invalid_input" or (error_class == "task_error" and task.attempts >= RETRIES):
            task.attempts += 1
            self._end_attempt(task, "dead_letter")
            self._bury(task, error_class, now)
            return "dead_letter"
        if error_class == "task_error":
            task.attempts += 1
            task.reason = "retry"
        else:
            task.deferrals += 1
            task.reason = error_class
        self._end_attempt(task, "retried" if error_class == "task_error" else "deferred")
        task.status, task.due = "deferred", retry_at
        return "deferred"

    def given_back(self, execution: Execution, ids: Collection[int], now: datetime) -> int:
        """No attempt is spent and no stall counted, and each keeps its place."""
        back = [t for t in self.held_by(execution) if t.id in ids]
        for call in self.open_calls(execution):
            if call.status == "reserved" and call.task_id in {t.id for t in back}:
                self.release(call, now)
        for task in back:
            self._end_attempt(task, "returned")
            task.status = "queued"
        return len(back)

    def replayed(self, tasks: Iterable[Task], now: datetime) -> None:
        for task in tasks:
            task.status, task.queued_at, task.died_of, task.processed_at = "queued", now, None, None
            task.attempts = task.stalls = task.deferrals = 0
            task.replays += 1

    def _answers_again(self, now: datetime) -> None:
        for task in self.tasks.values():
            if task.status == "deferred" and task.reason == "destination_down" and task.due is not None:
                task.due = min(task.due, now)

    # ---- calls -----------------------------------------------------------------------------------------

    def obstacles(
        self, execution: Execution, task: Task, candidate: Candidate, now: datetime
    ) -> tuple[set[str], set[str]]:
        """The reasons for which a call has to be refused, and those for which it may be: while the limit in
        force is being lowered, places over it are still taken.
        """
        must: set[str] = set()
        may: set[str] = set()
        provider = self.providers[candidate.provider]
        policy = self.policy_of(execution.workflow_type)
        item = sum(
            (
                c.maximum if c.cost is None else c.cost
                for c in self.calls.values()
                if c.task_id == task.id and c.execution_id == execution.id
            ),
            ZERO,
        )
        if item + candidate.maximum > policy.item_limit:
            must.add("item_cost_limit")
        if provider.blocked_until is not None and provider.blocked_until > now:
            must.add("rate_limited")
        taken = len(self.taken(provider.name, now))
        if taken >= provider.most_sent(now):
            must.add("rate_limited")
        elif taken >= provider.in_force or provider.settles(now):
            may.add("rate_limited")
        if self.breakers[f"provider:{provider.name}"].places(now) == 0:
            must.add("breaker_open")
        extra = self._extra(execution, candidate.maximum)
        if not (
            self.ledger.fits(execution.day, "provider", provider.name, candidate.maximum, provider.cost_limit)
            and (
                task.tenant is None
                or self.ledger.fits(
                    execution.day,
                    "tenant",
                    task.tenant,
                    candidate.maximum,
                    self.tenant_limits.get(task.tenant),
                )
            )
            and (extra == 0 or self.fits(execution.day, execution.workflow_type, extra))
        ):
            must.add("budget")
        return must, may

    def _extra(self, execution: Execution, maximum: Decimal) -> Decimal:
        """What a call needs beyond its execution's envelope."""
        held = sum((c.maximum for c in self.open_calls(execution)), ZERO)
        return max(ZERO, execution.actual + held + maximum - execution.envelope)

    def begun(
        self, call_id: int, execution: Execution, task: Task, candidate: Candidate, now: datetime
    ) -> Call:
        extra = self._extra(execution, candidate.maximum)
        if extra:
            # Several calls' worth at once, where the day has as much.
            wish = max(extra, min(self.policy_of(execution.workflow_type).item_limit, 16 * candidate.maximum))
            drawn = wish if self.fits(execution.day, execution.workflow_type, wish) else extra
            self._hold(execution.day, execution.workflow_type, drawn)
            execution.envelope += drawn
        self.ledger.hold(execution.day, "provider", candidate.provider, candidate.maximum)
        if task.tenant is not None:
            self.ledger.hold(execution.day, "tenant", task.tenant, candidate.maximum)
        probe_of = self.breakers[f"provider:{candidate.provider}"].admit(now)
        call = self.calls[call_id] = Call(
            id=call_id,
            execution_id=execution.id,
            task_id=task.id,
            tenant=task.tenant,
            provider=candidate.provider,
            maximum=candidate.maximum,
            day=execution.day,
            probe_of=probe_of,
            reserved_at=now,
            taken_until=now + WINDOW + MARGIN,
        )
        return call

    def sent(self, call: Call, now: datetime) -> None:
        call.status, call.sent_at, call.taken_until = "sent", now, now + WINDOW + MARGIN
        most = self.providers[call.provider].most_sent(now)
        recent = [
            c
            for c in self.calls.values()
            if c.provider == call.provider and c.sent_at is not None and c.sent_at > now - WINDOW
        ]
        assert len(recent) <= most, (
            f"{len(recent)} requests to {call.provider} within 60 s, {most} are allowed"
        )

    def release(self, call: Call, now: datetime) -> None:
        """A call that was never sent gives back its place and its hold."""
        call.status, call.cost, call.taken_until = "released", ZERO, now
        self._free(call, ZERO)
        self.breakers[f"provider:{call.provider}"].record("neutral", call.probe_of, now)

    def _free(self, call: Call, spent: Decimal) -> None:
        self.ledger.settle(call.day, "provider", call.provider, call.maximum, spent)
        if call.tenant is not None:
            self.ledger.settle(call.day, "tenant", call.tenant, call.maximum, spent)

    def _pay(self, call: Call, cost: Decimal) -> None:
        call.status, call.cost = "settled", cost
        self.executions[call.execution_id].actual += cost
        self._free(call, cost)

    def settled(
        self, call: Call, outcome: str, cost: Decimal | None, retry_after: timedelta | None, now: datetime
    ) -> Decimal:
        """The answer came; an unknown cost is the maximum. Answers what it cost."""
        self._pay(call, call.maximum if cost is None else cost)
        breaker = self.breakers[f"provider:{call.provider}"]
        if breaker.record(ENDINGS[outcome], call.probe_of, now, at_once=outcome in AT_ONCE):
            self._answers_again(now)
        provider = self.providers[call.provider]
        if outcome == "rate_limited" and retry_after is not None:
            until = now + min(retry_after, LONGEST_REST)
            provider.blocked_until = max(until, provider.blocked_until or until)
        assert call.cost is not None
        return call.cost

    # ---- operating -------------------------------------------------------------------------------------

    def reset_breaker(self, name: str, now: datetime) -> None:
        breaker = self.breakers[name]
        was = breaker.state
        breaker.reset()
        if name.startswith("provider:") and was != "closed":
            self._answers_again(now)

    def may_be_pruned(self, before: datetime) -> tuple[set[int], set[int]]:
        """Tasks that pruning may delete, and of those the ones that it has to (none waits for them)."""
        old = {
            t.id
            for t in self.tasks.values()
            if t.ended and t.processed_at is not None and t.processed_at < before
        }
        needed = {d for t in self.tasks.values() for d in t.unmet}
        return old, old - needed

    def prune(self, gone: Collection[int], before: datetime) -> None:
        """Forgets tasks that were deleted, calls of theirs, and executions that ended long ago."""
        for task_id in gone:
            del self.tasks[task_id]
        for call in list(self.calls.values()):
            over = self.executions.get(call.execution_id)
            ended = over is None or not over.active
            if not call.open and call.reserved_at < before and call.task_id not in self.tasks and ended:
                del self.calls[call.id]
        for execution in list(self.executions.values()):
            if execution.ended_at is not None and execution.ended_at < before:
                del self.executions[execution.id]
