"""What Dagster is told of each pipeline, and what a run does whose batch changed other assets too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from dagster import AssetKey, AssetSpec, DagsterInstance, Definitions, RunConfig, in_process_executor

from lead_coordinator import tags
from lead_coordinator.database import control
from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.database.sites import set_site
from lead_coordinator.definitions import defs
from lead_coordinator.pipelines.content.assets import face as content
from lead_coordinator.pipelines.face import BatchConfig, Face, Logic, pipeline_asset, pipeline_job
from lead_coordinator.pipelines.intelligence.assets import face as intelligence
from lead_coordinator.pipelines.report import BatchReport
from lead_coordinator.pipelines.revenue.assets import face as revenue
from lead_coordinator.pipelines.runtime import TaskHandler, TaskOutcome, TaskRun
from lead_coordinator.pipelines.seo.assets import face as seo
from lead_coordinator.settings import Settings
from lead_coordinator_tests.pipelines.runs import Handler, submit

FACES = [content, seo, revenue, intelligence]


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.pipeline.job)
def test_started_by_hand_each_job_says_how_to_submit_instead(face: Face, database_url: str) -> None:
    job = defs.resolve_job_def(face.pipeline.job)
    with DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            resources={"database": DatabaseResource(database_url=database_url)},
            instance=instance,
            raise_on_error=False,
        )
    assert not result.success
    (failed,) = [event for event in result.all_node_events if event.is_step_failure]
    said = failed.step_failure_data.user_failure_data.description
    assert "can't be started or re-executed by hand" in said
    assert "SELECT submit_task('" in said


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.pipeline.job)
def test_each_pipeline_s_logic_loads_and_shows_an_empty_batch(
    face: Face, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from datetime import UTC, datetime

    logic = face.load()
    handler: TaskHandler = logic.handler(Settings.load({"LEAD_HOME": str(tmp_path)}))
    assert callable(handler.work)
    now = datetime.now(UTC)
    report = BatchReport("x-1", 0, started_at=now, ended_at=now)
    assert logic.metadata(report)["batch_tasks"] == 0
    assert logic.output(report)["spend_usd"] == 0
    assert logic.further(report) == {}


@pytest.fixture
def no_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lead_coordinator.providers.factory.build_providers", lambda settings: {})

    class Gateway:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *error: object) -> None: ...

    monkeypatch.setattr("lead_coordinator.providers.factory.open_gateway", lambda *_, **__: Gateway())


def test_a_pipeline_is_a_handler_a_spec_and_three_lines(
    db: Database, database_url: str, no_providers: None
) -> None:
    """With the profiles of the sites, its own output, and an asset beside its own."""

    async def work(run: TaskRun, task: Any) -> TaskOutcome:
        return TaskOutcome({"language": run.profiles.of("main").language})

    def metadata(report: BatchReport) -> Mapping[str, Any]:
        return {"languages": ",".join(result["language"] for result in report.results)}

    def load() -> Logic:
        return Logic(
            lambda settings: Handler(work),
            metadata,
            lambda report: report.output() | {"mine": 7},
            lambda report: {"beside": {"changed": len(report.results)}},
        )

    spec = AssetSpec("knitting", group_name="craft", skippable=True)
    face = Face(tags.Pipeline("knit_job", "knit"), spec, load, "wool becomes socks", "`SELECT …`")
    made = Definitions(
        assets=[pipeline_asset(face)],
        jobs=[pipeline_job(face)],
        executor=in_process_executor,
        resources={"database": DatabaseResource(database_url=database_url)},
    )
    set_site(db, "main", {"language": "de"})
    submit(db, 2)
    control.orchestrate_workflow_execution(db, "test")
    (launch,) = control.launchable_executions(db)
    config = BatchConfig(execution_id=launch.execution_id, launch_number=launch.launch_number)
    with DagsterInstance.ephemeral() as instance:
        job = made.resolve_job_def("knit_job")
        assert job.execute_in_process(run_config=RunConfig({"knit": config}), instance=instance).success
        shown = {
            name: instance.get_latest_materialization_event(AssetKey(name)).asset_materialization.metadata
            for name in ("knitting", "beside")
        }
    assert shown["knitting"]["languages"].value == "de,de"
    assert shown["beside"]["changed"].value == 2
    assert all(one["execution_id"].value == launch.execution_id for one in shown.values())
    row = db.row("SELECT output_result -> 'mine' AS mine, status FROM workflow_orchestration")
    assert row == {"mine": 7, "status": "completed"}
