"""Finding, measuring and ending the processes of a platform.

A process belongs to a platform when LEAD_PLATFORM_ID is in the environment it was started with. The id is
`<LEAD_HOME's fingerprint>.<this start>`: the next start on the same LEAD_HOME recognises what an earlier one
left behind by the first half, and a late guard of an earlier start can't touch the processes of a new one,
because it looks for the whole.

PostgreSQL is the exception. Its processes overwrite the memory their environment was in (that is how `ps`
shows what a backend does), so they are found from `postmaster.pid` in the data folder, down through the
children.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MARK = "LEAD_PLATFORM_ID"
PART = "LEAD_PLATFORM_PART"
GUARD = "guard"
CODE_SERVER = "code-server"


def home_fingerprint(home: Path) -> str:
    """The half of the platform id that stays the same for one LEAD_HOME, however its path is written."""
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]


def new_platform_id(home: Path) -> str:
    """A fresh id for one start on this LEAD_HOME."""
    return f"{home_fingerprint(home)}.{secrets.token_hex(4)}"


def marked_processes(wanted: Callable[[str], bool]) -> list[psutil.Process]:
    """Every live process whose LEAD_PLATFORM_ID satisfies `wanted`, except the one that asks.

    Processes of other users can't be read and are no children of ours; those that end meanwhile are left out.
    """
    found = []
    me = os.getpid()
    for process in psutil.process_iter():
        if process.pid == me:
            continue
        try:
            mark = process.environ().get(MARK)
        except (psutil.Error, OSError):
            continue
        if mark is not None and wanted(mark) and is_live(process):
            found.append(process)
    return found


def is_live(process: psutil.Process) -> bool:
    """Whether it still runs: neither gone, nor its pid taken over, nor a zombie waiting for its parent."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def part_of(process: psutil.Process) -> str:
    """The part a marked process was started for (`daemon`, `webserver`, `sandbox`, `guard`), or `?`."""
    try:
        return str(process.environ().get(PART, "?"))
    except (psutil.Error, OSError):
        return "?"


def is_run_worker(process: psutil.Process) -> bool:
    """Whether it works a run: the code server starts one process a run, by multiprocessing's spawn.

    Told by the part that it inherited and by its command line, so it is known also when its code server has
    died and it works on.
    """
    try:
        spawned = any("multiprocessing.spawn" in argument for argument in process.cmdline())
    except (psutil.Error, OSError):
        return False
    return spawned and part_of(process) == CODE_SERVER


def end_processes(
    find: Callable[[], Iterable[psutil.Process]],
    grace_seconds: float,
    hurry: Callable[[], bool] = lambda: False,
) -> int:
    """SIGTERM to whatever `find` returns, again to what appears meanwhile, SIGKILL to what is left after the
    grace period.

    Returns how many processes were told to end. `hurry` cuts the grace period short. Comes back when `find`
    returns nothing; a process that even SIGKILL can't end (stuck in the kernel) is given up after two
    seconds.
    """
    told: set[int] = set()
    deadline = time.monotonic() + grace_seconds
    while processes := list(find()):
        overdue = hurry() or time.monotonic() >= deadline
        if overdue and time.monotonic() >= deadline + 2 and told:
            break
        for process in processes:
            if overdue:
                _signal(process, signal.SIGKILL)
            elif process.pid not in told:
                _signal(process, signal.SIGTERM)
            told.add(process.pid)
        psutil.wait_procs(processes, timeout=0.1)
    return len(told)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except (psutil.Error, OSError):
        pass  # it ended by itself in between


def postmaster(data_dir: Path) -> psutil.Process | None:
    """The running postmaster of a PostgreSQL data folder, or None.

    `postmaster.pid` survives a crash, and its number may belong to somebody else by now: the name and the
    start must fit.
    """
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
        process = psutil.Process(int(lines[0]))
        started = int(lines[2])
        if process.name().startswith("postgres") and abs(process.create_time() - started) < 60:
            return process if is_live(process) else None
    except (OSError, ValueError, IndexError, psutil.Error):
        pass
    return None


def postgres_processes(data_dir: Path) -> list[psutil.Process]:
    """The postmaster of this data folder and its backends; empty when it isn't running."""
    top = postmaster(data_dir)
    if top is None:
        return []
    try:
        return [top, *top.children(recursive=True)]
    except psutil.Error:
        return [top]


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """What these processes hold together, in bytes, shared pages counted once (PSS; where the kernel has
    none, RSS)."""
    total = 0
    for process in processes:
        try:
            total += _pss(process)
        except (psutil.Error, OSError):
            continue  # ended while we looked
    return total


def _pss(process: psutil.Process) -> int:
    try:
        with Path(f"/proc/{process.pid}/smaps_rollup").open(encoding="ascii") as rollup:
            for line in rollup:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, PermissionError):
        pass
    return int(process.memory_info().rss)
