"""Runs a race by hand, on a server of its own, and says what was wrong.

`python -m lead_coordinator_tests.races [--tasks N] [--seed N] [--sabotage NAME]`. Exit code 1: a check
failed. With `--url` and `--folder` it only races, on a database that is there, and leaves the checks to the
caller.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.races.checks import CHECKS
from lead_coordinator_tests.races.evidence import Evidence
from lead_coordinator_tests.races.race import run
from lead_coordinator_tests.races.sabotage import SABOTAGES, sabotage
from lead_coordinator_tests.races.scenario import Scenario
from lead_coordinator_tests.races.server import race_database


def main() -> int:
    given = _parse()
    scenario = Scenario(
        tasks=given.tasks,
        seed=given.seed,
        calls_a_minute=given.calls_a_minute,
        patience_seconds=given.patience_seconds,
    )
    if given.url is not None:
        run(given.url, given.folder, scenario)
        return 0
    with race_database() as url, Database(url) as db, tempfile.TemporaryDirectory(prefix="race-") as folder:
        if given.sabotage is not None:
            sabotage(db, given.sabotage)
            db.close()  # a race is forked from a process without connections
        run(url, Path(folder), scenario)
        evidence = Evidence.of(scenario, db, Path(folder))
        print(json.dumps(evidence.figures(), indent=2))
        failed = False
        for name, check in CHECKS.items():
            wrong = list(check(evidence))
            failed = failed or bool(wrong)
            print(f"{'FAILED' if wrong else 'ok':8}{name}")
            for sentence in wrong[:10]:
                print(f"        {sentence}")
            if len(wrong) > 10:
                print(f"        … and {len(wrong) - 10} more")
    return int(failed)


def _parse() -> argparse.Namespace:
    default = Scenario()
    parser = argparse.ArgumentParser(prog="python -m lead_coordinator_tests.races")
    parser.add_argument("--tasks", type=int, default=default.tasks)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--calls-a-minute", type=int, default=default.calls_a_minute)
    parser.add_argument("--patience-seconds", type=float, default=default.patience_seconds)
    parser.add_argument(
        "--sabotage", choices=sorted(SABOTAGES), help="break the SQL first; a check must notice"
    )
    parser.add_argument("--url")
    parser.add_argument("--folder", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
