"""The Dagster face of the content pipeline: what a run takes over, what it refuses, what the UI shows."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult, RunConfig
from pydantic import BaseModel

from lead_coordinator import tags
from lead_coordinator.database import control
from lead_coordinator.database.connection import Database
from lead_coordinator.database.control import Launchable
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.definitions import defs
from lead_coordinator.pipelines.content.report import link_text, metadata
from lead_coordinator.pipelines.face import BatchConfig, cancelled_by_interrupt
from lead_coordinator.pipelines.report import BatchReport
from lead_coordinator.providers.base import CallRequest
from lead_coordinator_tests.pipelines.content.material import ScriptedCaller, submit

Run = Callable[..., ExecuteInProcessResult]


@pytest.fixture
def caller(monkeypatch: pytest.MonkeyPatch) -> ScriptedCaller:
    """Instead of a provider: answers well and at once."""
    scripted = ScriptedCaller()
    monkeypatch.setattr(
        "lead_coordinator.providers.factory.open_gateway",
        lambda db, lease, settings, **_: scripted.open(db, lease),
    )
    monkeypatch.setattr("lead_coordinator.providers.factory.build_providers", lambda settings: {})
    return scripted


@pytest.fixture
def run(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("LEAD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LEAD_SITE_URL", "https://example.org/")
    job = defs.resolve_job_def(tags.CONTENT_JOB)
    with DagsterInstance.ephemeral() as instance:

        def execute(**config: Any) -> ExecuteInProcessResult:
            return job.execute_in_process(
                run_config=RunConfig({"work_content_batch": BatchConfig(**config)}),
                resources={"database": DatabaseResource(database_url=database_url)},
                instance=instance,
                raise_on_error=False,
            )

        yield execute


def reserved(db: Database) -> Launchable:
    control.orchestrate_workflow_execution(db, "test")
    return control.launchable_executions(db)[0]


def failure(result: ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_node_events if event.is_step_failure]
    data = event.step_failure_data
    return data.user_failure_data.description or "" if data.user_failure_data else str(data.error)


def test_started_by_hand_it_says_how_to_submit_instead(run: Run):
    result = run()
    assert not result.success
    assert "can't be started or re-executed by hand" in failure(result)
    assert "lead-coordinator submit" in failure(result)


def test_a_batch_becomes_articles_with_figures_and_links(
    run: Run, db: Database, caller: ScriptedCaller, tmp_path: Path
):
    submit(db, "Water Once a Week")
    launch = reserved(db)
    result = run(execution_id=launch.execution_id, launch_number=launch.launch_number)
    assert result.success, failure(result)
    (materialization,) = result.asset_materializations_for_node("work_content_batch")
    assert materialization.asset_key == AssetKey("articles")
    shown = {key: value.value for key, value in materialization.metadata.items()}
    assert shown["articles_published"] == 1
    assert shown["provider_calls"] == 3
    assert shown["spend_usd"] == pytest.approx(0.00111)
    assert shown["words"] >= 1200
    assert shown["execution_id"] == launch.execution_id
    (page,) = (tmp_path / "home" / "site" / "articles").glob("*.html")
    assert f"(https://example.org/articles/{page.name})" in shown["articles"], (
        "a person can click the article"
    )
    statuses = db.rows("SELECT status FROM public.task_queue WHERE task_type = 'content_generation'")
    assert statuses == [{"status": "completed"}]


def test_a_failed_task_is_the_queue_s_business_and_does_not_fail_the_run(
    run: Run, db: Database, caller: ScriptedCaller
):
    async def refuse(task_id: int, request: CallRequest) -> BaseModel | None:
        raise ValueError("the answer makes no sense")

    caller.script = refuse
    submit(db, "Water Once a Week")
    launch = reserved(db)
    result = run(execution_id=launch.execution_id, launch_number=launch.launch_number)
    assert result.success, failure(result)
    assert result.asset_materializations_for_node("work_content_batch") == []
    assert db.rows("SELECT status FROM public.task_queue WHERE task_type = 'content_generation'") == [
        {"status": "deferred"}
    ]


def test_re_executed_it_works_nothing_twice(run: Run, db: Database, caller: ScriptedCaller):
    submit(db, "Water Once a Week")
    launch = reserved(db)
    config = {"execution_id": launch.execution_id, "launch_number": launch.launch_number}
    assert run(**config).success
    called = len(caller.requests)
    again = run(**config)
    assert not again.success
    assert "can't be started or re-executed by hand" in failure(again)
    assert launch.execution_id in failure(again)
    assert len(caller.requests) == called


def test_an_execution_that_nobody_reserved_is_refused(run: Run, db: Database, caller: ScriptedCaller):
    result = run(execution_id="invented", launch_number=1)
    assert not result.success
    assert "invented" in failure(result)
    assert caller.requests == []


def test_an_interrupt_gives_the_tasks_back_at_once(run: Run, db: Database, caller: ScriptedCaller):
    async def interrupted(task_id: int, request: CallRequest) -> BaseModel | None:
        os.kill(os.getpid(), signal.SIGINT)  # what Dagster does to a run that is cancelled in the UI
        await asyncio.sleep(600)
        return None

    caller.script = interrupted
    submit(db, "Water Once a Week")
    launch = reserved(db)
    result = run(execution_id=launch.execution_id, launch_number=launch.launch_number)
    assert not result.success
    assert db.rows("SELECT status FROM public.task_queue WHERE task_type = 'content_generation'") == [
        {"status": "queued"}
    ]


def test_the_handler_of_interrupts_is_as_before_afterwards():
    before = signal.getsignal(signal.SIGINT)

    async def nothing() -> int:
        return 7

    with cancelled_by_interrupt() as start:
        assert asyncio.run(start(nothing())) == 7
    assert signal.getsignal(signal.SIGINT) is before
    assert threading.current_thread() is threading.main_thread()


def test_a_title_can_not_break_out_of_its_link():
    assert link_text("Free [money](https://evil.example)") == "Free (money)(https://evil.example)"


def test_an_empty_report_has_figures_too():
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    shown = metadata(BatchReport("content-1", 0, started_at=now, ended_at=now))
    assert shown["articles_published"] == 0
