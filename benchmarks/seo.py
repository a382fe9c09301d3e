"""The SEO monitor: a site of 100 pages audited from a local server, and one of 2,000 in slices that resume.

    python -m benchmarks.seo [--pages 100] [--large 2000] [--slice-seconds 6] [--record]

Each is what a run of `seo_monitor_job` does for its tasks, without Dagster: the task is submitted, the
coordinator reserves an execution, the batch crawls, parses, checks every rule, and writes pages and findings
to the embedded PostgreSQL. The pages come from a process of their own. Of the large site every slice is a run
by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import machine, paragraph, table, write_section
from benchmarks.server import create_database, deploy_control_plane, drop_database, embedded_server
from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.executions import Lease, start_execution
from lead_coordinator.database.sites import list_sites, set_site
from lead_coordinator.pipelines.batch import run_batch
from lead_coordinator.pipelines.profile import SiteProfiles
from lead_coordinator.pipelines.seo.handler import SeoHandler
from lead_coordinator.settings import Settings

TARGET_SECONDS = 20.0
WORDS = 600
LINKS = 30


@dataclass(frozen=True)
class Audited:
    """`seconds` from the first slice's start to the last one's end; `slices`: seconds of each."""

    pages: int
    findings: int
    seconds: float
    cpu_seconds: float
    slices: tuple[float, ...]
    peak_mb: float


def write_site(folder: Path, pages: int) -> None:
    """Pages of 600 words and thirty links, each reached from the home page in a few clicks, and a sitemap."""
    chance = random.Random(1)
    words = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in ("an", "el", "or", "ist", "u") for c in "aeiknrst"]
    for number in range(pages):
        links = {number // 10, (number * 7 + 1) % pages, (number + 1) % pages}
        links |= {10 * number + n for n in range(10) if 10 * number + n < pages}
        links |= set(chance.sample(range(pages), min(LINKS, pages) // 2))
        text = " ".join(chance.choice(words) for _ in range(WORDS))
        anchors = " ".join(f'<a href="{_path(one)}">the notes of page {one}</a>' for one in sorted(links))
        head = (
            f'<meta charset="utf-8"><title>Notes of page {number} of the garden</title>'
            f'<meta name="description" content="What page {number} says about the garden, at some length, '
            f'and what there is to see on it."><meta name="viewport" content="width=device-width">'
            f'<link rel="canonical" href="{{{{origin}}}}{_path(number)}">'
        )
        body = f"<main><h1>Page {number}</h1><p>{text}</p><p>{anchors}</p></main>"
        name = f"page-{number}.html" if number else "index.html"
        html = f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'
        (folder / name).write_text(html)
    urls = "".join(f"<url><loc>{{{{origin}}}}{_path(one)}</loc></url>" for one in range(pages))
    (folder / "sitemap.xml").write_text(f"<urlset>{urls}</urlset>")


def _path(number: int) -> str:
    return f"/page-{number}" if number else "/"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A process that serves the folder; its address."""
    command = [sys.executable, "-m", "lead_coordinator.web.serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().rpartition(" ")[2].strip()
    finally:
        process.terminate()
        process.wait(10)


class NoModel:
    """The SEO monitor calls none."""

    async def call(self, task_id: int, request: Any) -> Any:
        raise AssertionError("the SEO monitor called a model")

    @asynccontextmanager
    async def open(self, db: AsyncDatabase, lease: Lease) -> AsyncIterator[NoModel]:
        yield self


async def audit(url: str, address: str, pages: int, slice_seconds: float) -> Audited:
    """A site's first audit, run by run."""
    slices = []
    with Database(url) as db:
        db.execute(
            "UPDATE lead.workflow_policy SET enabled = workflow_type = 'seo_monitor', disabled_reason = NULL"
        )
        seo = {"allow_private_addresses": True, "concurrency": 8, "slice_seconds": slice_seconds}
        set_site(db, "bench", {"url": address, "seo": seo | {"max_pages": pages + 10}})
        db.execute("INSERT INTO lead.standing_task VALUES ('seo_monitor', 'bench', 0, now())")
        db.call("submit_task", task_type="seo_analysis", payload={"site": "bench"})
        profiles = SiteProfiles(list_sites(db))
    began, cpu = time.perf_counter(), time.process_time()
    async with AsyncDatabase(url) as async_db:
        while True:
            await async_db.call("orchestrate_workflow_execution", worker_id="bench")
            offered = await async_db.call_rows("launchable_executions")
            first = offered[0]
            execution = await start_execution(
                async_db, first["execution_id"], first["launch_number"], f"run-{len(slices)}"
            )
            begun = time.perf_counter()
            report = await run_batch(
                async_db,
                NoModel().open,
                execution,
                SeoHandler(),
                settings=Settings.load({}),
                profiles=profiles,
            )
            slices.append(time.perf_counter() - begun)
            assert not report.failures, report.failures
            (result,) = report.results
            if result["finished"]:
                break
    assert result["html_pages"] == pages, f"{result['html_pages']} of {pages} pages audited"
    with Database(url) as db:
        visited = db.row("SELECT count(*) AS n FROM lead.seo_page WHERE kind = 'page' AND facts IS NOT NULL")
        assert visited is not None
        assert visited["n"] == pages
    return Audited(
        pages=pages,
        findings=sum(result["findings"].values()),
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
        slices=tuple(slices),
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def measure(pages: int, slice_seconds: float) -> tuple[Audited, str]:
    with tempfile.TemporaryDirectory(prefix="lc-bench-seo-") as folder, embedded_server() as server:
        write_site(Path(folder), pages)
        url = create_database(server, "seo")
        deploy_control_plane(url)
        with served(Path(folder)) as address:
            found = asyncio.run(audit(url, address, pages, slice_seconds))
        with Database(url) as db:
            row = db.row("SHOW server_version")
        drop_database(server, "seo")
        assert row is not None
        return found, str(row["server_version"]).split()[0]


def described(results: list[Audited], postgresql: str) -> str:
    rows = [
        ("pages", "seconds", "pages a second", "CPU seconds", "slices (seconds)", "findings", "peak memory")
    ]
    for one in results:
        slices = ", ".join(f"{seconds:.1f}" for seconds in one.slices)
        rows.append(
            (
                f"{one.pages:,}",
                f"{one.seconds:.1f}",
                f"{one.pages / one.seconds:.0f}",
                f"{one.cpu_seconds:.1f}",
                f"{len(one.slices)} ({slices})",
                f"{one.findings:,}",
                f"{one.peak_mb:.0f} MB",
            )
        )
    text = paragraph(
        f"{machine(postgresql)} Pages of {WORDS} words from a local server, eight requests at once, every",
        "rule, pages and findings in PostgreSQL; 100 pages are wanted in under 20 s. Of the large site each",
        "slice is a run of its own that goes on where the last one stopped, and no page is visited twice.",
        "`python -m benchmarks.seo --record`.",
    )
    return f"## The SEO monitor\n\n{text}\n\n{table(*rows)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--large", type=int, default=2000, help="pages of the large site; 0: without it")
    parser.add_argument("--slice-seconds", type=float, default=6.0, help="of the large site's slices")
    parser.add_argument("--record", action="store_true", help="write the section of RESULTS.md")
    given = parser.parse_args()
    small, postgresql = measure(given.pages, 100.0)
    results = [small]
    if given.large:
        large, _ = measure(given.large, given.slice_seconds)
        results.append(large)
    text = described(results, postgresql)
    print(text)
    if given.record:
        write_section("SEO monitor", text)
    return 0 if small.seconds < TARGET_SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())
