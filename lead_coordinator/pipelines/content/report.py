"""A batch of articles as figures and as a table with links, from the results of its tasks."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean, quantiles
from typing import Any

from lead_coordinator.pipelines.report import BatchReport, CompletedTask


@dataclass(frozen=True)
class PublishedArticle:
    """An article that the batch brought out. `seconds`: from the start of the batch to the completed task.

    `recovered`: it was written before (by a run that died before it could complete the task, or that left it
    for a person to approve); nothing was written again. `updated`: it is a new revision of what was out.
    `revisions`: how often the gate had it revised.
    """

    task_id: int
    slug: str
    url: str
    title: str
    words: int
    score: int
    cost_usd: Decimal
    seconds: float
    recovered: bool = False
    updated: bool = False
    revisions: int = 0

    @classmethod
    def of(cls, task: CompletedTask) -> PublishedArticle:
        result = task.result
        was_written = result["kind"] in ("new", "fix", "refresh")
        return cls(
            task_id=task.task_id,
            slug=result["slug"],
            url=result["url"],
            title=result["title"],
            words=result["words"],
            score=result["score"],
            cost_usd=result["cost_usd"],
            seconds=task.seconds,
            recovered="recovered" in result or not was_written,
            updated=result["kind"] in ("fix", "refresh"),
            revisions=result.get("revisions", 0),
        )


def articles(report: BatchReport) -> list[PublishedArticle]:
    """The articles of the batch that are out, in the order in which they came out."""
    return [PublishedArticle.of(task) for task in report.completed if task.result["state"] == "published"]


def waiting(report: BatchReport) -> list[CompletedTask]:
    """What was written and isn't out: drafts, what a person has to approve, what has a date."""
    return [task for task in report.completed if task.result["state"] in ("draft", "in_review", "scheduled")]


def written(report: BatchReport) -> list[PublishedArticle]:
    """The articles that this run wrote: without those that an earlier one had published."""
    return [article for article in articles(report) if not article.recovered]


def cost_per_article_usd(report: BatchReport) -> Decimal | None:
    """Mean cost of what this run wrote; None when it wrote nothing."""
    new = written(report)
    return sum((article.cost_usd for article in new), Decimal(0)) / len(new) if new else None


def figures(report: BatchReport) -> dict[str, int | float | str]:
    """Flat, one key and one unit each, so that it can be plotted; keys without a value are left out."""
    out = articles(report)
    values = report.metadata() | {
        "articles_published": len(out),
        "articles_recovered": sum(article.recovered for article in out),
        "articles_updated": sum(article.updated for article in out),
        "articles_waiting": len(waiting(report)),
        "articles_revised": sum(article.revisions > 0 for article in out),
        "words": sum(article.words for article in out),
    }
    new, each = written(report), cost_per_article_usd(report)
    if each is not None:
        values["score_mean"] = round(fmean(article.score for article in new), 1)
        values["cost_per_article_usd"] = float(each)
        seconds = sorted(article.seconds for article in new)
        cuts = quantiles(seconds, n=20, method="inclusive") if len(seconds) > 1 else seconds * 19
        values["article_seconds_p50"] = round(cuts[9], 3)
        values["article_seconds_p95"] = round(cuts[18], 3)
    return values


def output(report: BatchReport) -> dict[str, Any]:
    """The totals as the execution keeps them; money stays exact."""
    each = cost_per_article_usd(report)
    return {
        **report.output(),
        **figures(report),
        "spend_usd": report.cost_usd,
        **({} if each is None else {"cost_per_article_usd": each}),
        "articles": [{"task_id": a.task_id, "slug": a.slug, "url": a.url} for a in articles(report)],
    }


def metadata(report: BatchReport) -> dict[str, Any]:
    """The batch's figures, and its articles as a table with links."""
    # Dagster is loaded in a run's process anyway; domain logic and its tests do without it.
    from lead_coordinator.metadata import markdown_table

    rows = [
        {
            "title": f"[{link_text(article.title)}]({article.url})",
            "words": article.words,
            "score": article.score,
            "cost": article.cost_usd,
            "seconds": round(article.seconds, 1),
            "task": article.task_id,
        }
        for article in articles(report)
    ]
    columns = {
        "title": "article",
        "words": "words",
        "score": "score",
        "cost": "cost (USD)",
        "seconds": "seconds",
        "task": "task",
    }
    shown = {**figures(report), "articles": markdown_table(rows, columns)}
    if new := written(report):
        from lead_coordinator import pictures

        title = "Cost of each article"
        costs = {article.title: float(article.cost_usd) for article in new}
        shown["cost_picture"] = pictures.metadata(title, pictures.bar(title, costs, "US dollars"))
    if left := waiting(report):
        listed = [
            {
                "title": link_text(task.result["title"]),
                "state": task.result["state"],
                "site": task.result["site"],
                "article": task.result["article_id"],
            }
            for task in left
        ]
        names = {"title": "article", "state": "state", "site": "site", "article": "approve as"}
        shown["waiting"] = markdown_table(listed, names)
    return shown


def link_text(title: str) -> str:
    return title.replace("[", "(").replace("]", ")")
