"""Fair shares: one floods, others trickle; what each gets, against what it is entitled to, in virtual time.

    python -m benchmarks.fairness [--tasks 100000] [--hours 8] [--record]

The real control plane on an embedded server (fsync off), driven by an event loop with a clock of its own
(`lead_coordinator_tests.sql.fair_play`). Nothing here depends on how fast the machine is.

What a type is entitled to: at each moment the slots are shared max-min by weight over the types that have
work, as if work could be divided at will; integrated over the time, in slot-seconds. A type's demand is a
slot a batch, and at most all slots but one: the last free slot never goes to a type that holds all others.
For tenants the places of each batch are shared the same way. Arrivals and durations are random and seeded.

Exit code 1: somebody got less than 0.95 of that over the whole time; or, where one floods and the others
need no more than their share, a task that trickled in waited longer than the longest of the batches that were
running when it came, that is, for more than one running batch to end; or a task was left when everything
should have been done. Shown too: for floods the lowest share of one hour, where a batch that laps over
counts; for trickles how often a batch of the flood began while a task waited, which is fair only where the
task's type has had more by then.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.record import machine, paragraph, table, write_section
from benchmarks.server import create_database, deploy_control_plane, embedded_server
from lead_coordinator.database.connection import Database
from lead_coordinator_tests.sql.fair_play import (
    Arrival,
    Simulation,
    Task,
    entitled_tenants,
    entitled_types,
    make_room,
    tenants_of,
    waits,
)
from lead_coordinator_tests.sql.play import Play

CONTENT, SEO, REVENUE, INTELLIGENCE = (
    "content_generation",
    "seo_analysis",
    "revenue_optimization",
    "intelligence_analysis",
)
TENANTS = ("loud", "quiet", "calm", "still")
HOUR = 3600.0
LEAST_SHARE = 0.95
BATCH = 50
SLOTS = 3


@dataclass(frozen=True)
class Flood:
    """Many tasks at once, of every priority; `seconds` on average."""

    tasks: int
    seconds: float


@dataclass(frozen=True)
class Trickle:
    """A task every so many seconds, at random moments; `seconds` of work on average."""

    every: float
    seconds: float


@dataclass(frozen=True)
class Scenario:
    """`who`: by task type, or by tenant of one type. `hours` None: until everything has been worked."""

    title: str
    who: Mapping[str, Flood | Trickle]
    weights: Mapping[str, float] = field(default_factory=dict)
    slots: int = SLOTS
    hours: float | None = None
    tenants: bool = False

    @property
    def all_weights(self) -> dict[str, float]:
        return {name: self.weights.get(name, 1.0) for name in self.who}

    def arrivals(self, until: float) -> list[Arrival]:
        chance = random.Random(self.title)
        found = []
        for name, load in self.who.items():
            task_type, tenant = (CONTENT, name) if self.tenants else (name, "")
            moments = [0.0] * load.tasks if isinstance(load, Flood) else self._moments(load, until, chance)
            for at in moments:
                # Lognormal with the mean that was asked for.
                seconds = load.seconds * chance.lognormvariate(-0.125, 0.5)
                found.append(Arrival(at, task_type, seconds, tenant, chance.randint(0, 100)))
        return found

    @staticmethod
    def _moments(load: Trickle, until: float, chance: random.Random) -> list[float]:
        moments, at = [], 0.0
        while (at := at + chance.expovariate(1 / load.every)) < until:
            moments.append(at)
        return moments


def scenarios(tasks: int, hours: float) -> list[Scenario]:
    flood, rarely, often = Flood(tasks, 2.4), Trickle(300, 60), Trickle(120, 60)
    return [
        Scenario(
            f"One type floods {tasks:,} tasks, three trickle, until all is done",
            {CONTENT: flood, SEO: rarely, REVENUE: rarely, INTELLIGENCE: Trickle(600, 120)},
        ),
        Scenario(
            f"One floods, three trickle so that they need half of the slots; weights; {hours:g} h",
            {CONTENT: flood, SEO: often, REVENUE: often, INTELLIGENCE: Trickle(240, 120)},
            {CONTENT: 1, SEO: 2, REVENUE: 1, INTELLIGENCE: 0.5},
            hours=hours,
        ),
        Scenario(
            f"Three types flood, batches of 60, 120 and 240 s; weights; five slots; {hours:g} h",
            {CONTENT: Flood(tasks, 1.2), SEO: flood, REVENUE: Flood(tasks, 4.8), INTELLIGENCE: rarely},
            {CONTENT: 1, SEO: 2, REVENUE: 3, INTELLIGENCE: 1},
            slots=5,
            hours=hours,
        ),
        Scenario(
            f"One tenant floods {tasks:,} tasks of a type, three trickle, until all is done",
            dict(zip(TENANTS, (flood, Trickle(60, 2.4), Trickle(60, 2.4), Trickle(300, 2.4)), strict=True)),
            tenants=True,
        ),
    ]


# -- measuring -----------------------------------------------------------------------------------------------


@dataclass
class Line:
    """One type or tenant: its share of what it was entitled to, and how its tasks waited."""

    name: str
    weight: float
    load: Flood | Trickle
    got: float
    entitled: float
    lowest_hour: float | None
    tasks: list[Task]
    ends: Counter[int]
    overtaken: int
    too_long: int

    @property
    def share(self) -> float:
        return self.got / self.entitled

    @property
    def fair(self) -> bool:
        return self.share >= LEAST_SHARE


@dataclass
class Outcome:
    scenario: Scenario
    lines: list[Line]
    virtual_hours: float
    left: int
    batches: int
    decisions: int
    longest_batch: float
    took: float

    @property
    def others_only_trickle(self) -> bool:
        """Whoever doesn't flood needs less than its share."""
        floods = sum(isinstance(load, Flood) for load in self.scenario.who.values())
        return floods == 1 and not self.scenario.weights

    @property
    def good(self) -> bool:
        fair = all(line.fair for line in self.lines)
        done = self.scenario.hours is not None or self.left == 0
        prompt = not any(line.too_long for line in self.lines)
        return fair and done and (prompt or not self.others_only_trickle)


