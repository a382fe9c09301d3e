"""The assets of the day and the sensor that keeps them up to date, against a real database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    SensorResult,
    SkipReason,
    build_sensor_context,
    materialize,
)

from lead_coordinator import tags
from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.definitions import defs
from lead_coordinator.observability.assets import assets, days
from lead_coordinator.observability.automation import AT_MOST_EVERY, Cursor, reports_sensor, why_not
from lead_coordinator_tests.observability.rows import add_attempt, add_call, add_execution, set_timezone

NOW = datetime.now(UTC)
TODAY = NOW.date()


@pytest.fixture
def database(database_url: str) -> DatabaseResource:
    return DatabaseResource(database_url=database_url)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def shown(instance: DagsterInstance, database: DatabaseResource, partition: str) -> dict[str, dict[str, Any]]:
    """Materialises all three for a day; what the UI shows of each."""
    result = materialize(assets, partition_key=partition, instance=instance, resources={"database": database})
    assert result.success
    found = {}
    for event in result.get_asset_materialization_events():
        materialization = event.materialization
        assert materialization.partition == partition
        name = materialization.asset_key.to_user_string()
        found[name] = {key: value.value for key, value in materialization.metadata.items()}
    return found


def work(db: Database) -> None:
    noon = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    execution_id = add_execution(db, completed=noon)
    add_attempt(db, created=noon - timedelta(seconds=20), took=20, execution_id=execution_id)
    add_call(db, execution_id, cost=Decimal("0.0025"), day=noon.date())


def test_today_has_a_partition(instance: DagsterInstance):
    assert TODAY.isoformat() in days.get_partition_keys()


def test_the_day_s_figures_are_shown_as_numbers_with_units(
    instance: DagsterInstance, database: DatabaseResource, db: Database
):
    work(db)
    found = shown(instance, database, "2026-11-24")
    assert set(found) == {"execution_metrics", "daily_cost_report", "platform_summary"}
    assert found["execution_metrics"]["tasks_completed"] == 1
    assert found["execution_metrics"]["latency_p50_seconds"] == 20
    assert found["daily_cost_report"]["spend_usd"] == 0.0025
    assert found["daily_cost_report"]["ledger_difference_usd"] == 0
    assert (
        "| gemini | model | content_pipeline | 1 | 0 | 900 | 700 | 0.0025 |"
        in (found["daily_cost_report"]["by_model"])
    )
    assert "0.0025 of 500.00 USD" in found["platform_summary"]["summary"]
    assert found["platform_summary"]["advice_count"] == 0


def test_a_day_reported_again_shows_the_same(
    instance: DagsterInstance, database: DatabaseResource, db: Database
):
    work(db)
    assert shown(instance, database, "2026-11-24") == shown(instance, database, "2026-11-24")


def test_a_day_without_work_can_be_reported(instance: DagsterInstance, database: DatabaseResource):
    found = shown(instance, database, "2026-03-01")
    assert found["execution_metrics"]["tasks_completed"] == 0
    assert found["daily_cost_report"]["spend_usd"] == 0


def test_a_partition_that_is_no_budget_day_is_refused_and_says_what_to_set(
    instance: DagsterInstance, database: DatabaseResource, db: Database
):
    set_timezone(db, "Asia/Tokyo")
    add_attempt(db, created=NOW, took=1)
    result = materialize(
        assets,
        partition_key="2026-11-24",
        instance=instance,
        resources={"database": database},
        raise_on_error=False,
    )
    assert not result.success
    failed = [event.step_failure_data.user_failure_data for event in result.get_step_failure_events()]
    assert {failure.label for failure in failed if failure} == {"intentional-failure"}
    said = [failure.description or "" for failure in failed if failure]
    assert said
    assert all(
        "days in UTC" in one and "set COORDINATOR_TIMEZONE=Asia/Tokyo and restart" in one for one in said
    )
    with build_sensor_context(resources={"database": database}) as context:
        skipped = reports_sensor(context)
    assert isinstance(skipped, SkipReason)
    assert "set COORDINATOR_TIMEZONE=Asia/Tokyo" in (skipped.skip_message or "")


def test_the_reports_follow_executions_and_what_each_pipeline_leaves():
    graph = defs.resolve_asset_graph()
    for name in ("execution_metrics", "daily_cost_report"):
        parents = {key.to_user_string() for key in graph.get(AssetKey(name)).parent_keys}
        leaves = {tags.TOPICS, tags.ARTICLES, tags.SITE_AUDITS, tags.REFRESH_RANKING, tags.REFRESHED_ARTICLES}
        assert parents == leaves | {"executions"}


class TestAutomation:
    def evaluate(self, database: DatabaseResource, cursor: Cursor | None) -> SensorResult | SkipReason:
        with build_sensor_context(
            cursor=cursor.write() if cursor else None, resources={"database": database}
        ) as context:
            return reports_sensor(context)

    def test_nothing_done_nothing_reported(self, database: DatabaseResource):
        skipped = self.evaluate(database, None)
        assert isinstance(skipped, SkipReason)

    def test_work_that_has_come_to_rest_is_reported_at_once(self, database: DatabaseResource, db: Database):
        add_attempt(db, created=NOW, took=1)
        result = self.evaluate(database, None)
        assert isinstance(result, SensorResult)
        (request,) = result.run_requests or []
        assert request.partition_key == (NOW + timedelta(seconds=1)).date().isoformat()

    def test_asked_twice_it_is_the_same_run(self, database: DatabaseResource, db: Database):
        add_attempt(db, created=NOW, took=1)
        first, second = self.evaluate(database, None), self.evaluate(database, None)
        assert isinstance(first, SensorResult)
        assert isinstance(second, SensorResult)
        assert [r.run_key for r in first.run_requests or []] == [r.run_key for r in second.run_requests or []]

    def test_what_is_reported_is_not_reported_again(self, database: DatabaseResource, db: Database):
        add_attempt(db, created=NOW, took=1)
        result = self.evaluate(database, None)
        assert isinstance(result, SensorResult)
        after = Cursor.read(result.cursor, NOW)
        assert isinstance(self.evaluate(database, after), SkipReason)

    def test_work_over_midnight_reports_both_days(self, database: DatabaseResource, db: Database):
        yesterday = datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=UTC) - timedelta(seconds=30)
        add_attempt(db, created=yesterday, took=1)
        add_attempt(db, created=yesterday, took=31)
        result = self.evaluate(database, None)
        assert isinstance(result, SensorResult)
        partitions = {request.partition_key for request in result.run_requests or []}
        assert partitions == {TODAY.isoformat(), (TODAY - timedelta(days=1)).isoformat()}


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "attempts": 4,
        "busy": False,
        "first_at": NOW - timedelta(seconds=30),
        "last_at": NOW - timedelta(seconds=2),
        "now": NOW,
        **changes,
    }


LONG_AGO = Cursor(reported_until=NOW - timedelta(hours=1), asked_at=NOW - timedelta(hours=1))


@pytest.mark.parametrize(
    ("known", "cursor", "reason"),
    [
        (facts(), LONG_AGO, None),
        (facts(attempts=0), LONG_AGO, "No task has ended"),
        (facts(busy=True), LONG_AGO, "unreported for 30 s; executions still run"),
        (facts(busy=True, first_at=NOW - AT_MOST_EVERY), LONG_AGO, None),
        (
            facts(),
            Cursor(reported_until=NOW - timedelta(hours=1), asked_at=NOW - timedelta(seconds=299)),
            "the last report was 299 s ago",
        ),
    ],
)
def test_a_report_waits_for_rest_but_never_longer_than_five_minutes(
    known: dict[str, Any], cursor: Cursor, reason: str | None
):
    said = why_not(known, cursor)
    assert (said is None) if reason is None else (reason in (said or ""))
