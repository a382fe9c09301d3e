"""The demo's figures and its verdict: it may only succeed when every topic ended as it should."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lead_coordinator.cli.demo_report import Figures, judge, measure, percentile
from lead_coordinator.cli.demonstration import Demonstration, sandbox_delta
from lead_coordinator.cli.platform.logs import Terminal
from lead_coordinator.cli.platform.run import Platform
from lead_coordinator.cli.views import dollars, seconds, status_view
from lead_coordinator.database.connection import Database
from lead_coordinator.database.queue import NewTask, submit_task
from lead_coordinator.database.reports import get_platform_status
from lead_coordinator.settings import Settings
from lead_coordinator_tests.cli.conftest import Run

SINCE = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
GOOD = Figures(
    tasks=3,
    published=2,
    published_now=2,
    dead={3: "the provider's answer was no JSON, four times"},
    others={},
    pages_missing=[],
    published_twice=[],
    waits=[1.0, 2.0, 3.0],
    latencies=[5.0, 6.0],
    cost_usd=Decimal("0.0058"),
    calls={"gemini": 6},
    rate_limited=0,
    retries=3,
    peak_concurrent=3,
    max_concurrent=3,
)


def test_published_or_dead_with_a_reason_is_a_success() -> None:
    assert judge(GOOD, 3, []) == []


@pytest.mark.parametrize(
    ("figures", "topics", "refused", "said"),
    [
        (
            replace(GOOD, others={2: "deferred: budget"}),
            3,
            [],
            "task 2 ended neither published nor dead-lettered",
        ),
        (
            replace(GOOD, pages_missing=["rain-gardens"]),
            3,
            [],
            "the page of rain-gardens is missing on the site",
        ),
        (replace(GOOD, published_twice=[1]), 3, [], "task 1 was published twice"),
        (replace(GOOD, peak_concurrent=4), 3, [], "4 executions ran at once, 3 are allowed"),
        (GOOD, 4, [], "4 topics, but 3 tasks"),
        (GOOD, 4, ["line 5: no"], "the database refused line 5: no"),
        (replace(GOOD, tasks=0), 0, [], "there was no topic"),
    ],
)
def test_anything_else_is_a_failure_that_is_named(
    figures: Figures, topics: int, refused: list[str], said: str
) -> None:
    assert any(said in problem for problem in judge(figures, topics, refused))


def test_a_bad_row_of_the_file_is_a_failure_beside_whatever_else_went_well() -> None:
    assert judge(GOOD, 3, [], ["line 4, title: too long"]) == [
        "not taken from the file: line 4, title: too long"
    ]


def test_a_file_without_a_good_row_ends_before_anything_starts(run: Run, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "topics.csv"
    file.write_text("title,priority\nA topic,lots\nAnother,101\n")
    done = run("demo", "--topics", str(file))
    assert done.exit_code == 1
    assert "line 2, priority: 'lots' given" in done.stderr
    assert "there is no topic to work on" in done.stderr
    assert not home.exists(), "nothing may be started"


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.01, 0.5, 0.95, 1.0]))
def test_a_percentile_is_the_smallest_value_that_the_share_doesnt_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(sorted(values), share)
    assert found in values
    within = sum(1 for value in values if value <= found)
    below = sum(1 for value in values if value < found)
    assert within >= share * len(values)
    assert below == 0 or below < share * len(values)


def test_a_percentile_of_nothing_is_none() -> None:
    assert percentile([], 0.5) is None


def play(db: Database, site: Path) -> list[int]:
    """Three tasks: one published with its page, one published whose page is gone, one dead-lettered."""
    ids = [submit_task(db, NewTask("content_generation", {"title": f"Topic {n}"})).task_id for n in range(3)]
    started = datetime.now(UTC)
    for task, slug in zip(ids[:2], ("here", "gone"), strict=True):
        db.execute(
            "UPDATE lead.task SET status = 'completed', attempts = 2, created_at = %s, processed_at = %s"
            " WHERE id = %s",
            [started, started + timedelta(seconds=9), task],
        )
        for attempt, second, outcome in ((1, 3, "retried"), (2, 6, "completed")):
            begun = started + timedelta(seconds=second)
            db.execute(
                "INSERT INTO lead.task_attempt"
                " (task_id, attempt, execution_id, started_at, ended_at, outcome)"
                " VALUES (%s, %s, 'e-1', %s, %s, %s)",
                [task, attempt, begun, begun + timedelta(seconds=1), outcome],
            )
        db.execute(
            "INSERT INTO lead.publication"
            " (task_id, site, slug, title, status, execution_id, fence, published_at)"
            " VALUES (%s, 'main', %s, 'T', 'published', 'e-1', 1, now())",
            [task, slug],
        )
    db.execute("UPDATE lead.task SET status = 'dead_letter' WHERE id = %s", [ids[2]])
    db.execute(
        "INSERT INTO lead.dead_letter (task_id, task_type, reason, error_class, error_message)"
        " VALUES (%s, 'content_generation', 'gave up', 'task_error', 'no JSON')",
        [ids[2]],
    )
    (site / "articles").mkdir(parents=True)
    (site / "articles" / "here.html").write_text("<h1>here</h1>")
    return ids


def test_measure_reads_what_happened(db: Database, tmp_path: Path) -> None:
    ids = play(db, tmp_path)
    found = measure(db, ids, SINCE, tmp_path)
    assert (found.tasks, found.published, found.dead) == (3, 2, {ids[2]: "gave up"})
    assert found.pages_missing == ["gone"]
    assert found.waits == [3.0, 3.0], "waiting ends with the first attempt"
    assert found.latencies == [9.0, 9.0]
    assert found.retries == 2
    assert found.max_concurrent == 3
    assert judge(found, 3, []) == ["the page of gone is missing on the site"]


def test_concurrent_executions_are_counted_from_their_times(db: Database, tmp_path: Path) -> None:
    for name, start, end in (("a", 0, 10), ("b", 5, 15), ("c", 10, 20), ("d", 30, 40)):
        db.execute(
            "INSERT INTO public.workflow_orchestration"
            " (execution_id, workflow_type, worker_id, status, started_at, completed_at)"
            " VALUES (%s, 'content_pipeline', 'test', 'completed', %s, %s)",
            [name, SINCE + timedelta(seconds=start), SINCE + timedelta(seconds=end)],
        )
    assert measure(db, [], SINCE, tmp_path).peak_concurrent == 2, (
        "one that ends as another starts isn't beside it"
    )


def test_the_sandbox_counts_only_this_run() -> None:
    before = {"providers": {"gemini": {"calls": 10, "refused_429": 1}}}
    after = {
        "providers": {"gemini": {"calls": 14, "refused_429": 1}, "openai": {"calls": 2, "refused_429": 0}}
    }
    assert sandbox_delta(before, after) == {
        "gemini": {"calls": 4, "refused_429": 0},
        "openai": {"calls": 2, "refused_429": 0},
    }
    assert sandbox_delta({}, {}) == {}


def test_amounts_read_as_a_person_writes_them() -> None:
    assert [dollars(None), dollars(Decimal("1234.5")), dollars(Decimal("0.00294"), 4)] == [
        "–",
        "$1,234.50",
        "$0.0029",
    ]
    assert [seconds(None), seconds(3.21), seconds(180), seconds(9000)] == ["–", "3.2 s", "3.0 min", "2.5 h"]


def test_views_show_a_real_status(db: Database, settings: Settings) -> None:
    submit_task(db, NewTask("content_generation", {"title": "Topic"}))
    status = get_platform_status(db)
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(status_view(status, "UI http://127.0.0.1:3000"))
    watch = Demonstration(settings, {}, []).watch
    counts = {"content_generation": {"queued": 1, "completed": 1}, "seo_analysis": {"dead_letter": 3}}
    console.print(watch.view(status, counts, "the articles"))
    text = console.export_text()
    for part in (
        "content_generation",
        "gemini",
        "0 of 60",
        "closed",
        "http://127.0.0.1:3000",
        "the articles",
    ):
        assert part in text, f"a person looks for {part}"
    line = watch.line(status, counts)
    assert "articles 1 of 2 done" in line
    assert "audits 0 of 3 done, 3 dead letters" in line


def test_a_platform_ends_with_the_process_it_follows(settings: Settings) -> None:
    orphan = Platform(settings, {}, Terminal(quiet=True), parent_pid=os.getppid() + 1_000_000)
    orphan.tend()
    assert orphan.supervisor.stopping.is_set()
    child = Platform(settings, {}, Terminal(quiet=True), parent_pid=os.getppid())
    child.tend()
    assert not child.supervisor.stopping.is_set()
