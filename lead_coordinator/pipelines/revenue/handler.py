"""One task of the revenue optimiser: a site's metrics become verdicts, a ranked plan and refresh tasks.

The task is `{"site": …, "budget_usd"?: …, "effort_hours"?: …, "standing"?: true}`. It makes no call of a
model: what it says is reckoned, and the same metrics give the same answer. What it decides lies in its
follow-ups and in experiments, both of which do no harm twice: a refresh has a key of site, page and day and
isn't asked for again while the page cools down, and a decision on an experiment follows from its counts.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from lead_coordinator.database import revenue as records
from lead_coordinator.database.connection import AsyncDatabase
from lead_coordinator.database.executions import ClaimedTask
from lead_coordinator.database.queue import NewTask
from lead_coordinator.database.revenue import PublishedPage
from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.revenue import results
from lead_coordinator.pipelines.revenue.analysis import analyse
from lead_coordinator.pipelines.revenue.experiment import arms_of, batches_of, decide, rules_of
from lead_coordinator.pipelines.revenue.opportunity import Opportunity
from lead_coordinator.pipelines.revenue.ranking import Plan, plan_within
from lead_coordinator.pipelines.revenue.reading import mean_cost_usd, read_findings, read_published, read_site
from lead_coordinator.pipelines.revenue.settings import RevenueSettings
from lead_coordinator.pipelines.runtime import TaskOutcome, TaskRun

# Two hundred pages are read and summed up in a fifth of it.
READ_SECONDS = 5.0
# Pages judged in a second, a third of what a slow machine does.
PAGES_A_SECOND = 250
MAX_VALUE_USD = 1_000_000
MAX_KEY = 200


class RevenueTask(BaseModel):
    """The payload of a `revenue_optimization` task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    budget_usd: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] | None = None
    effort_hours: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)] | None = None
    standing: bool = False


def parse_task(payload: object) -> RevenueTask:
    """Raises InvalidInput with field, value and what is allowed."""
    try:
        return RevenueTask.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "payload"
        if first["type"] == "extra_forbidden":
            raise InvalidInput(
                f"{field}: there is no such field; site, budget_usd, effort_hours and standing are known"
            ) from None
        raise InvalidInput(f"{field}: {str(first['input'])[:100]!r} given; {first['msg']}") from None


