"""Deploying the control plane: the four files of `sql/`, through the driver, in one transaction.

Invariants
- All or nothing: an error leaves the database as it was, and names file and line.
- One at a time: `sql/` takes the same advisory lock under psql.
- Never in the way: a statement that would have to wait for a lock while claims queue behind it gives up after
  `LOCK_PATIENCE`, everything is rolled back, and the whole is tried again. The files themselves change only
  what isn't right already, so deploying to a live database is safe, and deploying twice changes nothing.
- Forward only: an older deployment is brought forward in the same transaction, and an older version is
  refused over a newer one, by the files themselves (so by psql too).
- Settings from the environment seed rows that are missing; rows that exist win (`DeployReport.differing`).
- A dry run applies everything in a transaction that it rolls back, and answers what changed meanwhile. It
  holds the locks that the deployment would, for as long.

Dagster's own tables live in the schema `dagster` of the same database and are made, or brought forward, by
Dagster's code (`prepare_dagster_storage`), once, before its processes start: together on an empty database
they would race.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import psycopg
from psycopg import sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from lead_coordinator import __version__
from lead_coordinator.database.connection import Database, connect, dagster_url, mask_url
from lead_coordinator.database.control import Difference, configure_platform, configured
from lead_coordinator.database.plan import DeployPlan, compare, look_after, look_before
from lead_coordinator.database.scripts import ScriptError, statements
from lead_coordinator.database.urls import DAGSTER_SCHEMA
from lead_coordinator.errors import DatabaseError, DeployError, UnsupportedServer
from lead_coordinator.files import product_file
from lead_coordinator.settings import Settings

__all__ = [
    "SQL_FILES",
    "DeployPlan",
    "DeployReport",
    "DeployedFile",
    "apply_files",
    "deploy",
    "prepare_dagster_storage",
    "sql_files",
]

SQL_FILES = (
    "sql/database-schema.sql",
    "sql/resource-management.sql",
    "sql/monitoring-functions.sql",
    "sql/testing-suite.sql",
)
MINIMUM_SERVER = 150000  # server_version_num of PostgreSQL 15
LOCK_PATIENCE = "3s"
LOCK_ATTEMPTS = 5
LOCK_NAME = "lead_coordinator.deploy"
OLDER_VERSION = "LC006"  # the SQLSTATE of files that are older than what is deployed
T = TypeVar("T")
DAGSTER_TIMEOUT_SECONDS = 300  # a migration of a large event log takes minutes


@dataclass(frozen=True)
class DeployedFile:
    """A file that was applied: its name, how many statements it holds, and its SHA-256."""

    name: str
    statements: int
    sha256: str


@dataclass(frozen=True)
class DeployReport:
    """What a deployment did.

    `seeded`: settings taken from the environment; `differing`: rows that won over it.
    """

    server_version: str
    version: str
    files: tuple[DeployedFile, ...]
    seeded: tuple[str, ...]
    differing: tuple[Difference, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return asdict(self)


def sql_files() -> list[Path]:
    """The four files in the order in which they are applied. Raises `MissingFile`."""
    return [product_file(name) for name in SQL_FILES]


@overload
def deploy(url: str, settings: Settings, *, dry_run: Literal[False] = False) -> DeployReport: ...


@overload
def deploy(url: str, settings: Settings, *, dry_run: Literal[True]) -> DeployPlan: ...


def deploy(url: str, settings: Settings, *, dry_run: bool = False) -> DeployReport | DeployPlan:
    """Deploys the control plane to the database at `url`, or brings it forward, and seeds its settings.

    With `dry_run` nothing is changed, and the answer says what would be. Raises `UnsupportedServer` (older
    than PostgreSQL 15), `DatabaseUnavailable`, or `DeployError` with file and line, or with the version that
    is deployed where that is newer.
    """
    started = time.monotonic()
    with connect(url) as connection:
        server_version = _check_server(connection, url)
        if dry_run:
            return _plan(connection, server_version, settings)
        files = apply_files(connection, sql_files())
    with Database(url) as db:
        seeding = configure_platform(db, settings.platform_settings())
    return DeployReport(
        server_version=server_version,
        version=__version__,
        files=files,
        seeded=seeding.seeded,
        differing=seeding.differing,
        seconds=time.monotonic() - started,
    )


def _plan(connection: psycopg.Connection[DictRow], server_version: str, settings: Settings) -> DeployPlan:
    def try_out() -> DeployPlan:
        files = sql_files()
        before = look_before(connection, files)
        _apply_all(connection, files)
        row = connection.execute(
            "SELECT public.configure_platform(%s) AS answer", [Jsonb(dict(settings.platform_settings()))]
        ).fetchone()
        assert row is not None
        after = look_after(connection)
        versions = [name for kind, name in before if kind == "version"]
        return DeployPlan(
            server_version=server_version,
            version_before=max(versions, key=_version_number, default=None)
            or ("0.1.0" if ("table", "lead.task") in before else None),
            version_after=__version__,
            changes=compare(before, after),
            differing=configured(row["answer"]).differing,
        )

    return _patiently(connection, try_out, keep=False)


def _version_number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def apply_files(connection: psycopg.Connection[DictRow], files: Sequence[Path]) -> tuple[DeployedFile, ...]:
    """Applies psql scripts in one transaction and makes the schema `dagster`.

    Tries again where a lock is held.
    """
    return _patiently(connection, lambda: _apply_all(connection, files), keep=True)


def _patiently(connection: psycopg.Connection[DictRow], action: Callable[[], T], *, keep: bool) -> T:
    """`action` in a transaction, begun anew where a lock is held for too long; undone unless `keep`."""
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            with connection.transaction(force_rollback=not keep):
                connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [LOCK_NAME])
                return action()
        except psycopg.errors.LockNotAvailable as error:
            if attempt == LOCK_ATTEMPTS:
                raise DeployError(
                    "Nothing was changed: another transaction held a lock that the deployment needs,"
                    f" {attempt} times {LOCK_PATIENCE} long ({error.diag.message_primary})."
                    " End it, and deploy again."
                ) from error
        except psycopg.Error as error:
            raise DeployError(f"Nothing was changed: {error.diag.message_primary or error}") from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _apply_all(connection: psycopg.Connection[DictRow], files: Sequence[Path]) -> tuple[DeployedFile, ...]:
    connection.execute(_create_dagster_schema())
    return tuple(_apply(connection, path) for path in files)


def _apply(connection: psycopg.Connection[DictRow], path: Path) -> DeployedFile:
    script = path.read_text(encoding="utf-8")
    count = 0
    try:
        for statement in statements(script):
            # Again before each: the files set a patience of their own, meant for a person at psql.
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_PATIENCE))
            try:
                connection.execute(statement.text.encode())
            except psycopg.errors.LockNotAvailable:
                raise
            except psycopg.Error as error:
                if error.sqlstate == OLDER_VERSION:
                    raise DeployError(
                        f"Nothing was changed: {error.diag.message_primary}; {error.diag.message_hint}."
                    ) from error
                raise DeployError(_located(path, statement.line, statement.text, error)) from error
            count += 1
    except ScriptError as error:
        raise DeployError(f"Nothing was changed: {path.name}, {error}.") from error
    return DeployedFile(path.name, count, hashlib.sha256(script.encode()).hexdigest())


def _located(path: Path, line: int, text: str, error: psycopg.Error) -> str:
    position = error.diag.statement_position
    if position is not None:
        line += text.count("\n", 0, int(position) - 1)
    hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
    return f"Nothing was changed: {path.name}, line {line}: {error.diag.message_primary or error}{hint}"


def _check_server(connection: psycopg.Connection[DictRow], url: str) -> str:
    row = connection.execute(
        "SELECT current_setting('server_version') AS version,"
        " current_setting('server_version_num')::integer AS number,"
        " has_database_privilege(current_database(), 'CREATE') AS may_create, current_user AS role,"
        " current_database() AS database"
    ).fetchone()
    assert row is not None
    if row["number"] < MINIMUM_SERVER:
        raise UnsupportedServer(
            f"{mask_url(url)} is PostgreSQL {row['version']}: the control plane needs PostgreSQL 15 or newer."
        )
    if not row["may_create"]:
        raise DeployError(
            f"{row['role']} may not create schemas in the database {row['database']}: deploy as its owner"
            f" (ALTER DATABASE {row['database']} OWNER TO {row['role']})."
        )
    return str(row["version"])


# ---- Dagster's own tables ----------------------------------------------------------------------------------


def prepare_dagster_storage(url: str) -> bool:
    """Makes Dagster's tables in the schema `dagster`, or brings them forward, in a process of its own.

    `url` is the platform's address. Answers False where this Dagster version has prepared them already: that
    is noted in a comment on the schema, so that a start doesn't pay four seconds for nothing. Raises
    `DatabaseError`.
    """
    note = f"Tables of Dagster {package_version('dagster')}, made by lead-coordinator"
    with Database(url) as db:
        if _noted(db) == note:
            return False
        db.execute(_create_dagster_schema())
        done = subprocess.run(
            [sys.executable, "-m", "lead_coordinator.database.dagster_storage"],
            env={**os.environ, "LEAD_DAGSTER_DATABASE_URL": dagster_url(url)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DAGSTER_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            lines = [
                line
                for line in done.stderr.strip().splitlines()
                if not line.startswith(("(Background on", "[SQL"))
            ]
            reason = mask_url(lines[-1]) if lines else f"the program ended with code {done.returncode}"
            raise DatabaseError(f"Dagster's tables couldn't be prepared in {mask_url(url)}: {reason}")
        db.execute(
            sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(DAGSTER_SCHEMA), sql.Literal(note))
        )
    return True


def _create_dagster_schema() -> sql.Composed:
    return sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(DAGSTER_SCHEMA))


def _noted(db: Database) -> str | None:
    row = db.row(
        "SELECT obj_description(n.oid, 'pg_namespace') AS note FROM pg_namespace AS n"
        " WHERE n.nspname = %s"
        " AND EXISTS (SELECT 1 FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relname = 'runs')",
        [DAGSTER_SCHEMA],
    )
    return None if row is None else row["note"]
