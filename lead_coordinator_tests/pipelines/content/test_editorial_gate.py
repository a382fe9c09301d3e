"""Review, drafts, dates, updates, and taking articles off and back: against the real control plane."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lead_coordinator.database import articles, publications
from lead_coordinator.database.articles import change_publication, decide_article, list_articles
from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.sites import StoredSite
from lead_coordinator.errors import BadAnswer, DestinationDown, IllegalTransition, NotFound
from lead_coordinator.pipelines.content.provenance import audits as audits_of
from lead_coordinator.pipelines.content.provenance import can_be_visited
from lead_coordinator.pipelines.content.schemas import Section
from lead_coordinator.pipelines.content.site import StaticSite
from lead_coordinator.pipelines.profile import SiteProfile, SiteProfiles
from lead_coordinator.pipelines.report import BatchReport
from lead_coordinator.providers.base import CallRequest
from lead_coordinator_tests.pipelines.content.material import (
    ScriptedCaller,
    body,
    edited,
    run_batch,
    start,
    submit,
)
from lead_coordinator_tests.pipelines.content.test_research import origin

__all__ = ["origin"]
pytestmark = pytest.mark.anyio
TITLE = "Water Once a Week"


@pytest.fixture
def site(tmp_path: Path) -> StaticSite:
    return StaticSite(tmp_path / "site", "https://example.org/")


@pytest.fixture(autouse=True)
def only_content(db: Database) -> None:
    """Nothing audits what comes out here: the follow-ups wait in the queue."""
    db.execute("UPDATE lead.workflow_policy SET enabled = false WHERE workflow_type <> 'content_pipeline'")


def settings(**content: Any) -> SiteProfiles:
    return SiteProfiles([StoredSite("main", {"content": content}, datetime.now(UTC))])


async def work(
    adb: AsyncDatabase, site: StaticSite, caller: ScriptedCaller | None = None, **content: Any
) -> BatchReport:
    caller = caller or ScriptedCaller(lambda task_id: TITLE)
    return await run_batch(adb, caller.open, await start(adb), site, profiles=settings(**content))


def task(db: Database, task_id: int) -> dict[str, Any]:
    found: dict[str, Any] = db.call("get_task", task_id=task_id)
    return found


def pages(site: StaticSite) -> list[str]:
    return sorted(path.name for path in (site.root / "articles").glob("*.html"))


def listed(site: StaticSite) -> list[str]:
    index = site.root / "index.html"
    return re.findall(r'href="articles/([^"]+)"', index.read_text()) if index.is_file() else []


def audits(db: Database) -> list[tuple[str, str]]:
    query = "SELECT action, subject, actor FROM lead.audit_log WHERE action LIKE '%\\_article' ORDER BY id"
    return [(row["action"], row["actor"]) for row in db.rows(query)]


# ---- waiting for a person ----------------------------------------------------------------------------------


async def test_an_article_in_review_is_published_once_it_is_approved(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    [task_id] = submit(db, TITLE)
    caller = ScriptedCaller(lambda task_id: TITLE)
    await work(async_db, site, caller, policy="review")
    assert task(db, task_id)["status"] == "completed"
    assert task(db, task_id)["result"]["state"] == "in_review"
    assert pages(site) == []
    (waiting,) = list_articles(db, state="in_review")
    assert (waiting["title"], waiting["slug"], waiting["status"]) == (TITLE, "water-once-a-week", "intended")

    decided = decide_article(db, waiting["article_id"], "approve", reason="good", actor="ada")
    assert decided.publish_task_id is not None
    again = list_articles(db)[0]
    assert (again["state"], again["decided_by"], again["decision_reason"]) == ("approved", "ada", "good")
    asked = len(caller.requests)
    await work(async_db, site, caller)
    assert len(caller.requests) == asked, "publishing what is written asks no model"
    assert pages(site) == listed(site) == ["water-once-a-week.html"]
    published = task(db, decided.publish_task_id)
    assert published["status"] == "completed"
    assert published["result"]["url"] == "https://example.org/articles/water-once-a-week.html"
    assert list_articles(db)[0]["state"] == "current"
    assert audits(db) == [("approve_article", "ada")]
    with pytest.raises(
        IllegalTransition, match="from current to approved; from current it may go to superseded"
    ):
        decide_article(db, waiting["article_id"], "approve")


async def test_an_article_that_is_rejected_never_comes_out(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    submit(db, TITLE)
    await work(async_db, site, policy="draft")
    (draft,) = list_articles(db, state="draft")
    first = decide_article(db, draft["article_id"], "approve")
    decide_article(db, draft["article_id"], "reject", reason="off topic", actor="ada")
    await work(async_db, site)
    assert first.publish_task_id is not None
    found = task(db, first.publish_task_id)
    assert (found["status"], found["result"]["state"]) == ("completed", "rejected")
    assert pages(site) == []
    with pytest.raises(IllegalTransition, match="from rejected it may go to nothing"):
        decide_article(db, draft["article_id"], "approve")
    with pytest.raises(NotFound, match="there is no article 999"):
        decide_article(db, 999, "approve")


async def test_publish_at_is_waited_for(db: Database, async_db: AsyncDatabase, site: StaticSite) -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    [task_id] = submit(db, TITLE, publish_at=later.isoformat())
    await work(async_db, site)
    assert task(db, task_id)["result"]["state"] == "scheduled"
    (waiting,) = list_articles(db, state="scheduled")
    row = db.row("SELECT publish_task_id AS id FROM lead.article")
    assert row is not None
    brings_out = task(db, row["id"])
    assert (brings_out["status"], brings_out["payload"]["publish"]) == (
        "deferred", {"article_id": waiting["article_id"]},
    )  # fmt: skip
    assert datetime.fromisoformat(brings_out["deferred_until"]) == later
    assert pages(site) == []
    db.execute("UPDATE lead.task SET not_before = now(), deferred_until = now() WHERE id = %s", [row["id"]])
    db.call("promote_due_tasks")
    await work(async_db, site)
    assert listed(site) == ["water-once-a-week.html"]


# ---- off and back ------------------------------------------------------------------------------------------


async def test_unpublish_and_republish(db: Database, async_db: AsyncDatabase, site: StaticSite) -> None:
    submit(db, TITLE)
    await work(async_db, site)
    page = (site.root / "articles" / "water-once-a-week.html").read_text()
    first = change_publication(db, "main", "water-once-a-week", "unpublish", reason="a mistake", actor="ada")
    assert change_publication(db, "main", "water-once-a-week", "unpublish") == first, "asked twice, one task"
    await work(async_db, site)
    assert pages(site) == listed(site) == []
    assert task(db, first)["result"]["state"] == "unpublished"
    assert not (site.root / "articles" / "water-once-a-week.md").exists()
    assert await publications.alist_publications(async_db, "main") == []
    assert await articles.published_signatures(async_db) == [], "what isn't out is nobody's duplicate"
    with pytest.raises(IllegalTransition, match="is unpublished; to unpublish it must be published"):
        change_publication(db, "main", "water-once-a-week", "unpublish")

    change_publication(db, "main", "water-once-a-week", "republish", actor="ada")
    await work(async_db, site)
    assert pages(site) == listed(site) == ["water-once-a-week.html"]
    again = (site.root / "articles" / "water-once-a-week.html").read_text()
    assert re.findall("<h1>.*</h1>", again) == re.findall("<h1>.*</h1>", page)
    published = re.compile('"datePublished": "([^"]+)"')
    assert published.findall(again) == published.findall(page), "it came out when it first came out"
    second = change_publication(db, "main", "water-once-a-week", "unpublish")
    assert second != first, "another change is another task"
    assert [action for action, _ in audits(db)] == [
        "unpublish_article", "unpublish_article", "republish_article", "unpublish_article",
    ]  # fmt: skip
    with pytest.raises(NotFound, match="site main has no publication nothing-here"):
        change_publication(db, "main", "nothing-here", "unpublish")


# ---- updates -----------------------------------------------------------------------------------------------


def ask_refresh(db: Database, slug: str = "water-once-a-week", key: str = "refresh:1") -> int:
    payload = {"refresh": {"slug": slug, "reason": "fewer clicks", "evidence": {"clicks": [90, 40]}}}
    answer = db.call(
        "submit_task", task_type="content_generation", payload=payload | {"site": "main"}, idempotency_key=key
    )
    return int(answer["task_id"])


async def test_a_refresh_is_another_revision_at_the_same_address(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    submit(db, TITLE, keyword="water")
    await work(async_db, site)
    task_id = ask_refresh(db)
    caller = ScriptedCaller(lambda task_id: "Water Your Garden Once a Week")
    await work(async_db, site, caller)
    result = task(db, task_id)["result"]
    assert (result["state"], result["kind"], result["revision"]) == ("published", "refresh", 2)
    assert [request.step for _, request in caller.requests] == ["update", "edit_and_check"]
    shown = caller.requests[0][1].user_texts[0]
    why = json.loads(shown.split("<reasons>\n")[1].split("\n</reasons>")[0])
    assert why == {"reason": "fewer clicks", "evidence": "{'clicks': [90, 40]}"}
    assert json.loads(shown.split("<article>\n")[1].split("\n</article>")[0])["title"] == TITLE
    assert pages(site) == listed(site) == ["water-once-a-week.html"], "its address stays"
    page = (site.root / "articles" / "water-once-a-week.html").read_text()
    assert "<h1>Water Your Garden Once a Week</h1>" in page
    assert "Water Your Garden" in (site.root / "index.html").read_text()
    assert [(row["revision"], row["state"]) for row in list_articles(db)] == [
        (2, "current"),
        (1, "superseded"),
    ]
    found = await articles.find_publication(async_db, "main", "water-once-a-week")
    assert found is not None
    assert found["article_details"]["kind"] == "refresh"
    assert found["article_details"]["why"]["reason"] == "fewer clicks"
    assert found["content"]["keyword"] == "water", "the brief of the first revision counts"


async def test_a_fix_waits_for_review_while_the_old_text_stays_out(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    submit(db, TITLE)
    await work(async_db, site)
    before = (site.root / "articles" / "water-once-a-week.html").read_text()
    fix = {"url": "https://example.org/articles/water-once-a-week.html", "slug": "water-once-a-week",
           "finding_id": 7, "rule": "title_too_short", "how_to_fix": "20 to 60 characters"}  # fmt: skip
    db.call("submit_task", task_type="content_generation", payload={"fix": fix, "site": "main"})
    await work(async_db, site, ScriptedCaller(lambda task_id: "Water Now and Then"), policy="review")
    assert (site.root / "articles" / "water-once-a-week.html").read_text() == before
    newest = list_articles(db)[0]
    assert (newest["revision"], newest["state"], newest["status"]) == (2, "in_review", "published")
    decide_article(db, newest["article_id"], "approve")
    await work(async_db, site)
    assert "<h1>Water Now and Then</h1>" in (site.root / "articles" / "water-once-a-week.html").read_text()


async def test_an_update_of_what_is_not_ours_is_for_a_person(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    task_id = ask_refresh(db, "of-somebody-else")
    await work(async_db, site)
    found = task(db, task_id)
    assert found["status"] == "dead_letter"
    assert "site main has no article there" in found["last_error_message"]


async def test_two_updates_at_once_go_one_after_the_other(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    submit(db, TITLE)
    await work(async_db, site)
    ids = [ask_refresh(db, key="refresh:1"), ask_refresh(db, key="refresh:2")]
    both, texts = asyncio.Barrier(2), iter(["Water One", "Water Two"])

    async def script(task_id: int, request: CallRequest) -> BaseModel | None:
        if request.step == "edit_and_check":
            await both.wait()
            return edited(f"{next(texts)} Once a Week")
        return None

    await work(async_db, site, ScriptedCaller(script=script))
    found = sorted((task(db, task_id) for task_id in ids), key=lambda one: one["status"])
    states = [one["status"] for one in found]
    assert states in (["completed", "completed"], ["completed", "deferred"])
    current = [row for row in list_articles(db) if row["state"] == "current"]
    assert len(current) == 1
    assert current[0]["title"] in (site.root / "articles" / "water-once-a-week.html").read_text()


# ---- the quality gate --------------------------------------------------------------------------------------


def short() -> BaseModel:
    return edited(TITLE, sections=[Section(heading=f"H{n}", body=body(100, str(n))) for n in range(4)])


async def test_a_failing_article_gets_one_revision_with_the_reasons(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    [task_id] = submit(db, TITLE)

    async def script(task_id: int, request: CallRequest) -> BaseModel | None:
        return short() if request.step == "edit_and_check" else None

    caller = ScriptedCaller(lambda task_id: TITLE, script)
    await work(async_db, site, caller)
    assert [request.step for _, request in caller.requests] == [
        "outline", "draft", "edit_and_check", "revise", "check_again",
    ]  # fmt: skip
    reasons = caller.requests[3][1].user_texts[0].split("<reasons>\n")[1].split("\n</reasons>")[0]
    assert "words, at least 1200 are asked for" in reasons
    result = task(db, task_id)["result"]
    assert (result["state"], result["calls"], result["revisions"]) == ("published", 5, 1)
    assert Decimal(result["cost_usd"]) == 5 * Decimal("0.00037")


async def test_what_fails_twice_goes_to_a_person_with_all_there_is(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    [task_id] = submit(db, TITLE)

    async def script(task_id: int, request: CallRequest) -> BaseModel | None:
        return short() if request.step in ("edit_and_check", "check_again") else None

    caller = ScriptedCaller(lambda task_id: TITLE, script)
    report = await work(async_db, site, caller)
    assert len(caller.requests) == 5, "two more calls at most"
    found = task(db, task_id)
    assert found["status"] == "dead_letter"
    assert len(found["task_attempts"]) == 1
    letter = found["dead_letter"]
    assert (letter["error_class"], report.dead_lettered) == ("quality", 1)
    assert "a person has to look" in letter["reason"]
    context = letter["context"]
    assert any("words, at least 1200" in problem for problem in context["problems"])
    assert context["article"]["title"] == TITLE
    assert context["provenance"]["brief"]["title"] == TITLE
    assert len(context["provenance"]["calls"]) == 5
    assert context["provenance"]["scores"]["words"] < 1200
    assert pages(site) == []

    db.call("replay_dead_letters", filter={"task_ids": [task_id]}, actor="ada", reason="another try")
    again = ScriptedCaller(lambda task_id: TITLE)
    await work(async_db, site, again)
    assert len(again.requests) == 3, "for a person it is written anew"
    assert pages(site) == ["water-once-a-week.html"]


async def test_a_near_duplicate_of_what_is_out_is_refused(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    submit(db, TITLE)
    await work(async_db, site)
    [task_id] = submit(db, "Water Once a Week, Again")
    await work(async_db, site)
    found = task(db, task_id)
    assert found["status"] == "dead_letter"
    assert (
        "100% the same as https://example.org/articles/water-once-a-week.html" in found["last_error_message"]
    )
    assert pages(site) == ["water-once-a-week.html"]


async def test_of_two_that_are_the_same_in_one_batch_one_comes_out(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    ids = submit(db, TITLE, f"{TITLE}, Twice")
    both = asyncio.Barrier(2)

    async def script(task_id: int, request: CallRequest) -> BaseModel | None:
        if request.step == "edit_and_check":
            await both.wait()
        return None

    await work(async_db, site, ScriptedCaller(lambda task_id: TITLE, script))
    assert sorted(task(db, task_id)["status"] for task_id in ids) == ["completed", "dead_letter"]
    assert pages(site) == ["water-once-a-week.html"]


# ---- steps that were paid for ------------------------------------------------------------------------------


async def test_a_deferred_task_goes_on_from_the_steps_it_has_paid_for(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    [task_id] = submit(db, TITLE)
    down = [True]

    async def script(task_id: int, request: CallRequest) -> BaseModel | None:
        if request.step == "edit_and_check" and down:
            down.clear()
            raise DestinationDown("both providers are down")
        return None

    caller = ScriptedCaller(lambda task_id: TITLE, script)
    await work(async_db, site, caller)
    assert task(db, task_id)["status"] == "deferred"
    db.execute("UPDATE lead.task SET deferred_until = now() WHERE id = %s", [task_id])
    db.call("promote_due_tasks")
    await work(async_db, site, caller)
    steps = [request.step for _, request in caller.requests]
    assert steps == ["outline", "draft", "edit_and_check", "edit_and_check"], "nothing is asked twice"
    result = task(db, task_id)["result"]
    assert [step["reused"] for step in result["steps"]] == [True, True, False]
    assert Decimal(result["cost_usd"]) == 3 * Decimal("0.00037"), "the article costs what it cost"
    assert db.rows("SELECT 1 FROM lead.kept_step") == [], "what is written needs no notes any more"


async def test_the_cap_counts_earlier_attempts(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    [task_id] = submit(db, TITLE)

    async def script(task_id: int, request: CallRequest) -> BaseModel | None:
        if request.step == "draft":
            raise BadAnswer("no JSON")
        return None

    caller = ScriptedCaller(script=script)
    execution = await start(async_db)
    call = db.call(
        "begin_api_call",
        execution_id=execution.lease.execution_id,
        fence=execution.lease.fence,
        task_id=task_id,
        step="outline",
        candidates=[
            {"provider": "gemini", "model": "m", "max_cost_usd": Decimal("0.0895"), "input_tokens": 1}
        ],
    )
    db.call("mark_api_call_sent", call_id=call["call_id"], fence=execution.lease.fence)
    db.call("settle_api_call", call_id=call["call_id"], outcome="ok", cost_usd=Decimal("0.0895"))
    await run_batch(async_db, caller.open, execution, site, profiles=settings())
    assert [request.max_cost_usd for _, request in caller.requests] == [
        Decimal("0.0005"), Decimal("0.0005") - Decimal("0.00037"),
    ]  # fmt: skip


# ---- what follows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "profile", "visited"),
    [
        ("https://example.org/articles/a.html", {}, True),
        ("https://example.org/articles/a.html", {"url": "https://example.org/"}, True),
        ("https://example.org/articles/a.html", {"url": "https://www.example.org/"}, False),
        ("http://localhost/articles/a.html", {}, False),
        ("http://127.0.0.1:8011/articles/a.html", {}, False),
        ("http://[::1]/articles/a.html", {}, False),
        ("http://localhost/articles/a.html", {"url": "http://localhost/"}, False),
        ("http://localhost/articles/a.html", {"seo": {"allow_private_addresses": True}}, True),
        ("http://93.184.216.34/articles/a.html", {}, True),
    ],
)
def test_a_page_that_can_t_be_visited_is_not_sent_to_the_audit(
    url: str, profile: dict[str, Any], visited: bool
) -> None:
    """The default address of a site is http://localhost/: an audit of it would only be a dead letter."""
    assert can_be_visited(url, SiteProfile.read("main", profile)) is visited
    result = {"state": "published", "site": "main", "url": url, "publication_id": 7, "revision": 2}
    keys = [task.idempotency_key for task in audits_of(result, SiteProfile.read("main", profile))]
    assert keys == (["audit:7:2"] if visited else [])


