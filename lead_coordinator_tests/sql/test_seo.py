"""The SEO monitor's functions: what they refuse, who may write, and the life of a finding."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import Database
from lead_coordinator.errors import InvalidInput, NotFound, StaleLease

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
HOME = "https://h.example/"
FIRST = {"url": HOME, "kind": "page", "depth": 0, "wanted": True}


def call(db: Database, function: str, **given: Any) -> Any:
    """`Database.call` with the documents as jsonb, however empty."""
    documents = ("pages", "found", "findings", "unread", "scores", "summary", "payload")
    return db.call(function, **{n: Jsonb(v) if n in documents else v for n, v in given.items()})


def begin(db: Database, key: str = "key", scope: str = "site", **more: Any) -> int:
    given = {"pages": [FIRST], "start_url": HOME, "site": "main", "current_time": NOON} | more
    return int(call(db, "begin_seo_audit", key=key, scope=scope, **given)["audit_id"])


@pytest.fixture
def lease(db: Database) -> dict[str, Any]:
    """An execution that runs, as `execution_id` and `fence`."""
    db.execute(
        "UPDATE lead.workflow_policy SET enabled = workflow_type = 'seo_monitor', disabled_reason = NULL"
    )
    call(db, "submit_task", task_type="seo_analysis", payload={"site": "main"}, current_time=NOON)
    call(db, "orchestrate_workflow_execution", worker_id="test", current_time=NOON)
    (offered,) = db.call_rows("launchable_executions", current_time=NOON)
    started = call(
        db,
        "start_execution",
        execution_id=offered["execution_id"],
        launch_number=offered["launch_number"],
        run_id="run",
        current_time=NOON,
    )
    return {"execution_id": offered["execution_id"], "fence": started["fence"]}


def visit_all(
    db: Database, lease: dict[str, Any], audit: int, found: list[dict[str, Any]] | None = None
) -> None:
    """Visits everything that waits, and what that leads to."""
    while rows := db.call_rows("next_seo_pages", audit_id=audit, limit=100):
        pages = [{"page_id": row["page_id"], "facts": {"visit": {"status": 200}}} for row in rows]
        call(
            db, "record_seo_pages", audit_id=audit, pages=pages, found=found or [], current_time=NOON, **lease
        )


def finish(db: Database, lease: dict[str, Any], audit: int, *findings: tuple[str, str], **more: Any) -> Any:
    rows = [{"url": url, "rule": rule, "severity": "critical"} for url, rule in findings]
    return call(db, "finish_seo_audit", audit_id=audit, findings=rows, current_time=NOON, **lease, **more)


def counts(changes: dict[str, Any]) -> dict[str, int]:
    return {name: changes[name] for name in ("opened", "regressed", "still", "fixed") if changes[name]}


def page(path: str, **more: Any) -> dict[str, Any]:
    return {"url": f"https://h.example{path}", "kind": "page", "depth": 1} | more


# ---- the frontier ----------------------------------------------------------------------------------------


def test_the_same_key_is_the_same_audit(db: Database) -> None:
    first = begin(db)
    assert begin(db) == first
    assert begin(db, "another") != first
    with pytest.raises(InvalidInput, match="p_key"):
        begin(db, site="elsewhere")


def test_sitemaps_come_first_then_pages_by_depth(db: Database, lease: dict[str, Any]) -> None:
    audit = begin(db)
    (row,) = db.call_rows("next_seo_pages", audit_id=audit)
    found = [
        page("/deep", depth=3),
        page("/i.png", kind="image"),
        page("/near", depth=1),
        page("/s.xml", kind="sitemap"),
    ]
    visited = [{"page_id": row["page_id"], "facts": {}}]
    answer = call(
        db, "record_seo_pages", audit_id=audit, pages=visited, found=found, current_time=NOON, **lease
    )
    assert answer == {"recorded": 1, "waiting": 4}
    order = [one["url"].rpartition("/")[2] for one in db.call_rows("next_seo_pages", audit_id=audit)]
    assert order == ["s.xml", "near", "deep", "i.png"]


def test_what_is_found_again_adds_what_it_knows(db: Database, lease: dict[str, Any]) -> None:
    audit = begin(db)
    for found in ([page("/a", kind="link", depth=5)], [page("/a", depth=2, in_sitemap=True)]):
        call(db, "record_seo_pages", audit_id=audit, pages=[], found=found, current_time=NOON, **lease)
    row = db.row("SELECT kind, depth, in_sitemap FROM lead.seo_page WHERE url LIKE '%%/a'", {})
    assert row == {"kind": "page", "depth": 2, "in_sitemap": True}


def test_a_visited_page_keeps_what_it_has(db: Database, lease: dict[str, Any]) -> None:
    audit = begin(db)
    (row,) = db.call_rows("next_seo_pages", audit_id=audit)
    for number in (1, 2):
        visited = [{"page_id": row["page_id"], "facts": {"number": number}}]
        call(db, "record_seo_pages", audit_id=audit, pages=visited, current_time=NOON, **lease)
    (stored,) = db.call_rows("get_seo_pages", audit_id=audit)
    assert stored["facts"] == {"number": 1}


def test_limits_turn_addresses_away_and_the_audit_says_so(db: Database, lease: dict[str, Any]) -> None:
    audit = begin(db, max_pages=3, max_resources=1)
    found = [page(f"/{n}") for n in range(9)] + [page(f"/{n}.png", kind="image") for n in range(9)]
    answer = call(db, "record_seo_pages", audit_id=audit, pages=[], found=found, current_time=NOON, **lease)
    assert answer["waiting"] == 4
    stored = call(db, "get_seo_audit", audit_id=audit)
    assert (stored["pages"], stored["resources"], stored["complete"]) == (3, 1, False)


def test_the_audit_before_gives_what_may_be_unchanged(db: Database, lease: dict[str, Any]) -> None:
    audit = begin(db)
    (row,) = db.call_rows("next_seo_pages", audit_id=audit)
    facts = {"visit": {"etag": '"v1"'}, "html": {"titles": ["x"]}}
    visited = [{"page_id": row["page_id"], "facts": facts}]
    call(db, "record_seo_pages", audit_id=audit, pages=visited, current_time=NOON, **lease)
    finish(db, lease, audit)
    following = begin(db, "next", pages=[FIRST, page("/new")])
    rows = db.call_rows("next_seo_pages", audit_id=following)
    assert {one["url"]: one["earlier"] for one in rows} == {HOME: facts, "https://h.example/new": None}
    visit_all(db, lease, following)
    finish(db, lease, following)
    assert db.row("SELECT count(DISTINCT audit_id) AS n FROM lead.seo_page") == {"n": 1}, "older pages go"


# ---- the life of a finding -------------------------------------------------------------------------------


def test_opened_still_fixed_regressed(db: Database, lease: dict[str, Any]) -> None:
    fault = (HOME, "title-missing")
    expected = [
        ({"opened": 1}, "open"),
        ({"still": 1}, "open"),
        ({"fixed": 1}, "fixed"),
        ({"regressed": 1}, "open"),
    ]
    for number, (change, status) in enumerate(expected):
        audit = begin(db, f"audit {number}")
        visit_all(db, lease, audit)
        changes = finish(db, lease, audit, *([] if change == {"fixed": 1} else [fault]))
        assert counts(changes) == change
        assert finish(db, lease, audit) == changes, "finished again, it changes nothing"
        (row,) = db.call_rows("list_seo_findings", site="main", status=None)
        assert row["status"] == status
        assert len(changes["new_critical"]) == (1 if change in ({"opened": 1}, {"regressed": 1}) else 0)
    assert row["times_opened"] == 2
    assert (row["fixed_at"], row["opened_at"]) == (None, NOON)


@pytest.mark.parametrize(
    ("audit_of", "more", "fixed"),
    [
        ({"pages": [FIRST]}, {}, {"/", "/gone"}),  # the whole site was seen: what isn't there is gone
        ({"pages": [FIRST]}, {"unread": ["https://h.example/busy"]}, {"/"}),  # something didn't answer
        ({"pages": [FIRST]}, {"unread": [HOME]}, set()),
        ({"pages": [FIRST], "max_pages": 1, "beyond": True}, {}, {"/"}),  # a limit turned addresses away
        ({"pages": [FIRST], "scope": "pages"}, {}, {"/"}),  # only this page was asked for
        ({"pages": [FIRST], "scope": "pages"}, {"rules": ["h1-missing"]}, set()),  # its rule wasn't checked
        ({"pages": [FIRST | {"wanted": False}], "scope": "pages"}, {}, set()),
    ],
)
def test_what_was_not_seen_is_not_judged(
    db: Database, lease: dict[str, Any], audit_of: dict[str, Any], more: dict[str, Any], fixed: set[str]
) -> None:
    before = begin(db, "before", pages=[FIRST, page("/gone")])
    visit_all(db, lease, before)
    finish(db, lease, before, (HOME, "title-missing"), ("https://h.example/gone", "title-missing"))
    beyond = [page("/beyond")] if audit_of.pop("beyond", False) else []
    audit = begin(db, "after", **audit_of)
    visit_all(db, lease, audit, beyond)
    finish(db, lease, audit, **more)
    rows = db.call_rows("list_seo_findings", site="main", status="fixed")
    assert {row["url"].removeprefix("https://h.example") for row in rows} == fixed


def test_two_audits_that_end_together_open_a_finding_once(
    db: Database, database_url: str, lease: dict[str, Any]
) -> None:
    audits = [begin(db, f"audit {number}") for number in range(4)]
    for audit in audits:
        visit_all(db, lease, audit)
    faults = [(f"https://h.example/{n}", "title-missing") for n in range(50)]
    changes: list[Any] = []

    def end(audit: int) -> None:
        with Database(database_url) as own:
            changes.append(finish(own, lease, audit, *faults))

    threads = [threading.Thread(target=end, args=(audit,)) for audit in audits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(change["opened"] for change in changes) == 50
    assert sum(change["still"] for change in changes) == 150
    assert sum(len(change["new_critical"]) for change in changes) == 50


# ---- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"pages": [FIRST | {"url": "javascript:x"}]}, r"p_pages\[0\]\.url"),
        ({"pages": [FIRST, FIRST | {"url": HOME + "x" * 2000}]}, r"p_pages\[1\]\.url"),
        ({"pages": [FIRST | {"kind": "gif"}]}, r"p_pages\[0\]\.kind"),
        ({"pages": [FIRST | {"depth": 1.5}]}, r"p_pages\[0\]\.depth"),
        ({"pages": [7]}, r"p_pages\[0\]"),
        ({"pages": {}}, "p_pages"),
        ({"pages": [FIRST] * 1001}, "p_pages"),
        ({"scope": "world"}, "p_scope"),
        ({"start_url": "ftp://h/"}, "p_start_url"),
        ({"max_pages": 0}, "p_max_pages"),
        ({"max_resources": -1}, "p_max_resources"),
        ({"site": ""}, "p_site"),
    ],
)
def test_an_audit_that_is_none_is_refused_by_name(db: Database, given: dict[str, Any], names: str) -> None:
    with pytest.raises(InvalidInput, match=names):
        begin(db, **given)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"findings": {}}, "p_findings"),
        ({"findings": [{"url": HOME, "rule": "title-missing", "severity": "grave"}]}, "p_findings"),
        ({"findings": [{"url": "x", "rule": "title-missing", "severity": "error"}]}, "p_findings"),
        ({"findings": [{"url": HOME, "rule": "Title Missing", "severity": "error"}]}, "p_findings"),
        ({"findings": [], "scores": []}, "p_scores"),
        ({"findings": [], "unread": {}}, "p_unread"),
        ({"findings": [], "site_score": 101}, "p_site_score"),
        ({"findings": [], "summary": []}, "p_summary"),
    ],
)
def test_an_end_that_is_none_is_refused_by_name(
    db: Database, lease: dict[str, Any], given: dict[str, Any], names: str
) -> None:
    audit = begin(db)
    with pytest.raises(InvalidInput, match=names):
        call(db, "finish_seo_audit", audit_id=audit, current_time=NOON, **lease, **given)
    assert call(db, "get_seo_audit", audit_id=audit)["status"] == "running"


def test_only_who_holds_an_execution_writes(db: Database, lease: dict[str, Any]) -> None:
    audit = begin(db)
    old = lease | {"fence": lease["fence"] - 1}
    with pytest.raises(StaleLease):
        call(db, "record_seo_pages", audit_id=audit, pages=[], current_time=NOON, **old)
    with pytest.raises(StaleLease):
        finish(db, old, audit)
    with pytest.raises(NotFound):
        finish(db, lease, 4711)
    with pytest.raises(NotFound):
        call(db, "get_seo_audit", audit_id=4711)


def test_a_dashboard_reads_and_doesnt_write(db: Database, admin_url: str) -> None:
    begin(db)
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute("SET ROLE lead_dashboard")
        assert connection.execute("SELECT count(*) FROM lead.seo_page").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM lead.seo_page")


# ---- retention -------------------------------------------------------------------------------------------


def test_old_audits_and_mended_findings_go_and_open_ones_stay(db: Database, lease: dict[str, Any]) -> None:
    fault, other = (HOME, "title-missing"), (HOME, "h1-missing")
    for number, found in enumerate([(fault, other), (fault,)]):
        audit = begin(db, f"audit {number}")
        visit_all(db, lease, audit)
        finish(db, lease, audit, *found)
    later = NOON + timedelta(days=400)
    call(db, "prune_history", keep=timedelta(days=365), current_time=later)
    rows = db.call_rows("list_seo_findings", site="main", status=None)
    assert [(row["rule"], row["status"]) for row in rows] == [("title-missing", "open")]
    audits = db.call_rows("list_seo_audits", site="main")
    assert [one["audit_id"] for one in audits] == [audit], "the last one stays: the next compares with it"
    assert len(db.call_rows("get_seo_pages", audit_id=audit)) == 1
