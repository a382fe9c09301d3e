"""The code location as Dagster sees it: it loads alone, without ballast, and every object says what it is."""

import json
import os
import subprocess
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from dagster import AssetKey, DefaultScheduleStatus, DefaultSensorStatus
from dagster._core.instance.config import dagster_instance_config

from lead_coordinator import tags
from lead_coordinator.definitions import defs
from lead_coordinator.files import product_file

HEAVY = [
    "pandas",
    "numpy",
    "matplotlib",
    "sklearn",
    "scipy",
    "lxml",
    "datasketch",
    "trafilatura",
    "openai",
    "google.genai",
    "genai_prices",
    "jinja2",
    "markdown",
    "sqlalchemy",
]
ROOT = Path(__file__).parents[1]


def environment(**variables: str) -> dict[str, str]:
    """Nothing of the machine's settings, only what a process needs to start."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def load(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment(**variables),
        timeout=120,
    )


def test_the_definitions_load_in_a_fresh_process_without_a_database_and_without_heavy_imports():
    script = (
        "import json, sys\n"
        "from lead_coordinator.definitions import defs\n"
        "names = sorted(defs.get_repository_def().job_names)\n"
        f"print(json.dumps([names, [m for m in {HEAVY!r} if m in sys.modules]]))\n"
    )
    result = load(script)
    assert result.returncode == 0, result.stderr
    names, heavy = json.loads(result.stdout)
    assert {tags.COORDINATOR_JOB, tags.CONTENT_JOB, tags.REPORTS_JOB, tags.PRUNE_JOB} <= set(names)
    assert heavy == [], "every run of the platform would pay for these imports"
    assert "BetaWarning" not in result.stderr


def test_a_wrong_setting_is_one_sentence_when_the_code_location_loads():
    result = load("import lead_coordinator.definitions", MAX_CONCURRENT_WORKFLOWS="99")
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "MAX_CONCURRENT_WORKFLOWS=99" in last, last
    assert "1 to 10" in last, last


def test_every_asset_has_a_description_an_owner_a_group_and_kinds():
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert set(specs) == {
        "task_queue",
        "executions",
        "topics",
        "articles",
        "site_audits",
        "refresh_ranking",
        "refreshed_articles",
        "execution_metrics",
        "daily_cost_report",
        "platform_summary",
    }
    for name, spec in specs.items():
        assert len(spec.description or "") > 40, f"{name} doesn't say what it is"
        assert list(spec.owners), f"{name} has no owner"
        assert spec.group_name != "default", f"{name} has no group"
        assert spec.kinds, f"{name} has no kinds"


def test_the_lineage_goes_from_the_queue_to_the_summary():
    graph = defs.resolve_asset_graph()
    ancestors = {key.to_user_string() for key in graph.get_ancestor_asset_keys(AssetKey("platform_summary"))}
    assert ancestors == {
        *("task_queue", "executions", "topics", "articles", "site_audits", "refresh_ranking"),
        *("refreshed_articles", "execution_metrics", "daily_cost_report"),
    }


def test_each_pipeline_is_a_group_and_the_circle_is_in_the_lineage():
    graph = defs.resolve_asset_graph()
    circle = ["topics", "articles", "site_audits", "refresh_ranking", "refreshed_articles"]
    for before, after in pairwise(circle):
        assert AssetKey(before) in graph.get(AssetKey(after)).parent_keys, f"{after} comes after {before}"
    groups = {name: graph.get(AssetKey(name)).group_name for name in circle}
    assert groups == {
        "topics": "intelligence",
        "articles": "content",
        "site_audits": "seo",
        "refresh_ranking": "revenue",
        "refreshed_articles": "content",
    }


def test_every_job_schedule_and_sensor_has_a_description_an_owner_and_tags():
    repository = defs.get_repository_def()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    for one in [*jobs, *repository.schedule_defs]:
        assert len(one.description or "") > 40, f"{one.name} doesn't say what it is"
        assert one.owners, f"{one.name} has no owner"
        assert one.tags, f"{one.name} has no tags"
    for sensor in repository.sensor_defs:
        assert len(sensor.description or "") > 40, f"{sensor.name} doesn't say what it is"
        assert sensor.tags, f"{sensor.name} has no tags"
        # Dagster's run-status sensors take no owners: a tag names it.
        assert sensor.owners or "lead/owner" in sensor.tags, f"{sensor.name} has no owner"
    for job in jobs:
        assert tags.MAX_RUNTIME in job.run_tags, f"a run of {job.name} that hangs would never be ended"
        for node in job.graph.node_defs:
            assert node.description, f"{job.name}.{node.name} doesn't say what it does"


def test_every_pipeline_is_a_job_with_its_op_that_the_dispatch_sensor_may_start():
    repository = defs.get_repository_def()
    sensor = repository.get_sensor_def("dispatch_sensor")
    started = {pipeline.job for pipeline in tags.PIPELINE_OF_WORKFLOW.values()}
    assert {target.job_name for target in sensor.targets} == started
    for workflow_type, pipeline in tags.PIPELINE_OF_WORKFLOW.items():
        ops = {node.name for node in defs.resolve_job_def(pipeline.job).nodes}
        assert pipeline.op in ops, f"{workflow_type}: {pipeline.job} has no op {pipeline.op}"


def test_the_platform_works_by_itself_once_it_is_started():
    repository = defs.get_repository_def()
    assert {s.name: s.cron_schedule for s in repository.schedule_defs} == {
        "coordinator_schedule": "*/5 * * * *",
        "prune_schedule": "30 3 * * *",
    }
    assert all(s.default_status == DefaultScheduleStatus.RUNNING for s in repository.schedule_defs)
    assert all(s.default_status == DefaultSensorStatus.RUNNING for s in repository.sensor_defs)


def test_the_tick_has_the_eight_components_in_order_and_one_process():
    job = defs.resolve_job_def(tags.COORDINATOR_JOB)
    assert job.executor_def.name == "in_process"
    assert [node.name for node in job.nodes_in_topological_order] == [
        "system_health_check",
        "global_error_handler",
        "resource_manager",
        "priority_queue_manager",
        "intelligent_scheduler",
        "state_machine_controller",
        "dynamic_workflow_dispatcher",
        "metrics_collector",
    ]
    assert tags.WORKFLOW_TYPE not in job.run_tags, "the tick would queue behind what it has to recover"


@pytest.fixture
def instance_config(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv("LEAD_DAGSTER_DATABASE_URL", "postgresql+psycopg2://nowhere/none")
    config, _ = dagster_instance_config(str(product_file("dagster.yaml").parent))
    return dict(config)


def test_dagster_yaml_is_valid_and_keeps_retries_to_the_queue(instance_config: dict[str, dict[str, object]]):
    assert instance_config["run_retries"]["enabled"] is False
    assert instance_config["run_retries"]["retry_on_asset_or_op_failure"] is False
    assert instance_config["telemetry"]["enabled"] is False
    assert instance_config["run_monitoring"]["enabled"] is True
    limits = instance_config["concurrency"]["runs"]
    assert limits == {
        "max_concurrent_runs": -1,
        "tag_concurrency_limits": [{"key": tags.WORKFLOW_TYPE, "limit": 10}],
    }, "the backstop counts pipeline runs and nothing else"


def test_workspace_yaml_names_the_one_code_location():
    workspace = yaml.safe_load(product_file("workspace.yaml").read_text())
    assert workspace == {
        "load_from": [
            {
                "grpc_server": {
                    "host": {"env": "LEAD_CODE_HOST"},
                    "port": {"env": "LEAD_CODE_PORT"},
                    "location_name": "lead_coordinator",
                }
            }
        ]
    }


def test_every_class_that_dagster_yaml_names_can_be_imported():
    """A name that is wrong stops each run at once, and nothing else says so before."""
    named = [
        part for part in yaml.safe_load(product_file("dagster.yaml").read_text()).values() if "class" in part
    ]
    assert len(named) >= 3
    for part in named:
        assert hasattr(import_module(part["module"]), part["class"]), f"dagster.yaml: {part}"
