"""What a site may set for the revenue optimiser. Every knob has a default: `RevenueSettings()` is legal."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Usd = Annotated[float, Field(ge=0, le=1_000_000)]
Hours = Annotated[float, Field(gt=0, le=1000)]


class ActionSettings(BaseModel):
    """What an action takes, and how much of what is lost it is believed to win back before anybody has tried:
    Beta(mean x strength, (1 - mean) x strength)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cost_usd: Usd = Field(description="Dollars it costs, besides the effort.")
    effort_hours: Hours = Field(description="Hours of a person it takes.")
    recovery_mean: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="Share of the shortfall that it is expected to win back."
    )
    recovery_strength: Annotated[float, Field(ge=1, le=1000)] = Field(
        default=4, description="How sure that is, in actions already seen; 4 leaves 14 to 86 % open."
    )


class ExperimentSettings(BaseModel):
    """Rules of an experiment that are used where its creator names none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum_exposures: int = Field(
        default=500,
        ge=1,
        le=1_000_000_000,
        description="Visitors each variant needs before it can win or lose.",
    )
    maximum_days: int = Field(default=42, ge=1, le=180, description="It ends then, whatever is known.")
    maximum_regret: float = Field(
        default=500, ge=1, le=1e9, description="Successes that may be given away to learn; then it ends."
    )
    error_rate: float = Field(
        default=0.05, ge=0.001, le=0.5, description="Chance of a false winner, however often one looks."
    )
    minimum_share: float = Field(
        default=0.2,
        ge=0,
        le=0.5,
        description="Least share of visitors a variant gets, divided by their number - 1.",
    )


class RevenueSettings(BaseModel):
    """The section `revenue` of a site's profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="Whether standing work is done for this site.")
    window_days: int = Field(
        default=120,
        ge=56,
        le=400,
        description="Days that are looked at; a year more is read where it is there.",
    )
    horizon_days: int = Field(default=90, ge=7, le=365, description="Gains are dollars over so many days.")
    maximum_pages: int = Field(
        default=5000, ge=1, le=20_000, description="Pages analysed at once, those seen most first."
    )
    minimum_weeks: int = Field(default=8, ge=6, le=50, description="Weeks a trend needs.")
    minimum_clicks: int = Field(
        default=100, ge=10, le=1_000_000, description="Clicks (or views) a trend needs."
    )
    minimum_impressions: int = Field(
        default=1000, ge=100, le=100_000_000, description="Impressions that judging a title needs."
    )
    minimum_expected: int = Field(
        default=20,
        ge=5,
        le=1_000_000,
        description="Clicks or conversions to be expected, to judge a shortfall.",
    )
    minimum_peers: int = Field(
        default=5, ge=3, le=1000, description="Pages with enough data that a rate is compared with."
    )
    false_discovery_rate: float = Field(
        default=0.05, gt=0, le=0.5, description="Share of what is reported that may be chance."
    )
    decay_fall: Annotated[float, Field(ge=0.05, le=0.95)] = Field(
        default=0.2,
        description="Share of its clicks that a page loses within the window, at least, to decay.",
    )
    position_loss: float = Field(
        default=1.0,
        ge=0.1,
        le=50,
        description="Places that a decaying page loses within the window, at least.",
    )
    shortfall: Annotated[float, Field(ge=0.05, le=0.95)] = Field(
        default=0.3, description="How far below what is expected a rate must be, to be reported."
    )
    prior_impressions: int = Field(
        default=1000,
        ge=1,
        le=100_000_000,
        description="Weight of the published curve at each position, in impressions.",
    )
    prior_spread_ctr: float = Field(
        default=0.3, gt=0, le=2, description="Spread (log scale) of pages' click rates at the same position."
    )
    prior_spread_conversion: float = Field(
        default=0.5, gt=0, le=2, description="Spread (log scale) of pages' conversion rates."
    )
    prior_visits: int = Field(
        default=500, ge=1, le=100_000_000, description="Weight of the site's value of a visit, in visits."
    )
    value_per_visit_usd: Usd | None = Field(
        default=None,
        description="Value of a visit where no revenue is counted; without it no dollars are claimed.",
    )
    interval: Annotated[float, Field(ge=0.5, le=0.99)] = Field(
        default=0.8, description="Probability that a gain is within its interval."
    )
    refresh: ActionSettings = ActionSettings(cost_usd=0.09, effort_hours=0.5)
    title_test: ActionSettings = ActionSettings(cost_usd=0.02, effort_hours=0.25)
    placement_test: ActionSettings = ActionSettings(cost_usd=0.02, effort_hours=1.0)
    budget_usd: Usd | None = Field(default=None, description="Dollars a round may cost; none: no limit.")
    effort_hours: Annotated[float, Field(ge=0, le=10_000)] | None = Field(
        default=None, description="Hours a round may take; none: no limit."
    )
    maximum_refreshes: int = Field(
        default=5, ge=0, le=100, description="Refresh tasks that one round may put into the queue."
    )
    maximum_age_days: int = Field(
        default=14,
        ge=1,
        le=365,
        description="No refresh is asked for on figures that end earlier than so long ago.",
    )
    cool_down_days: int = Field(
        default=42, ge=1, le=365, description="A page isn't refreshed again before so many days are over."
    )
    experiment: ExperimentSettings = ExperimentSettings()
