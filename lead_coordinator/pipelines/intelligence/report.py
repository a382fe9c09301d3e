"""A batch of intelligence tasks as metadata: figures, tables, pictures. Texts of feeds are escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lead_coordinator import pictures
from lead_coordinator.metadata import markdown_table
from lead_coordinator.pipelines.intelligence.pages import safe_url
from lead_coordinator.pipelines.report import BatchReport

_FIGURES = (
    "feeds_polled",
    "feeds_changed",
    "feeds_failed",
    "new_items",
    "duplicates",
    "stories",
    "gaps",
    "terms_tested",
)
MAX_ROWS = 20
_MARKS = str.maketrans({mark: f"&#{ord(mark)};" for mark in "&*_`[]()!#~\\:"})


def metadata(report: BatchReport) -> dict[str, Any]:
    """The batch's figures; topics, rising terms, stories and feeds as tables; the strongest as pictures."""
    results = report.results
    values: dict[str, Any] = dict(report.metadata())
    values |= {name: sum(int(result[name]) for result in results) for name in _FIGURES}
    values |= {
        "topics_proposed": len(_all(results, "topics")),
        "topics_submitted": sum(bool(topic["submit"]) for topic in _all(results, "topics")),
        "execution_id": report.execution_id,
    }
    if briefings := [str(result["briefing"]) for result in results]:
        values["briefing"] = ", ".join(briefings)
    if reasons := [str(r["too_little_history"]) for r in results if r["too_little_history"]]:
        values["bursts_not_judged"] = "; ".join(reasons)
    values["topics"] = markdown_table(
        [
            {**topic, "title": plain(topic["title"]), "links": _links(topic["sources"])}
            for topic in _all(results, "topics")[:MAX_ROWS]
        ],
        {
            "title": "topic",
            "value_usd": "value (USD)",
            "feeds": "feeds",
            "gap": "gap",
            "submit": "submitted",
            "basis": "basis",
            "links": "evidence",
        },
    )
    values["rising_terms"] = markdown_table(
        [{**burst, "term": plain(burst["term"])} for burst in _all(results, "rising")[:MAX_ROWS]],
        {"term": "term", "today": "today", "expected": "expected", "lift": "times", "q_value": "q"},
    )
    values["top_stories"] = markdown_table(
        [
            {**story, "title": plain(story["title"]), "link": _links([story["url"]])}
            for story in _all(results, "top_stories")[:MAX_ROWS]
        ],
        {
            "title": "story",
            "feeds": "feeds",
            "items": "items",
            "gap": "gap",
            "covered": "ours",
            "link": "item",
        },
    )
    values["feeds"] = markdown_table(
        [
            {**feed, "feed": plain(feed["feed"]), "problem": plain(feed["problem"])}
            for feed in _all(results, "feeds")[: 2 * MAX_ROWS]
        ],
        {"feed": "feed", "outcome": "outcome", "items": "items", "problem": "problem"},
    )
    return values | _pictures(results)


def plain(text: str) -> str:
    """Text of a feed for a table in Markdown: nothing in it is markup."""
    return str(text).translate(_MARKS)


def _pictures(results: list[Mapping[str, Any]]) -> dict[str, Any]:
    drawn = {}
    rising = _all(results, "rising")
    if rising:
        series = {
            str(burst["term"]): [
                *((day - len(burst["history"]), float(count)) for day, count in enumerate(burst["history"])),
                (0, float(burst["today"])),
            ]
            for burst in rising[:5]
        }
        title = "Rising terms: items a day (0 is today)"
        drawn["rising_picture"] = pictures.metadata(title, pictures.line(title, series, "items"))
    valued = [topic for topic in _all(results, "topics") if topic["value_usd"] is not None]
    if valued:
        title = "Proposed topics: expected value"
        bars = {str(topic["title"]): float(topic["value_usd"]) for topic in valued[:10]}
        drawn["topics_picture"] = pictures.metadata(title, pictures.bar(title, bars, "USD"))
    return drawn


def _all(results: list[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [row for result in results for row in result[name]]


def _links(urls: list[str]) -> str:
    found = [safe_url(url) for url in urls]
    return " ".join(f"[{number}]({url})" for number, url in enumerate(filter(None, found), 1))
