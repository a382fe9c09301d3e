"""The example site: every planted fault is found, and nothing is reported that isn't there."""

from __future__ import annotations

from pathlib import Path

import yaml

from lead_coordinator.pipelines.seo.rules import RULES
from lead_coordinator.web.serve import SiteServer
from lead_coordinator_tests.pipelines.seo.material import audited, by_path

EXAMPLES = Path(__file__).parents[3] / "examples"
# Browsers trust this machine without https, so no server here can have these faults; test_rules.py has them.
NOT_PLANTED = {"plain-http", "mixed-content", "hsts-missing"}


def planted() -> set[tuple[str, str]]:
    read = yaml.safe_load((EXAMPLES / "site-faults.yaml").read_text())
    return {(path, rule) for path, rules in read["faults"].items() for rule in rules}


def test_every_rule_is_planted() -> None:
    assert {rule for _, rule in planted()} == {rule.id for rule in RULES} - NOT_PLANTED


async def test_every_planted_fault_is_found_and_nothing_else() -> None:
    async with SiteServer(EXAMPLES / "site").running() as server:
        evaluation, _ = await audited(server.origin)
    found = by_path(evaluation)
    assert found - planted() == set(), "reported, and not there"
    assert planted() - found == set(), "planted, and not found"
    assert evaluation.site_score is not None
    assert 0 < evaluation.site_score < 100
