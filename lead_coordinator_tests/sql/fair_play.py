"""Floods and trickles through the real control plane, in virtual time, and what each of them was entitled to.

`Simulation` is an event loop over the functions that the platform calls: submit, decide, start, complete. The
clock is an argument, so that a day passes in a minute. A run works its tasks one after the other and holds
its slot meanwhile. As the dispatch sensor does, it asks for a decision whenever a task arrives or a run ends,
if something waits and a slot is free; and every five minutes, as the schedule does.

`entitled_types` and `entitled_tenants` are the reference: weighted max-min fairness of work that can be
divided at will (generalized processor sharing; A. Parekh and R. Gallager, "A generalized processor sharing
approach to flow control", 1993). No scheduler of whole batches can do better for everybody.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

from lead_coordinator_tests.sql.play import NOON, Play, Run

TICK_SECONDS = 300.0
MOST_AT_ONCE = 10_000
NOTHING = 1e-9


@dataclass(frozen=True)
class Arrival:
    """A task. `at`: seconds since the start; `seconds`: how long a run works on it."""

    at: float
    task_type: str
    seconds: float
    tenant: str = ""
    priority: int = 50


@dataclass
class Task:
    arrival: Arrival
    started: float | None = None
    ended: float | None = None

    @property
    def waited(self) -> float:
        """Seconds from the arrival to the start of the execution."""
        assert self.started is not None, f"a task of {self.arrival.task_type} was expected to have started"
        return self.started - self.arrival.at


@dataclass(frozen=True)
class Batch:
    """A run: it holds one slot from `started` to `ends`."""

    task_type: str
    started: float
    ends: float
    task_ids: tuple[int, ...]


@dataclass
class Simulation:
    """The platform with `slots` slots, fed with `arrivals`. What happened lies in `tasks` and `batches`."""

    play: Play
    arrivals: Sequence[Arrival]
    slots: int
    tasks: dict[int, Task] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    decisions: int = 0
    _events: list[tuple[float, int, Callable[[], object]]] = field(default_factory=list)
    _order: Any = field(default_factory=count)
    _running: int = 0
    _waiting: int = 0

    def run(self, until: float = math.inf) -> None:
        """Plays until everything has been worked, or the time has come; runs under way stay under way."""
        together: defaultdict[float, list[Arrival]] = defaultdict(list)
        for arrival in self.arrivals:
            together[arrival.at].append(arrival)
        for at, arrivals in together.items():
            self.at(at, partial(self._submit, arrivals))
        self.at(0.0, partial(self._tick, 0.0))
        while self._events and self._events[0][0] <= until:
            moment = self._events[0][0]
            self.play.now = self.time(moment)
            while self._events and self._events[0][0] == moment:
                heapq.heappop(self._events)[2]()
            if self._waiting and self._running < self.slots:
                self._decide(moment)

    @staticmethod
    def time(seconds: float) -> datetime:
        return NOON + timedelta(seconds=seconds)

    def at(self, moment: float, event: Callable[[], object]) -> None:
        """Something that happens then, in seconds since the start."""
        heapq.heappush(self._events, (moment, next(self._order), event))

    def _tick(self, moment: float) -> None:
        if self._waiting or self._running or self._events:
            self.at(moment + TICK_SECONDS, partial(self._tick, moment + TICK_SECONDS))

    def _submit(self, arrivals: list[Arrival]) -> None:
        for first in range(0, len(arrivals), MOST_AT_ONCE):
            part = arrivals[first : first + MOST_AT_ONCE]
            tasks = [
                {
                    "task_type": arrival.task_type,
                    "payload": {"seconds": arrival.seconds},
                    "tenant": arrival.tenant or None,
                    "priority": arrival.priority,
                }
                for arrival in part
            ]
            answer = self.play.call("submit_tasks", tasks=tasks, current_time=self.play.now)
            for task, arrival in zip(answer["tasks"], part, strict=True):
                self.tasks[task["task_id"]] = Task(arrival)
        self._waiting += len(arrivals)

    def _decide(self, moment: float) -> None:
        self.decisions += 1
        decision = self.play.decide(max_concurrent=self.slots)
        assert decision["success"], f"a decision was expected, not {decision['reason']}"
        for offered in self.play.launchable():
            run = self.play.start(offered)
            tasks = [self.tasks[task_id] for task_id in run.task_ids]
            for task in tasks:
                task.started = moment
            ends = moment + sum(task.arrival.seconds for task in tasks)
            batch = Batch(tasks[0].arrival.task_type, moment, ends, tuple(run.task_ids))
            self.batches.append(batch)
            self._running += 1
            self._waiting -= len(run.task_ids)
            self.at(ends, partial(self._end, batch, run))
        assert self._running <= self.slots, f"{self._running} runs at once, {self.slots} are allowed"

    def _end(self, batch: Batch, run: Run) -> None:
        done = self.play.call(
            "complete_tasks", execution_id=run.execution_id, fence=run.fence, current_time=self.play.now
        )
        assert done == len(batch.task_ids), f"{done} of {len(batch.task_ids)} tasks of a batch completed"
        for task_id in batch.task_ids:
            self.tasks[task_id].ended = batch.ends
        self._running -= 1

    # -- what happened -----------------------------------------------------------------------------------

    def served(self, task_type: str, moment: float) -> float:
        """Slot-seconds that a type has had by then."""
        return sum(
            min(batch.ends, moment) - batch.started
            for batch in self.batches
            if batch.task_type == task_type and batch.started < moment
        )

    def started_of(self, task_type: str) -> list[Task]:
        """The tasks of a type that were given a slot."""
        return [
            task
            for task in self.tasks.values()
            if task.arrival.task_type == task_type and task.started is not None
        ]

    def ends_waited_for(self, task: Task) -> int:
        """How many runs ended from its arrival to its start, the one that made room for it included."""
        assert task.started is not None
        return sum(task.arrival.at < batch.ends <= task.started for batch in self.batches)

    def overtaken_by(self, task: Task, task_type: str) -> int:
        """How many batches of a type began while the task waited."""
        assert task.started is not None
        return sum(
            batch.task_type == task_type and task.arrival.at < batch.started < task.started
            for batch in self.batches
        )

    def longest_left(self, task: Task) -> float:
        """Seconds that the longest of the runs which its arrival met had still to go; 0 where a slot was
        free."""
        at = task.arrival.at
        left = [batch.ends - at for batch in self.batches if batch.started < at < batch.ends]
        return max(left) if len(left) == self.slots else 0.0


# -- the reference -------------------------------------------------------------------------------------------


def max_min(capacity: float, demands: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """The weighted max-min fair allocation: nobody gets more than its demand, and nobody can get more but
    from one that has less for its weight.

    With a level L such that the capacity or all demands are used up, each gets min(demand, weight × L); found
    by progressive filling (D. Bertsekas and R. Gallager, "Data Networks", 1992, section 6.5.2).
    """
    allocation: dict[str, float] = {}
    left = capacity
    open_weight = sum(weights[key] for key in demands)
    for key in sorted(demands, key=lambda key: demands[key] / weights[key]):
        allocation[key] = min(demands[key], left * weights[key] / open_weight)
        left -= allocation[key]
        open_weight -= weights[key]
    return allocation


@dataclass
class Entitlement:
    """What a type is entitled to over time, in slot-seconds: a curve of straight pieces."""

    times: list[float] = field(default_factory=lambda: [0.0])
    amounts: list[float] = field(default_factory=lambda: [0.0])

    def at(self, moment: float) -> float:
        after = bisect_right(self.times, moment)
        if after == len(self.times):
            return self.amounts[-1]
        (t0, t1), (a0, a1) = self.times[after - 1 : after + 1], self.amounts[after - 1 : after + 1]
        return a0 + (a1 - a0) * (moment - t0) / (t1 - t0)


def entitled_types(
    arrivals: Sequence[Arrival], slots: int, batch: int, weights: Mapping[str, float], until: float
) -> dict[str, Entitlement]:
    """At each moment the slots are shared max-min over the types that have work.

    A type's demand is a slot a batch of its tasks, and at most all slots but one where there are other types:
    the last free slot never goes to a type that holds all others.
    """
    most = slots - 1 if len(weights) > 1 and slots > 1 else slots
    coming = deque(sorted(arrivals, key=lambda arrival: arrival.at))
    work: dict[str, deque[float]] = {task_type: deque() for task_type in weights}
    curves = {task_type: Entitlement() for task_type in weights}
    now = 0.0
    while now < until:
        while coming and coming[0].at <= now:
            arrival = coming.popleft()
            work[arrival.task_type].append(arrival.seconds)
        demands = {
            task_type: float(min(most, math.ceil(len(tasks) / batch)))
            for task_type, tasks in work.items()
            if tasks
        }
        rates = max_min(slots, demands, weights)
        # Until a task is done, another arrives, or the time has come.
        steps = [work[task_type][0] / rate for task_type, rate in rates.items()]
        step = min([*steps, until - now, *([coming[0].at - now] if coming else [])])
        now += step
        for task_type, curve in curves.items():
            amount = rates.get(task_type, 0.0) * step
            curve.times.append(now)
            curve.amounts.append(curve.amounts[-1] + amount)
            if amount:
                work[task_type][0] -= amount
                if work[task_type][0] <= NOTHING:
                    work[task_type].popleft()
    return curves


def entitled_tenants(simulation: Simulation, weights: Mapping[str, float]) -> dict[str, float]:
    """Tasks that each tenant is entitled to, where the places of each batch as it was taken are shared
    max-min over the tenants that have tasks waiting."""
    coming = deque(sorted(simulation.arrivals, key=lambda arrival: arrival.at))
    waiting: dict[str, float] = dict.fromkeys(weights, 0.0)
    entitled: dict[str, float] = dict.fromkeys(weights, 0.0)
    for batch in simulation.batches:
        while coming and coming[0].at <= batch.started:
            waiting[coming.popleft().tenant] += 1
        demands = {tenant: tasks for tenant, tasks in waiting.items() if tasks > NOTHING}
        for tenant, places in max_min(len(batch.task_ids), demands, weights).items():
            waiting[tenant] -= places
            entitled[tenant] += places
    return entitled


# -- setting up ----------------------------------------------------------------------------------------------


def make_room(play: Play, slots: int, weights: Mapping[str, float], batch: int = 10) -> None:
    """Only slots are scarce: money, memory and time don't decide. Enables just these task types."""
    play.db.execute(
        "UPDATE lead.workflow_policy SET enabled = task_type = ANY (%s), max_batch = %s,"
        " item_cost_limit_usd = 0.01",
        [list(weights), batch],
    )
    for task_type, weight in weights.items():
        play.db.execute(
            "UPDATE lead.workflow_policy SET fair_weight = %s WHERE task_type = %s", [weight, task_type]
        )
    for name, value in {
        "scratch_database": "true",
        "memory_limit_mb": 100_000,
        "daily_budget_usd": 100_000,
        "max_concurrent_workflows": slots,
        "lease_seconds": 900,
        "execution_timeout_minutes": 60,
    }.items():
        play.set(name, value)


def tenants_of(simulation: Simulation) -> Counter[str]:
    """How many tasks of each tenant were given a slot."""
    return Counter(
        simulation.tasks[task_id].arrival.tenant for batch in simulation.batches for task_id in batch.task_ids
    )


def waits(tasks: Iterable[Task]) -> list[float]:
    return sorted(task.waited for task in tasks)
