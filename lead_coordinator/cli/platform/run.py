"""The whole platform, part by part: what `up` and `demo` run.

Order of a start: settings and ports are looked at; LEAD_HOME is claimed and cleared of leftovers; the
database (embedded or external) answers; `sql/` is deployed; the sandbox provider starts; Dagster's tables are
there; webserver and daemon start; the UI answers and the daemon beats. Order of a stop: Dagster and its runs,
sandbox, PostgreSQL.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil

from lead_coordinator.cli.platform import dagster_home
from lead_coordinator.cli.platform.baseline import BaselineReporter
from lead_coordinator.cli.platform.checks import check_database, check_home, check_ports
from lead_coordinator.cli.platform.environment import CODE_HOST, child_environment, told
from lead_coordinator.cli.platform.home import Runtime, write_runtime
from lead_coordinator.cli.platform.logs import Terminal
from lead_coordinator.cli.platform.processes import CODE_SERVER, marked_processes, postgres_processes
from lead_coordinator.cli.platform.supervisor import StartFailed, StopRequested, Supervisor
from lead_coordinator.cli.platform.web import answers, free_port, graphql, listens, web_url
from lead_coordinator.database.connection import Database
from lead_coordinator.database.deploy import DeployReport, deploy, prepare_dagster_storage
from lead_coordinator.database.embedded import EmbeddedServer
from lead_coordinator.errors import DatabaseError
from lead_coordinator.settings import Settings

START_SECONDS = 120.0
_LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries {
  name locationOrLoadError { __typename ... on PythonError { message } } } } } }"""


def describe(report: DeployReport) -> list[str]:
    """What a deployment did, a sentence a line."""
    lines = [
        f"control plane {report.version} is deployed to PostgreSQL {report.server_version}"
        f" ({report.seconds:.1f} s)"
    ]
    return lines + [str(difference) for difference in report.differing]


