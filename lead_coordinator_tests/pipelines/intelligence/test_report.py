"""A batch as metadata: figures that can be plotted, tables in which no feed's text is markup."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from dagster import MarkdownMetadataValue
from markdown import markdown

from lead_coordinator.pipelines.intelligence.outcome import content_task, result_of, submissions
from lead_coordinator.pipelines.intelligence.report import metadata
from lead_coordinator.pipelines.intelligence.state import SiteState, StoredProposal
from lead_coordinator.pipelines.report import BatchReport, CompletedTask
from lead_coordinator_tests.pipelines.intelligence.material import NOON
from lead_coordinator_tests.pipelines.intelligence.test_examples import example_round
from lead_coordinator_tests.pipelines.intelligence.test_hostile import check_html


def report(**changes: Any) -> BatchReport:
    found = example_round(NOON)
    result = result_of("main", found, len(found.new), submissions("main", found, SiteState(), NOON))
    result |= {"briefing": "briefings/main/2026-11-24.html", "model_calls": 0} | changes
    made = BatchReport("intelligence-1", 1, started_at=NOON, ended_at=NOON + timedelta(seconds=9))
    made.completed.append(CompletedTask(7, result, 9.0))
    return made


def test_figures_tables_and_pictures() -> None:
    shown = metadata(report())
    assert (shown["new_items"], shown["feeds_polled"], shown["topics_submitted"]) == (63, 4, 3)
    assert shown["briefing"] == "briefings/main/2026-11-24.html"
    for name in ("topics", "rising_terms", "top_stories", "feeds"):
        assert isinstance(shown[name], MarkdownMetadataValue)
    assert "Peat compost&#58; what is known so far" in shown["topics"].value
    assert "[1](https://gardenpost.example/" in shown["topics"].value
    assert "compost ban" in shown["rising_terms"].value
    for name in ("rising_picture", "topics_picture"):
        assert "data:image/png;base64," in shown[name].value
        assert len(shown[name].value) < 30_000


def test_an_empty_round_has_metadata_too() -> None:
    shown = metadata(report(topics=[], rising=[], top_stories=[], feeds=[], too_little_history="3 days"))
    assert shown["bursts_not_judged"] == "3 days"
    assert "topics_picture" not in shown
    assert metadata(BatchReport("e", 0, started_at=NOON))["new_items"] == 0


def test_texts_of_feeds_are_text() -> None:
    hostile = "<script>x</script> [a](javascript:x) ![i](https://evil.example/i) `c` |"
    story = {"title": hostile, "items": 1, "feeds": 1, "gap": False, "covered": False, "url": "javascript:x"}
    feed = {"feed": hostile, "outcome": "read", "items": 1, "problem": hostile}
    shown = metadata(report(top_stories=[story], feeds=[feed]))
    for name in ("top_stories", "feeds"):
        check_html(markdown(shown[name].value, extensions=["tables"]))


def test_what_was_wanted_lately_is_submitted_again_under_its_key() -> None:
    found = example_round(NOON)

    def stored(story: str, hours: float) -> StoredProposal:
        evidence = [{"url": "https://a.example/1"}, {"url": ""}]
        details = {"keywords": ["peat"], "angle": "Why", "evidence": evidence}
        return StoredProposal(story, "Peat", None, details, NOON - timedelta(hours=hours))

    state = SiteState(proposals={"s1": stored("s1", 1), "s2": stored("s2", 49)})
    tasks = {task.idempotency_key: task for task in submissions("main", found, state, NOON)}
    assert len(tasks) == 4
    assert "story:main:s2" not in tasks, "two days are enough for a run to come back"
    assert tasks["story:main:s1"].payload == {
        "title": "Peat",
        "topic": "Peat",
        "keywords": ["peat"],
        "angle": "Why",
        "site": "main",
        "sources": ["https://a.example/1"],
        "story": "s1",
    }


def test_a_task_names_its_story_once() -> None:
    task = content_task("main", "s1", "Peat", None, {})
    assert (task.task_type, task.idempotency_key) == ("content_generation", "story:main:s1")
