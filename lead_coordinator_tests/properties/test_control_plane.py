"""Hypothesis plays a platform's whole life against a real PostgreSQL, and a model in plain Python says what has to
come of it.

In continuous integration the steps are always the same ones. `LEAD_PROPERTY_EXAMPLES=500` runs so many examples a
part, with other steps each time. A failure prints the shortest steps that show it, and a `@reproduce_failure(…)` that
replays them when put on `ControlPlane`.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.properties.machine import ControlPlane
from lead_coordinator_tests.properties.tally import Tally
from lead_coordinator_tests.properties.world import prepare

PARTS = 4
STEPS = 60
FRESH = int(os.environ.get("LEAD_PROPERTY_EXAMPLES", "0"))
EXAMPLES = FRESH or 45
LEAST_STEPS = 2_600


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_the_promises_hold(db: Database, part: int) -> None:
    prepare(db)
    tally = Tally()

    def machine() -> ControlPlane:
        return ControlPlane(db, tally)

    if not FRESH:
        machine._hypothesis_internal_use_seed = part  # type: ignore[attr-defined]
    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            phases=(Phase.generate, Phase.shrink) if os.environ.get("SHRINK", "1") == "1" else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(tally.steps, tally)
