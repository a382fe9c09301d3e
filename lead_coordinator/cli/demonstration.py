"""The demo's course: the whole circle on the examples, from nothing to refreshed articles.

Start; serve the example site, the feeds and the articles on this machine; apply examples/site.yaml, from
which the coordinator makes standing work (a poll of the feeds, an audit); submit the topics; when the
articles are out, import their page metrics, from which it makes the ranking and the ranking the refreshes.
The demo itself submits the topics and nothing else. It asks for a decision where the next tick may be five
minutes away, which any process may.

It measures what the product promises: memory and connections of the whole platform (sampled twice a second),
executions at once (exact, from their start and end times), refusals by the sandbox (its own count), waiting,
cost. A demo on a LEAD_HOME that was used before goes on there: what was done already counts as done.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import psycopg

from lead_coordinator.cli import demo_examples as examples
from lead_coordinator.cli.demo_circle import (
    Circle,
    ended,
    judge_circle,
    looked_at,
    ranked,
    read_circle,
    standing,
)
from lead_coordinator.cli.demo_examples import ARTICLES_SITE, PLANTED_SITE, page_of
from lead_coordinator.cli.demo_report import Figures, judge, measure, result_table
from lead_coordinator.cli.demo_servers import Served, serve
from lead_coordinator.cli.demo_view import circle_view
from lead_coordinator.cli.demo_watch import UNFINISHED, DemoFailed, Peaks, Watch
from lead_coordinator.cli.platform.logs import Terminal
from lead_coordinator.cli.platform.run import Platform
from lead_coordinator.cli.submit import submit_rows
from lead_coordinator.database.control import orchestrate_workflow_execution
from lead_coordinator.database.revenue import import_page_metrics
from lead_coordinator.database.sites import get_site, set_site
from lead_coordinator.errors import DatabaseError, InvalidInput
from lead_coordinator.pipelines.content.topics import BadRow, TopicRow
from lead_coordinator.pipelines.profile import SiteProfile
from lead_coordinator.settings import Settings

WORKER_ID = "demo"
# Runs end within a second or two of their last task; a busy machine takes longer.
RUNS_END_SECONDS = 30.0


class Demonstration:
    """`own_topics`: the topics are somebody's own, so nothing is expected of the example metrics."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        rows: Sequence[TopicRow],
        bad: Sequence[BadRow] = (),
        *,
        own_topics: bool = False,
        parent_pid: int | None = None,
    ) -> None:
        self.rows = rows
        self.bad = bad
        self.places: dict[str, str] = {}
        self.own_topics = own_topics
        self.terminal = Terminal(sys.stdout, only=("platform", "database", "sandbox", "demo"))
        self.platform = Platform(settings, environ, self.terminal, parent_pid=parent_pid)
        self.supervisor = self.platform.supervisor
        self.watch = Watch(self.platform, None)

    def run(self) -> bool:
        """The whole demo up to the printed result. True when nothing of the circle is missing."""
        from rich.console import Console
        from rich.markup import escape

        console = self.watch.console = Console()
        self.platform.start()
        before = self._sandbox_stats()
        served = serve(self.platform)
        self._apply(served)
        self._find_topics()
        refused = self._write_articles()
        self._rank_and_refresh(served)
        self._let_runs_end()
        circle = read_circle(self.platform.database, self.watch.task_ids)
        figures = measure(self.platform.database, circle.written_by, self.watch.since, self.platform.site_dir)
        planted = examples.planted(self.places)
        verdict = judge(
            figures,
            len(self.rows) + len(circle.written_by) - len(self.watch.task_ids),
            [str(row) for row in refused],
            [str(row) for row in self.bad],
        ) + judge_circle(circle, planted, own_topics=self.own_topics)
        delta = sandbox_delta(before, self._sandbox_stats())
        took = time.monotonic() - self.watch.began
        for line in circle_view(circle, planted, self.platform.settings.home, self.platform.site_dir):
            console.print(line, soft_wrap=True)
        console.print()
        console.print(result_table(figures, self.watch.peaks, delta, self.platform, elapsed_seconds=took))
        for problem in verdict:
            console.print(
                f"[red]not as it should be:[/red] {escape(problem)}", highlight=False, soft_wrap=True
            )
        if not verdict:
            console.print(
                "The circle is closed: all of it was found, written, audited, ranked and refreshed.",
                soft_wrap=True,
            )
        return not verdict

    def stay(self) -> None:
        """Leaves the platform up until it is told to stop."""
        self.terminal.only = None
        self.terminal.say(
            "platform", f"the platform stays up: the UI is at {self.platform.web_url}; Ctrl-C stops it"
        )
        while not self.supervisor.stopping.wait(0.5):
            self.platform.tend()

    # -- the circle

    def _apply(self, served: Served) -> None:
        """examples/site.yaml, with the addresses at which it is served here."""
        self._set(examples.profiles(served.examples))
        self.terminal.say(
            "demo", f"examples/site.yaml is applied; the example site and its feeds are at {served.examples}/"
        )

    def _find_topics(self) -> None:
        """Before the topics are submitted: what our own articles cover is proposed no more."""
        self.watch.until(lambda: self._standing_ended("intelligence_engine"), "topics from the example feeds")

    def _write_articles(self) -> list[BadRow]:
        """Submits the file's topics and waits until each ended, and each that was found in the feeds."""
        taken, refused = submit_rows(self.platform.database, self.rows)
        self.watch.task_ids = [task.task_id for _, task in taken]
        new = sum(1 for _, task in taken if task.created)
        known = f", {len(taken) - new} known from an earlier run" if new < len(taken) else ""
        self.terminal.say("demo", f"{new} topics submitted{known}; watch them in the UI, or here")
        self.watch.until(
            lambda: self._ended("content_generation"), f"{len(taken)} articles and those that were found"
        )
        self.places = self._places({task.task_id: row for row, task in taken})
        return refused

    def _places(self, rows: Mapping[int, TopicRow]) -> dict[str, str]:
        """Page in the example metrics → page of the article that its topic became."""
        published = self.platform.database.rows(
            "SELECT task_id, slug FROM lead.publication WHERE task_id = ANY(%s)", [list(rows)]
        )
        pages = {examples.metrics_page(rows[one["task_id"]]): one["slug"] for one in published}
        return {page: page_of(slug) for page, slug in pages.items() if page is not None}

    def _rank_and_refresh(self, served: Served) -> None:
        """The articles are live: their site is audited too, and their page metrics are there."""
        if served.articles is not None:
            main = examples.profiles(served.examples)[0]
            self._set([SiteProfile.read(main.name, {**main.stored(), "url": f"{served.articles}/"})])
        db = self.platform.database
        files = examples.metrics(datetime.now(UTC).date(), self.places)
        imported = [import_page_metrics(db, ARTICLES_SITE, rows) for rows in files]
        new, known = sum(one.inserted for one in imported), sum(one.updated for one in imported)
        self.terminal.say(
            "demo",
            f"the example page metrics are imported, to yesterday: {new} rows new, {known} replaced",
        )
        self.watch.until(lambda: self._standing_ended("revenue_optimizer"), "the ranking")
        self.watch.until(lambda: ranked(db), "the refreshes")
        self.watch.until(lambda: looked_at(db, PLANTED_SITE), "the audit of the example site")
        if served.articles is not None:
            self.watch.until(lambda: looked_at(db, ARTICLES_SITE), "the audit of the articles' site")
        self.watch.until(lambda: self._ended(), "all that followed")

    def _set(self, wanted: Sequence[SiteProfile]) -> None:
        """Stores profiles, but never over a profile that isn't the demo's."""
        db = self.platform.database
        for one in wanted:
            known = get_site(db, one.name)
            if known is not None and not same_profile(known, one.stored()):
                raise InvalidInput(
                    f"site {one.name} has a profile that isn't the demo's, and the demo won't replace it; "
                    "run the demo on another LEAD_HOME (and without DATABASE_URL)"
                )
        for one in wanted:
            set_site(db, one.name, one.stored(), reason="demo")

    def _standing_ended(self, workflow_type: str) -> bool:
        """Whether the pipeline's standing work for the articles' site has ended.

        While there is none, asks for a decision, which submits it: with an empty queue the coordinator's own
        next one is the five-minute tick.
        """
        db = self.platform.database
        if standing(db, workflow_type, ARTICLES_SITE) is None:
            with suppress(DatabaseError, psycopg.Error):  # the tick makes the next
                orchestrate_workflow_execution(db, WORKER_ID)
        return ended(db, workflow_type, ARTICLES_SITE)

    def _ended(self, task_type: str | None = None) -> bool:
        """Whether this demo's tasks (of that type) have all ended."""
        counts = self.watch.counts()
        if not counts and self.watch.task_ids:
            return False  # the database didn't answer
        wanted = counts.values() if task_type is None else [counts.get(task_type, {})]
        return not any(one.get(state) for one in wanted for state in UNFINISHED)

    def _let_runs_end(self) -> None:
        """The last article is out a moment before its run ends: stopped now, it would count as failed."""
        deadline = time.monotonic() + RUNS_END_SECONDS
        while time.monotonic() < deadline and self._unfinished_runs():
            self.supervisor.pause(0.5)
            self.platform.tend()

    def _unfinished_runs(self) -> bool:
        try:
            row = self.platform.database.row(
                "SELECT 1 FROM dagster.runs WHERE status IN ('STARTING', 'STARTED', 'CANCELING') LIMIT 1"
            )
        except (DatabaseError, psycopg.Error):
            return False
        return row is not None

    def _sandbox_stats(self) -> dict[str, Any]:
        from lead_coordinator.cli.platform.web import get_json

        if self.platform.sandbox_url is None:
            return {}
        return get_json(f"{self.platform.sandbox_url}/sandbox/stats") or {}


def same_profile(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether both are the same but for the addresses of this machine, which differ from demo to demo, and
    the site's own, which the demo adds when there is something at it."""
    return bool(_without_addresses({**known, "url": None}) == _without_addresses({**wanted, "url": None}))


def _without_addresses(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_addresses(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_addresses(part) for part in value]
    if isinstance(value, str) and value.startswith("http://127.0.0.1:"):
        return value.removeprefix("http://127.0.0.1:").partition("/")[2]
    return value


def sandbox_delta(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """What the sandbox counted since the demo began, per provider: calls and requests over the limit."""
    providers = after.get("providers", after)
    earlier = before.get("providers", before)
    return {
        name: {key: stats.get(key, 0) - earlier.get(name, {}).get(key, 0) for key in ("calls", "refused_429")}
        for name, stats in providers.items()
        if isinstance(stats, dict) and "calls" in stats
    }


__all__ = ["Circle", "DemoFailed", "Demonstration", "Figures", "Peaks"]
