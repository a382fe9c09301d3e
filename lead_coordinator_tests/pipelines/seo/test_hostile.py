"""What strangers' sites do to an audit: each ends in findings, bounded in pages and memory."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from lead_coordinator.pipelines.seo.findings import finding_row
from lead_coordinator.pipelines.seo.settings import SeoSettings
from lead_coordinator_tests.pipelines.seo.material import LOCAL, audited, by_path
from lead_coordinator_tests.web.cases import Case, Peak, cases, serve
from lead_coordinator_tests.web.server import WireServer

CASES = cases("seo")


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_what_strangers_sites_do(case: Case) -> None:
    settings = SeoSettings(**(LOCAL.model_dump() | (case.settings or {})))
    limit = settings.max_pages
    async with WireServer().running() as server:
        serve(case, server)
        with Peak() as peak:
            evaluation, frontier = await audited(server.url + "/", settings, most_pages=limit)
    visited = [page for page in frontier.pages.values() if page.kind == "page"]
    assert len(visited) <= case.expect["most_pages"], case.about
    expected = {(path, rule) for path, rule in case.expect["findings"]}
    assert expected <= by_path(evaluation), f"{case.about}: {sorted(by_path(evaluation))}"
    for finding in evaluation.findings:
        assert len(str(finding_row(finding))) < 8000, "evidence is small enough for a row"
        assert urlsplit(finding.url).netloc == urlsplit(server.url).netloc
    assert {urlsplit(page.url).hostname for page in visited} == {"127.0.0.1"}
    assert peak.mb < case.most_mb, f"{case.about}: {peak.mb:.0f} MB"
