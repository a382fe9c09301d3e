"""The whole platform, for real: webserver, daemon, runs, database, sandbox provider, command line.

One platform is booted for the whole module; its tests stand in order, the last one stops it. Faults are real:
processes are killed with SIGKILL while they work.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from lead_coordinator.cli.platform.home import runtime_path
from lead_coordinator.cli.platform.processes import end_processes, is_live, postmaster
from lead_coordinator.database.operations import change_policy
from lead_coordinator_tests.cli.waiting import eventually
from lead_coordinator_tests.e2e.browser import Ui, open_browser
from lead_coordinator_tests.e2e.platform import PlatformUnderTest

RUN_MB = 512  # what the scheduler counts for a run
SHOWN = ("control_plane", "intelligence", "content", "seo", "revenue", "insight")
GROUPS = "%2C".join(f"global%40global%3A{name}" for name in SHOWN)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def platform() -> Iterator[PlatformUnderTest]:
    # Not under pytest's own folder: every pytest that starts shuts that folder to other accounts again, and
    # as root the server runs as another one.
    with tempfile.TemporaryDirectory(prefix="lead-e2e-") as folder:
        platform = PlatformUnderTest(Path(folder) / "home")
        try:
            platform.start()
            yield platform
        finally:
            platform.end()
            end_processes(platform.processes, 0.0)


def test_a_task_goes_from_submit_to_a_published_page(platform: PlatformUnderTest) -> None:
    submitted = platform.run_json(
        "submit", "--title", "How a rain garden works", "--keyword", "rain garden", "--value", "20"
    )
    assert submitted["created"]
    platform.wait_published([submitted["task_id"]], 120)

    (publication,) = platform.publications([submitted["task_id"]])
    site = platform.home / "site"
    page = (site / "articles" / f"{publication['slug']}.html").read_text()
    assert "How a rain garden works" in page
    assert "sandbox" in page.lower(), "what the sandbox writes is plainly marked"
    for name in ("index.html", "feed.xml", "sitemap.xml"):
        assert publication["slug"] in (site / name).read_text(), f"{name} must lead to the article"

    status = platform.run_json("status")
    assert status["published"] == 1
    assert status["platform"]["state"] == "running"
    assert status["budget"]["spent_usd"] > 0
    assert json.dumps(platform.sandbox.stats()).count('"refused_429": 0') == 2
    # The page is out before the run that wrote it has ended.
    eventually(lambda: not platform.pipeline_runs(), "the run has ended", 60)
    runs = platform.graphql(
        "{ runsOrError { ... on Runs { results { jobName status tags { key value } } } } }"
    )
    pipeline = [run for run in runs["runsOrError"]["results"] if run["jobName"] == "content_pipeline_job"]
    assert [run["status"] for run in pipeline] == ["SUCCESS"]
    assert "lead/execution_id" in {tag["key"] for tag in pipeline[0]["tags"]}


def test_the_same_brief_again_makes_no_second_task(platform: PlatformUnderTest) -> None:
    first = platform.run_json("submit", "--title", "Twice the same")
    again = platform.run_json("submit", "--title", "Twice  the SAME ", "--value", "7")
    assert (first["created"], again["created"]) == (True, False)
    assert again["task_id"] == first["task_id"]
    platform.wait_published([first["task_id"]], 120)


def test_doctor_finds_a_running_platform_healthy(platform: PlatformUnderTest) -> None:
    findings = {finding["check"]: finding for finding in platform.run_json("doctor")["findings"]}
    assert {
        "database",
        "deployment",
        "daemon",
        "webserver",
        "automation",
        "disk",
        "providers",
    } <= findings.keys()
    assert all(finding["state"] == "ok" for finding in findings.values()), findings


def test_the_scheduler_knows_what_the_platform_itself_takes(platform: PlatformUnderTest) -> None:
    with platform.db as db:
        row = db.row(
            "SELECT h.metric_value, h.source, c.memory_limit_mb, l.value::integer AS runs"
            " FROM public.system_health AS h, lead.capacity(clock_timestamp()) AS c, lead.setting AS l"
            " WHERE h.metric_name = 'platform_baseline_memory_mb' AND l.name = 'max_concurrent_workflows'"
        )
    assert row is not None, "reported as soon as the platform runs"
    assert row["source"] == "supervisor"
    assert row["metric_value"] > 100, "a dozen processes take more"
    assert row["metric_value"] + row["runs"] * RUN_MB <= row["memory_limit_mb"], "every slot can be used"


def test_the_ui_shows_the_platform(platform: PlatformUnderTest, tmp_path: Path) -> None:
    with open_browser(tmp_path) as browser:
        ui = Ui(browser, platform.runtime.web_url)
        ui.visit("/overview", "content_pipeline_job")
        ui.visit(
            f"/asset-groups?expanded={GROUPS}",
            *("task_queue", "executions", "topics", "articles", "site_audits", "refresh_ranking"),
            "refreshed_articles",
            *("execution_metrics", "daily_cost_report", "platform_summary"),
        )
        ui.visit(
            "/locations/lead_coordinator/sensors/dispatch_sensor", "dispatch_sensor", "Every five seconds:"
        )
        ui.visit("/assets/articles?view=overview", "Articles that were written from", "articles_published")
        assert ui.severe() == [], "the UI's pages load without errors"


def test_a_second_up_on_the_same_home_is_refused(platform: PlatformUnderTest) -> None:
    refused = platform.run("up", check=False)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert f"is in use by pid {platform.runtime.pid}" in refused.stderr
    assert refused.stderr.count("\n") == 1, "one sentence"


def test_a_disabled_type_says_so(platform: PlatformUnderTest) -> None:
    with platform.db as db:
        change_policy(db, "seo_monitor", {"enabled": False})
        refused = platform.run("submit", "--payload", "{}", "--type", "seo_analysis", check=False)
        change_policy(db, "seo_monitor", {"enabled": True})
    assert refused.returncode == 1
    assert "seo_analysis is disabled" in refused.stderr


def assert_kept(platform: PlatformUnderTest, before: dict[int, tuple[datetime, str, str]]) -> None:
    assert before, "this test needs articles that were published before the fault"
    after = platform.published_pages(list(before))
    assert after == before, "what was published stays as it is: same time, same text, same page"


def test_a_run_killed_in_mid_batch_loses_nothing_and_repeats_nothing(platform: PlatformUnderTest) -> None:
    eventually(lambda: not platform.pipeline_runs(), "earlier runs have ended", 60)
    # One call in five is never answered: part of the batch gets through, the rest hangs until it is killed.
    platform.sandbox.set_faults({"all": {"timeout": 0.2}})
    tasks = platform.submit_topics("killed run", 10)

    def in_mid_batch() -> bool:
        statuses = platform.statuses(tasks)
        with platform.db as db:
            waiting = db.row(
                "SELECT count(*) AS n FROM lead.api_call WHERE task_id = ANY(%s) AND status = 'sent'", [tasks]
            )
        assert waiting is not None
        return statuses.get("completed", 0) > 0 and statuses.get("processing", 0) > 0 and waiting["n"] > 0

    eventually(in_mid_batch, "some tasks of the batch are done, some wait for an answer", 120, every=0.02)
    runs = platform.pipeline_runs()
    assert runs, "the batch is worked by a process"
    with platform.db as db:
        before = db.row("SELECT clock_timestamp() AS now")
    for run in runs:
        run.kill()
    platform.sandbox.clear_faults()
    done_before = platform.published_pages(tasks)

    platform.wait_published(tasks, 150)
    with platform.db as db:
        lost = db.rows(
            "SELECT task_id, ended_at FROM lead.task_attempt WHERE task_id = ANY(%s) AND outcome = 'stalled'",
            [tasks],
        )
        open_calls = db.rows(
            "SELECT id FROM lead.api_call WHERE task_id = ANY(%s) AND status IN ('reserved', 'sent')", [tasks]
        )
    assert before is not None
    assert lost, "the work that was lost with the run is on record"
    late = [row for row in lost if (row["ended_at"] - before["now"]).total_seconds() > 60]
    assert not late, "work lost with its run is in the queue again within 60 s"
    assert not open_calls, "every call of the dead run was settled or released"
    assert_kept(platform, done_before)


def test_killed_parts_come_back_and_work_goes_on(platform: PlatformUnderTest) -> None:
    before = platform.runtime.parts
    server = postmaster(platform.home / "postgres")
    assert server is not None
    server.kill()
    for part in ("code-server", "daemon"):
        os.kill(before[part], signal.SIGKILL)

    def back() -> bool:
        now = platform.runtime.parts
        return all(now.get(part) not in (None, before[part]) for part in ("code-server", "daemon"))

    eventually(back, "code server and daemon run again", 60)
    eventually(lambda: postmaster(platform.home / "postgres") is not None, "PostgreSQL runs again", 60)
    submitted = platform.run_json("submit", "--title", "After the crash")
    platform.wait_published([submitted["task_id"]], 150)
    eventually(
        lambda: platform.run("doctor", check=False).returncode == 0,
        lambda: "the platform is healthy again: " + platform.run("doctor", check=False).stdout,
        120,
        every=1.0,
    )


@pytest.mark.timeout(400)
def test_killed_up_leaves_no_process_and_its_next_start_goes_on(platform: PlatformUnderTest) -> None:
    # As above: part of the work is done, the rest waits for answers that don't come.
    platform.sandbox.set_faults({"all": {"timeout": 0.2}})
    tasks = platform.submit_topics("killed platform", 14)

    def in_the_middle() -> bool:
        statuses = platform.statuses(tasks)
        return statuses.get("completed", 0) > 0 and statuses.get("processing", 0) > 0

    eventually(in_the_middle, "some tasks are done, some are worked on", 120, every=0.02)
    done_before = platform.published_pages(tasks)
    platform.kill()
    eventually(lambda: not platform.processes(), "after SIGKILL of `up` no process lingers", 60)

    platform.start()
    platform.wait_published(tasks, 240)
    assert_kept(platform, done_before)
    assert platform.run_json("status")["totals"]["dead_letter"] == 0


def test_ctrl_c_leaves_no_process(platform: PlatformUnderTest) -> None:
    assert len(platform.processes()) > 5
    assert platform.interrupt() == 0
    assert [process.cmdline() for process in platform.processes()] == []
    assert not runtime_path(platform.home).exists()
    assert "nothing is left running" in platform.said()
    refused = platform.run("status", check=False)
    assert refused.returncode == 1
    assert "No platform runs on" in refused.stderr


def test_up_ends_with_the_process_it_follows(platform: PlatformUnderTest) -> None:
    platform.start(follow_parent=True)
    up = psutil.Process(platform.runtime.pid)
    platform.kill()  # the process that started `up`: a make, a terminal
    eventually(
        lambda: not is_live(up) and not platform.processes(),
        lambda: f"`up` and all it started end with the parent of `up`; it said:\n{platform.said()}",
        60,
    )
    assert not runtime_path(platform.home).exists(), "it stopped in order"
    assert "the process that started us has gone" in platform.said()


def test_wrong_settings_end_at_once(tmp_path: Path) -> None:
    for variable, value in {"DAILY_BUDGET_USD": "abc", "MAX_CONCURRENT_WORKFLOWS": "99"}.items():
        wrong = PlatformUnderTest(tmp_path / "home")
        wrong.environ[variable] = value
        refused = wrong.run("up", check=False)
        assert refused.returncode == 2
        assert f"{variable}={value} must be" in refused.stderr
        assert not wrong.home.exists(), "nothing was begun"
