"""One child process of the supervisor: started with its mark, its output carried away, started again when it
dies.

Restarts wait 1, 2, 4 … up to 30 seconds, and the count begins anew after a minute of life: a child that dies
now and then is back at once, one that can't live doesn't keep the machine busy.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lead_coordinator.cli.platform.logs import BoundedLog, Reader, Terminal, pump
from lead_coordinator.cli.platform.processes import PART

BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
SETTLED_SECONDS = 60.0


@dataclass(frozen=True)
class Program:
    """What a part runs: name, command, environment (with LEAD_PLATFORM_ID in it), working directory."""

    part: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    stdin: bool = False


@dataclass
class Child:
    program: Program
    log_dir: Path
    terminal: Terminal
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    restarts: int = 0
    started_at: float = 0.0
    next_start_at: float = 0.0
    _log: BoundedLog | None = field(default=None, repr=False)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    @property
    def log_path(self) -> Path:
        return self.log_dir / f"{self.program.part}.log"

    def start(self) -> None:
        """Starts the program in a session of its own, so that a Ctrl-C at the terminal reaches the supervisor
        alone, which then stops everything in the right order."""
        if self._log is None:
            self._log = BoundedLog(self.log_path)
        self.process = subprocess.Popen(
            self.program.argv,
            env={**self.program.env, PART: self.program.part},
            cwd=self.program.cwd,
            stdin=subprocess.PIPE if self.program.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.started_at = time.monotonic()
        assert self.process.stdout is not None
        pump(self.process.stdout, self._log, Reader(self.program.part), self.terminal)  # type: ignore[arg-type]

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll() if self.process is not None else None

    def tend(self) -> None:
        """Looks after the child: notes a death and says so, starts it again when its wait is over."""
        now = time.monotonic()
        if self.process is not None and (code := self.process.poll()) is not None:
            if now - self.started_at >= SETTLED_SECONDS:
                self.deaths = 0
            wait = BACKOFF_SECONDS[min(self.deaths, len(BACKOFF_SECONDS) - 1)]
            self.deaths += 1
            self.next_start_at = now + wait
            self.process = None
            self.terminal.say(
                "platform",
                f"{self.program.part} ended ({describe_exit(code)}), log: {self.log_path};"
                f" starting it again in {wait:g} s",
            )
        if self.process is None and now >= self.next_start_at:
            self.restarts += 1
            self.start()
            self.terminal.say("platform", f"{self.program.part} started again (restart {self.restarts})")

    def close(self) -> None:
        if self._log is not None:
            self._log.close()


def describe_exit(code: int) -> str:
    """`exit code 3`, or `killed by signal 9`."""
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
