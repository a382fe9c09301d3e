"""The SEO monitor as the coordinator runs it: on a real database, from a submitted task to findings."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.executions import Lease, StartedExecution, start_execution
from lead_coordinator.database.seo import list_seo_audits, list_seo_findings
from lead_coordinator.database.sites import list_sites, set_site
from lead_coordinator.pipelines.batch import run_batch
from lead_coordinator.pipelines.profile import SiteProfiles
from lead_coordinator.pipelines.report import BatchReport
from lead_coordinator.pipelines.seo.handler import SeoHandler, parse_task
from lead_coordinator.pipelines.seo.report import figures, metadata
from lead_coordinator.settings import Settings
from lead_coordinator.web.serve import SiteServer
from lead_coordinator_tests.pipelines.content.material import ScriptedCaller
from lead_coordinator_tests.pipelines.seo.test_planted import EXAMPLES, planted

SEO = {"allow_private_addresses": True, "concurrency": 8, "page_seconds": 10}


def page(title: str, body: str = "", head: str = "") -> str:
    """A page without a fault, but for what is added; each title has a text of its own."""
    chance = random.Random(title)
    text = " ".join(f"{chance.choice('abcdefgh')}{chance.randrange(900)} in the garden" for _ in range(80))
    name = title.split()[0]
    path = "/" if name == "home" else f"/{name}"
    return f"""<!doctype html><html lang="en"><head><title>{title}</title>{head}
<meta name="description" content="{("What is said about " + title + ", at some length. ") * 2:.120}">
<meta name="viewport" content="width=device-width"><link rel="canonical" href="{{{{origin}}}}{path}">
<meta property="og:title" content="t"><meta property="og:image" content="i">
<meta property="og:url" content="u"></head><body><main><h1>{title}</h1><p>{text}</p>
<a href="/">The home page of it</a>{body}</main></body></html>"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site of three pages."""
    made = tmp_path / "site"
    made.mkdir()
    links = '<a href="/first">the first page</a> <a href="/second">the second page</a>'
    (made / "index.html").write_text(page("home of a small garden site", links))
    (made / "first.html").write_text(page("first page of the garden site"))
    (made / "second.html").write_text(page("second page of the garden site"))
    return made


@pytest.fixture
def only_seo(db: Database) -> None:
    db.execute(
        "UPDATE lead.workflow_policy SET enabled = workflow_type = 'seo_monitor', disabled_reason = NULL"
    )


def garden(db: Database, url: str, **seo: Any) -> None:
    """A site whose standing audit isn't due: a test's batch is what it submits."""
    set_site(db, "garden", {"url": url, "seo": SEO | seo})
    db.execute("INSERT INTO lead.standing_task VALUES ('seo_monitor', 'garden', 0, now())")


def submit(db: Database, **payload: Any) -> int:
    answer = db.call("submit_task", task_type="seo_analysis", payload=payload)
    return int(answer["task_id"])


async def started(db: AsyncDatabase) -> StartedExecution:
    decision = await db.call("orchestrate_workflow_execution", worker_id="test")
    offered = await db.call_rows("launchable_executions")
    assert offered, f"the coordinator reserves an execution for the waiting task; it said {decision}"
    return await start_execution(db, offered[0]["execution_id"], offered[0]["launch_number"], "run-1")


async def work(db: Database, async_db: AsyncDatabase, settings: Settings) -> BatchReport:
    """One batch, as a run works it."""
    caller = ScriptedCaller()
    report = await run_batch(
        async_db,
        caller.open,
        await started(async_db),
        SeoHandler(),
        settings=settings,
        profiles=SiteProfiles(list_sites(db)),
    )
    assert caller.requests == [], "the SEO monitor calls no model"
    return report


def life(db: Database, site: str = "garden") -> dict[tuple[str, str], tuple[str, int]]:
    """(path, rule) → (status, times opened)."""
    return {
        (one.url.partition("://")[2].partition("/")[2], one.rule): (one.status, one.times_opened)
        for one in list_seo_findings(db, site, status=None)
    }


