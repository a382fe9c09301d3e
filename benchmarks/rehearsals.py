"""Rehearsals of failing providers on a whole platform, with the sandbox's faults.

    python -m benchmarks.rehearsals [--scenarios faults,outage-7,outage-11] [--tasks 100] [--record]

faults: of each hundred requests to either provider twenty are answered with 429, ten with 500, five never,
two with garbage, for as long as content tasks are worked. outage-N: while tasks are worked, both providers
go down for N minutes (503 for every request) and come back; more tasks are submitted meanwhile. What was
admitted over a limit is counted in the sandbox's own call log; seconds until work goes on are counted from
the moment before the providers are told to answer again. Exit code 1 where something isn't as it must be.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.live import MOST_BRIEFS, briefs, live_platform, rest, sandbox_of, wait_for
from benchmarks.record import machine, paragraph, table, write_section
from lead_coordinator.cli.platform.run import Platform
from lead_coordinator.cli.platform.supervisor import StopRequested
from lead_coordinator.database.queue import submit_tasks
from lead_coordinator_tests.e2e.rehearsal import (
    BOTH_DOWN,
    ENDED,
    FAULTS,
    Outcome,
    Resumed,
    observe,
    resumed,
    statuses,
)

HEADINGS = {
    "faults": "Rehearsal: 20 % 429, 10 % 500, 5 % never answered, 2 % garbage",
    "outage": "Rehearsal: both providers down for {} minutes",
}
SUCCESS_SHARE = 0.99
RESUME_SECONDS = 60.0
SUBMIT_EVERY_SECONDS = 30.0
MOST_SECONDS = 3600.0


@dataclass(frozen=True)
class Rehearsal:
    """One scenario. `seconds`: from the submission to the last task's end; `back`: where there was an
    outage, how soon work went on; `at_return`: the tasks as they were at the providers' return."""

    name: str
    outcome: Outcome
    seconds: float
    load: float
    postgresql: str
    back: Resumed | None = None
    at_return: Outcome | None = None


@dataclass(frozen=True)
class Line:
    what: str
    wanted: str
    found: str
    reached: bool = True


def submit(platform: Platform, start: int, count: int) -> list[int]:
    """Briefs `start` and following into the queue; their task ids."""
    submitted = submit_tasks(platform.database, briefs(start + count)[start:])
    return [task.task_id for task in submitted.tasks]


def all_ended(platform: Platform, ids: list[int]) -> Callable[[], bool]:
    return lambda: set(statuses(platform.database, ids)) <= ENDED


def look(platform: Platform, ids: list[int]) -> Outcome:
    return observe(platform.database, sandbox_of(platform), platform.site_dir, ids)


def _version(platform: Platform) -> str:
    row = platform.database.row("SHOW server_version")
    assert row is not None
    return str(row["server_version"]).split()[0]


def rehearse_faults(tasks: int) -> Rehearsal:
    with live_platform() as platform:
        sandbox_of(platform).set_faults(FAULTS)
        began = time.monotonic()
        ids = submit(platform, 0, tasks)
        wait_for(platform, all_ended(platform, ids), MOST_SECONDS, f"the end of {tasks} tasks")
        seconds = time.monotonic() - began
        return Rehearsal("faults", look(platform, ids), seconds, os.getloadavg()[0], _version(platform))


