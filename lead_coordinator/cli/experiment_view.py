"""How `lead-coordinator experiment show` looks: a table, a plot of the rates, and the verdict."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lead_coordinator.database.revenue import Experiment, Outcome
from lead_coordinator.pipelines.revenue.experiment import Decision, arms_of
from lead_coordinator.pipelines.revenue.results import course_of_rates
from lead_coordinator.pipelines.revenue.settings import ExperimentSettings

WIDTH = 60
BARS = "▁▂▃▄▅▆▇█"


def experiment_view(
    experiment: Experiment, decision: Decision, rules: ExperimentSettings, history: Sequence[Outcome]
) -> Group:
    """Everything one wants to see of an experiment. What people named is shown as text, never as markup."""
    table = Table(title=Text(f"{experiment.name}: {experiment.kind} on {experiment.page}"))
    for heading in ("variant", "content", "visitors", "successes", "rate", "best with", "share"):
        table.add_column(heading, justify="left" if heading in ("variant", "content") else "right")
    for variant, arm in zip(experiment.variants, arms_of(experiment), strict=True):
        table.add_row(
            Text(variant.name + (" (harmful)" if variant.name in decision.harmful else "")),
            Text(variant.content[:60]),
            f"{arm.exposures:,}",
            f"{arm.successes:,}",
            "–" if arm.rate is None else f"{arm.rate:.2%}",
            f"{decision.chances[arm.name]:.1%}",
            f"{decision.shares[arm.name]:.0%}",
        )
    if experiment.status == "stopped":
        verdict = f"Ended: {experiment.winner or 'no winner'}; {experiment.reason}"
    else:
        verdict = f"Running: {decision.reason}"
    rule = (
        f"Rules: {rules.minimum_exposures:,} visitors each, {rules.maximum_days} days, at most "
        f"{rules.maximum_regret:,.0f} successes given away ({decision.regret:,.0f} so far), false winners "
        f"{rules.error_rate:.1%}"
    )
    return Group(table, *_plot(experiment, history), Text(verdict), Text(rule, style="dim"))


def _plot(experiment: Experiment, history: Sequence[Outcome]) -> list[Text]:
    """Each variant's rate with its 95 % interval on one scale, and its course."""
    arms = [arm for arm in arms_of(experiment) if arm.exposures]
    if not arms:
        return []
    top = max(arm.interval()[1] for arm in arms)
    lines = [Text(f"rate with its 95 % interval, 0 to {top:.2%}; and its course:")]
    name_width = max(len(arm.name) for arm in arms)
    for arm in arms:
        low, high = (round(end / top * (WIDTH - 1)) for end in arm.interval())
        place = round((arm.rate or 0.0) / top * (WIDTH - 1))
        scale = ["─" if low <= cell <= high else " " for cell in range(WIDTH)]
        scale[place] = "●"
        course = course_of_rates(history, arm.name)
        spark = "".join(BARS[min(len(BARS) - 1, int(rate / top * len(BARS)))] for rate in course)
        lines.append(Text(f"{arm.name:<{name_width}} │{''.join(scale)}│ {spark}"))
    return lines