@pytest.mark.usefixtures("only_seo")
async def test_the_example_site_from_task_to_findings(
    db: Database, async_db: AsyncDatabase, settings: Settings
) -> None:
    async with SiteServer(EXAMPLES / "site").running() as server:
        garden(db, server.origin)
        submit(db, site="garden")
        report = await work(db, async_db, settings)
    assert not report.failures, report.failures
    result = report.results[0]
    found = {(f"/{path}", rule) for path, rule in life(db)}
    assert found == planted()
    assert result["finished"]
    assert result["complete"]
    assert result["changes"] == {"opened": len(planted()), "regressed": 0, "still": 0, "fixed": 0}
    assert sum(result["findings"].values()) == len(planted())
    (audit,) = list_seo_audits(db, "garden")
    assert float(audit["site_score"]) == result["site_score"]
    assert figures(report)["audits_finished"] == 1
    shown = metadata(report)
    assert {"audits", "gravest_findings", "worst_pages", "findings_by_rule", "site_scores"} <= set(shown)


@pytest.mark.usefixtures("only_seo")
async def test_the_life_of_a_finding(
    db: Database, async_db: AsyncDatabase, settings: Settings, folder: Path
) -> None:
    good = (folder / "first.html").read_text()
    bad = good.replace("<h1>", "<h2>").replace("</h1>", "</h2>")
    expected = {"opened": "open", "still": "open", "fixed": "fixed", "regressed": "open"}
    async with SiteServer(folder, record=True).running() as server:
        garden(db, server.origin)
        for number, (change, text) in enumerate(
            [("opened", bad), ("still", bad), ("fixed", good), ("regressed", bad)], 1
        ):
            (folder / "first.html").write_text(text)
            submit(db, site="garden")
            report = await work(db, async_db, settings)
            assert not report.failures, report.failures
            changes = report.results[0]["changes"]
            assert {name for name, count in changes.items() if count} == {change}, (
                f"audit {number}: {changes}"
            )
            assert life(db) == {
                ("first", "h1-missing"): (expected[change], 2 if change == "regressed" else 1)
            }


@pytest.mark.usefixtures("only_seo")
async def test_pages_that_havent_changed_are_not_sent_again(
    db: Database, async_db: AsyncDatabase, settings: Settings, folder: Path
) -> None:
    """The second audit asks with the ETags of the first, finds the same, and follows the same links."""
    bad = (folder / "first.html").read_text().replace("<h1>", "<h2>").replace("</h1>", "</h2>")
    (folder / "first.html").write_text(bad)
    async with SiteServer(folder).running() as server:
        garden(db, server.origin)
        for _ in range(2):
            submit(db, site="garden")
            report = await work(db, async_db, settings)
            assert not report.failures, report.failures
        (folder / "first.html").unlink()
        assert report.results[0]["html_pages"] == 3
        assert report.results[0]["changes"]["still"] == 1
        assert server.unchanged == 3, "three pages answered 304 to the second audit"


@pytest.mark.usefixtures("only_seo")
async def test_a_header_that_goes_is_noticed_though_the_page_is_the_same(
    db: Database, async_db: AsyncDatabase, settings: Settings, folder: Path
) -> None:
    """A 304 needn't say that X-Robots-Tag isn't sent any more."""
    marked = "routes: {/first: {file: first.html, headers: {X-Robots-Tag: noindex}}}"
    urls = "".join(f"<url><loc>{{{{origin}}}}/{name}</loc></url>" for name in ("first", "second"))
    (folder / "sitemap.xml").write_text(f"<urlset>{urls}</urlset>")
    (folder / "_routes.yaml").write_text(marked)
    server = SiteServer(folder)
    async with server.running():
        garden(db, server.origin)
        for expected in ("open", "fixed"):
            submit(db, site="garden")
            report = await work(db, async_db, settings)
            assert not report.failures, report.failures
            assert life(db)["first", "noindex"] == (expected, 1)
            server._routes = {}


@pytest.mark.usefixtures("only_seo")
async def test_a_slice_hands_on_and_the_next_goes_on_from_there(
    db: Database, async_db: AsyncDatabase, settings: Settings, folder: Path
) -> None:
    for number in range(100):
        links = f'<a href="/p{number + 1}">the page after page {number}</a>' if number < 99 else ""
        (folder / f"p{number}.html").write_text(page(f"p{number} is a page of the garden", links))
    everything = " ".join(f'<a href="/p{n}">page number {n} of all</a>' for n in range(99))
    (folder / "index.html").write_text(page("home of a small garden site", everything))
    async with SiteServer(folder, record=True).running() as server:
        garden(db, server.origin)
        submit(db, site="garden")
        results = []
        while not results or not results[-1]["finished"]:
            report = await work_slice(db, async_db, settings, most=40)
            assert not report.failures, report.failures
            results += report.results
            assert len(results) < 20, "it ends"
    assert len(results) > 2, "more than one slice was needed"
    assert results[-1]["html_pages"] == 101
    pages = [path for path in server.asked if path.startswith("/p")]
    assert len(pages) == len(set(pages)) == 100, "no slice visits again what an earlier one has visited"
    assert len(list_seo_audits(db, "garden")) == 1, "one audit, in slices"


