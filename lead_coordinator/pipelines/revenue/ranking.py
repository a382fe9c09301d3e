"""What to do within a budget of dollars and hours: greedy by gain per share of the budget, made sure of by
the best single action.

With one limit this is at least half of the best choice there is (Dantzig 1957; Martello and Toth, Knapsack
Problems, 1990, ch. 2); with two, where an action's weight is the sum of its shares of both, at least a
quarter. In practice actions are small beside the budget and the choice is within a few percent; the tests
compare with every possible choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lead_coordinator.pipelines.revenue.opportunity import Opportunity


@dataclass(frozen=True)
class Plan:
    """`chosen`: within the budget, the best first. `left`: what didn't fit or doesn't pay, with the reason.
    `unpriced`: real, but without dollars, so they can't be ranked."""

    chosen: tuple[Opportunity, ...]
    left: tuple[tuple[Opportunity, str], ...]
    unpriced: tuple[Opportunity, ...]

    @property
    def gain_usd(self) -> float:
        return sum(_net(action) for action in self.chosen)

    @property
    def cost_usd(self) -> float:
        return sum(action.cost_usd for action in self.chosen)

    @property
    def effort_hours(self) -> float:
        return sum(action.effort_hours for action in self.chosen)


def plan_within(
    opportunities: Sequence[Opportunity],
    *,
    budget_usd: float | None = None,
    effort_hours: float | None = None,
) -> Plan:
    """Chooses among opportunities; None: that limit doesn't bind. Gains count after costs."""
    unpriced = tuple(found for found in opportunities if found.gain_usd is None)
    priced = sorted(
        (found for found in opportunities if found.gain_usd is not None),
        key=lambda found: (-_density(found, budget_usd, effort_hours), -_net(found), found.page, found.kind),
    )
    chosen: list[Opportunity] = []
    left: list[tuple[Opportunity, str]] = []
    for found in priced:
        if _net(found) <= 0:
            left.append((found, "it costs more than it is expected to bring"))
        elif _fits([found], budget_usd, effort_hours) and _fits([*chosen, found], budget_usd, effort_hours):
            chosen.append(found)
        else:
            left.append((found, "the budget is spent on what brings more for it"))
    alone = [found for found, _ in left if _net(found) > 0 and _fits([found], budget_usd, effort_hours)]
    best = max(alone, key=_net, default=None)
    if best is not None and _net(best) > sum(map(_net, chosen)):
        spent = [(found, "the budget is spent on one action that brings more") for found in chosen]
        left = [entry for entry in left if entry[0] is not best] + spent
        chosen = [best]
    chosen.sort(key=lambda found: (-_net(found), found.page, found.kind))
    return Plan(tuple(chosen), tuple(left), unpriced)


def _net(found: Opportunity) -> float:
    return found.net_usd or 0.0


def _density(found: Opportunity, budget_usd: float | None, effort_hours: float | None) -> float:
    """Gain for the share of the budgets that it takes; without a budget, for an hour."""
    weight = 0.0
    if budget_usd is not None:
        weight += found.cost_usd / budget_usd if budget_usd > 0 else found.cost_usd * 1e9
    if effort_hours is not None:
        weight += found.effort_hours / effort_hours if effort_hours > 0 else found.effort_hours * 1e9
    if budget_usd is None and effort_hours is None:
        weight = found.effort_hours
    return _net(found) / weight if weight > 0 else float("inf")


def _fits(actions: Sequence[Opportunity], budget_usd: float | None, effort_hours: float | None) -> bool:
    # A hair more than the budget, so that ten times 0.1 fit into 1.
    return (budget_usd is None or sum(a.cost_usd for a in actions) <= budget_usd * (1 + 1e-9)) and (
        effort_hours is None or sum(a.effort_hours for a in actions) <= effort_hours * (1 + 1e-9)
    )
