"""What the dispatch sensor says and asks for, without Dagster's daemon and without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator import tags
from lead_coordinator.coordinator.dispatch import (
    ASK_AGAIN_SECONDS,
    Planning,
    Situation,
    dollars,
    run_request,
    without_pipeline,
)
from lead_coordinator.coordinator.sensors import skip_reason
from lead_coordinator.database.control import Launchable

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
BUSY = Situation(
    queued=14,
    deferred=0,
    disabled=0,
    slots_busy=3,
    slots=3,
    budget_used=Decimal(431),
    budget_limit=Decimal(500),
    state="MONITORING",
)
FREE = replace(BUSY, slots_busy=1)
LAUNCHABLE = Launchable(
    execution_id="content-20261124T053000-4f2a9c1b",
    workflow_type="content_pipeline",
    launch_number=2,
    run_key="content-20261124T053000-4f2a9c1b:2",
    batch_size=10,
    priority_score=90,
    retry_count=1,
    created_at=NOW,
    stale=False,
)


def test_the_reason_says_budget_tasks_and_slots_in_numbers():
    assert BUSY.nothing_fits() == (
        "budget 431 of 500 USD held or spent; 0 of 14 waiting tasks fit; 3 of 3 slots busy"
    )
    assert replace(BUSY, deferred=2).nothing_fits().endswith("; 2 deferred")
    assert replace(BUSY, disabled=4).nothing_fits().endswith("; 4 more wait for a disabled type")


@pytest.mark.parametrize(
    ("situation", "can_plan"),
    [
        (BUSY, False),
        (FREE, True),
        (replace(FREE, queued=0), False),
        (replace(FREE, queued=0, disabled=4), False),
        (replace(BUSY, slots_busy=4), False),
    ],
)
def test_the_planner_is_asked_only_when_tasks_wait_and_a_slot_is_free(situation: Situation, can_plan: bool):
    assert situation.can_plan is can_plan


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("431", "431"), ("500.0000000000", "500"), ("12.5", "12.50"), ("0.0042", "0.0042"), ("0", "0")],
)
def test_dollars_are_whole_where_they_are_whole(amount: str, shown: str):
    assert dollars(Decimal(amount)) == shown


def test_a_request_carries_what_finds_bounds_and_orders_the_run():
    request = run_request(LAUNCHABLE, timeout_seconds=300)
    assert request.run_key == LAUNCHABLE.run_key
    assert request.job_name == tags.CONTENT_JOB
    assert request.tags == {
        "lead/execution_id": LAUNCHABLE.execution_id,
        "lead/workflow_type": "content_pipeline",
        "lead/attempt": "2",
        "dagster/priority": "90",
        "dagster/max_runtime": "420",
    }
    config = request.run_config["ops"]["work_content_batch"]["config"]
    assert config == {"execution_id": LAUNCHABLE.execution_id, "launch_number": 2}


def test_the_same_row_makes_the_same_request_however_often():
    assert run_request(LAUNCHABLE, 300) == run_request(replace(LAUNCHABLE), 300)


def test_types_without_a_pipeline_are_named_and_not_launched():
    other = replace(LAUNCHABLE, workflow_type="knitting_circle")
    assert without_pipeline([LAUNCHABLE, other, other]) == ["knitting_circle"]


class TestPlanning:
    refused = Planning.after(
        FREE, {"success": True, "workflows_dispatched": 0, "reason": "gemini is closed"}, NOW
    )

    def test_without_a_cursor_the_planner_is_asked(self):
        assert Planning.read(None).is_due(FREE, NOW)

    def test_while_nothing_changes_it_is_not_asked_every_five_seconds(self):
        assert not self.refused.is_due(FREE, NOW + timedelta(seconds=5))
        assert self.refused.is_due(FREE, NOW + timedelta(seconds=ASK_AGAIN_SECONDS))

    @pytest.mark.parametrize("changed", [{"queued": 15}, {"slots_busy": 0}, {"budget_used": Decimal(430)}])
    def test_it_is_asked_at_once_when_a_figure_changes(self, changed: dict[str, object]):
        assert self.refused.is_due(replace(FREE, **changed), NOW + timedelta(seconds=1))

    def test_after_a_dispatch_the_next_question_is_a_new_one(self):
        after = Planning.after(FREE, {"success": True, "workflows_dispatched": 1}, NOW)
        assert after.is_due(FREE, NOW)

    @given(about=st.text(), said=st.text(), at=st.none() | st.datetimes(timezones=st.just(UTC)))
    def test_a_cursor_survives_being_written(self, about: str, said: str, at: datetime | None):
        planning = Planning(about, said, at)
        assert Planning.read(planning.write()) == planning


@pytest.mark.parametrize(
    ("situation", "said", "reserved", "expected"),
    [
        (replace(FREE, queued=0), "", 0, "No task waits; budget 431 of 500"),
        (replace(FREE, queued=0, disabled=4), "", 0, "No task of an enabled type waits; budget 431 of 500"),
        (BUSY, "old news", 0, "3 of 3 slots busy"),
        (FREE, "gemini is closed", 0, "; planner: gemini is closed"),
        (FREE, "", 2, "2 reserved executions already have a run that waits to start"),
    ],
)
def test_a_skipped_tick_says_why(situation: Situation, said: str, reserved: int, expected: str):
    reason = skip_reason(situation, Planning("", said, NOW), reserved)
    assert expected in reason
    assert f"{situation.slots_busy} of {situation.slots} slots busy" in reason
