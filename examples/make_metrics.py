"""Writes metrics-search-console.csv and metrics-analytics.csv: 120 days of a made-up site with planted
faults, and metrics-truth.yaml, which says what was planted.

    python examples/make_metrics.py [--last-day 2026-11-23] [--into examples]

Deterministic: the same day gives the same bytes. Standard library only. The pages are those that the briefs
of topics.csv become, so that what is found about them can be carried out.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

DAYS = 120
LAST_DAY = date(2026, 11, 23)
HOST = "www.example.org"
# Clicks by position on this site: close to the published curve, as most sites are.
CURVE = ((1, 0.262), (2, 0.146), (3, 0.103), (4, 0.076), (10, 0.024), (11, 0.009), (30, 0.002))
CONVERSION_RATE = 0.03
SALE_USD = 14.0
# Monday to Sunday, for most pages.
WEEK = (1.08, 1.10, 1.07, 1.03, 0.95, 0.87, 0.90)
WEEKEND = (0.55, 0.50, 0.52, 0.60, 0.95, 2.05, 1.83)


@dataclass(frozen=True)
class Page:
    """`impressions` a day and `position` at the beginning, and both at the end. `clicked`, `converting`: its
    rates beside what is usual. `direct`: views a day that come from elsewhere."""

    slug: str
    impressions: tuple[float, float]
    position: tuple[float, float]
    clicked: float = 1.0
    converting: float = 1.0
    direct: float = 20.0
    week: tuple[float, ...] = WEEK
    planted: str = "nothing"

    @property
    def path(self) -> str:
        return f"/articles/{self.slug}.html"


PAGES = (
    Page("how-to-read-your-electricity-bill-and-find-the-waste", (900, 930), (3.4, 3.3)),
    Page(
        "balcony-solar-what-a-small-plug-in-panel-can-and-cannot-do",
        (1500, 1290), (2.8, 7.9), planted="decay",
    ),
    Page(
        "what-an-index-fund-is-explained-without-jargon",
        (1150, 1120), (3.6, 7.4), planted="decay",
    ),
    Page(
        "composting-in-a-small-space-without-the-smell",
        (1400, 1380), (3.2, 3.3), clicked=0.38, planted="title",
    ),
    Page(
        "build-an-emergency-fund-when-money-is-already-tight",
        (1300, 1330), (2.6, 2.6), converting=0.2, direct=60, planted="placement",
    ),
    Page(
        "draught-proofing-a-house-in-one-weekend",
        (1000, 1010), (3.1, 3.1), week=WEEKEND, planted="season of the week",
    ),
    Page(
        "a-garden-that-needs-water-once-a-week",
        (1500, 520), (3.3, 3.3), planted="fewer searches",
    ),
    Page(
        "protecting-focus-time-without-annoying-your-team",
        (4, 4), (9.0, 9.2), direct=0.4, planted="too little data",
    ),
    Page(
        "largest-contentful-paint-find-the-cause-before-you-fix-it",
        (600, 1250), (5.2, 3.9), planted="growth",
    ),
    Page("a-first-budget-that-survives-the-second-month", (820, 800), (4.4, 4.5)),
    Page("raised-beds-from-scratch-soil-size-and-what-to-plant-first", (1100, 1120), (4.0, 4.1)),
    Page("web-fonts-without-the-flash-a-practical-guide", (700, 720), (5.1, 5.0)),
    Page("a-performance-budget-your-team-will-keep", (640, 630), (4.8, 4.8)),
    Page("writing-well-at-work-messages-that-need-no-meeting", (760, 790), (3.8, 3.8)),
)  # fmt: skip


def usual_rate(position: float) -> float:
    """Log-linear between the points of CURVE."""
    for (left, low), (right, high) in itertools.pairwise(CURVE):
        if position <= right:
            part = (max(position, left) - left) / (right - left)
            return math.exp(math.log(low) * (1 - part) + math.log(high) * part)
    return CURVE[-1][1]


def poisson(source: random.Random, mean: float) -> int:
    """A Poisson count; a rounded normal one where that is the same."""
    if mean > 60:
        return max(0, round(source.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, source.random()
    while product > limit:
        count += 1
        product *= source.random()
    return count


@dataclass(frozen=True)
class Day:
    day: date
    page: Page
    impressions: int
    clicks: int
    position: float
    views: int
    sessions: int
    key_events: int
    revenue_usd: float


def days_of(page: Page, last_day: date) -> Iterator[Day]:
    """A page's days, with counts that vary as counts do and rates that wander a little."""
    source = random.Random(page.slug)
    rate_wander = conversion_wander = 0.0
    for number in range(DAYS):
        day = last_day - timedelta(days=DAYS - 1 - number)
        part = number / (DAYS - 1)
        season = page.week[day.weekday()]
        rate_wander = 0.8 * rate_wander + source.gauss(0, 0.02)
        conversion_wander = 0.8 * conversion_wander + source.gauss(0, 0.02)
        position = page.position[0] + (page.position[1] - page.position[0]) * part
        position = max(1.0, position + source.gauss(0, 0.12))
        demand = page.impressions[0] * (page.impressions[1] / page.impressions[0]) ** part * season
        impressions = poisson(source, demand * math.exp(source.gauss(0, 0.06)))
        rate = min(0.9, usual_rate(position) * page.clicked * math.exp(rate_wander))
        clicks = min(impressions, poisson(source, impressions * rate))
        sessions = round(clicks * 0.97) + poisson(source, page.direct * season)
        views = sessions + poisson(source, sessions * 0.18)
        chance = CONVERSION_RATE * page.converting * math.exp(conversion_wander)
        key_events = min(sessions, poisson(source, sessions * chance))
        revenue = sum(source.gammavariate(4, SALE_USD / 4) for _ in range(key_events))
        yield Day(day, page, impressions, clicks, position, views, sessions, key_events, round(revenue, 2))


