"""What a person sees of Dagster's output, and that log files stay bounded."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from lead_coordinator.cli.platform.logs import BoundedLog, Reader, Terminal

RUN = "4f2a9c1b-0f5e-4a53-9d3c-0a4a55a0a001"
STAMP = "2026-11-24 05:56:18 +0000"


def shown(part: str, *lines: str) -> list[str]:
    reader = Reader(part)
    return [text for line in lines if (text := reader.readable(line)) is not None]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            f"{STAMP} - dagster.daemon.SensorDaemon - INFO - Checking for new runs for sensor: x",
            None,
        ),
        (f"{STAMP} - dagster.daemon - INFO - Daemon threads shut down.", None),
        (
            f"\x1b[32m{STAMP}\x1b[0m - dagster.daemon.SensorDaemon - \x1b[34mINFO\x1b[0m - Checking",
            None,
        ),
        (f"{STAMP} - dagster.daemon - WARNING - clock jumped", "WARNING: clock jumped"),
        (f"{STAMP} - dagster - DEBUG - tiny_job - {RUN} - 77 - STEP_START - Started execution of step", None),
        (
            f"{STAMP} - dagster - DEBUG - tiny_job - {RUN} - 77 - RUN_START - Started",
            "tiny_job run 4f2a9c1b started",
        ),
        (
            f"{STAMP} - dagster - DEBUG - tiny_job - {RUN} - 77 - RUN_SUCCESS - Done",
            "tiny_job run 4f2a9c1b succeeded",
        ),
        (
            f"{STAMP} - dagster - ERROR - tiny_job - {RUN} - 77 - RUN_FAILURE - Steps failed: ['bad'].",
            "tiny_job run 4f2a9c1b failed: Steps failed: ['bad'].",
        ),
        (
            f"{STAMP} - dagster - INFO - tiny_job - {RUN} - work - 3 published",
            "tiny_job run 4f2a9c1b: 3 published",
        ),
        (f"{STAMP} - dagster - DEBUG - tiny_job - {RUN} - work - 3 looked at", None),
        (f"{STAMP} - dagster - DEBUG - coordinator_job - {RUN} - 77 - RUN_SUCCESS - Done", None),
        (
            f"{STAMP} - dagster - INFO - coordinator_job - {RUN} - system_health_check - Healthy.",
            None,
        ),
        (
            f"{STAMP} - dagster - INFO - coordinator_job - {RUN} - metrics_collector - 2 dispatched",
            "coordinator_job run 4f2a9c1b: 2 dispatched",
        ),
        (
            f"{STAMP} - dagster - WARNING - coordinator_job - {RUN} - global_error_handler - one was lost",
            "WARNING: coordinator_job run 4f2a9c1b: one was lost",
        ),
        (
            f"{STAMP} - dagster - ERROR - coordinator_job - {RUN} - 77 - RUN_FAILURE - Steps failed",
            "coordinator_job run 4f2a9c1b failed: Steps failed",
        ),
        ("something without a header", None),
        ("", None),
    ],
)
def test_noise_is_dropped_and_events_are_sentences(line: str, expected: str | None) -> None:
    assert Reader("daemon").readable(line) == expected


def test_of_a_traceback_the_error_is_shown_and_the_stack_is_not() -> None:
    assert shown(
        "daemon",
        f"{STAMP} - dagster.daemon - ERROR - Caught an error dequeuing run",
        "Traceback (most recent call last):",
        '  File "daemon.py", line 418, in _dequeue_run',
        "    launch()",
        "    ^^^^^^",
        "dagster.DagsterLaunchFailedError: the server has gone",
        f"{STAMP} - dagster.daemon - INFO - Checking for new runs",
        "the wrapped rest of a message that wasn't shown",
    ) == ["ERROR: Caught an error dequeuing run", "  dagster.DagsterLaunchFailedError: the server has gone"]


def test_a_message_of_a_thousand_lines_doesnt_flood_the_terminal() -> None:
    lines = shown(
        "daemon", f"{STAMP} - dagster - ERROR - broken", *(f"detail {number}" for number in range(1000))
    )
    assert len(lines) == 6


def test_the_sandbox_speaks_in_full() -> None:
    assert shown("sandbox", "sandbox provider: http://x\n", "no space left\n", "  ") == ["no space left"]


def test_a_log_file_is_turned_over_and_bounded(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "logs" / "daemon.log", max_bytes=100, kept=2)
    for number in range(40):
        log.write(f"line {number:04d}\n".encode())
    log.close()
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == ["daemon.log", "daemon.log.1", "daemon.log.2"]
    assert all(file.stat().st_size <= 100 for file in files)
    assert (tmp_path / "logs" / "daemon.log").read_text().endswith("line 0039\n"), (
        "the newest file has the newest line"
    )
    log.write(b"a last line of a process that outlives its log\n")  # must not raise


def test_a_later_start_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for text in (b"first\n", b"second\n"):
        log = BoundedLog(tmp_path / "daemon.log")
        log.write(text)
        log.close()
    assert (tmp_path / "daemon.log").read_text() == "first\nsecond\n"


def test_the_terminal_can_be_told_what_matters() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream, only=("platform",))
    terminal.say("platform", "the UI is up")
    terminal.say("daemon", "tiny_job run 4f2a9c1b started")
    terminal.say("daemon", "ERROR: broken")
    assert [line.split(maxsplit=1)[1] for line in stream.getvalue().splitlines()] == [
        "platform    the UI is up",
        "daemon      ERROR: broken",
    ]


def test_a_terminal_that_went_away_stops_nobody() -> None:
    stream = io.StringIO()
    stream.close()
    Terminal(stream).say("platform", "anyone there?")
