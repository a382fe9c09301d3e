"""Findings as rows, and the tasks that mend what is critical.

A finding's life (opened, still there, fixed, regressed) is decided where two audits of a site could race for
it: in the SQL function `finish_seo_audit`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from lead_coordinator.database.queue import NewTask
from lead_coordinator.pipelines.seo.evaluate import Evaluation, Finding, how_to_fix
from lead_coordinator.pipelines.seo.rules import SEVERITIES

MAX_EVIDENCE = 4000
MAX_TEXT = 300
MAX_FIXES = 50


def finding_row(finding: Finding) -> dict[str, Any]:
    """The finding as the database keeps it; its evidence cut to a few kilobytes."""
    return {
        "url": finding.url,
        "rule": finding.rule,
        "severity": finding.severity,
        "evidence": bounded(finding.evidence),
    }


def bounded(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Evidence with long texts cut; where it is still too much, its samples go one by one."""
    made: dict[str, Any] = _cut(dict(evidence))
    while len(json.dumps(made)) > MAX_EVIDENCE and made.get("samples"):
        made["samples"] = made["samples"][:-1]
    return made if len(json.dumps(made)) <= MAX_EVIDENCE else {"count": made.get("count", 1)}


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        # What PostgreSQL can't keep in a jsonb.
        text = value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
    if isinstance(value, Mapping):
        return {_cut(str(key)): _cut(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(one) for one in value]
    return value


def counts(evaluation: Evaluation) -> dict[str, Any]:
    """Findings by severity and the rules that found most, for the audit's row and the task's result."""
    by_severity = Counter(finding.severity for finding in evaluation.findings)
    by_rule = Counter(finding.rule for finding in evaluation.findings)
    return {
        "findings": {severity: by_severity.get(severity, 0) for severity in SEVERITIES},
        "rules": dict(by_rule.most_common(20)),
    }


def fix_tasks(
    site: str,
    new_critical: Iterable[Mapping[str, Any]],
    articles: Mapping[str, str],
    evaluation: Evaluation,
) -> Sequence[NewTask]:
    """A content task for each critical finding that opened now on one of our articles (`articles`: their
    addresses and slugs), where publishing it anew can mend it. The others a person reads of in the report.
    """
    mendable = {(one.url, one.rule) for one in evaluation.findings if _is_mendable(one)}
    tasks = []
    for finding in new_critical:
        slug = articles.get(_plain(str(finding["url"])))
        if slug is None or (finding["url"], finding["rule"]) not in mendable:
            continue
        rule = str(finding["rule"])
        fix = {
            "url": finding["url"],
            "slug": slug,
            "finding_id": finding["finding_id"],
            "rule": rule,
            "how_to_fix": how_to_fix(rule),
        }
        key = f"fix:{site}:{finding['finding_id']}:{finding['times_opened']}"
        tasks.append(NewTask("content_generation", {"fix": fix, "site": site}, idempotency_key=key))
        if len(tasks) == MAX_FIXES:
            break
    return tasks


def _is_mendable(finding: Finding) -> bool:
    """Whether writing and publishing the article anew can help: not against a server that is down, a loop, or
    a rule in robots.txt."""
    if finding.rule == "http-status":
        return finding.evidence.get("status") in (404, 410)
    return finding.rule not in ("redirect-loop", "robots-blocked")


def article_slugs(published: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Slugs by address, of (address, slug)."""
    return {_plain(url): slug for url, slug in published}


def _plain(url: str) -> str:
    """An address without scheme and trailing slash: where an article lies, however it is linked to."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path.rstrip('/').removesuffix('/index.html')}"