async def work_slice(db: Database, async_db: AsyncDatabase, settings: Settings, *, most: int) -> BatchReport:
    """A batch whose slice ends after so many visits, by a clock that stands until then."""
    from lead_coordinator.pipelines.seo import handler

    original = handler.crawl_slice

    async def limited(fetcher: Any, site: Any, frontier: Any, *, seconds_left: Any) -> Any:
        taken = 0

        class Limited:
            async def next(self, limit: int) -> Any:
                return await frontier.next(limit)

            async def record(self, visited: Any) -> int:
                nonlocal taken
                taken += len(visited)
                return await frontier.record(visited)

        return await original(fetcher, site, Limited(), seconds_left=lambda: 60.0 if taken < most else 0.0)

    handler.crawl_slice = limited
    try:
        return await work(db, async_db, settings)
    finally:
        handler.crawl_slice = original


@pytest.mark.usefixtures("only_seo")
async def test_single_pages_are_checked_and_nothing_else_is_mended(
    db: Database, async_db: AsyncDatabase, settings: Settings, folder: Path
) -> None:
    bad = (folder / "first.html").read_text().replace("<h1>", "<h2>").replace("</h1>", "</h2>")
    (folder / "first.html").write_text(bad)
    other = (folder / "second.html").read_text().replace("<h1>", "<h2>").replace("</h1>", "</h2>")
    good_second = (folder / "second.html").read_text()
    (folder / "second.html").write_text(other)
    async with SiteServer(folder).running() as server:
        garden(db, server.origin)
        submit(db, site="garden")
        await work(db, async_db, settings)
        (folder / "first.html").write_text(bad.replace("h2>", "h1>"))
        (folder / "second.html").write_text(good_second)
        submit(db, site="garden", urls=[f"{server.origin}/first"])
        report = await work(db, async_db, settings)
    assert not report.failures, report.failures
    result = report.results[0]
    assert (result["scope"], result["html_pages"]) == ("pages", 1)
    assert result["changes"] == {"opened": 0, "regressed": 0, "still": 0, "fixed": 1}
    assert life(db)["second", "h1-missing"] == ("open", 1), "it wasn't looked at"


@pytest.mark.usefixtures("only_seo")
async def test_a_site_that_doesnt_answer_keeps_its_findings(
    db: Database, async_db: AsyncDatabase, settings: Settings, folder: Path
) -> None:
    bad = (folder / "first.html").read_text().replace("<h1>", "<h2>").replace("</h1>", "</h2>")
    (folder / "first.html").write_text(bad)
    async with SiteServer(folder).running() as server:
        garden(db, server.origin)
        submit(db, site="garden")
        await work(db, async_db, settings)
    submit(db, site="garden")
    report = await work(db, async_db, settings)
    assert not report.failures, report.failures
    found = life(db)
    assert found["", "http-status"] == ("open", 1), "the home page can't be reached"
    assert found["first", "h1-missing"] == ("open", 1), "nobody saw whether it was mended"


