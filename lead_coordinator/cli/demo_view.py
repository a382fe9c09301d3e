"""The circle for a person at a terminal: what was found, written, audited, ranked and refreshed.

Lines rather than tables: an address has to stay in one piece, so that it can be opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from lead_coordinator.cli.demo_circle import Audit, Circle
from lead_coordinator.cli.demo_examples import page_of
from lead_coordinator.cli.views import dollars

if TYPE_CHECKING:
    from lead_coordinator.cli.demo_examples import Planted

SHOWN_ARTICLES = 8
SHOWN_PLAN = 8
SEVERITIES = ("critical", "error", "warning", "notice")
ACTIONS = {"refresh": "refresh", "title_test": "test titles", "placement_test": "test placement"}


def circle_view(circle: Circle, planted: Planted, home: Path, site_dir: Path) -> Iterator[Text]:
    """The parts, in the order of the circle, line by line. `home`: LEAD_HOME."""
    yield from _topics(circle, planted, home)
    yield from _articles(circle, site_dir)
    yield from _audits(circle, planted)
    yield from _refreshes(circle)
    spent = {name: cost for name, cost in circle.cost_by_type.items() if cost}
    yield _title(5, f"All of it cost {dollars(sum(spent.values(), Decimal(0)), 4)}")
    yield _line(", ".join(f"{name} {dollars(cost, 4)}" for name, cost in spent.items()) or "no call was paid")


def _title(number: int, title: str) -> Text:
    return Text.assemble("\n", (f"{number}. {title}", "bold"))


def _line(text: str, style: str = "") -> Text:
    return Text(f"   {text}", style=style)


def _topics(circle: Circle, planted: Planted, home: Path) -> Iterator[Text]:
    found = circle.intelligence
    rising = [str(one["term"]) for one in found.get("rising", ())]
    yield _title(1, f"Topics found in the feeds: {len(circle.topics)} of {planted.topics} planted")
    yield _line(
        f"{found.get('feeds_polled', 0)} feeds, {found.get('new_items', 0)} items,"
        f" {found.get('stories', 0)} stories; rising: {', '.join(rising) or 'nothing'}"
    )
    for row in circle.topics:
        evidence: Sequence[Mapping[str, Any]] = row["details"].get("evidence", ())
        feeds = {one.get("feed_url") for one in evidence}
        gap = "; a competitor has it, we hadn't" if row["details"].get("gap") else ""
        yield _line(f"{row['title']}: worth {dollars(row['value_usd'])}")
        yield _line(f"  evidence: {len(evidence)} items of {len(feeds)} feeds{gap}", "dim")
        if evidence:
            yield _line(f"  “{evidence[0]['title']}” {evidence[0]['url']}", "dim")
        yield _line(f"  article: {(row['result'] or {}).get('url') or row['status'] or 'none'}", "dim")
    if briefing := found.get("briefing"):
        yield _line(f"the briefing of the day: {home / briefing}")


def _articles(circle: Circle, site_dir: Path) -> Iterator[Text]:
    words = sum(int((row["result"] or {}).get("words", 0)) for row in circle.articles)
    cost = sum((row["cost_usd"] for row in circle.articles), Decimal(0))
    yield _title(2, f"Articles published: {len(circle.articles)}, {words:,} words, {dollars(cost, 4)}")
    yield _line(f"in {site_dir / 'articles'}")
    found = [row["task_id"] for row in circle.topics]
    ordered = sorted(circle.articles, key=lambda row: row["task_id"] not in found)
    for row in ordered[:SHOWN_ARTICLES]:
        count = int((row["result"] or {}).get("words", 0))
        yield _line(f"{count:,} words, {dollars(row['cost_usd'], 4)}  {row['url'] or row['slug']}")
    if len(ordered) > SHOWN_ARTICLES:
        yield _line(f"and {len(ordered) - SHOWN_ARTICLES} more")


def _audits(circle: Circle, planted: Planted) -> Iterator[Text]:
    audit = circle.planted_audit
    if audit is None:
        yield _title(3, "The example site wasn't audited")
        return
    found, strange = planted.faults & audit.findings, audit.findings - planted.faults
    yield _title(3, f"The example site audited: score {audit.score} of 100")
    yield _line(f"{audit.pages} pages in {audit.seconds:.1f} s at {audit.origin}/; {_severities(audit)}")
    yield _line(
        f"planted faults found: {len(found)} of {len(planted.faults)}, by {len({rule for _, rule in found})}"
        f" rules; reported and not planted: {len(strange)}"
    )
    if (ours := circle.articles_audit) is not None:
        yield _line(f"articles audited one by one as they came out: {circle.page_audits}")
        yield _line(f"then their whole site: {ours.pages} pages, score {ours.score}; {_severities(ours)}")


def _severities(audit: Audit) -> str:
    parts = [f"{audit.by_severity[name]} {name}" for name in SEVERITIES if audit.by_severity.get(name)]
    return ", ".join(parts) or "nothing found"


def _refreshes(circle: Circle) -> Iterator[Text]:
    plan, revenue = circle.plan, circle.revenue
    yield _title(
        4,
        f"Improvements ranked: {len(plan)}, worth {dollars(revenue.get('gain_usd'))};"
        f" articles refreshed: {len(circle.refreshed)}",
    )
    yield _line(
        f"from the metrics of {revenue.get('pages', 0)} pages,"
        f" {revenue.get('first_day', '–')} to {revenue.get('last_day', '–')}"
    )
    done = {page_of(row["slug"]): row for row in circle.refreshes}
    for place, one in enumerate(plan[:SHOWN_PLAN], 1):
        mean, low, high = one["gain_usd"] or (None, None, None)
        action = ACTIONS.get(one["kind"], one["kind"])
        yield _line(
            f"{place}. {action}, expected {dollars(mean)} ({dollars(low)} to {dollars(high)})  {one['page']}"
        )
        state = _done(done.get(one["page"])) if one["kind"] == "refresh" else "for a person to start"
        yield _line(f"   {one['reason']}; {state}", "dim")


def _done(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not asked for"
    if row["status"] != "completed":
        return str(row["status"])
    return f"updated in place, revision {row['revision']}, {dollars(row['cost_usd'], 4)}"
