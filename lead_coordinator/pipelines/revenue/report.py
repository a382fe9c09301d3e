"""A batch of the revenue optimiser as the asset shows it: figures, tables, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lead_coordinator.pipelines.report import BatchReport

Row = Mapping[str, Any]

# Rows of a table in the UI; the result holds more.
MAX_SHOWN = 25
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
KINDS = {"refresh": "refresh", "title_test": "title test", "placement_test": "placement test"}


def figures(results: Sequence[Row]) -> dict[str, int | float | str]:
    """Flat, one key and one unit each, so that it can be plotted."""
    judged = [result for result in results if result.get("pages")]
    verdicts = [result.get("verdicts", {}) for result in judged]
    values: dict[str, int | float | str] = {
        "sites": len({result["site"] for result in results}),
        "pages": sum(result["pages"] for result in judged),
        "pages_decaying": sum(found.get("decay", 0) for found in verdicts),
        "pages_with_too_little_data": sum(found.get("too little data", 0) for found in verdicts),
        "actions": sum(len(result["plan"]) for result in judged),
        "refreshes": sum(len(result["refreshes"]) for result in judged),
        "expected_gain_usd": round(sum(result["gain_usd"] for result in judged), 2),
    }
    margins = [result["margin_usd"] for result in judged if result["margin_usd"] is not None]
    if margins:
        values["margin_usd"] = round(sum(margins), 2)
    return values


def ranking_rows(results: Sequence[Row]) -> list[dict[str, Any]]:
    """The plans of all sites in one list, the most valuable first."""
    found = [(result["site"], action) for result in results for action in result.get("plan", ())]
    found.sort(key=lambda pair: -(pair[1]["gain_usd"] or [0.0])[0])
    return [
        {
            "site": site,
            "action": KINDS[action["kind"]],
            "page": action["page"],
            "gain": _interval(action["gain_usd"], "$"),
            "cost": f"${action['cost_usd']:.2f}, {action['effort_hours']:g} h",
            "why": action["reason"],
            "evidence": "; ".join(action["evidence"]),
        }
        for site, action in found[:MAX_SHOWN]
    ]


def page_rows(results: Sequence[Row]) -> list[dict[str, Any]]:
    """Pages with what they earned and how they do."""
    return [
        {
            "page": page["page"],
            "margin": _dollars(page["margin_usd"]),
            "revenue": _dollars(page["revenue_usd"]),
            "visits": f"{page['visits']:,}",
            "change": "" if page["change"] is None else _change(page["change"]),
            "week": "" if page["season"] is None else _week(page["season"]),
            "verdict": page["verdict"],
            "why": page["why"],
        }
        for result in results
        for page in result.get("page_rows", ())
    ][:MAX_SHOWN]


def unclaimed_rows(results: Sequence[Row]) -> list[dict[str, Any]]:
    """What isn't said for want of data."""
    return [
        {"page": row["page"], "why": "; ".join(row["why"])}
        for result in results
        for row in result.get("not_claimed", ())
    ][:MAX_SHOWN]


def experiment_rows(results: Sequence[Row]) -> list[dict[str, Any]]:
    """Each variant of each experiment that was decided."""
    return [
        {
            "experiment": experiment["name"],
            "variant": variant["variant"],
            "visitors": f"{variant['exposures']:,}",
            "rate": "" if variant["rate"] is None else f"{variant['rate']:.2%}",
            "chance": f"{variant['chance']:.1%}",
            "share": f"{variant['share']:.0%}",
            "verdict": experiment["reason"] if variant is experiment["variants"][0] else "",
        }
        for result in results
        for experiment in result.get("experiments", ())
        for variant in experiment["variants"]
    ][:MAX_SHOWN]


def notes(results: Sequence[Row]) -> list[str]:
    return [f"{result['site']}: {note}" for result in results for note in result.get("notes", ())][:MAX_SHOWN]


def metadata(report: BatchReport) -> dict[str, Any]:
    """What the asset `refresh_ranking` shows of a batch."""
    # Dagster is loaded in a run's process anyway; domain logic and its tests do without it.
    from lead_coordinator import pictures
    from lead_coordinator.metadata import markdown_table, sentences

    results = report.results
    shown: dict[str, Any] = {**report.metadata(), **figures(results)}
    shown["ranking"] = markdown_table(
        ranking_rows(results),
        {
            "site": "site", "action": "action", "page": "page", "gain": "expected gain (interval)",
            "cost": "takes", "why": "why", "evidence": "evidence",
        },
    )  # fmt: skip
    shown["pages_by_margin"] = markdown_table(
        page_rows(results),
        {
            "page": "page", "margin": "margin", "revenue": "revenue", "visits": "visits",
            "change": "change in the window (95 %)", "week": "season of the week", "verdict": "verdict",
            "why": "why",
        },
    )  # fmt: skip
    if unclaimed := unclaimed_rows(results):
        shown["not_claimed"] = markdown_table(unclaimed, {"page": "page", "why": "too little data"})
    if experiments := experiment_rows(results):
        shown["experiments"] = markdown_table(
            experiments,
            {
                "experiment": "experiment", "variant": "variant", "visitors": "visitors", "rate": "rate",
                "chance": "best with", "share": "share from now on", "verdict": "verdict",
            },
        )  # fmt: skip
    if said := notes(results):
        shown["notes"] = sentences(said, "")
    for name, (title, uri) in pictures_of(results).items():
        shown[name] = pictures.metadata(title, uri)
    return shown


def pictures_of(results: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Title and data URI by metadata key: the expected gains, and the course of the busiest experiment."""
    from lead_coordinator import pictures

    found: dict[str, tuple[str, str]] = {}
    gains = [
        pictures.Interval(f"{KINDS[action['kind']]} {action['page'].rpartition('/')[2]}", low, mean, high)
        for result in results
        for action in result.get("plan", ())
        if action["gain_usd"] is not None
        for mean, low, high in [action["gain_usd"]]
    ]
    if gains:
        gains.sort(key=lambda gain: -gain.estimate)
        title = "Expected gain of each action, with its interval"
        found["gains_picture"] = (title, pictures.intervals(title, gains, "US dollars"))
    running = [experiment for result in results for experiment in result.get("experiments", ())]
    if running:
        busiest = max(running, key=lambda one: sum(variant["exposures"] for variant in one["variants"]))
        title = f"Rates in the experiment {busiest['name']}"
        lines = {
            variant["variant"]: [
                (float(place), rate) for place, rate in enumerate(variant["course"], start=1)
            ]
            for variant in busiest["variants"]
        }
        found["experiment_picture"] = (title, pictures.line(title, lines, "successes per visitor"))
    return found


def _interval(figure: Sequence[float] | None, unit: str) -> str:
    return "" if figure is None else f"{unit}{figure[0]:,.0f} ({figure[1]:,.0f} to {figure[2]:,.0f})"


def _dollars(value: float | None) -> str:
    return "" if value is None else f"${value:,.2f}"


def _week(season: Sequence[float]) -> str:
    """The strongest and the weakest day: `Sat x 2.05, Tue x 0.50`."""
    best, worst = (season.index(pick(season)) for pick in (max, min))
    return f"{DAYS[best]} × {season[best]:.2f}, {DAYS[worst]} × {season[worst]:.2f}"


def _change(change: Sequence[float]) -> str:
    low, high = sorted(change[1:])
    return f"{change[0]:+.0%} ({low:+.0%} to {high:+.0%})"
