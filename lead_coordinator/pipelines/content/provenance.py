"""How an article came about, and what its task reports: plain values, money as text in what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lead_coordinator.database.queue import NewTask
from lead_coordinator.pipelines.content.brief import Brief
from lead_coordinator.pipelines.content.publish import Outcome
from lead_coordinator.pipelines.content.research import Notes
from lead_coordinator.pipelines.content.settings import ContentSettings
from lead_coordinator.pipelines.content.steps import StepRecord, Written
from lead_coordinator.pipelines.runtime import TaskOutcome

if TYPE_CHECKING:
    from lead_coordinator.pipelines.profile import SiteProfile

AUDIT_TYPE = "seo_analysis"


def provenance(brief: Brief, notes: Notes, written: Written, settings: ContentSettings) -> dict[str, Any]:
    """For the front matter of the page and the stored revision: brief, sources, prompts, models, calls, cost,
    scores."""
    return {
        "models": written.models,
        "providers": written.providers,
        "prompts": list(dict.fromkeys(written.prompt_versions.values())),
        "cost_usd": str(written.cost_usd),
        "calls": [_call(record) for record in written.calls],
        "revisions": written.revisions,
        "scores": dict(written.judgements[-1].figures) if written.judgements else {},
        "brief": brief.payload(),
        "sources_read": [source.url for source in notes.sources],
        "sources_unread": [{"url": url, "reason": why} for url, why in notes.unread],
        "policy": settings.policy,
    }


def _call(record: StepRecord) -> dict[str, Any]:
    return {
        "step": record.step,
        "model": f"{record.provider}:{record.model}",
        "prompt": record.prompt_version,
        "input_tokens": record.input_tokens,
        "output_tokens": record.output_tokens,
        "cost_usd": str(record.cost_usd + record.failed_usd),
        "call_id": record.call_id,
    }


def task_outcome(
    outcome: Outcome, brief: Brief, written: Written, *, sandbox: bool, kind: str = "new"
) -> TaskOutcome:
    """The outcome of a task that wrote."""
    article = written.article
    result = {
        **_place(outcome),
        "kind": kind,
        "title": article.title,
        "words": article.words,
        "score": article.score,
        "cost_usd": written.cost_usd,
        "calls": len(written.calls),
        "revisions": written.revisions,
        "providers": written.providers,
        "models": written.models,
        "prompt_versions": written.prompt_versions,
        "figures": dict(written.judgements[-1].figures) if written.judgements else {},
        "sandbox": sandbox,
        "steps": [asdict(record) for record in written.calls],
        "issues": [asdict(issue) for issue in article.issues],
        "repairs": list(article.repairs),
        "story": brief.story,
    }
    return TaskOutcome(result, message=_sentence(outcome, article.title))


def unchanged(
    outcome: Outcome, kind: str, content: Mapping[str, Any] | None = None, *, recovered: bool = False
) -> TaskOutcome:
    """The outcome of a task that carried a decision out, or that an earlier attempt had written."""
    content = content or {}
    result = {
        **_place(outcome),
        "kind": kind,
        "title": str(content.get("title") or outcome.slug),
        "words": int(content.get("words") or 0),
        "score": int(content.get("score") or 0),
        "cost_usd": Decimal(0),
        "calls": 0,
    }
    if recovered:
        result["recovered"] = True
    return TaskOutcome(result, message=_sentence(outcome, result["title"]))


def published_before(row: Mapping[str, Any]) -> TaskOutcome:
    """The outcome of a task whose article is out, where no revision of it is stored."""
    outcome = Outcome(row["id"], None, 1, row["site"], row["slug"], "published", row["url"])
    content = {"title": row["title"], **row["details"]}
    return unchanged(outcome, "new", content, recovered=True)


def audits(result: Mapping[str, Any], profile: SiteProfile) -> tuple[NewTask, ...]:
    """The audit of a page that has just come out, by the task's result; none of a page that can't be
    visited."""
    url = result["url"]
    if result["state"] != "published" or url is None or not can_be_visited(url, profile):
        return ()
    return (
        NewTask(
            AUDIT_TYPE,
            {"site": result["site"], "urls": [url]},
            idempotency_key=f"audit:{result['publication_id']}:{result['revision']}",
        ),
    )


def can_be_visited(url: str, profile: SiteProfile) -> bool:
    """Whether the SEO monitor would take the page: it is on the site of the profile where that has an
    address, and not on this machine (`http://localhost/`, the default) unless the profile allows that."""
    from lead_coordinator.web.addresses import refusal

    parts = urlsplit(url)
    if profile.url is not None:
        site = urlsplit(profile.url)
        if (parts.scheme, parts.netloc.lower()) != (site.scheme, site.netloc.lower()):
            return False
    host = parts.hostname or ""
    if profile.seo.allow_private_addresses:
        return True
    is_number = host.replace(".", "").isdigit() or ":" in host
    return host != "localhost" and not host.endswith(".localhost") and not (is_number and refusal(host))


def _place(outcome: Outcome) -> dict[str, Any]:
    return {
        "state": outcome.state,
        "site": outcome.site,
        "slug": outcome.slug,
        "url": outcome.url,
        "publication_id": outcome.publication_id,
        "article_id": outcome.article_id,
        "revision": outcome.revision,
    }


def _sentence(outcome: Outcome, title: str) -> str:
    where = outcome.url if outcome.state == "published" else f"article {outcome.article_id}"
    return f"{title!r} is {outcome.state.replace('_', ' ')}: {where}"
