"""A whole task: metrics in the database become a ranking, refresh tasks and decisions on experiments."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import yaml
from psycopg.types.json import Jsonb

from lead_coordinator.database import json, revenue
from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.executions import ClaimedTask, Lease
from lead_coordinator.database.revenue import MetricRow, Outcome
from lead_coordinator.database.sites import StoredSite
from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.profile import SiteProfiles
from lead_coordinator.pipelines.report import BatchReport, CompletedTask
from lead_coordinator.pipelines.revenue import report, results
from lead_coordinator.pipelines.revenue.exports import read_metrics
from lead_coordinator.pipelines.revenue.handler import RevenueHandler, parse_task, refresh_key
from lead_coordinator.pipelines.runtime import OutOfTime, TaskOutcome, TaskRun
from lead_coordinator.settings import Settings
from lead_coordinator_tests.pipelines.revenue.material import EXAMPLES, search_rows
from lead_coordinator_tests.pipelines.runs import Caller, work_off

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
BALCONY = "balcony-solar-what-a-small-plug-in-panel-can-and-cannot-do"
INDEX = "what-an-index-fund-is-explained-without-jargon"
COMPOST = "composting-in-a-small-space-without-the-smell"


def import_examples(db: Database, site: str = "main") -> None:
    for name in ("metrics-search-console.csv", "metrics-analytics.csv"):
        revenue.import_page_metrics(db, site, read_metrics(EXAMPLES / name).rows, current_time=NOW)


def publish(db: Database, *slugs: str, site: str = "main", cost: str = "0.0031") -> None:
    """Articles of ours, as if tasks had written them."""
    for slug in slugs:
        row = db.row(
            "INSERT INTO lead.task (task_type, payload, status, cost_usd)"
            " VALUES ('content_generation', '{}', 'completed', %s) RETURNING id",
            [Decimal(cost)],
        )
        db.execute(
            "INSERT INTO lead.publication (task_id, site, slug, title, status, execution_id, fence, "
            "url, published_at)"
            " VALUES (%(task)s, %(site)s, %(slug)s, %(slug)s, 'published', 'x', 1, %(url)s, now())",
            {"task": row["id"], "site": site, "slug": slug, "url": f"https://www.e.org/articles/{slug}.html"},
        )


def profiles(**settings: Any) -> SiteProfiles:
    return SiteProfiles([StoredSite("main", {"revenue": settings}, NOW)])


async def work(
    db: AsyncDatabase,
    payload: dict[str, Any] | None = None,
    *,
    now: datetime = NOW,
    sites: SiteProfiles | None = None,
    seconds_left: float = 300,
) -> TaskOutcome:
    told: list[str] = []
    run = TaskRun(
        db=db,
        lease=Lease("x", 1),
        caller=Caller(),
        settings=Settings.load({}),
        profiles=sites or profiles(),
        calls=[],
        task_id=1,
        seconds_left=lambda: seconds_left,
        now=lambda: now,
        tell_batch=lambda kind, message, task_id=None, data=None: told.append(message),
    )
    payload = {"site": "main"} if payload is None else payload
    task = ClaimedTask(1, "revenue_optimization", payload, 1, None, None, None, now)
    return await RevenueHandler().work(run, task)


async def test_what_is_planted_is_ranked_and_our_own_pages_are_refreshed(
    db: Database, async_db: AsyncDatabase
) -> None:
    import_examples(db)
    publish(db, BALCONY, INDEX, COMPOST)
    outcome = await work(async_db)
    truth = yaml.safe_load((EXAMPLES / "metrics-truth.yaml").read_text())["pages"]
    assert sorted((row["page"], row["kind"]) for row in outcome.result["plan"]) == sorted(
        (page, kind) for page, planted in truth.items() for kind in planted["to_do"]
    )
    gains = [row["gain_usd"][0] for row in outcome.result["plan"]]
    assert gains == sorted(gains, reverse=True)
    first, second = outcome.follow_ups
    assert first.task_type == "content_generation"
    assert first.idempotency_key == f"refresh:main:{BALCONY}:2026-11-24"
    assert first.payload["site"] == "main"
    refresh = first.payload["refresh"]
    assert (refresh["slug"], refresh["url"]) == (BALCONY, f"https://www.e.org/articles/{BALCONY}.html")
    assert refresh["reason"].startswith("clicks fell by")
    assert "Theil–Sen" in refresh["evidence"]
    gain = next(row["gain_usd"][0] for row in outcome.result["plan"] if BALCONY in row["page"])
    assert float(first.value_usd) == pytest.approx(gain, abs=0.01), "the scheduler sees the expected dollars"
    assert first.value_usd > second.value_usd > 0
    margins = {row["page"]: row["margin_usd"] for row in outcome.result["page_rows"]}
    spent = {row["page"]: row["cost_usd"] for row in outcome.result["page_rows"]}
    assert spent[f"/articles/{BALCONY}.html"] == 0.0031
    assert margins[f"/articles/{BALCONY}.html"] is not None
    assert sum(margin is None for margin in margins.values()) == 11, "what has no known cost has no margin"


async def test_a_page_costs_what_all_its_revisions_cost_also_when_a_task_is_pruned(
    db: Database, async_db: AsyncDatabase
) -> None:
    publish(db, BALCONY, INDEX, cost="0.0030")
    (first, second) = db.rows("SELECT id, task_id, slug FROM lead.publication ORDER BY id")
    refresh = db.row(
        "INSERT INTO lead.task (task_type, payload, status, cost_usd)"
        " VALUES ('content_generation', '{}', 'completed', 0.0020) RETURNING id"
    )

    def revise(publication: int, revision: int, task_id: int, details: dict[str, str]) -> None:
        db.execute(
            "INSERT INTO lead.article (publication_id, revision, task_id, state, content, details)"
            " VALUES (%s, %s, %s, 'superseded', '{}', %s)",
            [publication, revision, task_id, Jsonb(details)],
        )

    revise(first["id"], 1, first["task_id"], {"cost_usd": "0.0029"})
    revise(first["id"], 2, refresh["id"], {})
    revise(first["id"], 3, 10**6, {"cost_usd": "0.0040"})
    revise(second["id"], 1, 10**6 + 1, {"cost_usd": "=cmd"})
    costs = {page.slug: page.cost_usd for page in await revenue.apublished_pages(async_db, "main", 10)}
    assert costs[BALCONY] == Decimal("0.0090"), "the ledger's where it still knows, else the revision's"
    assert costs[INDEX] is None, "a part that isn't known is not zero"


async def test_a_refresh_is_asked_for_once_while_the_page_cools_down(
    db: Database, async_db: AsyncDatabase
) -> None:
    import_examples(db)
    publish(db, BALCONY)
    (asked,) = (await work(async_db)).follow_ups
    db.call("submit_task", **(asked.as_parameters() | {"payload": dict(asked.payload)}))
    (again,) = (await work(async_db)).follow_ups
    assert again.idempotency_key == asked.idempotency_key, "on the same day it is the same task"
    later = await work(async_db, now=NOW + timedelta(days=1))
    assert list(later.follow_ups) == []
    assert f"{BALCONY}: was refreshed in the last 42 days" in later.result["notes"]
    short = await work(async_db, now=NOW + timedelta(days=5), sites=profiles(cool_down_days=3))
    assert [task.idempotency_key for task in short.follow_ups] == [f"refresh:main:{BALCONY}:2026-11-29"]


async def test_what_is_not_ours_or_too_much_or_too_old_is_said_and_not_asked_for(
    db: Database, async_db: AsyncDatabase
) -> None:
    import_examples(db)
    publish(db, BALCONY, INDEX)
    one = await work(async_db, sites=profiles(maximum_refreshes=1))
    assert len(one.follow_ups) == 1
    assert "1 more refreshes wait for the next round" in one.result["notes"]
    old = await work(async_db, now=NOW + timedelta(days=30))
    assert list(old.follow_ups) == []
    assert "The last figures are 31 days old: no refresh is asked for." in old.result["notes"]
    db.execute("DELETE FROM lead.publication WHERE slug = %s", [INDEX])
    foreign = await work(async_db)
    assert len(foreign.follow_ups) == 1
    said = f"/articles/{INDEX}.html: decays, but isn't an article of ours; a person must refresh it"
    assert said in foreign.result["notes"]


async def test_a_budget_of_the_task_goes_before_that_of_the_site(
    db: Database, async_db: AsyncDatabase
) -> None:
    import_examples(db)
    everything = await work(async_db, sites=profiles(effort_hours=0.25))
    assert [row["kind"] for row in everything.result["plan"]] == ["title_test"]
    more = await work(async_db, {"site": "main", "effort_hours": 1.25}, sites=profiles(effort_hours=0.25))
    assert more.result["effort_hours"] <= 1.25
    assert len(more.result["plan"]) > 1
    nothing = await work(async_db, {"site": "main", "budget_usd": 0})
    assert nothing.result["plan"] == []
    assert {row["why_left"] for row in nothing.result["left"]} == {
        "the budget is spent on what brings more for it"
    }


async def test_findings_of_the_seo_monitor_are_evidence_where_they_speak_for_the_action(
    db: Database, async_db: AsyncDatabase
) -> None:
    import_examples(db)
    for rule in ("title-long", "hsts-missing", "thin-content"):
        db.execute(
            "INSERT INTO lead.seo_finding (site, url, rule, severity, opened_by, seen_by)"
            " VALUES ('main', %s, %s, 'error', 1, 1)",
            [f"https://www.e.org/articles/{COMPOST}.html", rule],
        )
    result = (await work(async_db)).result
    (title,) = [row for row in result["plan"] if row["kind"] == "title_test"]
    assert title["evidence"][-1] == "SEO monitor: title-long"


async def test_without_metrics_it_says_so(async_db: AsyncDatabase) -> None:
    outcome = await work(async_db)
    assert outcome.result["pages"] == 0
    assert "metrics import" in outcome.result["notes"][0]
    off = await work(async_db, {"site": "main", "standing": True}, sites=profiles(enabled=False))
    assert "revenue.enabled = false" in off.result["notes"][0]


async def test_metrics_of_the_future_and_of_other_sites_are_not_looked_at(
    db: Database, async_db: AsyncDatabase
) -> None:
    import_examples(db, site="other")
    import_examples(db)
    early = await work(async_db, now=NOW - timedelta(days=60))
    assert early.result["last_day"] == "2026-09-25"
    assert early.result["pages"] == 14


async def test_too_little_time_gives_the_task_back(db: Database, async_db: AsyncDatabase) -> None:
    import_examples(db)
    with pytest.raises(OutOfTime, match="step read may take 5"):
        await work(async_db, seconds_left=4)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, "site: {} given"),
        ({"site": ""}, "site: '' given"),
        ({"site": "a", "budget_usd": -1}, "budget_usd: '-1' given"),
        ({"site": "a", "effort_hours": float("nan")}, "effort_hours: 'nan' given"),
        ({"site": "a", "pages": 3}, "pages: there is no such field; site, budget_usd"),
        ([], "payload: "),
    ],
)
def test_a_payload_that_is_not_allowed_is_named(payload: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_task(payload)
    assert message.replace("{}", "'{}'") in str(error.value)


def test_keys_stay_within_what_the_queue_allows_and_apart() -> None:
    day = date(2026, 11, 24)
    long = "a" * 199
    keys = {refresh_key("site", slug, day) for slug in (long, long + "b", "short")}
    assert len(keys) == 3
    assert max(map(len, keys)) <= 200


async def test_running_experiments_are_decided_and_ended(db: Database, async_db: AsyncDatabase) -> None:
    variants = [("control", "Old"), ("b", "New")]
    numbers = [
        revenue.create_experiment(db, "main", name, "headline", "/a", variants, {}, current_time=NOW)[0]
        for name in ("clear", "open")
    ]
    revenue.record_outcomes(
        db, numbers[0], [Outcome("control", 4000, 200), Outcome("b", 4000, 320)], current_time=NOW
    )
    revenue.record_outcomes(
        db, numbers[1], [Outcome("control", 1000, 50), Outcome("b", 1000, 55)], current_time=NOW
    )
    outcome = await work(async_db)
    stands = {row["name"]: row for row in outcome.result["experiments"]}
    assert (stands["clear"]["winner"], stands["clear"]["status"]) == ("b", "stopped")
    assert stands["open"]["status"] == "running"
    found = {one.name: one for one in revenue.list_experiments(db)}
    assert (found["clear"].status, found["clear"].winner) == ("stopped", "b")
    assert found["open"].variants[1].share > 0.5 > found["open"].variants[0].share >= 0.2
    assert [row["name"] for row in (await work(async_db)).result["experiments"]] == ["open"]


async def test_in_a_batch_the_follow_ups_are_in_the_queue_when_the_task_is_done(
    db: Database, async_db: AsyncDatabase
) -> None:
    today = datetime.now(UTC).date()
    shift = today - timedelta(days=1) - read_metrics(EXAMPLES / "metrics-analytics.csv").days[1]
    for name in ("metrics-search-console.csv", "metrics-analytics.csv"):
        rows = read_metrics(EXAMPLES / name).rows
        moved = [MetricRow(**{**_fields(row), "day": row.day + shift}) for row in rows]
        revenue.import_page_metrics(db, "main", moved)
    publish(db, BALCONY)
    task_id = db.call("submit_task", task_type="revenue_optimization", payload={"site": "main"})["task_id"]
    done = await work_off(async_db, RevenueHandler())
    assert [task.task_id for task in done.completed] == [task_id]
    (row,) = db.rows("SELECT idempotency_key, value_usd, payload FROM lead.task WHERE payload ? 'refresh'")
    assert row["idempotency_key"] == f"refresh:main:{BALCONY}:{today.isoformat()}"
    assert row["value_usd"] > 100
    shown = report.metadata(done)
    assert BALCONY in shown["ranking"].value
    assert shown["gains_picture"].value.startswith("![Expected gain of each action")
    assert shown["refreshes"] == 1
    assert shown["pages_decaying"] == 2


def _fields(row: MetricRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in MetricRow.__dataclass_fields__}


# ---- results and what the asset shows ----------------------------------------------------------------------


def batch(*result: dict[str, Any]) -> BatchReport:
    done = BatchReport("x", len(result), started_at=NOW)
    done.completed = [CompletedTask(number, one, 1.0) for number, one in enumerate(result)]
    return done


async def test_a_result_stays_small_however_much_there_is_to_say(
    db: Database, async_db: AsyncDatabase
) -> None:
    rows: list[MetricRow] = []
    for number in range(120):
        rows += search_rows(
            f"/{'ä' * 300}{number}", lambda day: 80 * 0.3 ** (day / 118), position=lambda day: 3 + day / 25,
            sessions=100, views=100, conversions=Decimal(2), revenue_usd=Decimal(20),
        )  # fmt: skip
    revenue.import_page_metrics(db, "main", rows, current_time=NOW)
    result = (await work(async_db)).result
    assert len(json.dumps(result).encode()) <= results.MAX_BYTES
    assert result["rows_in_all"]["plan"] == 120
    assert len(result["plan"]) >= 5
    shown = report.metadata(batch(result))
    assert all(len(str(value.value)) < 60_000 for value in shown.values() if hasattr(value, "value"))


def test_hostile_text_is_escaped_where_it_is_shown() -> None:
    page = "/a|b<script>alert(1)</script>"
    action = {
        "kind": "refresh", "page": page, "reason": "x\ny", "evidence": ["|"], "unit": "clicks",
        "gain": [1, 1, 1], "gain_usd": [10.0, 5.0, 20.0], "cost_usd": 0.1, "effort_hours": 1,
    }  # fmt: skip
    result = {
        "site": "s", "pages": 1, "verdicts": {}, "plan": [action], "refreshes": [], "gain_usd": 10.0,
        "margin_usd": None, "page_rows": [], "experiments": [], "notes": [],
    }  # fmt: skip
    table = report.metadata(batch(result))["ranking"].value
    assert "<script>" not in table
    assert r"a\|b" in table
    assert len(table.splitlines()) == 3


def test_an_experiment_is_shown_as_a_table_and_a_picture() -> None:
    variants = [
        {"variant": name, "exposures": 100, "successes": 5, "rate": 0.05, "chance": 0.5, "share": 0.5,
         "course": course}
        for name, course in (("control", [0.1, 0.05]), ("b", []))
    ]  # fmt: skip
    experiment = {"name": "e", "reason": "no variant has won yet", "variants": variants}
    shown = report.metadata(batch({"site": "s", "pages": 0, "experiments": [experiment], "notes": ["n"]}))
    assert "no variant has won yet" in shown["experiments"].value
    assert shown["experiment_picture"].value.startswith("![Rates in the experiment e](data:image/png")
    assert shown["notes"].value == "- s: n"


def test_a_course_of_many_outcomes_keeps_its_ends() -> None:
    history = [Outcome("b", 10, number % 3) for number in range(1000)]
    course = results.course_of_rates(history, "b")
    assert len(course) == 30
    assert (course[0], course[-1]) == (0.0, pytest.approx(0.0999, abs=1e-4))
    assert results.course_of_rates(history, "a") == []
