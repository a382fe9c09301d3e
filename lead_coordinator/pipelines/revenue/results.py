"""A task's result: what the database keeps and the asset shows, as small JSON."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from lead_coordinator.database import json
from lead_coordinator.database.queue import NewTask
from lead_coordinator.database.revenue import Experiment, Outcome
from lead_coordinator.pipelines.revenue.analysis import PageReport, SiteReport
from lead_coordinator.pipelines.revenue.experiment import Decision
from lead_coordinator.pipelines.revenue.interval import Estimate
from lead_coordinator.pipelines.revenue.opportunity import Opportunity
from lead_coordinator.pipelines.revenue.ranking import Plan

# Rows of each list at first; halved until the whole is small enough.
MAX_ROWS = 50
MAX_BYTES = 60_000
MAX_TEXT = 300
MAX_POINTS = 30


def nothing(site: str, why: str, experiments: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The result where there was nothing to judge."""
    return _bounded({"site": site, "pages": 0, "notes": [why], "experiments": list(experiments)})


def result_of(
    site: str,
    report: SiteReport,
    plan: Plan,
    follow_ups: Sequence[NewTask],
    notes: Sequence[str],
    experiments: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Everything a person wants to see of a round, the most valuable first."""
    pages = report.pages
    margins = [page.margin_usd for page in pages if page.margin_usd is not None]
    verdicts: dict[str, int] = {}
    for page in pages:
        verdicts[page.course.verdict] = verdicts.get(page.course.verdict, 0) + 1
    return _bounded(
        {
            "site": site,
            "first_day": report.window.first.isoformat(),
            "last_day": report.window.last.isoformat(),
            "pages": len(pages),
            "verdicts": verdicts,
            "revenue_usd": round(report.totals.revenue_usd, 2) if report.totals.has_revenue else None,
            "margin_usd": round(sum(margins), 2) if margins else None,
            "gain_usd": round(plan.gain_usd, 2),
            "cost_usd": round(plan.cost_usd, 4),
            "effort_hours": round(plan.effort_hours, 2),
            "refreshes": [str(task.idempotency_key) for task in follow_ups],
            "plan": [opportunity_row(found) for found in plan.chosen],
            "left": [{**opportunity_row(found), "why_left": why} for found, why in plan.left],
            "unpriced": [opportunity_row(found) for found in plan.unpriced],
            "page_rows": [page_row(page) for page in pages],
            "not_claimed": [
                {"page": _cut(page.page), "why": [_cut(why) for why in page.not_claimed]}
                for page in pages
                if page.course.verdict in ("too little data", "falling")
            ],
            "experiments": list(experiments),
            "notes": [_cut(note) for note in (*report.notes, *notes)],
        }
    )


def sentence(site: str, report: SiteReport, plan: Plan, follow_ups: Sequence[NewTask]) -> str:
    """For the log."""
    return (
        f"{site}: {len(report.pages)} pages to {report.window.last}, {len(plan.chosen)} actions worth "
        f"{plan.gain_usd:,.0f} USD, {len(follow_ups)} refreshes asked for"
    )


def opportunity_row(found: Opportunity) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "page": _cut(found.page),
        "reason": _cut(found.reason),
        "evidence": [_cut(line) for line in found.evidence[:4]],
        "unit": found.unit,
        "gain": _interval(found.gain),
        "gain_usd": None if found.gain_usd is None else _interval(found.gain_usd),
        "cost_usd": round(found.cost_usd, 4),
        "effort_hours": found.effort_hours,
    }


def page_row(page: PageReport) -> dict[str, Any]:
    course, data = page.course, page.data
    demand = data.demand
    return {
        "page": _cut(page.page),
        "verdict": course.verdict,
        "why": _cut(course.why),
        "change": None if course.fall is None else [round(-fall, 4) for fall in course.fall],
        "clicks": round(data.clicks),
        "visits": round(data.visits),
        "conversions": round(data.conversions, 2),
        "revenue_usd": round(data.revenue_usd, 2) if data.has_revenue else None,
        "cost_usd": None if page.cost_usd is None else round(page.cost_usd, 4),
        "margin_usd": None if page.margin_usd is None else round(page.margin_usd, 2),
        "season": None if demand is None else [round(factor, 2) for factor in demand.season],
    }


def experiment_row(experiment: Experiment, decision: Decision, history: Sequence[Outcome]) -> dict[str, Any]:
    """How an experiment stands, with its course for the plot."""
    return {
        "experiment_id": experiment.experiment_id,
        "name": _cut(experiment.name),
        "kind": experiment.kind,
        "page": _cut(experiment.page),
        "status": "stopped" if decision.stop else "running",
        "winner": decision.winner,
        "reason": _cut(decision.reason),
        "regret": round(decision.regret, 1),
        "variants": [
            {
                "variant": variant.name,
                "exposures": variant.exposures,
                "successes": variant.successes,
                "rate": round(variant.successes / variant.exposures, 5) if variant.exposures else None,
                "chance": round(decision.chances[variant.name], 4),
                "share": decision.shares[variant.name],
                "course": course_of_rates(history, variant.name),
            }
            for variant in experiment.variants
        ],
    }


def course_of_rates(history: Sequence[Outcome], variant: str) -> list[float]:
    """The variant's rate after each time it was recorded, at most 30 of them, the last included."""
    own = [outcome for outcome in history if outcome.variant == variant]
    seen = list(accumulate(outcome.exposures for outcome in own))
    hits = list(accumulate(outcome.successes for outcome in own))
    rates = [round(hit / count, 5) for hit, count in zip(hits, seen, strict=True) if count]
    if len(rates) <= MAX_POINTS:
        return rates
    return [rates[round(place * (len(rates) - 1) / (MAX_POINTS - 1))] for place in range(MAX_POINTS)]


def _interval(figure: Estimate) -> list[float]:
    return [round(figure.mean, 2), round(figure.low, 2), round(figure.high, 2)]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _bounded(result: dict[str, Any]) -> dict[str, Any]:
    """The result with its lists cut until it is small; how many rows there were is kept."""
    counts = {key: len(value) for key, value in result.items() if isinstance(value, list)}
    rows = MAX_ROWS
    while True:
        cut = {key: value[:rows] if isinstance(value, list) else value for key, value in result.items()}
        cut["rows_in_all"] = {key: count for key, count in counts.items() if count > rows}
        if len(json.dumps(cut).encode()) <= MAX_BYTES or rows == 0:
            return cut
        rows //= 2
