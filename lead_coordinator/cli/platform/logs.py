"""The children's output: everything into bounded files, what a person wants to know onto the terminal.

Dagster writes hundreds of lines a minute when nothing happens. `readable` keeps warnings, errors with their
tracebacks, the start and end of runs and the messages of our own code, and gives each one line: time, part,
sentence. Nothing is lost: the full output is in LEAD_HOME/logs, one file a part, at most four times 4 MB
each.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

MAX_BYTES = 4 * 1024 * 1024
KEPT_FILES = 3
MAX_LINE = 64 * 1024

# "2026-11-24 05:41:07 +0000 - dagster.daemon.SensorDaemon - INFO - Checking for new runs"
_DAGSTER_LINE = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} - (?P<logger>[\w.:\-]+) - (?P<level>[A-Z]+) - (?P<text>.*)$"
)
# The text of an event of a run: "content_pipeline_job - 4f2a9c1b-… - 1234 - RUN_SUCCESS - Finished execution
# of run …"
_RUN_EVENT = re.compile(
    r"^(?P<job>\w+) - (?P<run>[0-9a-f]{8})[0-9a-f-]{28} - (?:\d+ - )?(?:\w+ - )?"
    r"(?P<event>[A-Z][A-Z_]+) - (?P<text>.*)$"
)
# The text of a line our own code logs inside a run: "content_pipeline_job - 4f2a9c1b-… - work_batch - 3 done"
_RUN_LINE = re.compile(
    r"^(?P<job>\w+) - (?P<run>[0-9a-f]{8})[0-9a-f-]{28} - (?:\d+ - )?(?:(?P<op>\w+) - )?(?P<text>.*)$"
)
# Runs that come and go by themselves every few minutes: a person wants the result, and what goes wrong.
_ROUTINE = {"coordinator_job": ("metrics_collector",), "reports_job": ()}
_RUN_ENDINGS = {
    "RUN_START": "started",
    "RUN_SUCCESS": "succeeded",
    "RUN_FAILURE": "failed",
    "RUN_CANCELED": "was cancelled",
}
_WORTH_SAYING = re.compile(r"^(Launched run|Starting up|.*restart)", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Lines of a traceback that aren't the error itself.
_STACK = (" ", "\t", "^", "~", "Stack Trace:", "Traceback (", "The above exception", "During handling of")
MOST_FOLLOWING = 5
ALARMING = ("WARNING", "ERROR", "CRITICAL")
_LEVELS_SHOWN = {"WARNING", "ERROR", "CRITICAL"}


@dataclass
class Reader:
    """Reads one part's output line by line. Its only memory: how many more lines without a header belong to a
    message that was shown. Of a traceback a person sees what was raised; the stack is in the file."""

    part: str
    following: int = 0

    def readable(self, line: str) -> str | None:
        """The line as a person should see it, or None when it is noise."""
        line = _COLOUR.sub("", line).rstrip()
        header = _DAGSTER_LINE.match(line)
        if header is None:
            if self.part == "sandbox":
                return None if line.startswith("sandbox provider: ") else line.strip() or None
            if self.following and line and not line.startswith(_STACK):
                self.following -= 1
                return "  " + line
            return None
        text = self._dagster(header["level"], header["text"])
        self.following = MOST_FOLLOWING if text is not None and header["level"] in _LEVELS_SHOWN else 0
        return text

    def _dagster(self, level: str, text: str) -> str | None:
        shown = level in _LEVELS_SHOWN
        prefix = f"{level}: " if shown else ""
        if (event := _RUN_EVENT.match(text)) is not None:
            run, kind = f"{event['job']} run {event['run']}", event["event"]
            if kind not in _RUN_ENDINGS:
                return f"{prefix}{run}: {event['text']}" if shown else None
            if event["job"] in _ROUTINE and kind in ("RUN_START", "RUN_SUCCESS"):
                return None
            return f"{run} {_RUN_ENDINGS[kind]}" + (f": {event['text']}" if kind == "RUN_FAILURE" else "")
        if level != "DEBUG" and (said := _RUN_LINE.match(text)) is not None:
            routine = _ROUTINE.get(said["job"])
            if routine is not None and not shown and said["op"] not in routine:
                return None
            return f"{prefix}{said['job']} run {said['run']}: {said['text']}"
        return f"{prefix}{text}" if shown or (level == "INFO" and _WORTH_SAYING.match(text)) else None


class BoundedLog:
    """A log file that is turned over at 4 MB and keeps three predecessors: `daemon.log`, `daemon.log.1` …

    Safe to write from several threads. A disk that is full costs log lines, never the platform.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, kept: int = KEPT_FILES) -> None:
        self.path, self._max, self._kept = path, max_bytes, kept
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab")
        self._size = self._file.tell()

    def write(self, line: bytes) -> None:
        with self._lock:
            try:
                if self._size + len(line) > self._max:
                    self._turn_over()
                self._file.write(line)
                self._file.flush()
                self._size += len(line)
            except (OSError, ValueError):
                pass  # disk full, or closed while a last line came in

    def _turn_over(self) -> None:
        self._file.close()
        for number in range(self._kept, 0, -1):
            older = self.path if number == 1 else self.path.with_name(f"{self.path.name}.{number - 1}")
            if older.exists():
                older.replace(self.path.with_name(f"{self.path.name}.{number}"))
        self._file = self.path.open("wb")
        self._size = 0

    def close(self) -> None:
        with self._lock:
            self._file.close()


_COLOURS = {"platform": 36, "database": 35, "daemon": 34, "code-server": 94, "webserver": 32, "sandbox": 33}


@dataclass
class Terminal:
    """Prints `12:03:04  daemon     sentence`, one line at a time from any thread; coloured on a terminal
    unless NO_COLOR."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    quiet: bool = False
    only: tuple[str, ...] | None = None  # these parts in full, of the others only warnings and errors
    stopping: bool = False  # what parts say of being stopped is no news
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, part: str, text: str) -> None:
        if self.quiet or (self.stopping and part != "platform"):
            return
        if self.only is not None and part not in self.only and not text.startswith(ALARMING):
            return
        with self._lock:
            try:
                name = f"{part:<11}"
                if self.stream.isatty() and not os.environ.get("NO_COLOR"):
                    name = f"\x1b[{_COLOURS.get(part, 37)}m{name}\x1b[0m"
                self.stream.write(f"{time.strftime('%H:%M:%S')}  {name} {text}\n")
                self.stream.flush()
            except (OSError, ValueError):
                pass  # whoever read our output has gone: that is no reason to stop


def pump(source: BinaryIO, log: BoundedLog, reader: Reader, terminal: Terminal) -> threading.Thread:
    """Starts the thread that carries one child's output to its file and, where readable, to the terminal.

    A very long line is cut into pieces of 64 kB. The thread ends with the pipe: when the child and all that
    inherited it are gone.
    """

    def run() -> None:
        with source:
            while line := source.readline(MAX_LINE):
                log.write(line if line.endswith(b"\n") else line + b"\n")
                text = reader.readable(line.decode("utf-8", "replace"))
                if text is not None:
                    terminal.say(reader.part, text)

    thread = threading.Thread(target=run, name=f"log of {reader.part}", daemon=True)
    thread.start()
    return thread
