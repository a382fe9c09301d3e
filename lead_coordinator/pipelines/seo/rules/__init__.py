"""The rules, grouped by subject."""

from lead_coordinator.pipelines.seo.rules import (
    access,
    addresses,
    content,
    head,
    images,
    languages,
    links,
    security,
    speed,
    structured,
)
from lead_coordinator.pipelines.seo.rules.base import SEVERITIES, Evidence, Rule, Severity, View

RULES: tuple[Rule, ...] = tuple(
    rule
    for group in (
        access.RULES,
        addresses.RULES,
        languages.RULES,
        head.RULES,
        content.RULES,
        links.RULES,
        images.RULES,
        structured.RULES,
        speed.RULES,
        security.RULES,
    )
    for rule in group.rules
)
BY_ID = {rule.id: rule for rule in RULES}

__all__ = ["BY_ID", "RULES", "SEVERITIES", "Evidence", "Rule", "Severity", "View"]