def play_through(url: str, scenario: Scenario) -> Outcome:
    """Plays one scenario on a database of its own."""
    flooded = max(load.tasks * load.seconds for load in scenario.who.values() if isinstance(load, Flood))
    # Without an end of its own it is played out: then it trickles for as long as the flood surely lasts.
    hours, seconds = scenario.hours, flooded / scenario.slots
    until = seconds if hours is None else hours * HOUR
    began = time.monotonic()
    with Database(url) as db:
        play = Play(db)
        types = {CONTENT: 1.0} if scenario.tenants else scenario.all_weights
        make_room(play, scenario.slots, types, BATCH)
        simulation = Simulation(play, scenario.arrivals(until), scenario.slots)
        simulation.run(math.inf if hours is None else until)
    lines = tenant_lines if scenario.tenants else type_lines
    return Outcome(
        scenario=scenario,
        lines=lines(simulation, scenario, until),
        virtual_hours=max(batch.ends for batch in simulation.batches) / HOUR if hours is None else hours,
        left=sum(task.ended is None for task in simulation.tasks.values()),
        batches=len(simulation.batches),
        decisions=simulation.decisions,
        longest_batch=max(batch.ends - batch.started for batch in simulation.batches),
        took=time.monotonic() - began,
    )


def type_lines(simulation: Simulation, scenario: Scenario, until: float) -> list[Line]:
    entitled = entitled_types(simulation.arrivals, scenario.slots, BATCH, scenario.all_weights, until)
    flood = next(name for name, load in scenario.who.items() if isinstance(load, Flood))
    lines = []
    for name, load in scenario.who.items():
        had = simulation.served(name, until)
        line = line_of(simulation, name, scenario, had, entitled[name].at(until))
        if isinstance(load, Flood):
            hours = [hour * HOUR for hour in range(int(until // HOUR) + 1)]
            served = [simulation.served(name, hour) for hour in hours]
            due = [entitled[name].at(hour) for hour in hours]
            shares = [(b - a) / (d - c) for a, b, c, d in zip(served, served[1:], due, due[1:], strict=False)]
            line.lowest_hour = min(shares, default=None)
        else:
            line.overtaken = sum(simulation.overtaken_by(task, flood) > 0 for task in line.tasks)
            line.too_long = sum(task.waited > simulation.longest_left(task) + 1e-6 for task in line.tasks)
        lines.append(line)
    return lines


def tenant_lines(simulation: Simulation, scenario: Scenario, until: float) -> list[Line]:
    had, entitled = tenants_of(simulation), entitled_tenants(simulation, scenario.all_weights)
    lines = [line_of(simulation, name, scenario, had[name], entitled[name]) for name in scenario.who]
    for line in lines:
        if isinstance(line.load, Trickle):
            line.too_long = sum(task.waited > simulation.longest_left(task) + 1e-6 for task in line.tasks)
    return lines


def line_of(simulation: Simulation, name: str, scenario: Scenario, got: float, entitled: float) -> Line:
    tasks = [
        task
        for task in simulation.tasks.values()
        if name == (task.arrival.tenant if scenario.tenants else task.arrival.task_type)
        and task.started is not None
    ]
    trickles = isinstance(scenario.who[name], Trickle)
    return Line(
        name=name,
        weight=scenario.all_weights[name],
        load=scenario.who[name],
        got=got,
        entitled=entitled,
        lowest_hour=None,
        tasks=tasks,
        ends=Counter(simulation.ends_waited_for(task) for task in tasks) if trickles else Counter(),
        overtaken=0,
        too_long=0,
    )


# -- saying it -----------------------------------------------------------------------------------------------


HEAD = (
    *("", "weight", "tasks begun", "had", "entitled", "share", "lowest hour", "wait, p50 and longest"),
    *("began at once, after an end, after more", "overtaken by the flood"),
)


def row_of(line: Line, scenario: Scenario) -> tuple[str, ...]:
    waited, ends = waits(line.tasks), line.ends
    figures: tuple[str, ...] = (
        *(line.name, f"{line.weight:g}", f"{len(line.tasks):,}", f"{line.got:,.0f}"),
        *(f"{line.entitled:,.0f}", f"{line.share:.3f}"),
        "" if line.lowest_hour is None else f"{line.lowest_hour:.3f}",
    )
    if isinstance(line.load, Flood):
        return (*figures, f"{waited[len(waited) // 2] / HOUR:.1f} h, {waited[-1] / HOUR:.1f} h", "", "")
    more = sum(ends.values()) - ends[0] - ends[1]
    overtaken = "" if scenario.tenants else str(line.overtaken)
    return (
        *figures,
        f"{waited[len(waited) // 2]:.0f} s, {waited[-1]:.0f} s",
        f"{ends[0]}, {ends[1]}, {more}",
        overtaken,
    )


def told(outcome: Outcome) -> str:
    scenario, longer = outcome.scenario, sum(line.too_long for line in outcome.lines)
    text = paragraph(
        f"**{scenario.title}.**",
        f"{outcome.virtual_hours:.1f} h, {outcome.batches:,} batches (the longest"
        f" {outcome.longest_batch:.0f} s) by",
        f"{outcome.decisions:,} decisions; {outcome.left:,} tasks left at the end.",
        f"In {'places' if scenario.tenants else 'slot-seconds'}.",
        f"Tasks that trickled in and waited longer than any batch that ran when they came: {longer}.",
    )
    return f"{text}\n\n{table(HEAD, *(row_of(line, scenario) for line in outcome.lines))}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness")
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks of a flood")
    parser.add_argument(
        "--hours", type=float, default=8.0, help="of the scenarios that aren't played to their end"
    )
    parser.add_argument("--record", action="store_true", help="write the figures to RESULTS.md")
    options = parser.parse_args()
    outcomes = []
    with embedded_server({"fsync": "off"}) as server:
        for number, scenario in enumerate(scenarios(options.tasks, options.hours)):
            url = create_database(server, f"fair_{number}")
            deploy_control_plane(url)
            outcomes.append(play_through(url, scenario))
            outcome = outcomes[-1]
            print(told(outcome))
            print(f"{'good' if outcome.good else 'NOT good'}, {outcome.took:.0f} s\n", flush=True)
        with Database(server.url) as db:
            version = db.row("SELECT split_part(current_setting('server_version'), ' ', 1) AS v")
    if options.record:
        assert version is not None
        write_section("fairness", section(outcomes, machine(version["v"])))
    good = all(outcome.good for outcome in outcomes)
    print("good" if good else "NOT good")
    return 0 if good else 1


def section(outcomes: list[Outcome], where: str) -> str:
    text = paragraph(
        "`python -m benchmarks.fairness`: the real functions in virtual time; how fast the machine is plays",
        f"no part. {SLOTS} slots where nothing else is said, batches of up to {BATCH} tasks. Entitled: the",
        "weighted max-min fair share, stated at the head of `benchmarks/fairness.py`; at least",
        f"{LEAST_SHARE} of it is wanted. A task that trickles in and meets all slots busy is given the next",
        "that comes free; a later one only where another type that waits, and has had less for its weight,",
        "is given that one.",
        where,
    )
    return "\n\n".join(["## Fair shares", text, *(told(outcome) for outcome in outcomes)])


if __name__ == "__main__":
    sys.exit(main())
