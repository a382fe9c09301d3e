"""A real platform under test: `lead-coordinator up` in a process of its own, over a LEAD_HOME of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from lead_coordinator.cli.platform.environment import importable
from lead_coordinator.cli.platform.home import Runtime, read_runtime
from lead_coordinator.cli.platform.processes import home_fingerprint, marked_processes, postgres_processes
from lead_coordinator.cli.platform.web import free_port, get_json, graphql
from lead_coordinator.database.connection import Database
from lead_coordinator.providers.sandbox.admin import SandboxAdmin
from lead_coordinator_tests.cli.waiting import eventually

START_SECONDS = 150.0
COMMAND = (sys.executable, "-m", "lead_coordinator.cli")
PARENT = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
# Whatever the caller's environment says about a platform is not about this one.
FOREIGN = ("DATABASE_URL", "LEAD_", "SUPABASE_", "GEMINI_", "OPENAI_", "SANDBOX_", "DAGSTER_", "SLACK_")


class PlatformUnderTest:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.output = home.with_suffix(".out")
        self.process: subprocess.Popen[bytes] | None = None
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self.environ = importable({**inherited, "LEAD_HOME": str(home), "LEAD_WEB_PORT": str(free_port())})

    # -- life

    def start(self, follow_parent: bool = False) -> None:
        """Starts it and waits until it says that it runs.

        `follow_parent`: by way of a process that does nothing but wait for it, as make does; that one is then
        `process`.
        """
        command = [*COMMAND, "up"]
        if follow_parent:
            command = [sys.executable, "-c", PARENT, *command, "--follow-parent"]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(command, env=self.environ, stdout=output, stderr=output)

        def running() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                pytest.fail(f"`up` ended with {self.process.returncode} while starting:\n{self.said()}")
            runtime = read_runtime(self.home)
            started = runtime is not None and self.process.pid in (runtime.pid, runtime.parent_pid)
            return started and runtime is not None and runtime.state == "running"

        eventually(running, lambda: f"the platform runs; it said:\n{self.said()}", START_SECONDS)

    def kill(self) -> None:
        """What the kernel does when memory runs out: no chance to clean up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=10)

    def interrupt(self) -> int:
        """Ctrl-C; answers the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.interrupt()
        if (runtime := read_runtime(self.home)) is not None:  # a test failed while `up` followed a parent
            psutil.Process(runtime.pid).kill()

    def said(self) -> str:
        return self.output.read_text(errors="replace")[-4000:]

    # -- looking at it

    @property
    def runtime(self) -> Runtime:
        runtime = read_runtime(self.home)
        assert runtime is not None, f"no platform runs; it said:\n{self.said()}"
        return runtime

    @property
    def db(self) -> Database:
        return Database(self.runtime.database_url)

    @property
    def sandbox(self) -> SandboxAdmin:
        assert self.runtime.sandbox_url is not None
        return SandboxAdmin(self.runtime.sandbox_url)

    def processes(self) -> list[psutil.Process]:
        """Everything that belongs to this LEAD_HOME except `up` itself."""
        marked = marked_processes(lambda mark: mark.startswith(home_fingerprint(self.home)))
        return marked + postgres_processes(self.home / "postgres")

    def pipeline_runs(self) -> list[psutil.Process]:
        """The processes that work a batch: Dagster's default launcher spawns one a run."""
        return [
            process
            for process in self.processes()
            if "--multiprocessing-fork" in _command(process)
            and any("spawn_main" in part for part in _command(process))
        ]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`lead-coordinator …` as a person on this machine would say it."""
        done = subprocess.run(
            [*COMMAND, *arguments], env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )
        if check:
            assert done.returncode == 0, (
                f"`lead-coordinator {' '.join(arguments)}`: {done.stdout}{done.stderr}"
            )
        return done

    def run_json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def submit_topics(self, name: str, count: int) -> list[int]:
        """Submits a file of `count` topics; answers their task ids."""
        file = self.home.with_name(f"{name}.jsonl")
        file.write_text(
            "".join(json.dumps({"title": f"{name} number {n}", "keyword": name}) + "\n" for n in range(count))
        )
        answer = self.run_json("submit", str(file))
        assert answer["submitted"] == count
        return [task["task_id"] for task in answer["tasks"]]

    def graphql(self, query: str) -> Any:
        return graphql(self.runtime.web_url, query)

    def server_info(self) -> Any:
        return get_json(f"{self.runtime.web_url}/server_info")

    def statuses(self, task_ids: list[int]) -> dict[str, int]:
        with self.db as db:
            rows = db.rows(
                "SELECT status, count(*) AS n FROM lead.task WHERE id = ANY(%s) GROUP BY status", [task_ids]
            )
        return {row["status"]: row["n"] for row in rows}

    def publications(self, task_ids: list[int]) -> list[dict[str, Any]]:
        with self.db as db:
            return db.rows(
                "SELECT * FROM lead.publication WHERE task_id = ANY(%s) ORDER BY task_id", [task_ids]
            )

    def published_pages(self, task_ids: list[int]) -> dict[int, tuple[datetime, str, str]]:
        """Of the tasks whose article is on the site: task id to time, recorded hash and hash of the page."""
        articles = self.home / "site" / "articles"
        return {
            row["task_id"]: (
                row["published_at"],
                row["content_sha256"],
                hashlib.sha256((articles / f"{row['slug']}.html").read_bytes()).hexdigest(),
            )
            for row in self.publications(task_ids)
            if row["status"] == "published"
        }

    def wait_published(self, task_ids: list[int], seconds: float) -> None:
        """Until each of the tasks is completed; then each must be on the site exactly once."""
        eventually(
            lambda: self.statuses(task_ids) == {"completed": len(task_ids)},
            lambda: f"{len(task_ids)} tasks completed; now {self.statuses(task_ids)}",
            seconds,
            every=0.25,
        )
        published = self.publications(task_ids)
        assert [row["task_id"] for row in published] == sorted(task_ids), (
            "each task has exactly one publication"
        )
        assert {row["status"] for row in published} == {"published"}
        pages = {path.stem for path in (self.home / "site" / "articles").glob("*.html")}
        assert {row["slug"] for row in published} <= pages, "each publication has its page on the site"
        with self.db as db:
            every = db.rows("SELECT slug FROM lead.publication WHERE status = 'published'")
        assert pages == {row["slug"] for row in every}, (
            "the site holds nothing that the database doesn't know"
        )


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
