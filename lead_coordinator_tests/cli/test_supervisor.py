"""The supervisor's promises, on tiny children: nothing is left behind, one owner a LEAD_HOME, what dies comes
back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lead_coordinator.cli.platform.environment import importable
from lead_coordinator.cli.platform.home import (
    HomeInUse,
    HomeLock,
    Runtime,
    read_runtime,
    runtime_path,
    write_runtime,
)
from lead_coordinator.cli.platform.logs import Terminal
from lead_coordinator.cli.platform.processes import (
    GUARD,
    end_processes,
    home_fingerprint,
    is_live,
    marked_processes,
    part_of,
)
from lead_coordinator.cli.platform.supervisor import StartFailed, StopRequested, Supervisor
from lead_coordinator_tests.cli import tiny
from lead_coordinator_tests.cli.waiting import eventually


def of_home(home: Path) -> list[psutil.Process]:
    return marked_processes(lambda mark: mark.startswith(home_fingerprint(home)))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    end_processes(lambda: of_home(home), 0.0)


def run_tiny(home: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, tiny.__file__, str(home)],
        env=importable(os.environ),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    eventually(lambda: len(of_home(home)) == 5, "two parts, a child of each, and the guard")
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_stop_it_leaves_no_process(home: Path, number: int) -> None:
    process = run_tiny(home)
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == "stopped\n"
    assert process.returncode == 0
    assert of_home(home) == [], "a stopped platform leaves no process, not even one that ignores SIGTERM"


def test_killed_its_guard_ends_the_rest(home: Path) -> None:
    process = run_tiny(home)
    process.kill()
    process.wait(timeout=10)
    eventually(lambda: of_home(home) == [], "the guard of a killed supervisor ends its children and itself")


def test_killed_together_with_its_guard_the_next_start_ends_the_rest(home: Path) -> None:
    process = run_tiny(home)
    next(p for p in of_home(home) if part_of(p) == GUARD).kill()
    process.kill()
    process.wait(timeout=10)
    orphans = of_home(home)
    assert orphans, "this test needs orphans"
    second = run_tiny(home)
    assert not any(is_live(p) for p in orphans), "orphans end at the next start"
    second.terminate()
    second.wait(timeout=30)


def test_a_second_supervisor_on_the_same_home_is_refused_and_told_who_has_it(home: Path) -> None:
    process = run_tiny(home)
    me = psutil.Process(process.pid)
    write_runtime(home, runtime(pid=me.pid, pid_started_at=me.create_time(), web_url="http://127.0.0.1:3000"))
    with pytest.raises(
        HomeInUse, match=rf"in use by pid {process.pid}, its UI is http://127.0.0.1:3000: only one"
    ):
        Supervisor(home, Terminal(quiet=True)).claim()
    assert len(of_home(home)) == 5, "being refused must not touch the owner's processes"
    process.terminate()
    process.wait(timeout=30)


def runtime(**changes: object) -> Runtime:
    values: dict[str, object] = {
        "pid": os.getpid(),
        "pid_started_at": psutil.Process().create_time(),
        "platform_id": "x.y",
        "database_url": "postgresql://lead:secret@localhost/lead",
        "database": "external",
        "web_url": "",
        "dagster_home": "/nowhere",
    }
    return Runtime(**{**values, **changes})  # type: ignore[arg-type]


def test_the_lock_waits_for_an_owner_that_is_stopping(home: Path) -> None:
    owner = HomeLock(home)
    owner.acquire()
    write_runtime(home, runtime(state="stopping"))
    pauses = 0

    def pause(_: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 3:
            owner.release()

    heir = HomeLock(home)
    heir.acquire(pause=pause)
    assert pauses == 3
    heir.release()


def test_the_runtime_file_is_private_and_not_believed_when_its_writer_is_gone(home: Path) -> None:
    home.mkdir()
    write_runtime(home, runtime())
    assert runtime_path(home).stat().st_mode & 0o777 == 0o600
    assert read_runtime(home) == runtime()
    write_runtime(home, runtime(pid_started_at=1.0))
    assert read_runtime(home) is None, "the pid belongs to another process now"
    runtime_path(home).write_text("{")
    assert read_runtime(home) is None


@pytest.fixture
def supervisor(home: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(home, Terminal(quiet=True))
    supervisor.claim()
    yield supervisor
    supervisor.stop()
    supervisor.release()


def test_a_part_that_dies_is_started_again(supervisor: Supervisor, home: Path) -> None:
    child = supervisor.start(
        "daemon", [sys.executable, "-c", "import time; time.sleep(600)"], os.environ, home
    )
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)

    def back() -> bool:
        supervisor.tend()
        return child.pid not in (None, first) and child.restarts == 1

    eventually(back, "a part that was killed runs again")


def test_a_part_that_cant_start_fails_the_start_and_names_its_log(supervisor: Supervisor, home: Path) -> None:
    supervisor.start(
        "daemon", [sys.executable, "-c", "print('no such luck'); raise SystemExit(3)"], os.environ, home
    )
    with pytest.raises(
        StartFailed, match=r"daemon can't start: it ended 3 times in a row; its log: .*daemon\.log"
    ):
        supervisor.wait_ready("daemon", lambda: False, 60)
    assert "no such luck" in (home / "logs" / "daemon.log").read_text()


def test_a_stop_during_the_start_is_heeded_at_once(supervisor: Supervisor, home: Path) -> None:
    supervisor.start("daemon", [sys.executable, "-c", "import time; time.sleep(600)"], os.environ, home)
    supervisor.stopping.set()
    with pytest.raises(StopRequested):
        supervisor.wait_ready("daemon", lambda: False, 60)


def test_run_reports_how_a_program_failed(supervisor: Supervisor, home: Path) -> None:
    supervisor.run("migrate", [sys.executable, "-c", "pass"], os.environ, home, 30)
    with pytest.raises(StartFailed, match=r"migrate failed \(exit code 4\); its log: .*migrate\.log"):
        supervisor.run("migrate", [sys.executable, "-c", "raise SystemExit(4)"], os.environ, home, 30)
