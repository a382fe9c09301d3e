"""How long a claim waits while the control plane is deployed to a database that is being worked on.

Run `python -m benchmarks.deploy_under_load [waiting tasks]`: an embedded server (fsync on), clients that
submit, decide, work and finish; then a dry run, an upgrade from 0.1.0, and five deployments of the same
version. Prints, for each, how long it took and the slowest decision, submission and completion that began
meanwhile, and what they take otherwise.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lead_coordinator.database.connection import Database, connect
from lead_coordinator.database.deploy import apply_files, deploy
from lead_coordinator.database.embedded import EmbeddedServer
from lead_coordinator.settings import Settings
from lead_coordinator_tests.database.load import Load, make_room
from lead_coordinator_tests.database.older import older_files

WATCHED = ("orchestrate_workflow_execution", "submit_tasks", "complete_task")
FILL = (
    "INSERT INTO lead.task (task_type, priority_base, created_at, queued_at)"
    " SELECT 'content_generation', n %% 101, now() - n * interval '1 second', now() - n * interval '1 second'"
    " FROM generate_series(1, %s) AS n"
)


def measured(load: Load, name: str, action: Callable[[], object]) -> None:
    began = time.monotonic()
    action()
    took = time.monotonic() - began
    time.sleep(1)  # calls that wait are counted once they end
    slowest = "  ".join(f"{1000 * load.slowest(function, began):7.0f}" for function in WATCHED)
    print(f"{name:32} {took:7.2f} s   {slowest}   errors {len(load.errors)}", flush=True)


def main(waiting: int) -> None:
    settings = Settings.load({})
    with (
        tempfile.TemporaryDirectory(prefix="lc-pg-") as folder,
        EmbeddedServer(Path(folder) / "d") as server,
        Database(server.url) as db,
    ):
        with connect(server.url) as connection:
            apply_files(connection, older_files("0.1.0"))
        make_room(db)
        db.execute(FILL, [waiting])
        db.execute("ANALYZE lead.task")
        print(f"{waiting} tasks waiting, 2 submitters, 3 workers; slowest call begun meanwhile, ms")
        print(f"{'':32} {'took':>9}   " + "  ".join(f"{name[:7]:>7}" for name in WATCHED))
        load = Load(server.url)
        with load.running():
            load.until_completed(50)
            measured(load, "nothing, for 5 s", lambda: time.sleep(5))
            measured(load, "dry run of the upgrade", lambda: deploy(server.url, settings, dry_run=True))
            measured(load, "upgrade from 0.1.0", lambda: deploy(server.url, settings))
            measured(load, "nothing, for 5 s", lambda: time.sleep(5))
            for _ in range(5):
                measured(load, "the same version again", lambda: deploy(server.url, settings))
            measured(load, "dry run of the same version", lambda: deploy(server.url, settings, dry_run=True))
        for function, error in load.errors:
            print(f"{function}: {error}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
