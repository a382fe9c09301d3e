"""A throw-away server as the platform runs it (fsync on), fresh databases on it, and a watch on its time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
import psycopg
from psycopg import sql

from lead_coordinator.database.deploy import deploy
from lead_coordinator.database.embedded import ROLE, EmbeddedServer
from lead_coordinator.database.urls import with_database
from lead_coordinator.settings import Settings


@contextmanager
def embedded_server(configuration: Mapping[str, str] | None = None) -> Iterator[EmbeddedServer]:
    """A server with the platform's own settings, with `configuration` over them; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="lc-bench-") as folder:
        Path(folder).chmod(0o755)  # the server gives up root, and must still come in
        with EmbeddedServer(Path(folder) / "d", configuration=configuration) as server:
            yield server


def create_database(server: EmbeddedServer, name: str, template: str | None = None) -> str:
    """Makes a database that the platform's role owns, empty or as a copy of another; answers its address.

    A copy is one of files, so that it lies on disk just as its template does, and a checkpoint has passed.
    """
    statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(ROLE))
    if template is not None:
        statement += sql.SQL(" TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(template))
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        connection.execute(statement)
    return with_database(server.url, name)


def drop_database(server: EmbeddedServer, name: str) -> None:
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def deploy_control_plane(url: str, **settings: str) -> None:
    """The control plane with the settings that it has by default, and these over them."""
    deploy(url, Settings.load({}))
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in settings.items():
            connection.execute("UPDATE lead.setting SET value = %s WHERE name = %s", [value, name])


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes have had so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


@dataclass
class Stopwatch:
    """Wall time, and processor time of the server's processes `pids`, over a `with` block, both in seconds.

    A processor's time is counted in ticks of 10 ms. What takes less than ten of them says little.
    """

    pids: tuple[int, ...]
    wall_seconds: float = 0.0
    server_cpu_seconds: float = 0.0
    _began: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def __enter__(self) -> Self:
        self._began = (time.perf_counter(), cpu_seconds(self.pids))
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_seconds = time.perf_counter() - self._began[0]
        self.server_cpu_seconds = cpu_seconds(self.pids) - self._began[1]
