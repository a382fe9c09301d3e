"""What the circle left in the database: topics, articles, audits, the ranking and its refreshes; and whether
anything of it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import psycopg

from lead_coordinator.cli.demo_examples import ARTICLES_SITE, PLANTED_SITE, Planted, page_of
from lead_coordinator.database.connection import Database
from lead_coordinator.errors import DatabaseError

ENDED = ("completed", "dead_letter", "failed", "cancelled")

# The standing task of a pipeline and site that isn't due again yet.
_STANDING = """
SELECT t.id, t.status, t.result, t.last_error_message
FROM lead.standing_task AS l
INNER JOIN lead.workflow_policy AS p ON p.workflow_type = l.workflow_type
INNER JOIN lead.task AS t ON t.id = l.task_id
WHERE l.workflow_type = %s AND l.site = %s
    AND l.submitted_at > clock_timestamp() - make_interval(mins => p.interval_minutes)
"""
_TOPICS = """
SELECT
    p.story_id, p.title, p.value_usd, p.details, t.id AS task_id, t.status, t.result, t.last_error_message
FROM lead.topic_proposal AS p
LEFT JOIN lead.task AS t ON t.idempotency_key = format('story:%%s:%%s', p.site, p.story_id)
WHERE p.site = %s ORDER BY p.value_usd DESC NULLS LAST, p.story_id
"""
_ARTICLES = """
SELECT p.title, p.slug, p.url, t.id AS task_id, t.result, t.cost_usd
FROM lead.publication AS p
INNER JOIN lead.task AS t ON t.id = p.task_id
WHERE t.id = ANY(%s) AND p.status = 'published' ORDER BY p.id
"""
_AUDITS = """
SELECT a.id, a.start_url, a.site_score, a.pages, a.summary, a.finished_at - a.started_at AS took
FROM lead.seo_audit AS a
WHERE a.site = %s AND a.scope = 'site' AND a.status = 'finished' ORDER BY a.id DESC LIMIT 1
"""
_FINDINGS = """
SELECT f.url, f.rule, f.severity FROM lead.seo_finding AS f
WHERE f.site = %s AND f.status = 'open' ORDER BY f.url, f.rule
"""
_PAGE_AUDITS = """
SELECT count(*) AS n FROM lead.seo_audit AS a
WHERE a.site = %s AND a.scope = 'pages' AND a.status = 'finished'
"""
_REFRESHES = """
SELECT t.id AS task_id, t.status, t.result, t.value_usd, t.cost_usd, t.last_error_message,
    t.payload -> 'refresh' ->> 'slug' AS slug, t.payload -> 'refresh' ->> 'url' AS url,
    p.changes, p.status AS publication_status, a.revision
FROM lead.task AS t
LEFT JOIN lead.publication AS p
    ON p.site = t.payload ->> 'site' AND p.slug = t.payload -> 'refresh' ->> 'slug'