def rehearse_outage(minutes: float, tasks: int) -> Rehearsal:
    with live_platform() as platform:
        sandbox = sandbox_of(platform)
        began = time.monotonic()
        before = tasks // 2
        ids = submit(platform, 0, before)
        wait_for(
            platform,
            lambda: statuses(platform.database, ids)["completed"] >= 10,
            MOST_SECONDS,
            "tasks completed before the outage",
        )
        sandbox.set_faults(BOTH_DOWN)
        down_until = time.monotonic() + 60 * minutes
        rounds = max(1, int(60 * minutes / SUBMIT_EVERY_SECONDS) - 1)
        while (left := down_until - time.monotonic()) > 0:
            if (more := min(-(-(tasks - before) // rounds), tasks - len(ids))) > 0:
                ids += submit(platform, len(ids), more)
            rest(platform, min(left, SUBMIT_EVERY_SECONDS))
        at_return = look(platform, ids)
        back_at = datetime.now(UTC)
        sandbox.clear_faults()
        wait_for(platform, all_ended(platform, ids), MOST_SECONDS, f"the end of {len(ids)} tasks")
        seconds = time.monotonic() - began
        return Rehearsal(
            f"outage-{minutes:g}",
            look(platform, ids),
            seconds,
            os.getloadavg()[0],
            _version(platform),
            resumed(platform.database, back_at, ids),
            at_return,
        )


def judged(one: Rehearsal) -> list[Line]:
    """What must be, and what was."""
    found = one.outcome
    share = found.succeeded / found.tasks
    lines = [
        Line(
            "tasks completed",
            f"{SUCCESS_SHARE:.0%} of {found.tasks}" if one.back is None else f"{found.tasks}",
            f"{found.succeeded} ({share:.1%})",
            share >= (SUCCESS_SHARE if one.back is None else 1.0),
        ),
        _none("published twice", found.published_twice),
        _none("calls over a limit", found.over_limit),
        Line(
            "most calls in any 60 s",
            ", ".join(f"{name} {calls.limit}" for name, calls in found.providers.items()),
            ", ".join(f"{name} {calls.peak}" for name, calls in found.providers.items()),
            all(calls.peak <= calls.limit for calls in found.providers.values()),
        ),
        Line(
            "dearest article, timed-out calls at their maximum",
            f"at most ${found.item_cap_usd:.2f}",
            f"${found.dearest_usd:.4f}",
            found.dearest_usd <= found.item_cap_usd,
        ),
        Line(
            "held or spent of the day's budget",
            f"at most ${found.day_cap_usd:,.0f}",
            f"${found.day_cost_usd:.2f}",
            found.day_cost_usd <= found.day_cap_usd,
        ),
        _none("calls left open", found.left_open),
    ]
    if one.back is not None and one.at_return is not None:
        worse = one.at_return
        lines += [
            _none(
                "dead letters, at the return and in the end",
                sum(worse.dead.values()) + sum(found.dead.values()),
            ),
            _none("attempts spent, at the return and in the end", worse.attempts + found.attempts),
            _soon("from the return to the first admitted call", one.back.admitted),
            _soon("from the return to the first answered call", one.back.answered),
            _soon("from the return to the first completed task", one.back.completed),
        ]
    lines += [
        Line("calls", "", ", ".join(f"{name} {calls.calls}" for name, calls in found.providers.items())),
        Line("faults met", "", _injected(found)),
        Line("dead letters by reason", "", _counted(found.dead)),
        Line(
            "attempts spent, deferrals, runs lost", "", f"{found.attempts}, {found.deferrals}, {found.stalls}"
        ),
        Line("cost, all articles", "", f"${found.cost_usd:.2f}"),
        Line("seconds in all, load at the end", "", f"{one.seconds:.0f}, {one.load:.1f}"),
    ]
    return lines


def _none(what: str, count: int) -> Line:
    return Line(what, "0", str(count), count == 0)


def _soon(what: str, seconds: float | None) -> Line:
    return Line(
        what,
        f"within {RESUME_SECONDS:.0f} s",
        "never" if seconds is None else f"{seconds:.1f} s",
        seconds is not None and seconds <= RESUME_SECONDS,
    )


def _injected(found: Outcome) -> str:
    kinds = sorted({kind for calls in found.providers.values() for kind in calls.injected})
    return _counted({kind: sum(c.injected.get(kind, 0) for c in found.providers.values()) for kind in kinds})


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def described(one: Rehearsal) -> str:
    kind, _, minutes = one.name.partition("-")
    rows = [("what", "must be", "was", "as it must be")]
    for line in judged(one):
        verdict = "" if not line.wanted else "yes" if line.reached else "**no**"
        rows.append((line.what, line.wanted, line.found, verdict))
    text = paragraph(
        f"{machine(one.postgresql)} `python -m benchmarks.rehearsals --scenarios {one.name} --record`: the",
        "whole platform, sandbox with `fast` latency, calls and refusals from the sandbox's own log.",
    )
    return f"## {HEADINGS[kind].format(minutes)}\n\n{text}\n\n{table(*rows)}"


def rehearse(scenario: str, tasks: int) -> Rehearsal:
    if scenario == "faults":
        return rehearse_faults(tasks)
    return rehearse_outage(float(scenario.removeprefix("outage-")), tasks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scenarios", default="faults,outage-7,outage-11", help="faults, outage-MINUTES, by commas"
    )
    parser.add_argument("--tasks", type=int, default=100, help=f"tasks a scenario, 20 to {MOST_BRIEFS}")
    parser.add_argument("--record", action="store_true", help="write the sections of RESULTS.md")
    given = parser.parse_args()
    good = True
    for scenario in given.scenarios.split(","):
        done = rehearse(scenario, given.tasks)
        text = described(done)
        print(f"{text}\n", flush=True)
        if given.record:
            write_section(f"rehearsal {scenario}", text)
        good = good and all(line.reached for line in judged(done))
    return 0 if good else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except StopRequested:
        raise SystemExit("stopped before the end") from None
