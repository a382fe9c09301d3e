"""Of a batch, the articles that were updated in place: what the asset `refreshed_articles` shows."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from lead_coordinator import tags
from lead_coordinator.pipelines.report import BatchReport

KINDS = ("fix", "refresh")


def further(report: BatchReport) -> dict[str, Mapping[str, Any]]:
    """Metadata of `refreshed_articles`; nothing where the batch updated no article.

    A result says by its `kind` (fix, refresh) that its task updated an article, and by its `state` that the
    update is out.
    """
    updated = [
        result
        for result in report.results
        if result.get("kind") in KINDS and result.get("state") == "published"
    ]
    if not updated:
        return {}
    from lead_coordinator.metadata import markdown_table
    from lead_coordinator.pipelines.content.report import link_text

    rows = [
        {
            "article": f"[{link_text(str(result['title']))}]({result['url']})",
            "why": result["kind"],
            "cost": result.get("cost_usd"),
        }
        for result in updated
    ]
    counts = {f"articles_{kind}": sum(row["why"] == kind for row in rows) for kind in KINDS}
    cost = sum((Decimal(result.get("cost_usd") or 0) for result in updated), Decimal(0))
    return {
        tags.REFRESHED_ARTICLES: {
            "articles_updated": len(rows),
            **counts,
            "spend_usd": float(cost),
            "articles": markdown_table(rows, {"article": "article", "why": "why", "cost": "cost (USD)"}),
        }
    }
