"""Failing providers, in short: what `python -m benchmarks.rehearsals` shows at length."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lead_coordinator.cli.platform.processes import end_processes
from lead_coordinator.database.operations import change_setting
from lead_coordinator_tests.cli.waiting import eventually
from lead_coordinator_tests.e2e.platform import PlatformUnderTest
from lead_coordinator_tests.e2e.rehearsal import BOTH_DOWN, ENDED, Outcome, observe, resumed, statuses

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

# As in the benchmark, but a connection that breaks off in place of an answer that never comes: one of those
# takes a call's whole ninety seconds.
FAULTS = {"all": {"rate_limited": 0.2, "server_error": 0.1, "truncated": 0.05, "garbage": 0.02}}


@pytest.fixture(scope="module")
def platform() -> Iterator[PlatformUnderTest]:
    with tempfile.TemporaryDirectory(prefix="lead-e2e-") as folder:
        platform = PlatformUnderTest(Path(folder) / "home")
        try:
            platform.start()
            yield platform
        finally:
            platform.end()
            end_processes(platform.processes, 0.0)


def look(platform: PlatformUnderTest, tasks: list[int]) -> Outcome:
    with platform.db as db:
        return observe(db, platform.sandbox, platform.home / "site", tasks)


def wait_until_ended(platform: PlatformUnderTest, tasks: list[int]) -> None:
    def ended() -> bool:
        with platform.db as db:
            return set(statuses(db, tasks)) <= ENDED

    eventually(ended, lambda: f"all tasks ended: {platform.statuses(tasks)}", 300, every=0.5)


def assert_within_limits(found: Outcome) -> None:
    assert found.over_limit == 0, found.providers
    assert found.published_twice == 0
    assert found.dearest_usd <= found.item_cap_usd
    assert found.day_cost_usd <= found.day_cap_usd


def test_tasks_succeed_although_one_request_in_three_fails(platform: PlatformUnderTest) -> None:
    platform.sandbox.set_faults(FAULTS)
    tasks = platform.submit_topics("failing provider", 30)
    wait_until_ended(platform, tasks)
    platform.sandbox.clear_faults()
    found = look(platform, tasks)
    assert found.succeeded == 30, found.dead
    assert_within_limits(found)
    met = {kind for calls in found.providers.values() for kind in calls.injected}
    assert met >= {"rate_limited", "server_error"}, "the rehearsal had faults to show"


def test_an_outage_of_both_providers_costs_nothing_but_time(platform: PlatformUnderTest) -> None:
    with platform.db as db:
        change_setting(db, "breaker_cooldown_seconds", "5")
        change_setting(db, "breaker_probe_wait_seconds", "2")
    platform.sandbox.set_faults(BOTH_DOWN)
    tasks = platform.submit_topics("outage of both", 20)

    def felt() -> bool:
        """Both breakers have opened, and a probe of each has failed."""
        with platform.db as db:
            failed = db.rows(
                "SELECT DISTINCT provider FROM lead.api_call WHERE is_probe AND outcome = 'server_error'"
            )
            opened = db.rows(
                "SELECT name FROM lead.circuit_breaker WHERE name LIKE 'provider:%%' AND state <> 'closed'",
                [],
            )
        return len(failed) == len(opened) == 2

    eventually(felt, "both breakers opened and their probes failed", 120)
    during = look(platform, tasks)
    assert (during.succeeded, during.attempts, dict(during.dead)) == (0, 0, {})
    with platform.db as db:
        row = db.row("SELECT clock_timestamp() AS now")
    assert row is not None
    platform.sandbox.clear_faults()
    wait_until_ended(platform, tasks)
    after = look(platform, tasks)
    assert (after.succeeded, after.attempts, dict(after.dead)) == (20, 0, {})
    assert_within_limits(after)
    with platform.db as db:
        back = resumed(db, row["now"], tasks)
    assert None not in (back.admitted, back.answered, back.completed)
