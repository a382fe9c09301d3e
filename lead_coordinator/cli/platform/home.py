"""LEAD_HOME: who owns it, and where its platform can be reached.

    .lead_coordinator/
      up.lock        locked by the one supervisor for as long as it lives
      runtime.json   written by it (mode 0600: it may hold a password), read by `submit`, `status`, `doctor`
      postgres/      the embedded server's data
      dagster/       DAGSTER_HOME: dagster.yaml, logs of runs
      logs/          one file a part
      site/          the published articles

The lock is the kernel's (flock): it is given back however the owner ends, so a crash is never an obstacle.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from lead_coordinator.errors import SettingsError


class HomeInUse(SettingsError):
    """Another supervisor owns this LEAD_HOME."""


def unusable_home(home: Path, error: OSError) -> SettingsError:
    """The sentence for a LEAD_HOME that can't be made or written."""
    return SettingsError(
        f"LEAD_HOME={home} can't be used ({error.strerror or error}): "
        "it must be a folder that can be made and written, such as .lead_coordinator."
    )


@dataclass(frozen=True)
class Runtime:
    """Where the running platform of a LEAD_HOME can be reached."""

    pid: int
    pid_started_at: float
    platform_id: str
    database_url: str
    database: str  # "embedded" or "external"
    web_url: str
    dagster_home: str
    # What its processes were told besides (see environment.py).
    environment: dict[str, str] = field(default_factory=dict)
    sandbox_url: str | None = None
    parts: dict[str, int] = field(default_factory=dict)
    state: Literal["starting", "running", "stopping"] = "starting"
    parent_pid: int | None = None  # the process it ends with (`up --follow-parent`), if it ends with one

    def alive(self) -> bool:
        """Whether the process that wrote this still runs (a pid that was given to somebody else doesn't
        count)."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.pid_started_at) < 1.0
        except psutil.Error:
            return False

    def going(self) -> bool:
        """Whether it is about to end: told to stop, or the process it ends with has gone."""
        return self.state == "stopping" or (self.parent_pid is not None and not _runs(self.parent_pid))


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def runtime_path(home: Path) -> Path:
    return home / "runtime.json"


def read_runtime(home: Path) -> Runtime | None:
    """The running platform of this LEAD_HOME, or None: never started, stopped, or its supervisor was
    killed."""
    try:
        runtime = Runtime(**json.loads(runtime_path(home).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return runtime if runtime.alive() else None


def write_runtime(home: Path, runtime: Runtime) -> None:
    """Writes it atomically, readable by the owner only."""
    path = runtime_path(home)
    fresh = path.with_suffix(".tmp")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(runtime), file, indent=1)
    fresh.replace(path)


def remove_runtime(home: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        runtime_path(home).unlink()


class HomeLock:
    """The exclusive right to run a platform on a LEAD_HOME, held until `release` or the end of the
    process."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._fd: int | None = None

    def acquire(self, patience_seconds: float = 15.0, pause: Callable[[float], None] = time.sleep) -> None:
        """Takes it; waits for an owner that is on its way out, and raises HomeInUse, naming the owner, for
        one that stays."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable_home(self.home, error) from None
        deadline = time.monotonic() + patience_seconds
        while not self._try():
            runtime = read_runtime(self.home)
            if (runtime is not None and not runtime.going()) or time.monotonic() > deadline:
                raise HomeInUse(self._refusal(runtime))
            pause(0.1)

    def _try(self) -> bool:
        try:
            fd = os.open(self.home / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise unusable_home(self.home, error) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def _refusal(self, runtime: Runtime | None) -> str:
        owner = "by another process"
        if runtime is not None:
            owner = f"by pid {runtime.pid}" + (f", its UI is {runtime.web_url}" if runtime.web_url else "")
        return (
            f"LEAD_HOME={self.home} is in use {owner}: only one platform can run there; "
            "stop that one with Ctrl-C, or set LEAD_HOME to another folder."
        )

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