async def test_what_comes_out_is_audited_and_linked_to(
    db: Database, async_db: AsyncDatabase, site: StaticSite
) -> None:
    db.execute("UPDATE lead.workflow_policy SET enabled = true WHERE workflow_type = 'seo_monitor'")
    submit(db, TITLE)
    await work(async_db, site)
    follow = db.rows("SELECT payload, idempotency_key FROM lead.task WHERE task_type = 'seo_analysis'")
    url = "https://example.org/articles/water-once-a-week.html"
    row = db.row("SELECT id FROM lead.publication")
    assert row is not None
    assert follow == [{"payload": {"site": "main", "urls": [url]}, "idempotency_key": f"audit:{row['id']}:1"}]

    db.execute("UPDATE lead.workflow_policy SET enabled = false WHERE workflow_type = 'seo_monitor'")
    submit(db, "Water and Shade")
    caller = ScriptedCaller(lambda task_id: "Water and Shade")
    await work(async_db, site, caller)
    notes = json.loads(caller.requests[0][1].user_texts[0].split("<notes>\n")[1].split("\n</notes>")[0])
    assert notes["our_articles"] == [{"title": TITLE, "url": url}]
    page = (site.root / "articles" / "water-and-shade.html").read_text()
    assert f'<a href="{url}">{TITLE}</a>' in page, "further reading leads to the neighbour"


