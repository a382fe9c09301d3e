"""The demo may only succeed when the circle is closed: what is planted in the examples is found, written and
refreshed, and nothing else is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lead_coordinator.cli import demo_examples as examples
from lead_coordinator.cli.demo_circle import Audit, Circle, ended, judge_circle, ranked, read_circle
from lead_coordinator.cli.demo_examples import Planted
from lead_coordinator.cli.demo_servers import with_articles_address
from lead_coordinator.cli.demo_view import circle_view
from lead_coordinator.cli.demonstration import same_profile
from lead_coordinator.database.connection import Database
from lead_coordinator.database.queue import NewTask, submit_task
from lead_coordinator.database.sites import set_site
from lead_coordinator.files import product_file
from lead_coordinator.pipelines.content.topics import read_topics
from lead_coordinator.pipelines.intelligence.parse import parse_feed
from lead_coordinator.settings import Settings

PAGE = "/articles/solar.html"
PLANTED = Planted(
    topics=1,
    items=3,
    rising=frozenset({"peat"}),
    faults=frozenset({("/slow", "slow-response"), ("/a", "h1-missing")}),
    refresh=frozenset({PAGE}),
)
TOPIC: Mapping[str, Any] = {
    "title": "The peat ban",
    "value_usd": Decimal("2.5"),
    "details": {
        "gap": True,
        "evidence": [{"title": "Ban", "url": "http://feed/1", "feed_url": "http://feed"}],
    },
    "task_id": 1,
    "status": "completed",
    "result": {"url": "http://site/articles/peat.html"},
    "last_error_message": None,
}
REFRESH: Mapping[str, Any] = {
    "slug": "solar",
    "status": "completed",
    "revision": 2,
    "cost_usd": Decimal("0.0012"),
    "last_error_message": None,
}
AUDIT = Audit("http://127.0.0.1:8010", 60, Decimal("71.5"), 9.0, PLANTED.faults, {"error": 1, "warning": 1})
CLOSED = Circle(
    intelligence={
        "rising": [{"term": "peat"}],
        "feeds_polled": 1,
        "new_items": 3,
        "briefing": "briefings/main/today.md",
    },
    cost_by_type={"content_generation": Decimal("0.0041"), "seo_analysis": Decimal(0)},
    topics=[TOPIC],
    articles=[
        {
            "task_id": 2,
            "slug": "solar",
            "url": "http://site/articles/solar.html",
            "title": "Solar",
            "result": {"words": 1234},
            "cost_usd": Decimal("0.0029"),
        }
    ],
    planted_audit=AUDIT,
    revenue={
        "pages": 1,
        "gain_usd": 1500.0,
        "plan": [
            {"kind": "refresh", "page": PAGE, "gain_usd": [1500.0, 900.0, 2100.0], "reason": "it falls"}
        ],
    },
    refreshes=[REFRESH],
)


def test_a_closed_circle_has_no_problem() -> None:
    assert judge_circle(CLOSED, PLANTED) == []


@pytest.mark.parametrize(
    ("circle", "said"),
    [
        (replace(CLOSED, topics=[]), "0 topics became tasks, 1 are planted"),
        (replace(CLOSED, topics=[{**TOPIC, "status": "dead_letter"}]), "'The peat ban' has no article"),
        (replace(CLOSED, intelligence={}), "the rising term 'peat' wasn't found"),
        (replace(CLOSED, planted_audit=None), "the example site wasn't audited"),
        (
            replace(CLOSED, planted_audit=replace(AUDIT, findings=frozenset({("/a", "h1-missing")}))),
            "planted and not found: /slow slow-response",
        ),
        (
            replace(CLOSED, planted_audit=replace(AUDIT, findings=PLANTED.faults | {("/b", "orphan")})),
            "reported and not planted: /b orphan",
        ),
        (replace(CLOSED, revenue={}), f"{PAGE} decays and isn't ranked"),
        (replace(CLOSED, refreshes=[]), f"{PAGE} decays and wasn't refreshed"),
        (replace(CLOSED, refreshes=[{**REFRESH, "revision": 1}]), "the refresh of solar failed"),
        (
            replace(
                CLOSED,
                revenue={"plan": [*CLOSED.plan, {"kind": "refresh", "page": "/x", "gain_usd": None}]},
            ),
            "/x doesn't decay and is to be refreshed",
        ),
        (
            replace(CLOSED, failures=["seo_monitor had no standing work for example-site"]),
            "no standing work",
        ),
    ],
)
def test_whatever_is_missing_is_named(circle: Circle, said: str) -> None:
    assert any(said in problem for problem in judge_circle(circle, PLANTED))


def test_of_somebody_s_own_topics_only_what_is_published_can_be_refreshed() -> None:
    other = replace(CLOSED, articles=[], refreshes=[])
    assert judge_circle(other, PLANTED, own_topics=True) == []
    assert judge_circle(replace(CLOSED, refreshes=[]), PLANTED, own_topics=True) == [
        f"{PAGE} decays and wasn't refreshed"
    ]


def test_a_person_reads_what_came_of_it(tmp_path: Path) -> None:
    console = Console(width=160, record=True, file=(tmp_path / "out").open("w"))
    for part in circle_view(CLOSED, PLANTED, tmp_path, tmp_path):
        console.print(part)
    text = console.export_text()
    for part in (
        "Topics found in the feeds: 1 of 1 planted",
        "http://feed/1",
        "http://site/articles/peat.html",
        "Articles published: 1, 1,234 words, $0.0029",
        "score 71.5 of 100",
        "planted faults found: 2 of 2, by 2 rules; reported and not planted: 0",
        "Improvements ranked: 1, worth $1,500.00; articles refreshed: 1",
        "refresh, expected $1,500.00 ($900.00 to $2,100.00)  /articles/solar.html",
        f"the briefing of the day: {tmp_path / 'briefings/main/today.md'}",
        "All of it cost $0.0041",
        "it falls; updated in place, revision 2, $0.0012",
    ):
        assert part in text, f"a person looks for {part}"


def test_an_empty_circle_can_be_shown(tmp_path: Path) -> None:
    console = Console(width=160, record=True, file=(tmp_path / "out").open("w"))
    for part in circle_view(Circle(), PLANTED, tmp_path, tmp_path):
        console.print(part)
    assert "The example site wasn't audited" in console.export_text()


# ---- the database ------------------------------------------------------------------------------------------


def standing(db: Database, workflow_type: str, task_type: str) -> int:
    """A standing task of the site main, submitted now."""
    set_site(db, "main", {})
    task = submit_task(db, NewTask(task_type, {"standing": True, "site": "main"})).task_id
    db.execute("INSERT INTO lead.standing_task VALUES (%s, 'main', %s, now())", [workflow_type, task])
    return task


def test_the_ranking_is_over_when_its_refreshes_are(db: Database) -> None:
    assert not ended(db, "revenue_optimizer", "main"), "there is no task yet"
    task = standing(db, "revenue_optimizer", "revenue_optimization")
    assert not ended(db, "revenue_optimizer", "main"), "it waits"
    db.execute(
        "UPDATE lead.task SET status = 'completed', result = '{\"refreshes\": [\"refresh:main:solar:x\"]}'"
        " WHERE id = %s",
        [task],
    )
    assert ended(db, "revenue_optimizer", "main")
    assert not ranked(db), "the refresh isn't there yet"
    refresh = submit_task(
        db,
        NewTask(
            "content_generation",
            {"site": "main", "refresh": {"slug": "solar"}},
            idempotency_key="refresh:main:solar:x",
        ),
    ).task_id
    assert not ranked(db), "it waits"
    db.execute("UPDATE lead.task SET status = 'dead_letter' WHERE id = %s", [refresh])
    assert ranked(db)
    circle = read_circle(db, [])
    assert [row["slug"] for row in circle.refreshes] == ["solar"]
    assert circle.refreshed == [], "nothing came of it"
    assert "intelligence_engine had no standing work for main" in circle.failures


def test_standing_work_that_is_due_again_isn_t_taken_for_done(db: Database) -> None:
    task = standing(db, "intelligence_engine", "intelligence_analysis")
    db.execute("UPDATE lead.task SET status = 'completed' WHERE id = %s", [task])
    assert ended(db, "intelligence_engine", "main")
    db.execute("UPDATE lead.standing_task SET submitted_at = now() - interval '1 hour'")
    assert not ended(db, "intelligence_engine", "main")


# ---- the examples ------------------------------------------------------------------------------------------


def test_the_topics_that_have_metrics_are_all_those_of_the_metrics() -> None:
    rows, bad = read_topics(product_file("examples/topics.csv"))
    assert not bad
    assert len(examples.with_metrics(rows)) == len(examples.truth("metrics-truth")["pages"])


def test_the_metrics_end_yesterday_and_are_of_the_pages_that_are_out() -> None:
    decaying = sorted(examples.planted().refresh)
    places = {decaying[0]: "/articles/moved.html"}
    for rows in examples.metrics(date(2027, 3, 1), places):
        assert max(row.day for row in rows) == date(2027, 2, 28)
        pages = {row.page for row in rows}
        assert "/articles/moved.html" in pages
        assert decaying[0] not in pages
        assert decaying[1] in pages
    assert examples.planted(places).refresh == {"/articles/moved.html", decaying[1]}


def test_what_is_served_is_the_site_and_the_feeds_of_today_with_a_page_an_item(tmp_path: Path) -> None:
    now = datetime(2027, 3, 1, 9, 0, tzinfo=UTC)
    folder = tmp_path / "demo"
    examples.lay_out(folder, now)
    examples.lay_out(folder, now)  # again, over what is there
    assert (folder / "index.html").is_file()
    items = 0
    for feed in sorted((folder / "feeds").iterdir()):
        text = feed.read_text().replace("{{origin}}", examples.EXAMPLE_ORIGIN)
        for item in parse_feed(text.encode(), examples.EXAMPLE_ORIGIN).items:
            items += 1
            path = item.url.removeprefix(f"{examples.EXAMPLE_ORIGIN}/")
            assert (folder / f"{path}.html").is_file(), f"{item.url} can be read"
            assert item.published is not None
            assert item.published <= now
    assert items == examples.planted().items


def test_the_profiles_have_the_address_that_is_served() -> None:
    main, site = examples.profiles("http://127.0.0.1:9999")
    assert (main.name, main.url, site.name, site.url) == (
        "main",
        None,
        "example-site",
        "http://127.0.0.1:9999/",
    )
    assert all(feed.url.startswith("http://127.0.0.1:9999/feeds/") for feed in main.intelligence.feeds)


def test_only_the_demo_s_own_profiles_are_replaced() -> None:
    one, other = (examples.profiles(f"http://127.0.0.1:{port}")[0].stored() for port in (8010, 9999))
    assert same_profile(one, other), "only the port differs"
    assert same_profile({**one, "url": "http://127.0.0.1:8011/"}, other), "the demo adds the address itself"
    assert not same_profile({**one, "language": "de"}, other)
    assert not same_profile({"url": "https://www.example.org/"}, other)


def test_the_articles_get_an_address_unless_they_have_one(settings: Settings) -> None:
    given, _ = with_articles_address(settings, {"LEAD_SITE_URL": "https://www.example.org/"})
    assert given is settings
    made, environ = with_articles_address(settings, {})
    assert made.site_url.startswith("http://127.0.0.1:")
    assert environ["LEAD_SITE_URL"] == made.site_url
