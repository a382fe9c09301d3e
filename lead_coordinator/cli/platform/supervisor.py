"""The supervisor: owns a LEAD_HOME, starts the parts, looks after them, stops all of it.

One thread decides (the caller's: it calls `tend` about twice a second); other threads only carry log lines.
Signals set a flag and never raise in the middle of something. `stop` may be called at any point of a start
that failed or was interrupted: it goes by what carries the platform's mark, not by what was registered.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

import psutil

from lead_coordinator.cli.platform.children import Child, Program, describe_exit
from lead_coordinator.cli.platform.environment import importable
from lead_coordinator.cli.platform.guard import GOODBYE
from lead_coordinator.cli.platform.home import HomeLock, remove_runtime
from lead_coordinator.cli.platform.logs import Terminal
from lead_coordinator.cli.platform.processes import (
    GUARD,
    MARK,
    end_processes,
    home_fingerprint,
    marked_processes,
    new_platform_id,
    part_of,
)
from lead_coordinator.errors import LeadCoordinatorError

# Everything has to be gone about ten seconds after Ctrl-C: six for Dagster and its runs, one and a half for
# the sandbox, the rest is PostgreSQL's.
DAGSTER_GRACE_SECONDS = 6.0
SANDBOX_GRACE_SECONDS = 1.5


class StartFailed(LeadCoordinatorError):
    """A part didn't come up; the sentence says which, how it ended and where its log is."""


class StopRequested(Exception):
    """Ctrl-C or SIGTERM came while the platform was starting."""


class Supervisor:
    def __init__(self, home: Path, terminal: Terminal, grace_seconds: float = DAGSTER_GRACE_SECONDS) -> None:
        self.home = home
        self.terminal = terminal
        self.grace_seconds = grace_seconds
        self.platform_id = new_platform_id(home)
        self.children: dict[str, Child] = {}
        self.stopping = threading.Event()
        self.stop_reason = ""
        self._hurry = threading.Event()
        self._lock = HomeLock(home)
        self._guard: Child | None = None

    # -- owning

    def claim(self) -> None:
        """Takes LEAD_HOME (HomeInUse when somebody has it) and ends what an earlier supervisor left
        behind."""
        self._lock.acquire()
        remove_runtime(self.home)
        fingerprint = home_fingerprint(self.home) + "."

        def leftovers() -> list[psutil.Process]:
            return marked_processes(lambda mark: mark.startswith(fingerprint) and mark != self.platform_id)

        for process in leftovers():
            # A guard would go on stopping PostgreSQL, which we are about to start.
            if part_of(process) == GUARD:
                with contextlib.suppress(Exception):
                    process.kill()
        if ended := end_processes(leftovers, self.grace_seconds):
            noun = "process" if ended == 1 else "processes"
            self.terminal.say(
                "platform", f"ended {ended} {noun} that an earlier start on this LEAD_HOME had left behind"
            )

    def start_guard(self, data_dir: Path | None) -> None:
        """Starts the process that ends the platform if this one is killed. `data_dir`: the embedded server's,
        if it is ours."""
        argv = [sys.executable, "-m", "lead_coordinator.cli.platform.guard", self.platform_id]
        if data_dir is not None:
            argv.append(str(data_dir))
        program = Program(GUARD, tuple(argv), self.marked(importable(os.environ)), self.home, stdin=True)
        self._guard = self._child(program)
        self._guard.start()

    def marked(self, environ: Mapping[str, str]) -> dict[str, str]:
        return {**environ, MARK: self.platform_id}

    # -- parts

    def _child(self, program: Program) -> Child:
        return Child(program, self.home / "logs", self.terminal)

    def start(self, part: str, argv: list[str], environ: Mapping[str, str], cwd: Path) -> Child:
        """Starts a part that shall run for as long as the platform."""
        child = self._child(Program(part, tuple(argv), self.marked(environ), cwd))
        self.children[part] = child
        child.start()
        return child

    def run(
        self, part: str, argv: list[str], environ: Mapping[str, str], cwd: Path, timeout_seconds: float
    ) -> None:
        """Runs a program to its end; StartFailed unless it ends with 0 in time."""
        child = self._child(Program(part, tuple(argv), self.marked(environ), cwd))
        child.start()
        try:
            self.wait(
                lambda: child.exit_code() is not None, timeout_seconds, f"{part} to end", child.log_path
            )
            if code := child.exit_code():
                raise StartFailed(f"{part} failed ({describe_exit(code)}); its log: {child.log_path}")
        finally:
            child.close()

    def wait_ready(self, part: str, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Waits until a part answers; StartFailed when it dies three times first, or never answers."""
        child = self.children[part]

        def answered() -> bool:
            if child.deaths >= 3:
                raise StartFailed(
                    f"{part} can't start: it ended {child.deaths} times in a row; its log: {child.log_path}"
                )
            return child.process is not None and ready()

        self.wait(answered, timeout_seconds, f"{part} to answer", child.log_path)

    def wait(self, done: Callable[[], bool], timeout_seconds: float, what: str, log: Path) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not done():
            if time.monotonic() > deadline:
                raise StartFailed(f"waited {timeout_seconds:g} s for {what}, in vain; the log: {log}")
            self.pause(0.1)
            self.tend()

    def pause(self, seconds: float) -> None:
        """Waits; raises StopRequested at once when the platform is told to stop."""
        if self.stopping.wait(seconds):
            raise StopRequested

    def tend(self) -> None:
        """One look after every child. Call it about twice a second."""
        if self.stopping.is_set():
            return
        for child in self.children.values():
            child.tend()
        if self._guard is not None:
            self._guard.tend()

    # -- stopping

    def stop(self) -> None:
        """Ends every process of this platform except PostgreSQL (the caller's, last) and the guard
        (`release`)."""
        self.stopping.set()
        self._end(lambda part: part not in ("sandbox", GUARD), self.grace_seconds)
        self._end(lambda part: part != GUARD, SANDBOX_GRACE_SECONDS)
        for child in self.children.values():
            child.exit_code()  # collects it
            child.close()

    def _end(self, wanted: Callable[[str], bool], grace_seconds: float) -> None:
        def find() -> list[psutil.Process]:
            return [p for p in marked_processes(lambda mark: mark == self.platform_id) if wanted(part_of(p))]

        end_processes(find, grace_seconds, hurry=self._hurry.is_set)

    def release(self) -> None:
        """Sends the guard home and gives LEAD_HOME back."""
        if self._guard is not None and self._guard.process is not None:
            process = self._guard.process
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.write(GOODBYE)
                process.stdin.close()
            with contextlib.suppress(Exception):
                process.wait(timeout=2)
            self._guard.close()
        self._end(lambda part: True, 0.0)
        remove_runtime(self.home)
        self._lock.release()

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP ask the platform to stop; a second one makes it hurry (SIGKILL instead
        of patience)."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.stopping.is_set():
                self._hurry.set()
            else:
                self.stop_reason = signal.Signals(number).name
            self.stopping.set()

        before = {
            number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
