"""What a task of the SEO monitor leaves: small, JSON-able, with the worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lead_coordinator.database.seo import StoredAudit
from lead_coordinator.pipelines.seo.evaluate import Evaluation, Finding
from lead_coordinator.pipelines.seo.findings import bounded
from lead_coordinator.pipelines.seo.rules import BY_ID, SEVERITIES

MAX_WORST = 20
MAX_SHOWN = 40
_SHOWN_EVIDENCE = 300


def unfinished(site: str, audit: StoredAudit, visited: int, number: int) -> dict[str, Any]:
    """A slice that handed on."""
    return {
        "site": site,
        "audit_id": audit.audit_id,
        "finished": False,
        "slice": number,
        "visited": visited,
        "waiting": audit.waiting,
    }


def finished(
    site: str,
    audit: StoredAudit,
    changes: Mapping[str, Any],
    evaluation: Evaluation | None = None,
    *,
    fixes: int = 0,
) -> dict[str, Any]:
    """An audit's outcome: scores, counts, what changed, the worst pages and the gravest findings."""
    result: dict[str, Any] = {
        "site": site,
        "audit_id": audit.audit_id,
        "finished": True,
        "scope": audit.scope,
        "complete": audit.complete,
        "site_score": None if audit.site_score is None else float(audit.site_score),
        "previous_score": changes.get("previous_score"),
        **audit.summary,
        "changes": {name: changes.get(name, 0) for name in ("opened", "regressed", "still", "fixed")},
        "fix_tasks": fixes,
    }
    if evaluation is not None:
        if evaluation.reason:
            result["reason"] = evaluation.reason
        worst = sorted(evaluation.scores.items(), key=lambda item: (item[1], item[0]))[:MAX_WORST]
        result["worst_pages"] = [[url[:300], score] for url, score in worst if score < 100]
        result["gravest"] = [_shown(finding) for finding in _gravest(evaluation.findings)[:MAX_SHOWN]]
    return result


def sentence(result: Mapping[str, Any]) -> str:
    """The outcome for a log."""
    counts = ", ".join(f"{result['findings'][severity]} {severity}" for severity in SEVERITIES)
    changes = ", ".join(f"{count} {name}" for name, count in result["changes"].items())
    score = f"score {result['site_score']:.1f}" if result["site_score"] is not None else "no score"
    if "reason" in result:
        score = f"no page could be read ({result['reason']})"
    return f"{result['site']}: {result['html_pages']} pages, {score}; {counts}; {changes}"


def _gravest(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), one.url, one.rule))


def _shown(finding: Finding) -> dict[str, Any]:
    return {
        "url": finding.url[:300],
        "rule": finding.rule,
        "severity": finding.severity,
        "about": BY_ID[finding.rule].about,
        "evidence": str(bounded(finding.evidence))[:_SHOWN_EVIDENCE],
    }