async def test_the_sources_of_a_brief_are_read_shown_and_named(
    db: Database, async_db: AsyncDatabase, site: StaticSite, origin: str
) -> None:
    [task_id] = submit(db, TITLE, sources=[f"{origin}/good", f"{origin}/gone"], story="7")
    caller = ScriptedCaller(lambda task_id: TITLE)
    await work(async_db, site, caller, research={"allow_private_addresses": True})
    result = task(db, task_id)["result"]
    assert (result["state"], result["story"]) == ("published", "7")
    for _, request in caller.requests:
        notes = json.loads(request.user_texts[0].split("<notes>\n")[1].split("\n</notes>")[0])
        assert [source["url"] for source in notes["sources"]] == [f"{origin}/good"]
        assert notes["sources"][0]["text"].startswith("The pump moves heat")
    page = (site.root / "articles" / "water-once-a-week.html").read_text()
    assert f'<a href="{origin}/good" rel="noopener noreferrer nofollow">' in page
    found = await articles.find_publication(async_db, "main", "water-once-a-week")
    assert found is not None
    details = found["article_details"]
    assert details["sources_read"] == [f"{origin}/good"]
    assert details["sources_unread"] == [{"url": f"{origin}/gone", "reason": "HTTP 410"}]
    assert set(details) >= {"brief", "prompts", "models", "calls", "cost_usd", "scores", "revisions"}


async def test_sources_in_private_networks_are_refused_by_default(
    db: Database, async_db: AsyncDatabase, site: StaticSite, origin: str
) -> None:
    [task_id] = submit(db, TITLE, sources=[f"{origin}/good"])
    caller = ScriptedCaller(lambda task_id: TITLE)
    await work(async_db, site, caller)
    found = task(db, task_id)
    assert (found["status"], found["defer_reason"]) == ("deferred", "retry")
    assert "forbidden_address" in found["last_error_message"]
    assert caller.requests == [], "nothing is paid for"
