"""The guard: ends a platform whose supervisor was killed.

    python -m lead_coordinator.cli.platform.guard PLATFORM_ID [PGDATA]

Its standard input is a pipe that only the supervisor holds. When the supervisor ends in an orderly way it
writes `bye` first, and the guard goes quietly. When the pipe closes without it, the supervisor is gone
(SIGKILL, out of memory) and nobody will ever stop its children: the guard ends every process that carries
this id, then PostgreSQL (a fast shutdown, so that the next start needs no crash recovery), and goes too.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import psutil

from lead_coordinator.cli.platform.processes import end_processes, marked_processes, postmaster

GRACE_SECONDS = 5.0
GOODBYE = b"bye"


def clean_up(platform_id: str, data_dir: Path | None, grace_seconds: float = GRACE_SECONDS) -> int:
    """Ends every process of this platform, PostgreSQL last. Returns how many were told to end."""
    ended = end_processes(lambda: marked_processes(lambda mark: mark == platform_id), grace_seconds)
    server = postmaster(data_dir) if data_dir is not None else None
    if server is not None:
        server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        try:
            server.wait(timeout=grace_seconds)
        except psutil.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)
        ended += 1
    return ended


def main(argv: list[str]) -> int:
    platform_id = argv[1]
    data_dir = Path(argv[2]) if len(argv) > 2 else None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its pipe, or by SIGKILL
    last_words = sys.stdin.buffer.read()
    if last_words.strip() != GOODBYE:
        clean_up(platform_id, data_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
