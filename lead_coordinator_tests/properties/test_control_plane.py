"""Hypothesis plays a platform's whole life against a real PostgreSQL, and a model in plain Python says what
has to come of it.

In continuous integration the steps are always the same ones. `LEAD_PROPERTY_EXAMPLES=500` runs so many
examples a round, with other steps each time. A failure prints the shortest steps that show it, and a
`@reproduce_failure(…)` that replays them when it is put on `machine` in `machine.run`.
"""

from __future__ import annotations

import os

import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.properties.machine import ControlPlane, run
from lead_coordinator_tests.properties.mutants import MUTANTS, mutate, steps_until_caught
from lead_coordinator_tests.properties.tally import Tally
from lead_coordinator_tests.properties.world import prepare

PARTS = 2
LEAST_STEPS = 5_000
FRESH = int(os.environ.get("LEAD_PROPERTY_EXAMPLES", "0"))
# A part is made of rounds, each with steps of its own: as many as it takes to see everything, within bounds.
EXAMPLES = 16
ROUNDS = 15

# What has to come about in each part, or a change has made the machine blind to it.
OUTCOMES = (
    "adopted",
    "answer: rate_limited",
    "breaker closed to open",
    "breaker half_open to closed",
    "breaker half_open to open",
    "called off while running",
    "cancelled",
    "completed",
    "completed in bulk",
    "cost above its maximum",
    "destination_down: deferred",
    "dispatched",
    "freed by a completion",
    "given back",
    "grant too old",
    "granted in a batch",
    "granted to a second choice",
    "invalid_input: dead_letter",
    "key known",
    "late answer ignored",
    "late probe answered",
    "limit lowered by a 429",
    "midnight",
    "parked",
    "plan refused",
    "plan reserved",
    "probe granted",
    "probe run completed",
    "published",
    "queue draining",
    "queue paused",
    "recovered",
    "refused: breaker_open",
    "refused: budget",
    "refused: item_cost_limit",
    "refused: rate_limited",
    "released",
    "replayed",
    "reservation expired",
    "reservation used",
    "sent",
    "stale lease refused",
    "stranger waits",
    "submission refused by a draining queue",
    "submitted with something to wait for",
    "task_error: dead_letter",
    "task_error: deferred",
    "tasks pruned",
    "unanswered call paid",
)
# Each is caught within a few hundred steps.
TRIED = (
    "a 429 counts as a failure",
    "released money stays held",
    "slots are free too early",
    "any fence will do",
)


def test_all_parts_together_are_ten_thousand_steps() -> None:
    assert PARTS * LEAST_STEPS >= 10_000


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_the_promises_hold(db: Database, part: int) -> None:
    prepare(db)
    tally = Tally()
    rules = {rule.function.__name__ for rule in ControlPlane.setup_state().rules}
    for same_as in range(part * ROUNDS, (part + 1) * ROUNDS):
        run(db, tally, FRESH or EXAMPLES, same_as=None if FRESH else same_as)
        missing = sorted(rules - tally.rules.keys()) + [o for o in OUTCOMES if not tally.outcomes[o]]
        if FRESH or (tally.steps >= LEAST_STEPS and not missing):
            return
    raise AssertionError(f"{tally.steps} steps were run, and {missing} never came about: {tally}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TRIED)
def test_a_broken_promise_is_noticed(db: Database, name: str) -> None:
    prepare(db)
    mutate(db, MUTANTS[name])
    assert steps_until_caught(db) is not None, f"it was expected to be noticed that {name}"


def test_every_mutant_still_has_something_to_change(db: Database) -> None:
    for mutant in MUTANTS.values():
        db.execute(mutate(db, mutant))