@pytest.mark.usefixtures("only_seo")
async def test_a_critical_finding_on_an_article_becomes_a_content_task_once(
    db: Database, async_db: AsyncDatabase, settings: Settings, folder: Path
) -> None:
    good = (folder / "first.html").read_text()
    untitled = re.sub("<title>.*?</title>", "", good)
    db.execute("UPDATE lead.workflow_policy SET enabled = true WHERE workflow_type = 'content_pipeline'")
    async with SiteServer(folder).running() as server:
        garden(db, server.origin)
        publish(db, "garden", "first", f"{server.origin}/first.html".removesuffix(".html"))
        expected = []
        for text, opened in ((untitled, 1), (untitled, 1), (good, 1), (untitled, 2)):
            (folder / "first.html").write_text(text)
            submit(db, site="garden")
            report = await work_seo_only(db, async_db, settings)
            assert not report.failures, report.failures
            (finding,) = [
                f for f in list_seo_findings(db, "garden", status=None) if f.rule == "title-missing"
            ]
            assert finding.times_opened == opened
            expected = [f"fix:garden:{finding.finding_id}:{n}" for n in range(1, opened + 1)]
            rows = db.rows(
                "SELECT idempotency_key, payload FROM lead.task WHERE starts_with(idempotency_key, 'fix:')"
                " ORDER BY id"
            )
            assert [row["idempotency_key"] for row in rows] == expected
    fix = rows[0]["payload"]["fix"]
    assert (fix["slug"], fix["rule"], fix["finding_id"]) == ("first", "title-missing", finding.finding_id)
    assert fix["how_to_fix"]
    assert rows[0]["payload"]["site"] == "garden"


async def work_seo_only(db: Database, async_db: AsyncDatabase, settings: Settings) -> BatchReport:
    """A batch of the SEO monitor while content tasks wait."""
    db.execute("UPDATE lead.workflow_policy SET enabled = workflow_type = 'seo_monitor'")
    started_one = await started(async_db)
    # Enabled again before the follow-ups are submitted.
    db.execute("UPDATE lead.workflow_policy SET enabled = true WHERE workflow_type = 'content_pipeline'")
    return await run_batch(
        async_db,
        ScriptedCaller().open,
        started_one,
        SeoHandler(),
        settings=settings,
        profiles=SiteProfiles(list_sites(db)),
    )


def publish(db: Database, site: str, slug: str, url: str) -> None:
    """An article that is out."""
    task = db.call("submit_task", task_type="content_generation", payload={"title": "An article"})["task_id"]
    db.execute(
        "UPDATE lead.task SET status = 'completed', processed_at = now() WHERE id = %(id)s", {"id": task}
    )
    db.execute(
        "INSERT INTO lead.publication (task_id, site, slug, title, status, url, published_at, content_sha256,"
        " execution_id, fence) VALUES (%(task)s, %(site)s, %(slug)s, 'An article', 'published', %(url)s,"
        " now(), repeat('a', 64), 'x', 1)",
        {"task": task, "site": site, "slug": slug, "url": url},
    )


@pytest.mark.usefixtures("only_seo")
@pytest.mark.parametrize(
    ("payload", "names"),
    [
        ({"site": "nowhere"}, "url"),
        ({"site": "garden", "urls": ["http://example.org/elsewhere"]}, "urls"),
        ({"site": "garden", "urls": ["javascript:alert(1)"]}, "url"),
        ({"site": "garden", "audit_id": 4711}, "4711"),
        ({"site": "garden", "pages": 3}, "pages"),
    ],
)
async def test_a_task_that_is_none_is_refused_by_name(
    db: Database, async_db: AsyncDatabase, settings: Settings, payload: dict[str, Any], names: str
) -> None:
    garden(db, "http://127.0.0.1:9/")
    submit(db, **payload)
    report = await work(db, async_db, settings)
    (failure,) = report.failures
    assert names in failure.message
    assert failure.status == "dead_letter" or failure.error_class == "task_error"


def test_the_payload() -> None:
    assert parse_task({"site": "a", "standing": True}).standing
    assert parse_task({"site": "a", "urls": ["http://h/"]}).urls == ("http://h/",)


async def test_a_lease_that_was_lost_writes_nothing(db: Database, async_db: AsyncDatabase) -> None:
    from lead_coordinator.database import seo
    from lead_coordinator.errors import NotFound, StaleLease

    audit = await seo.begin_seo_audit(
        async_db,
        "key",
        "garden",
        "site",
        "http://h/",
        [{"url": "http://h/", "kind": "page", "depth": 0}],
        max_pages=5,
        max_resources=5,
    )
    (waiting,) = await seo.next_seo_pages(async_db, audit)
    lost = Lease("no-such-execution", 1)
    with pytest.raises((NotFound, StaleLease)):
        await seo.record_seo_pages(async_db, lost, audit, [{"page_id": waiting.page_id, "facts": {}}], [])
    with pytest.raises((NotFound, StaleLease)):
        await seo.finish_seo_audit(async_db, lost, audit, [], scores={}, site_score=None, unread=[])
    assert [one.url for one in await seo.next_seo_pages(async_db, audit)] == ["http://h/"]