LEFT JOIN lead.article AS a ON a.publication_id = p.id AND a.state = 'current'
WHERE t.payload ? 'refresh' AND t.payload ->> 'site' = %s ORDER BY t.id
"""
_CALLED = """
SELECT t.task_type, coalesce(sum(t.cost_usd), 0) AS cost_usd FROM lead.task AS t
WHERE t.payload ->> 'site' = ANY(%s) OR t.id = ANY(%s) GROUP BY t.task_type ORDER BY t.task_type
"""


@dataclass(frozen=True)
class Audit:
    """The last audit of a whole site. `findings`: (path, rule) that are open; `by_severity`: how many."""

    origin: str
    pages: int
    score: Decimal | None
    seconds: float
    findings: frozenset[tuple[str, str]]
    by_severity: Mapping[str, int]


@dataclass(frozen=True)
class Circle:
    """All of it, as rows. `intelligence`, `revenue`: the results of their standing tasks; `written_by`: the
    tasks whose articles count (the topics submitted, and those that were found)."""

    intelligence: Mapping[str, Any] = field(default_factory=dict)
    topics: Sequence[Mapping[str, Any]] = ()
    articles: Sequence[Mapping[str, Any]] = ()
    written_by: Sequence[int] = ()
    planted_audit: Audit | None = None
    articles_audit: Audit | None = None
    page_audits: int = 0
    revenue: Mapping[str, Any] = field(default_factory=dict)
    refreshes: Sequence[Mapping[str, Any]] = ()
    failures: Sequence[str] = ()
    cost_by_type: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def plan(self) -> Sequence[Mapping[str, Any]]:
        """What the revenue optimiser would do, the most valuable first."""
        found: Sequence[Mapping[str, Any]] = self.revenue.get("plan", ())
        return found

    @property
    def refreshed(self) -> Sequence[Mapping[str, Any]]:
        """The refreshes that are out."""
        return [one for one in self.refreshes if one["status"] == "completed" and (one["revision"] or 0) > 1]


def standing(db: Database, workflow_type: str, site: str) -> dict[str, Any] | None:
    """The current standing task of a pipeline for a site; None while there is none."""
    try:
        return db.row(_STANDING, [workflow_type, site])
    except (DatabaseError, psycopg.Error):
        return None  # the supervisor says what is wrong with the database, and mends it


def ended(db: Database, workflow_type: str, site: str) -> bool:
    """Whether that task has ended, well or not."""
    task = standing(db, workflow_type, site)
    return task is not None and task["status"] in ENDED


def looked_at(db: Database, site: str) -> bool:
    """Whether the standing audit of the site is finished, over all its slices, or has failed."""
    task = standing(db, "seo_monitor", site)
    if task is None or task["status"] not in ENDED:
        return False
    try:
        audit = db.row("SELECT status FROM lead.seo_audit WHERE audit_key = %s", [f"task:{task['id']}"])
    except (DatabaseError, psycopg.Error):
        return False
    return task["status"] != "completed" or audit is None or audit["status"] == "finished"


def ranked(db: Database) -> bool:
    """Whether the refreshes that the ranking asked for have all ended."""
    task = standing(db, "revenue_optimizer", ARTICLES_SITE)
    if task is None or task["status"] not in ENDED:
        return False
    keys = list((task["result"] or {}).get("refreshes", ()))
    try:
        rows = db.rows("SELECT status FROM lead.task WHERE idempotency_key = ANY(%s)", [keys])
    except (DatabaseError, psycopg.Error):
        return False
    return len(rows) == len(keys) and all(row["status"] in ENDED for row in rows)


def read_circle(db: Database, topic_tasks: Sequence[int]) -> Circle:
    """Reads everything that is shown. `topic_tasks`: those that the demo submitted."""
    failures = []
    results: dict[str, Mapping[str, Any]] = {}
    for workflow_type, site in (
        ("intelligence_engine", ARTICLES_SITE),
        ("seo_monitor", PLANTED_SITE),
        ("revenue_optimizer", ARTICLES_SITE),
    ):
        task = standing(db, workflow_type, site)
        if task is None:
            failures.append(f"{workflow_type} had no standing work for {site}")
        elif task["status"] != "completed":
            failures.append(
                f"{workflow_type}, task {task['id']}: {task['status']} ({task['last_error_message']})"
            )
        else:
            results[workflow_type] = task["result"] or {}
    topics = db.rows(_TOPICS, [ARTICLES_SITE])
    written_by = [*topic_tasks, *(row["task_id"] for row in topics if row["task_id"])]
    sites = [ARTICLES_SITE, PLANTED_SITE]
    return Circle(
        intelligence=results.get("intelligence_engine", {}),
        topics=topics,
        articles=db.rows(_ARTICLES, [written_by]),
        written_by=written_by,
        planted_audit=_audit(db, PLANTED_SITE),
        articles_audit=_audit(db, ARTICLES_SITE),
        page_audits=int((db.row(_PAGE_AUDITS, [ARTICLES_SITE]) or {"n": 0})["n"]),
        revenue=results.get("revenue_optimizer", {}),
        refreshes=db.rows(_REFRESHES, [ARTICLES_SITE]),
        failures=failures,
        cost_by_type={row["task_type"]: row["cost_usd"] for row in db.rows(_CALLED, [sites, written_by])},
    )


def _audit(db: Database, site: str) -> Audit | None:
    row = db.row(_AUDITS, [site])
    if row is None:
        return None
    origin = "/".join(row["start_url"].split("/")[:3])
    mine = [one for one in db.rows(_FINDINGS, [site]) if one["url"].startswith(f"{origin}/")]
    severities: dict[str, int] = {}
    for one in mine:
        severities[one["severity"]] = severities.get(one["severity"], 0) + 1
    return Audit(
        origin=origin,
        pages=int(row["summary"].get("html_pages", row["pages"])),
        score=row["site_score"],
        seconds=row["took"].total_seconds(),
        findings=frozenset((one["url"].removeprefix(origin), one["rule"]) for one in mine),
        by_severity=severities,
    )


def judge_circle(circle: Circle, planted: Planted, *, own_topics: bool = False) -> list[str]:
    """What of the circle is missing, in sentences; empty when it is closed."""
    problems = list(circle.failures)
    written = [row for row in circle.topics if row["task_id"]]
    if len(written) < planted.topics:
        problems.append(f"{len(written)} topics became tasks, {planted.topics} are planted in the feeds")
    problems += [
        f"the topic {row['title']!r} has no article ({row['status']}: {row['last_error_message']})"
        for row in written
        if row["status"] != "completed"
    ]
    rising = {one["term"] for one in circle.intelligence.get("rising", ())}
    problems += [f"the rising term {term!r} wasn't found" for term in sorted(planted.rising - rising)]
    audit = circle.planted_audit
    if audit is None:
        problems.append("the example site wasn't audited")
    else:
        problems += [
            f"planted and not found: {path} {rule}" for path, rule in sorted(planted.faults - audit.findings)
        ]
        problems += [
            f"reported and not planted: {path} {rule}"
            for path, rule in sorted(audit.findings - planted.faults)
        ]
    problems += _judge_refreshes(circle, planted, own_topics=own_topics)
    problems += [
        f"the refresh of {row['slug']} failed ({row['status']}: {row['last_error_message']})"
        for row in circle.refreshes
        if row not in circle.refreshed
    ]
    return problems


def _judge_refreshes(circle: Circle, planted: Planted, *, own_topics: bool) -> list[str]:
    """Each page that decays must be in the plan and be refreshed, and no other page. Of somebody's own topics
    only what is published can be."""
    done = {page_of(row["slug"]) for row in circle.refreshed}
    asked = {one["page"] for one in circle.plan if one["kind"] == "refresh"}
    published = {page_of(row["slug"]) for row in circle.articles}
    wanted = planted.refresh & published if own_topics else planted.refresh
    return [
        *(f"{page} decays and isn't ranked" for page in sorted(planted.refresh - asked)),
        *(f"{page} doesn't decay and is to be refreshed" for page in sorted(asked - planted.refresh)),
        *(f"{page} decays and wasn't refreshed" for page in sorted(wanted - done)),
    ]
