"""`python -m lead_coordinator.database.dagster_storage`: makes Dagster's tables, or brings them forward, and
ends.

Reads `LEAD_DAGSTER_DATABASE_URL`. A program of its own because importing Dagster's storage takes three
seconds and memory that the process which asks for it shall not keep. It does what `dagster instance migrate`
does, without a DAGSTER_HOME.
"""

from __future__ import annotations

import os
import sys
import tempfile


def main() -> int:
    """Exit code 0; 2 where the address is missing; else an exception, whose last line says why."""
    if not os.environ.get("LEAD_DAGSTER_DATABASE_URL"):
        print("LEAD_DAGSTER_DATABASE_URL isn't set", file=sys.stderr)  # noqa: T201
        return 2

    from dagster import DagsterInstance

    overrides = {
        "storage": {"postgres": {"postgres_url": {"env": "LEAD_DAGSTER_DATABASE_URL"}}},
        "telemetry": {"enabled": False},
    }
    with (
        tempfile.TemporaryDirectory() as home,
        DagsterInstance.local_temp(home, overrides=overrides) as instance,
    ):
        instance.upgrade()
    return 0


if __name__ == "__main__":
    sys.exit(main())
