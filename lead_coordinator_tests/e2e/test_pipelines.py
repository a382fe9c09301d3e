"""All four pipelines on one booted platform: their standing work is submitted by the decision itself, and
each becomes a run of its own job, a group of its own in the UI, and a place in the lineage.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from lead_coordinator import tags
from lead_coordinator.cli.platform.processes import end_processes
from lead_coordinator.database.queue import NewTask, get_task, submit_task
from lead_coordinator.database.revenue import MetricRow, import_page_metrics
from lead_coordinator_tests.cli.waiting import eventually
from lead_coordinator_tests.e2e.platform import PlatformUnderTest
from lead_coordinator_tests.small_site import profile, small_site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

CIRCLE = [tags.TOPICS, tags.ARTICLES, tags.SITE_AUDITS, tags.REFRESH_RANKING, tags.REFRESHED_ARTICLES]
RUNS = "{ runsOrError { ... on Runs { results { jobName status tags { key value } } } } }"
ASSETS = (
    "{ assetNodes { assetKey { path } groupName jobNames dependencyKeys { path }"
    " assetMaterializations(limit: 1) { runOrError { ... on Run { jobName } } metadataEntries { label"
    " ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue }"
    " ... on MarkdownMetadataEntry { mdStr } } } } }"
)


@pytest.fixture(scope="module")
def platform() -> Iterator[PlatformUnderTest]:
    """A platform whose articles appear on a small site, which has a feed and page metrics too."""
    with tempfile.TemporaryDirectory(prefix="lead-e2e-") as folder:
        platform = PlatformUnderTest(Path(folder) / "home")
        with small_site(platform.home / "site") as address:
            platform.environ["LEAD_SITE_URL"] = address
            try:
                platform.start()
                file = Path(folder) / "site.yaml"
                file.write_text(yaml.safe_dump({"name": "main", **profile(address)}))
                platform.run("site", "apply", str(file))
                with platform.db as db:
                    import_page_metrics(db, "main", metrics("/a1", 90))
                yield platform
            finally:
                platform.end()
                end_processes(platform.processes, 0.0)


def metrics(page: str, days: int) -> list[MetricRow]:
    today = datetime.now(UTC).date()
    return [
        MetricRow(
            page,
            today - timedelta(days=days - n),
            clicks=100 - n // 2 + n % 7,
            impressions=2000,
            position=Decimal(5),
            views=120 - n // 2,
            conversions=Decimal(2),
            revenue_usd=Decimal(9),
        )
        for n in range(days)
    ]


def runs(platform: PlatformUnderTest) -> list[dict[str, Any]]:
    found = platform.graphql(RUNS)["runsOrError"]["results"]
    return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]


def succeeded(platform: PlatformUnderTest) -> set[str]:
    return {run["jobName"] for run in runs(platform) if run["status"] == "SUCCESS"}


def assets(platform: PlatformUnderTest) -> dict[str, dict[str, Any]]:
    return {node["assetKey"]["path"][0]: node for node in platform.graphql(ASSETS)["assetNodes"]}


def test_each_pipeline_s_standing_work_becomes_a_run_of_its_job(platform: PlatformUnderTest) -> None:
    submitted = platform.run_json("submit", "--title", "How a rain garden works")
    jobs = {pipeline.job for pipeline in tags.PIPELINE_OF_WORKFLOW.values()}
    assert len(jobs) == 4
    eventually(
        lambda: jobs <= succeeded(platform),
        lambda: f"all of {jobs} ran well: {[(run['jobName'], run['status']) for run in runs(platform)]}",
        240,
        every=1.0,
    )
    by_job = {run["jobName"]: run["tags"] for run in runs(platform) if run["jobName"] in jobs}
    types = {name: pipeline.job for name, pipeline in tags.PIPELINE_OF_WORKFLOW.items()}
    for workflow_type, job in types.items():
        assert by_job[job][tags.WORKFLOW_TYPE] == workflow_type
        assert by_job[job]["dagster/sensor_name"] == "dispatch_sensor", "asked for by the coordinator"
        assert by_job[job][tags.EXECUTION_ID].startswith(workflow_type.partition("_")[0])
    with platform.db as db:
        done = db.rows(
            "SELECT task_type, status, payload FROM lead.task WHERE payload ? 'standing' ORDER BY id"
        )
        failed = db.rows("SELECT task_id, error_message FROM lead.dead_letter")
    assert failed == []
    first = {row["task_type"]: row for row in reversed(done)}
    assert set(first) == {"intelligence_analysis", "revenue_optimization", "seo_analysis"}
    assert all(row["status"] == "completed" for row in first.values()), first
    assert all(row["payload"] == {"standing": True, "site": "main"} for row in first.values())
    platform.wait_published([submitted["task_id"]], 60)


def test_each_leaves_an_asset_with_figures_in_a_group_of_its_own(platform: PlatformUnderTest) -> None:
    found = assets(platform)
    groups = {name: found[name]["groupName"] for name in CIRCLE}
    assert set(groups.values()) == {"intelligence", "content", "seo", "revenue"}
    for before, after in pairwise(CIRCLE):
        parents = {key["path"][0] for key in found[after]["dependencyKeys"]}
        assert before in parents, f"{after} stands after {before} in the lineage"
    for name in CIRCLE[:-1]:
        (materialized,) = found[name]["assetMaterializations"]
        job = materialized["runOrError"]["jobName"]
        assert job in found[name]["jobNames"]
        entries = {entry["label"]: entry for entry in materialized["metadataEntries"]}
        assert entries["tasks_completed"]["intValue"] >= 1
        assert any("|" in entry.get("mdStr", "") for entry in entries.values()), f"{name} shows a table"


def test_what_is_published_is_audited(platform: PlatformUnderTest) -> None:
    with platform.db as db:
        query = (
            "SELECT t.id, t.status, t.result FROM lead.task AS t INNER JOIN lead.publication AS p"
            " ON t.idempotency_key LIKE format('audit:%s:%%', p.id) AND t.payload -> 'urls' ->> 0 = p.url"
        )
        eventually(
            lambda: [row["status"] for row in db.rows(query)] == ["completed"],
            lambda: f"the audit of the article is done: {db.rows(query)}",
            120,
            every=0.5,
        )
        (audit,) = db.rows(query)
    assert audit["result"]["finished"], "a page is audited in one go"


def test_an_article_that_is_updated_is_an_asset_of_its_own(platform: PlatformUnderTest) -> None:
    with platform.db as db:
        (page,) = db.rows(
            "SELECT slug, url FROM lead.publication WHERE status = 'published' ORDER BY id LIMIT 1"
        )
        refresh = {**page, "reason": "it earns less than it did", "evidence": "90 days of figures"}
        task = submit_task(
            db, NewTask("content_generation", {"site": "main", "refresh": refresh}, idempotency_key="r")
        )

        def done() -> bool:
            return get_task(db, task.task_id)["status"] in ("completed", "dead_letter")

        eventually(done, lambda: f"it ends: {get_task(db, task.task_id)}", 150, every=0.5)
        ended = get_task(db, task.task_id)
        assert ended["status"] == "completed", ended["last_error_message"]
        assert db.row("SELECT count(*) AS n FROM lead.publication WHERE slug = %s", [page["slug"]]) == {
            "n": 1
        }
    eventually(
        lambda: bool(assets(platform)[tags.REFRESHED_ARTICLES]["assetMaterializations"]),
        "the update is a materialisation of refreshed_articles",
        60,
        every=0.5,
    )
    (materialized,) = assets(platform)[tags.REFRESHED_ARTICLES]["assetMaterializations"]
    entries = {entry["label"]: entry for entry in materialized["metadataEntries"]}
    assert entries["articles_refresh"]["intValue"] == 1
    assert materialized["runOrError"]["jobName"] == tags.CONTENT_JOB
