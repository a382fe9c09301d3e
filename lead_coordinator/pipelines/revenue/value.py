"""What a visit and a conversion are worth, and what a page has earned beyond its cost.

A page's own value is drawn towards the site's by as many visits as the settings say (empirical-Bayes
shrinkage; Robbins 1956, Efron and Morris 1973). Its uncertainty is that of the conversions it rests on:
revenue is a compound Poisson sum, and with amounts that vary as much as their mean the relative variance is
2 / conversions; drawn from a Gamma distribution of that mean and variance.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from lead_coordinator.pipelines.revenue.page import PageData
from lead_coordinator.pipelines.revenue.settings import RevenueSettings

# Without conversions nothing says how many sales a revenue came from: it is believed little.
LEAST_CONVERSIONS = 1.0


@dataclass(frozen=True, slots=True)
class Value:
    """Dollars a unit (a visit, a conversion), and the conversions that this rests on."""

    mean: float
    conversions: float

    def draw(self, source: random.Random) -> float:
        shape = max(self.conversions, LEAST_CONVERSIONS) / 2
        return source.gammavariate(shape, self.mean / shape)


@dataclass(frozen=True, slots=True)
class SiteTotals:
    """Sums over the site's pages in the window."""

    visits: float
    conversions: float
    revenue_usd: float
    has_revenue: bool

    @staticmethod
    def of(pages: Iterable[PageData]) -> SiteTotals:
        pages = list(pages)
        return SiteTotals(
            sum(visits_of(page) for page in pages),
            sum(page.conversions for page in pages),
            sum(page.revenue_usd for page in pages),
            any(page.has_revenue for page in pages),
        )


def visits_of(page: PageData) -> float:
    """Visits as they were counted: sessions, else views, else clicks."""
    return page.visits or page.clicks


def value_of_visit(page: PageData, site: SiteTotals, settings: RevenueSettings) -> Value | None:
    """Dollars that one more visit of this page brings; None where no revenue is known and none is set."""
    if not site.has_revenue or site.revenue_usd <= 0 or site.visits <= 0:
        given = settings.value_per_visit_usd
        return None if given is None else Value(given, 1e6)
    prior = settings.prior_visits
    rate = site.revenue_usd / site.visits
    mean = (max(0.0, page.revenue_usd) + prior * rate) / (visits_of(page) + prior)
    borrowed = prior * site.conversions / site.visits
    return Value(mean, min(site.conversions, page.conversions + borrowed))


def value_of_conversion(page: PageData, site: SiteTotals) -> Value | None:
    """Dollars that one more conversion on this page brings. The weight of the site's value is ten
    conversions."""
    if not site.has_revenue or site.revenue_usd <= 0 or site.conversions <= 0:
        return None
    prior = 10.0
    rate = site.revenue_usd / site.conversions
    mean = (max(0.0, page.revenue_usd) + prior * rate) / (page.conversions + prior)
    return Value(mean, min(site.conversions, page.conversions + prior))


def margin(page: PageData, cost_usd: float | None) -> float | None:
    """Revenue of the window minus what the page has cost in all; None where either isn't known."""
    return None if cost_usd is None or not page.has_revenue else page.revenue_usd - cost_usd
