"""A database of a race's own: an embedded server, deployed from `sql/`, gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lead_coordinator.database.connection import Database
from lead_coordinator.database.deploy import deploy
from lead_coordinator.database.embedded import EmbeddedServer
from lead_coordinator.settings import Settings


@contextmanager
def race_database() -> Iterator[str]:
    """Its address; it is a scratch database, so that tests may move its clock."""
    folder = Path(tempfile.mkdtemp(prefix="lc-pg-"))  # short: a socket's path has 107 bytes
    server = EmbeddedServer(
        folder / "d", durable=False, configuration={"max_connections": "100", "deadlock_timeout": "'500ms'"}
    )
    try:
        url = server.start()
        deploy(url, Settings.load({}))
        with Database(url) as db:
            db.execute("UPDATE lead.setting SET value = 'true' WHERE name = 'scratch_database'")
        yield url
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