class Platform:
    """One running platform. Use as `with platform.supervisor.signals(): platform.start() … platform.stop()`;
    `stop` must follow `start` in any case, also one that failed."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        terminal: Terminal,
        parent_pid: int | None = None,
    ) -> None:
        self.settings = settings
        self.terminal = terminal
        self.supervisor = Supervisor(settings.home, terminal)
        self.web_url = web_url(settings.web_host, settings.web_port)
        self.sandbox_url: str | None = None
        self.database_url = ""
        self.claimed = False
        self._environ = dict(environ)
        self._parent_pid = parent_pid
        self._server: EmbeddedServer | None = None
        self._database: Database | None = None
        self._told: dict[str, str] = {}
        self._server_failures = 0
        self._code_port = 0
        self._baseline = BaselineReporter(self.processes, terminal)

    # -- start

    def start(self) -> None:
        """Brings everything up. SettingsError, HomeInUse (nothing was touched), StartFailed, DatabaseError,
        StopRequested."""
        began = time.monotonic()
        check_home(self.settings)
        external = check_database(self.settings) if self.settings.database_url is not None else None
        self.supervisor.claim()
        self.claimed = True
        self._write_runtime("starting")
        check_ports(self.settings)  # after what an earlier start left behind has given its ports back
        self._start_database(external)
        self._check_stop()
        self._deploy()
        self._check_stop()
        self._start_sandbox()
        self._start_dagster()
        self._baseline.tend(self.database)  # before anybody hands work in: it decides how many runs fit
        self._write_runtime("running")
        self.terminal.say(
            "platform", f"the UI is at {self.web_url} (started in {time.monotonic() - began:.0f} s)"
        )

    def _check_stop(self) -> None:
        if self.supervisor.stopping.is_set():
            raise StopRequested

    def _start_database(self, external: str | None) -> None:
        if external is not None:
            assert self.settings.database_url is not None
            self.database_url = self.settings.database_url
            self.supervisor.start_guard(None)
            self.terminal.say("database", f"using your PostgreSQL {external}")
        else:
            self.supervisor.start_guard(self.settings.postgres_dir)
            log_file = self.settings.log_dir / "postgres.log"
            self._server = EmbeddedServer(self.settings.postgres_dir, log_file=log_file)
            self.database_url = self._server.start()
            self.terminal.say(
                "database", f"embedded PostgreSQL is up, its data is in {self.settings.postgres_dir}"
            )
        self._database = Database(self.database_url)

    def _deploy(self) -> None:
        for line in describe(deploy(self.database_url, self.settings)):
            self.terminal.say("database", line)

    def _start_sandbox(self) -> None:
        sandbox_port = self.settings.sandbox_port or free_port()
        if self.settings.use_sandbox:
            self.sandbox_url = f"http://127.0.0.1:{sandbox_port}"
        self._code_port = free_port(CODE_HOST)
        self._told = told(self.settings, self.database_url, self._code_port, self.sandbox_url)
        if self.sandbox_url is not None:
            command = dagster_home.sandbox_command(self.settings, sandbox_port)
            self.supervisor.start("sandbox", command, self.environment(), self.settings.home)

    def environment(self) -> dict[str, str]:
        """The environment of this platform's processes."""
        return child_environment(self._environ, self._told)

    def _start_dagster(self) -> None:
        """The code server first: who asks it too early shows its code as missing for a minute. And before
        it Dagster's tables: every process of Dagster makes what is missing, and two at once fail."""
        dagster_home.prepare_home(self.settings)
        start, folder = self.supervisor.start, self.settings.dagster_home
        if prepare_dagster_storage(self.database_url):
            self.terminal.say("database", "Dagster's tables are prepared (done once)")
        self._check_stop()
        start(CODE_SERVER, dagster_home.code_server_command(self._code_port), self.environment(), folder)
        wait_ready = self.supervisor.wait_ready
        wait_ready(CODE_SERVER, lambda: listens(CODE_HOST, self._code_port), START_SECONDS)
        start("daemon", dagster_home.daemon_command(), self.environment(), folder)
        start("webserver", dagster_home.webserver_command(self.settings), self.environment(), folder)
        if self.sandbox_url is not None:
            url = self.sandbox_url
            wait_ready("sandbox", lambda: answers(f"{url}/sandbox/stats"), START_SECONDS)
            latency = self.settings.sandbox_latency
            self.terminal.say("sandbox", f"the sandbox provider answers at {url} ({latency} latency)")
        wait_ready("webserver", lambda: answers(f"{self.web_url}/server_info"), START_SECONDS)
        self._check_locations()
        wait_ready("daemon", self._daemon_beats, START_SECONDS)

    def _check_locations(self) -> None:
        """The UI answers although the code behind it may not load: then say why, and don't pretend."""
        data = graphql(self.web_url, _LOCATIONS)
        entries = ((data or {}).get("workspaceOrError") or {}).get("locationEntries") or []
        for entry in entries:
            loaded = entry.get("locationOrLoadError") or {}
            if loaded.get("__typename") == "PythonError":
                reason = str(loaded.get("message", "")).strip().splitlines() or ["no reason given"]
                raise StartFailed(
                    f"the code location {entry['name']} doesn't load: {reason[0]};"
                    f" the log: {self.settings.log_dir / 'code-server.log'}"
                )

    def _daemon_beats(self) -> bool:
        """A heartbeat from this daemon: one written after it was started."""
        child = self.supervisor.children["daemon"]
        age = time.monotonic() - child.started_at
        assert self._database is not None
        row = self._database.row(
            "SELECT count(*) AS beats FROM dagster.daemon_heartbeats"
            " WHERE timestamp > (now() AT TIME ZONE 'UTC') - make_interval(secs => %s)",
            [age],
        )
        return row is not None and row["beats"] > 0

    # -- while it runs

    def tend(self) -> None:
        """One look after every part. Call it about twice a second. Raises when the embedded server can't be
        brought back."""
        if self._parent_pid is not None and os.getppid() != self._parent_pid:
            self.terminal.say("platform", "the process that started us has gone: stopping")
            self.supervisor.stopping.set()
            return
        restarts = self._restarts()
        self.supervisor.tend()
        self._tend_server()
        if self._restarts() != restarts:
            self._write_runtime("running")
        if self._database is not None and not self.supervisor.stopping.is_set():
            self._baseline.tend(self._database)

    def _restarts(self) -> int:
        return sum(child.restarts for child in self.supervisor.children.values())

    def _tend_server(self) -> None:
        if self._server is None or self._server.pid is not None or self.supervisor.stopping.is_set():
            return
        self.terminal.say("database", "embedded PostgreSQL has ended; starting it again")
        try:
            self._server.stop()  # gives up what is left of it
            self._server.start()
            self._server_failures = 0
            self.terminal.say("database", "embedded PostgreSQL is up again")
        except DatabaseError:
            self._server_failures += 1
            if self._server_failures >= 3:
                raise

    def processes(self) -> list[psutil.Process]:
        """Every process of the platform: this one, its parts and all they started, PostgreSQL with its
        backends."""
        mine = [psutil.Process(), *marked_processes(lambda mark: mark == self.supervisor.platform_id)]
        return mine + (postgres_processes(self.settings.postgres_dir) if self._server is not None else [])

    def _write_runtime(self, state: Literal["starting", "running", "stopping"]) -> None:
        me = psutil.Process()
        children = self.supervisor.children
        write_runtime(
            self.settings.home,
            Runtime(
                pid=me.pid,
                pid_started_at=me.create_time(),
                platform_id=self.supervisor.platform_id,
                database_url=self.database_url,
                database="external" if self.settings.database_url else "embedded",
                web_url=self.web_url,
                dagster_home=str(self.settings.dagster_home),
                environment=self._told,
                sandbox_url=self.sandbox_url,
                parts={part: child.pid for part, child in children.items() if child.pid is not None},
                state=state,
                parent_pid=self._parent_pid,
            ),
        )

    # -- stop

    def stop(self) -> None:
        """Stops every process it started, PostgreSQL last. Does nothing when LEAD_HOME was never claimed."""
        if not self.claimed:
            return
        if self._database is None and self._server is None:  # nothing was started yet
            self.supervisor.release()
            return
        began = time.monotonic()
        self.supervisor.stopping.set()
        self._write_runtime("stopping")
        reason = f" ({self.supervisor.stop_reason})" if self.supervisor.stop_reason else ""
        self.terminal.say("platform", f"stopping{reason} …")
        self.terminal.stopping = True
        # Whatever goes wrong with one, the next is stopped all the same.
        with contextlib.ExitStack() as steps:
            steps.callback(self.supervisor.release)
            if self._server is not None:
                steps.callback(self._server.stop)
            if self._database is not None:
                steps.callback(self._database.close)
            steps.callback(self.supervisor.stop)
        self.terminal.say(
            "platform", f"stopped after {time.monotonic() - began:.1f} s; nothing is left running"
        )

    @property
    def database(self) -> Database:
        assert self._database is not None, "the platform isn't started"
        return self._database

    @property
    def embedded(self) -> bool:
        """Whether the database is our own server."""
        return self._server is not None

    @property
    def site_dir(self) -> Path:
        return self.settings.site_dir
