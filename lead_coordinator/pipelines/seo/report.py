"""What a run of the SEO monitor shows in Dagster: figures to plot, tables, and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lead_coordinator.pipelines.report import BatchReport
from lead_coordinator.pipelines.seo.rules import SEVERITIES

MAX_ROWS = 30
AUDIT_COLUMNS = {
    "site": "site",
    "site_score": "score",
    "previous_score": "before",
    "html_pages": "pages",
    "critical": "critical",
    "error": "errors",
    "warning": "warnings",
    "notice": "notices",
    "opened": "opened",
    "regressed": "came back",
    "fixed": "fixed",
}
FINDING_COLUMNS = {
    "severity": "severity",
    "rule": "rule",
    "url": "page",
    "about": "what is wrong",
    "evidence": "evidence",
}


def figures(report: BatchReport) -> dict[str, int | float]:
    """Totals of the batch's finished audits."""
    done = [result for result in report.results if result.get("finished")]
    findings: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    for result in done:
        findings.update(result.get("findings", {}))
        changes.update(result.get("changes", {}))
    made: dict[str, int | float] = {
        "audits_finished": len(done),
        "slices_handed_on": len(report.results) - len(done),
        "pages_audited": sum(int(result.get("html_pages", 0)) for result in done),
        **{f"findings_{severity}": findings[severity] for severity in SEVERITIES},
        **{f"findings_{name}": changes[name] for name in ("opened", "regressed", "still", "fixed")},
        "fix_tasks": sum(int(result.get("fix_tasks", 0)) for result in done),
    }
    scores = [result["site_score"] for result in done if result.get("site_score") is not None]
    if scores:
        made["site_score_mean"] = round(sum(scores) / len(scores), 1)
    return made


def metadata(report: BatchReport) -> Mapping[str, Any]:
    """The asset's metadata: the batch's figures, a table of audits, the gravest findings, two pictures."""
    from lead_coordinator import pictures
    from lead_coordinator.metadata import markdown_table

    done = [result for result in report.results if result.get("finished")]
    shown: dict[str, Any] = {**report.metadata(), **figures(report)}
    if not done:
        return shown
    audits = [
        {**result, **result.get("findings", {}), **result.get("changes", {})} for result in done[:MAX_ROWS]
    ]
    gravest = [row for result in done for row in result.get("gravest", ())]
    gravest.sort(key=lambda row: SEVERITIES.index(row["severity"]))
    shown["audits"] = markdown_table(audits, AUDIT_COLUMNS)
    shown["gravest_findings"] = markdown_table(gravest[:MAX_ROWS], FINDING_COLUMNS)
    worst = [
        {"page": url, "score": score} for result in done for url, score in result.get("worst_pages", ())[:10]
    ]
    shown["worst_pages"] = markdown_table(
        sorted(worst, key=lambda row: row["score"])[:MAX_ROWS], {"page": "page", "score": "score"}
    )
    rules: Counter[str] = Counter()
    for result in done:
        rules.update(result.get("rules", {}))
    by_rule = pictures.bar("Findings by rule", dict(rules.most_common(12)), "findings")
    shown["findings_by_rule"] = pictures.metadata("Findings by rule", by_rule)
    scores = {result["site"]: result["site_score"] for result in done if result.get("site_score") is not None}
    shown["site_scores"] = pictures.metadata("Site scores", pictures.bar("Site scores", scores, "0 to 100"))
    return shown
