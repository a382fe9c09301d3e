"""Whatever asset a person opens in the UI has figures that it plots."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    FloatMetadataValue,
    IntMetadataValue,
    RunConfig,
    materialize,
)

from lead_coordinator import tags
from lead_coordinator.database import control, sites
from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.database.revenue import MetricRow, import_page_metrics
from lead_coordinator.definitions import defs
from lead_coordinator.observability.assets import assets
from lead_coordinator.pipelines.face import BatchConfig
from lead_coordinator_tests.pipelines.content.material import ScriptedCaller, submit
from lead_coordinator_tests.small_site import profile, small_site

UPDATED = {tags.REFRESHED_ARTICLES: {"articles_updated": 1}}


def test_every_asset_of_the_code_location_gets_numbers(
    db: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    caller = ScriptedCaller()
    monkeypatch.setattr(
        "lead_coordinator.providers.factory.open_gateway",
        lambda db, lease, settings, **_: caller.open(db, lease),
    )
    monkeypatch.setattr("lead_coordinator.providers.factory.build_providers", lambda settings: {})
    monkeypatch.setenv("LEAD_HOME", str(tmp_path / "home"))
    # What a content batch that updated an article says; content/test_handler.py writes one.
    monkeypatch.setattr("lead_coordinator.pipelines.content.refreshed.further", lambda report: UPDATED)
    resources = {"database": DatabaseResource(database_url=database_url)}
    wide_open(db)
    submit(db, "Water Once a Week")
    with small_site() as address, DagsterInstance.ephemeral() as instance:
        settings = profile(address)
        settings["intelligence"] |= {"use_model": False}
        sites.set_site(db, "main", settings)
        day = datetime.now(UTC).date()
        import_page_metrics(
            db, "main", [MetricRow("/a1", day - timedelta(days=n), views=9, clicks=3) for n in range(1, 60)]
        )
        tick = defs.resolve_job_def(tags.COORDINATOR_JOB)
        assert tick.execute_in_process(instance=instance, resources=resources).success
        launches = {launch.workflow_type: launch for launch in control.launchable_executions(db)}
        assert launches.keys() == tags.PIPELINE_OF_WORKFLOW.keys(), "standing work, and an article"
        for workflow_type, pipeline in tags.PIPELINE_OF_WORKFLOW.items():
            launch = launches[workflow_type]
            config = BatchConfig(execution_id=launch.execution_id, launch_number=launch.launch_number)
            assert (
                defs.resolve_job_def(pipeline.job)
                .execute_in_process(
                    run_config=RunConfig({pipeline.op: config}), instance=instance, resources=resources
                )
                .success
            )
        assert materialize(
            assets, partition_key=day.isoformat(), instance=instance, resources=resources
        ).success
        for spec in defs.resolve_all_asset_specs():
            shown = numbers_of(instance, spec.key)
            assert shown, f"{spec.key.to_user_string()} has nothing that the UI could plot"
        queue, executions = (
            numbers_of(instance, AssetKey("task_queue")),
            numbers_of(instance, AssetKey("executions")),
        )
    assert {"queue_depth", "tasks_deferred", "dead_letters"} <= queue.keys()
    assert (executions["executions_active"], executions["slots"]) == (4, 5)


def wide_open(db: Database) -> None:
    """Room for a run of each pipeline at once."""
    for name, value in (("max_concurrent_workflows", "5"), ("memory_limit_mb", "100000")):
        db.execute("UPDATE lead.setting SET value = %s WHERE name = %s", [value, name])


def numbers_of(instance: DagsterInstance, key: AssetKey) -> dict[str, float]:
    """The numeric metadata of the asset's last materialisation or observation."""
    events = [
        *instance.fetch_materializations(key, limit=1).records,
        *instance.fetch_observations(key, limit=1).records,
    ]
    found: dict[str, float] = {}
    for event in events:
        entry = event.asset_materialization or event.event_log_entry.asset_observation
        assert entry is not None
        for name, value in entry.metadata.items():
            if isinstance(value, (IntMetadataValue, FloatMetadataValue)) and value.value is not None:
                found[name] = value.value
    return found
