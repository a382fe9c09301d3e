"""A batch with nothing replaced: the real gateway and SDKs, the sandbox process, the real control plane."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.pipelines.content.site import StaticSite
from lead_coordinator.pipelines.content.topics import read_topics
from lead_coordinator.pipelines.report import BatchEvent
from lead_coordinator.providers.factory import open_gateway
from lead_coordinator.settings import Settings
from lead_coordinator_tests.pipelines.content.material import run_batch, start
from lead_coordinator_tests.pipelines.content.test_render import Tags, assert_safe
from lead_coordinator_tests.providers.conftest import StartSandbox, start_sandbox

__all__ = ["start_sandbox"]
pytestmark = pytest.mark.anyio
EXAMPLES = Path(__file__).parents[3] / "examples" / "topics.csv"


async def test_topics_become_articles_and_the_ledger_agrees_with_the_sandbox(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, start_sandbox: StartSandbox
) -> None:
    sandbox = start_sandbox(seed=5)
    settings = Settings.load(
        {"LEAD_HOME": str(tmp_path), "GEMINI_BASE_URL": sandbox.url, "OPENAI_BASE_URL": sandbox.openai_url}
    )
    topics = read_topics(EXAMPLES)[0][:6]
    ids = [db.call("submit_task", **topic.task())["task_id"] for topic in topics]
    site = StaticSite(settings.site_dir, settings.site_url)
    report = await run_batch(
        async_db,
        lambda db, lease: open_gateway(db, lease, settings),
        await start(async_db),
        site,
        sandbox=settings.use_sandbox,
    )
    assert (len(report.completed), report.failed, report.given_back) == (6, 0, 0), report.failures
    found = [db.call("get_task", task_id=task_id) for task_id in ids]
    assert [one["status"] for one in found] == ["completed"] * 6
    for one in found:
        html = (site.root / "articles" / f"{one['result']['slug']}.html").read_text()
        assert_safe(html)
        assert Tags(html).meta("name", "description")
        assert "Sandbox text" in html
    calls = [call for one in found for call in one["calls"]]
    served = sandbox.admin.stats()["providers"].values()
    assert len(calls) == sum(provider["ok"] for provider in served) == 18, "three calls a topic, no more"
    assert sum(provider["refused_429"] for provider in served) == 0
    assert sum(call["cost_usd"] for call in calls) == report.cost_usd > 0
    assert report.cost_usd / 6 < Decimal("0.01"), "an article costs less than a cent"


async def test_a_provider_that_fails_mid_article_gives_way_and_no_step_is_asked_twice(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, start_sandbox: StartSandbox
) -> None:
    sandbox = start_sandbox(seed=5)
    settings = Settings.load(
        {"LEAD_HOME": str(tmp_path), "GEMINI_BASE_URL": sandbox.url, "OPENAI_BASE_URL": sandbox.openai_url}
    )
    task_id = db.call("submit_task", **read_topics(EXAMPLES)[0][0].task())["task_id"]

    def watch(event: BatchEvent) -> None:
        if event.kind == "step" and event.data["step"] == "draft":
            sandbox.admin.set_faults({event.data["provider"]: {"down": True}})

    await run_batch(
        async_db,
        lambda db, lease: open_gateway(db, lease, settings),
        await start(async_db),
        StaticSite(settings.site_dir, settings.site_url),
        watch,
        sandbox=True,
    )
    found = db.call("get_task", task_id=task_id)
    assert found["status"] == "completed", found["last_error_message"]
    assert len(found["result"]["providers"]) == 2, "the other provider went on"
    answered = [call["step"] for call in found["calls"] if call["outcome"] == "ok"]
    assert answered == ["outline", "draft", "edit_and_check"], "no finished step is repeated"