class RevenueHandler:
    """Turns one task into its outcome; holds nothing between tasks."""

    async def work(self, run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        wish = parse_task(task.payload)
        settings = run.profiles.of(wish.site).revenue
        if wish.standing and not settings.enabled:
            return TaskOutcome(results.nothing(wish.site, "the site's profile has revenue.enabled = false"))
        experiments = await decide_experiments(run, wish.site, settings)
        metrics = await read_site(
            run.db, wish.site, run.now().date(), settings, lambda: run.check_time("read", READ_SECONDS)
        )
        if metrics is None:
            why = "no page metrics; import some with `lead-coordinator metrics import`"
            return TaskOutcome(results.nothing(wish.site, why, experiments), message=f"{wish.site}: {why}")
        published = await read_published(run.db, wish.site)
        findings = await read_findings(run.db, wish.site)
        run.check_time("judge", READ_SECONDS + len(metrics.pages) / PAGES_A_SECOND)
        report = await asyncio.to_thread(
            analyse,
            metrics.pages,
            metrics.window,
            settings,
            costs={
                path: float(page.cost_usd) for path, page in published.items() if page.cost_usd is not None
            },
            refresh_cost_usd=mean_cost_usd(list(published.values())),
            findings=findings,
        )
        plan = plan_within(
            report.opportunities,
            budget_usd=settings.budget_usd if wish.budget_usd is None else wish.budget_usd,
            effort_hours=settings.effort_hours if wish.effort_hours is None else wish.effort_hours,
        )
        age = (run.now().date() - metrics.window.last).days
        if age > settings.maximum_age_days:
            follow_ups: list[NewTask] = []
            notes = [f"The last figures are {age} days old: no refresh is asked for."]
        else:
            follow_ups, notes = await refresh_tasks(
                run.db, wish.site, plan, published, settings, run.now().date()
            )
        if metrics.dropped:
            notes.append(f"Only the {settings.maximum_pages:,} pages seen most were looked at.")
        result = results.result_of(wish.site, report, plan, follow_ups, notes, experiments)
        return TaskOutcome(result, follow_ups, results.sentence(wish.site, report, plan, follow_ups))


# ---- refreshes ---------------------------------------------------------------------------------------------


async def refresh_tasks(
    db: AsyncDatabase,
    site: str,
    plan: Plan,
    published: dict[str, PublishedPage],
    settings: RevenueSettings,
    today: date,
) -> tuple[list[NewTask], list[str]]:
    """Tasks for the best refreshes of the plan, and why others get none."""
    wanted = [found for found in plan.chosen if found.kind == "refresh"]
    notes = [
        f"{found.page}: decays, but isn't an article of ours; a person must refresh it"
        for found in wanted
        if found.page not in published
    ]
    ours = [(found, published[found.page]) for found in wanted if found.page in published]
    cooling = await _cooling(db, site, [page.slug for _, page in ours], settings, today)
    notes += [
        f"{page.slug}: was refreshed in the last {settings.cool_down_days} days"
        for _, page in ours
        if page.slug in cooling
    ]
    ready = [(found, page) for found, page in ours if page.slug not in cooling]
    tasks = [refresh_task(site, found, page, today) for found, page in ready[: settings.maximum_refreshes]]
    if len(ready) > settings.maximum_refreshes:
        notes.append(f"{len(ready) - settings.maximum_refreshes} more refreshes wait for the next round")
    return tasks, notes


def refresh_task(site: str, found: Opportunity, page: PublishedPage, today: date) -> NewTask:
    """The content task that refreshes a page; its value is the gain that is expected."""
    assert found.gain_usd is not None
    value = min(MAX_VALUE_USD, max(0.0, found.gain_usd.mean))
    refresh = {
        "url": page.url,
        "slug": page.slug,
        "reason": found.reason,
        "evidence": "; ".join(found.evidence)[:2000],
    }
    return NewTask(
        task_type="content_generation",
        payload={"refresh": refresh, "site": site},
        idempotency_key=refresh_key(site, page.slug, today),
        value_usd=Decimal(value).quantize(Decimal("0.01")),
    )


def refresh_key(site: str, slug: str, day: date) -> str:
    """`refresh:<site>:<slug>:<date>`; where that is too long for a key, the slug's end is a digest."""
    key = f"refresh:{site}:{slug}:{day.isoformat()}"
    if len(key) <= MAX_KEY:
        return key
    digest = hashlib.sha256(f"{site}:{slug}".encode()).hexdigest()[:16]
    return f"refresh:{site[:63]}:{slug[:80]}-{digest}:{day.isoformat()}"


async def _cooling(
    db: AsyncDatabase, site: str, slugs: Sequence[str], settings: RevenueSettings, today: date
) -> set[str]:
    """Slugs for which a refresh was asked for on a day before today that is not long enough ago. (Today's is
    the same task again: its key sees to that.)"""
    keys = {
        refresh_key(site, slug, today - timedelta(days=back)): slug
        for slug in slugs
        for back in range(1, settings.cool_down_days)
    }
    return {keys[key] for key in await records.asubmitted_keys(db, keys)}


# ---- experiments -------------------------------------------------------------------------------------------


async def decide_experiments(run: TaskRun, site: str, settings: RevenueSettings) -> list[dict[str, Any]]:
    """Decides every experiment of the site that runs; answers how each stands."""
    stand = []
    for experiment in await records.alist_experiments(run.db, site=site, status="running", limit=100):
        rules = rules_of(experiment.rules, settings.experiment)
        history = await records.alist_outcomes(run.db, experiment.experiment_id)
        decision = decide(
            arms_of(experiment), batches_of(history), rules, begun=experiment.created_at, now=run.now()
        )
        await records.adecide_experiment(
            run.db,
            experiment.experiment_id,
            shares=decision.shares,
            stop=decision.stop,
            winner=decision.winner,
            reason=decision.reason if decision.stop else None,
        )
        if decision.stop:
            run.tell("experiment", f"{experiment.name}: {decision.reason}")
        stand.append(results.experiment_row(experiment, decision, history))
    return stand