def grouped(count: int) -> str:
    return f"{count:,}"


def write_search_console(path: Path, days: list[Day]) -> None:
    """As the report comes: full addresses, thousands grouped, rates in percent, unseen days left out."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["Date", "Page", "Clicks", "Impressions", "CTR", "Position"])
        for one in days:
            if one.impressions:
                writer.writerow([
                    one.day.isoformat(), f"https://{HOST}{one.page.path}", grouped(one.clicks),
                    grouped(one.impressions), f"{one.clicks / one.impressions:.2%}", f"{one.position:.2f}",
                ])  # fmt: skip


def write_analytics(path: Path, days: list[Day], last_day: date) -> None:
    """As GA4 exports an exploration: comments first, compact dates, a row of sums last."""
    first = last_day - timedelta(days=DAYS - 1)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("# ----------------------------------------\n# Pages by day\n# Account: Example\n")
        file.write(
            f"# Property: Example - GA4\n# Start date: {first:%Y%m%d}\n# End date: {last_day:%Y%m%d}\n"
        )
        file.write("# ----------------------------------------\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["Date", "Page path and screen class", "Views", "Sessions", "Key events", "Total revenue"]
        )
        counted = [one for one in days if one.views]
        for one in counted:
            writer.writerow([
                f"{one.day:%Y%m%d}", one.page.path, one.views, one.sessions, one.key_events,
                f"{one.revenue_usd:.2f}",
            ])  # fmt: skip
        writer.writerow([
            "", "", sum(one.views for one in counted), sum(one.sessions for one in counted),
            sum(one.key_events for one in counted), f"{sum(one.revenue_usd for one in counted):.2f}",
            "Grand total",
        ])  # fmt: skip


def write_truth(path: Path, last_day: date) -> None:
    """What was planted, by page; `to_do`: what an optimiser should report for it, and for no other."""
    to_do = {"decay": "refresh", "title": "title_test", "placement": "placement_test"}
    verdicts = {
        "decay": "decay", "fewer searches": "fewer searches", "growth": "growing",
        "too little data": "too little data",
    }  # fmt: skip
    lines = [
        "# Written by make_metrics.py: what is planted in the two files metrics-*.csv.",
        f"last_day: {last_day.isoformat()}",
        f"days: {DAYS}",
        "pages:",
    ]
    for page in PAGES:
        lines += [
            f"  {page.path}:",
            f"    planted: {page.planted}",
            f"    verdict: {verdicts.get(page.planted, 'steady')}",
            f"    to_do: [{to_do.get(page.planted, '')}]",
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make(into: Path, last_day: date = LAST_DAY) -> tuple[Path, Path, Path]:
    """Writes the three files into a folder; answers their paths."""
    days = sorted(
        (one for page in PAGES for one in days_of(page, last_day)), key=lambda one: (one.day, one.page.path)
    )
    search, analytics, truth = (
        into / name for name in ("metrics-search-console.csv", "metrics-analytics.csv", "metrics-truth.yaml")
    )
    write_search_console(search, days)
    write_analytics(analytics, days, last_day)
    write_truth(truth, last_day)
    return search, analytics, truth


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes example metrics of a made-up site.")
    parser.add_argument(
        "--last-day", type=date.fromisoformat, default=LAST_DAY, help="The last of the 120 days."
    )
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, help="The folder.")
    arguments = parser.parse_args()
    make(arguments.into, arguments.last_day)


if __name__ == "__main__":
    main()
