"""The race itself: starts the clients, kills some of them at random moments, replaces them, ends.

Clients are forked from this process, which has imported what they need and holds no connection and no thread
meanwhile: sixteen of them are there within milliseconds. So it runs in a process of its own, see `__main__`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.races.journal import SUFFIX, Journal, parse
from lead_coordinator_tests.races.observer import observe
from lead_coordinator_tests.races.roles import ROLES as KINDS
from lead_coordinator_tests.races.scenario import LEASE_SECONDS, ROLES, Scenario, prepare

TURN_SECONDS = 0.02
ENDING_SECONDS = 30.0


def run(url: str, folder: Path, scenario: Scenario) -> None:
    """Runs the race on a freshly deployed scratch database; what happened is in the journals of `folder`."""
    with Database(url, application_name="race setup") as db:
        prepare(db, scenario)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(f"ended by signal {number}"))
    race = _Race(url, folder, scenario)
    try:
        race.run()
    finally:
        race.end()
    with Database(url, application_name="race end") as db:
        _settle_down(db, race.journal)


class _Race:
    def __init__(self, url: str, folder: Path, scenario: Scenario) -> None:
        self.url = url
        self.folder = folder
        self.scenario = scenario
        self.journal = Journal(folder, "race")
        self.dice = random.Random(f"{scenario.seed} killer")
        self.places: dict[int, int] = {}  # process id: which of the sixteen
        self.names: dict[int, str] = {}
        self.born = 0
        self.watched, self.seen = 0, 0
        self.observer = self._fork(lambda: observe(url, folder, scenario))

    def run(self) -> None:
        for place in range(len(ROLES)):
            self._start(place)
        deadline = time.monotonic() + self.scenario.patience_seconds
        next_kill = time.monotonic() + self._interval()
        while self._completed() < self.scenario.tasks:
            if self._observer_is_gone() or time.monotonic() > deadline:
                self.journal.note("unfinished", completed=self._completed())
                return
            self._replace_the_dead()
            if time.monotonic() >= next_kill:
                next_kill = time.monotonic() + self._interval()
                victim = self.dice.choice(sorted(self.places, key=self.places.__getitem__))
                self.journal.note("kills", who=self.names[victim])
                os.kill(victim, signal.SIGKILL)
            time.sleep(TURN_SECONDS)

    def end(self) -> None:
        """Every client ends what it is at. None is left behind, whatever happened."""
        for process in self.places:
            os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + ENDING_SECONDS
        while self.places and time.monotonic() < deadline:
            for process in self._the_dead():
                del self.places[process]
            time.sleep(TURN_SECONDS)
        for process in self.places:
            self.journal.note("stuck", who=self.names[process])
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        os.kill(self.observer, signal.SIGTERM)  # where it is gone already, its body waits for us
        _, status = os.waitpid(self.observer, 0)
        self.journal.note("ended", observer=os.waitstatus_to_exitcode(status))

    def _interval(self) -> float:
        return self.dice.expovariate(1 / self.scenario.kill_seconds)

    def _start(self, place: int) -> None:
        self.born += 1
        name = f"{ROLES[place]} {self.born}"
        process = self._fork(lambda: _be_client(self.url, self.folder, self.scenario, ROLES[place], name))
        self.places[process] = place
        self.names[process] = name

    def _fork(self, work: Callable[[], None]) -> int:
        process = os.fork()
        if process:
            return process
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _observer_is_gone(self) -> bool:
        """It is left to be waited for."""
        return os.waitid(os.P_PID, self.observer, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _replace_the_dead(self) -> None:
        for process in self._the_dead():
            self._start(self.places.pop(process))

    def _the_dead(self) -> list[int]:
        dead = []
        for process in list(self.places):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                dead.append(process)
                self.journal.note("over", who=self.names[process], code=os.waitstatus_to_exitcode(status))
        return dead

    def _completed(self) -> int:
        """As the observer saw it last. It reads on where it stopped before."""
        path = self.folder / f"observer{SUFFIX}"
        if not path.exists():
            return 0
        with path.open() as file:
            file.seek(self.watched)
            whole = file.read().rpartition("\n")[0]
        for entry in parse("observer", whole):
            if entry.did == "sample":
                self.seen = int(entry["completed"])
        self.watched += len(whole.encode()) + bool(whole)
        return self.seen


def _be_client(url: str, folder: Path, scenario: Scenario, role: str, name: str) -> None:
    asyncio.run(KINDS[role](url, folder, scenario, name).run())


def _settle_down(db: Database, journal: Journal) -> None:
    """What the dead held comes back by the platform's own clock; then nobody is left at the database."""
    deadline = time.monotonic() + 6 * LEASE_SECONDS
    while True:
        db.call("recover_executions")
        db.call("adopt_executions")
        left = db.row(
            "SELECT (SELECT count(*) FROM workflow_orchestration WHERE completed_at IS NULL) AS executions,"
            " (SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'race %'"
            " AND datname = current_database() AND pid <> pg_backend_pid()) AS clients"
        )
        assert left is not None
        if not any(left.values()):
            journal.note("settled_down")
            return
        if time.monotonic() > deadline:
            journal.note("never_settled_down", **left)
            return
        time.sleep(TURN_SECONDS)
