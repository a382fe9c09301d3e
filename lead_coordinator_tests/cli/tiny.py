"""A supervisor over tiny children, to be killed by the tests: `python -m lead_coordinator_tests.cli.tiny
HOME`.

It starts two parts. Each starts a child of its own that ignores SIGTERM half of the time (the grandchildren
Dagster has). Prints `ready` when they run, stops on SIGTERM, prints `stopped`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lead_coordinator.cli.platform.logs import Terminal
from lead_coordinator.cli.platform.supervisor import Supervisor

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
PARENT = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True);"
    "print('up', flush=True); time.sleep(600)"
)


def main(home: Path) -> None:
    supervisor = Supervisor(home, Terminal(quiet=True), grace_seconds=1.0)
    with supervisor.signals():
        supervisor.claim()
        supervisor.start_guard(None)
        supervisor.start("daemon", [sys.executable, "-c", PARENT, STUBBORN], os.environ, home)
        supervisor.start(
            "webserver", [sys.executable, "-c", PARENT, "import time; time.sleep(600)"], os.environ, home
        )
        print("ready", flush=True)
        while not supervisor.stopping.wait(0.1):
            supervisor.tend()
        supervisor.stop()
        supervisor.release()
        print("stopped", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
