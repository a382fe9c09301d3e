"""A headline or placement test: how it goes on, and when it ends.

Stopping rule: a variant wins as soon as it beats every other one that is still shown with evidence of at
least K/error_rate each, for K variants. By the union bound the chance that any variant ever wins though none
is better, or that a worse one wins, is at most `error_rate`, however often one looks (bandit.py).
A test without a winner ends as "no difference was shown"; it never names a winner by being ahead.

Guard rails:
- nothing is decided before each variant has had `minimum_exposures` visitors;
- a variant that is worse than the control, by the same evidence, is shown to nobody any more;
- it ends when more successes have been given away than `maximum_regret`, and after `maximum_days`;
- no variant that is shown gets less than its least share, so that the comparison goes on learning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from lead_coordinator.database.revenue import Experiment, Outcome
from lead_coordinator.pipelines.revenue.bandit import Arm, Batch, chances_of_best, log_evidence, with_floor
from lead_coordinator.pipelines.revenue.settings import ExperimentSettings


@dataclass(frozen=True)
class Decision:
    """What follows from the counts. `shares`: of visitors from now on, 0 for a variant that was found to be
    harmful; `stop` with `winner` (None: no difference was shown) and `reason`."""

    shares: Mapping[str, float]
    chances: Mapping[str, float]
    harmful: tuple[str, ...]
    stop: bool
    winner: str | None
    reason: str
    regret: float


def rules_of(rules: Mapping[str, Any], defaults: ExperimentSettings) -> ExperimentSettings:
    """The rules that an experiment was created with; what it doesn't name is as in the settings."""
    return defaults.model_copy(
        update=ExperimentSettings.model_validate(dict(rules)).model_dump(include=set(rules))
    )


def decide(
    arms: Sequence[Arm],
    batches: Sequence[Batch],
    rules: ExperimentSettings,
    *,
    begun: datetime,
    now: datetime,
) -> Decision:
    """Decides by the counts so far, `arms` in all and `batches` as they came; `arms[0]` is the control. A
    pure function: who decides twice decides the same."""
    control = arms[0]
    threshold = math.log(len(arms) / rules.error_rate)
    ready = [arm for arm in arms if arm.exposures >= rules.minimum_exposures]
    harmful = tuple(
        arm.name
        for arm in ready
        if arm is not control
        and control in ready
        and log_evidence(control.name, arm.name, batches) >= threshold
    )
    shown = [arm for arm in arms if arm.name not in harmful]
    chances = chances_of_best(arms)
    regret = _regret(ready)
    winner = _winner(shown, batches, threshold, rules.minimum_exposures)
    if winner is None and shown == [control]:
        winner = control.name
    if winner is not None:
        reason = (
            f"{winner} beats every other variant; the chance of such evidence without a difference is at "
            f"most {rules.error_rate:.0%}"
        )
    elif regret > rules.maximum_regret:
        reason = (
            f"{regret:,.0f} successes were given away, {rules.maximum_regret:,.0f} are allowed: no winner"
        )
    elif now - begun >= timedelta(days=rules.maximum_days):
        reason = f"{rules.maximum_days} days are over and no difference was shown"
    else:
        waiting = [arm.name for arm in shown if arm.exposures < rules.minimum_exposures]
        reason = (
            f"{', '.join(waiting)}: fewer than {rules.minimum_exposures:,} visitors"
            if waiting
            else f"no variant has beaten the others yet; {_leader(chances)} is ahead"
        )
        return Decision(
            _shares(arms, harmful, chances, rules, undecided=bool(waiting)), chances, harmful, False, None,
            reason, regret,
        )  # fmt: skip
    kept = winner or control.name
    shares = {arm.name: float(arm.name == kept) for arm in arms}
    return Decision(shares, chances, harmful, True, winner, reason, regret)


def _winner(shown: Sequence[Arm], batches: Sequence[Batch], threshold: float, minimum: int) -> str | None:
    if len(shown) < 2 or any(arm.exposures < minimum for arm in shown):
        return None
    for arm in shown:
        if all(
            log_evidence(arm.name, other.name, batches) >= threshold for other in shown if other is not arm
        ):
            return arm.name
    return None


def _shares(
    arms: Sequence[Arm],
    harmful: Sequence[str],
    chances: Mapping[str, float],
    rules: ExperimentSettings,
    *,
    undecided: bool,
) -> dict[str, float]:
    """Equal until each has had its least number of visitors, then by the chance of being the best."""
    shown = {arm.name: chances[arm.name] for arm in arms if arm.name not in harmful}
    whole = sum(shown.values())
    if undecided or whole <= 0:
        shares = dict.fromkeys(shown, 1 / len(shown))
    else:
        floor = rules.minimum_share / max(1, len(shown) - 1)
        shares = with_floor({name: chance / whole for name, chance in shown.items()}, floor)
    # Rounded as the table keeps them, and so that they add up to 1.
    rounded = {arm.name: round(shares.get(arm.name, 0.0), 6) for arm in arms}
    largest = max(rounded, key=rounded.__getitem__)
    rounded[largest] = round(rounded[largest] + 1 - sum(rounded.values()), 6)
    return rounded


def batches_of(history: Iterable[Outcome]) -> list[Batch]:
    """What was recorded at each time, in order."""
    return [
        {outcome.variant: (outcome.exposures, outcome.successes) for outcome in found}
        for _, found in groupby(history, lambda outcome: outcome.recorded_at)
    ]


def arms_of(experiment: Experiment) -> list[Arm]:
    return [Arm(variant.name, variant.exposures, variant.successes) for variant in experiment.variants]


def _regret(arms: Sequence[Arm]) -> float:
    """Successes missing to what the variant with the best mean would have brought to everybody. Of variants
    that have had their least number of visitors: what fewer say of the best is luck."""
    best = max((arm.mean for arm in arms), default=0.0)
    return sum(arm.exposures * (best - arm.mean) for arm in arms)


def _leader(chances: Mapping[str, float]) -> str:
    name = max(chances, key=chances.__getitem__)
    return f"{name} (chance of being the best: {chances[name]:.0%})"
