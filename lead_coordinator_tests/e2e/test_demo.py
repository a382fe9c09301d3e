"""`lead-coordinator demo --keep`, once, as a person runs it: the circle is closed, what it prints is what the
database says, and Ctrl-C leaves nothing running."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from lead_coordinator.cli.demo_examples import planted
from lead_coordinator.cli.platform.processes import end_processes
from lead_coordinator_tests.cli.waiting import eventually
from lead_coordinator_tests.e2e.platform import COMMAND, PlatformUnderTest

LIMIT_SECONDS = 600.0


@pytest.mark.e2e
@pytest.mark.timeout(LIMIT_SECONDS + 120)
def test_the_demo_goes_round_the_whole_circle_and_stops_without_a_trace() -> None:
    with tempfile.TemporaryDirectory(prefix="lead-e2e-") as folder:
        platform = PlatformUnderTest(Path(folder) / "home")
        try:
            go_round(platform)
        finally:
            platform.end()
            end_processes(platform.processes, 0.0)


def go_round(platform: PlatformUnderTest) -> None:
    with platform.output.open("ab") as output:
        platform.process = subprocess.Popen(
            [*COMMAND, "demo", "--keep"],
            env={**platform.environ, "COLUMNS": "200"},
            stdout=output,
            stderr=output,
        )
    demo = platform.process

    def told() -> bool:
        assert demo.poll() is None, f"the demo ended with {demo.returncode}:\n{platform.said()}"
        return "the platform stays up" in platform.output.read_text(errors="replace")

    eventually(told, lambda: f"the demo is through; it said:\n{platform.said()}", LIMIT_SECONDS, every=0.5)
    text = platform.output.read_text(errors="replace")
    assert "not as it should be" not in text, platform.said()
    assert "The circle is closed" in text
    expected = planted()
    with platform.db as db:
        (out,) = db.rows("SELECT count(*) AS n FROM lead.publication WHERE status = 'published'")
        findings = db.rows("SELECT url, rule FROM lead.seo_finding WHERE site = 'example-site'")
        refreshed = db.rows(
            "SELECT p.slug FROM lead.article AS a INNER JOIN lead.publication AS p ON p.id = a.publication_id"
            " WHERE a.state = 'current' AND a.revision > 1"
        )
        submitted = db.rows(
            "SELECT task_type, count(*) AS n FROM lead.task WHERE payload ? 'standing' GROUP BY task_type"
        )
        dead = db.rows("SELECT task_id, error_message FROM lead.dead_letter")
    assert dead == []
    assert f"Articles published: {out['n']}," in text
    assert f"planted faults found: {len(expected.faults)} of {len(expected.faults)}," in text
    assert len(findings) == len(expected.faults)
    slugs = sorted(row["slug"] for row in refreshed)
    decaying = sorted(page.removeprefix("/articles/") for page in expected.refresh)
    assert len(slugs) == len(decaying)
    assert all(page.startswith(slug) for slug, page in zip(slugs, decaying, strict=True)), (
        "those that decay, and no other; the model has shortened their addresses"
    )
    assert {row["task_type"] for row in submitted} == {
        "intelligence_analysis",
        "seo_analysis",
        "revenue_optimization",
    }, "the coordinator submitted these itself"
    pages = {path.stem for path in (platform.home / "site" / "articles").glob("*.html")}
    assert len(pages) == out["n"], "each article is a page, and an update makes no second one"

    demo.send_signal(signal.SIGINT)
    assert demo.wait(timeout=60) == 0
    assert platform.processes() == []
