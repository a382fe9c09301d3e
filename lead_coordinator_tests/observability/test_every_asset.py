"""Whatever asset a person opens in the UI has figures that it plots."""

from datetime import UTC, datetime
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
from lead_coordinator.database import control
from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.definitions import defs
from lead_coordinator.observability.assets import assets
from lead_coordinator.pipelines.content.assets import ContentBatchConfig
from lead_coordinator_tests.pipelines.content.material import ScriptedCaller, submit


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
    resources = {"database": DatabaseResource(database_url=database_url)}
    submit(db, "Water Once a Week")
    with DagsterInstance.ephemeral() as instance:
        tick = defs.resolve_job_def(tags.COORDINATOR_JOB)
        assert tick.execute_in_process(instance=instance, resources=resources).success
        (launch,) = control.launchable_executions(db)
        content = defs.resolve_job_def(tags.CONTENT_JOB)
        config = ContentBatchConfig(execution_id=launch.execution_id, launch_number=launch.launch_number)
        assert content.execute_in_process(
            run_config=RunConfig({tags.CONTENT_OP: config}), instance=instance, resources=resources
        ).success
        today = datetime.now(UTC).date().isoformat()
        assert materialize(assets, partition_key=today, instance=instance, resources=resources).success
        for spec in defs.resolve_all_asset_specs():
            shown = numbers_of(instance, spec.key)
            assert shown, f"{spec.key.to_user_string()} has nothing that the UI could plot"
        queue, executions = (
            numbers_of(instance, AssetKey("task_queue")),
            numbers_of(instance, AssetKey("executions")),
        )
    assert {"queue_depth", "tasks_deferred", "dead_letters"} <= queue.keys()
    assert (executions["executions_active"], executions["slots"]) == (1, 3)


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
