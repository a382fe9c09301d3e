"""What every process of a running platform is told, and by what means: environment variables.

Whoever starts Dagster's processes by hand sets the same ones (README, "Running the services yourself").
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import lead_coordinator
from lead_coordinator.database.urls import dagster_url
from lead_coordinator.settings import Settings

# Where the code location is served, to this machine only.
CODE_HOST = "127.0.0.1"

# The same libraries in a dozen processes: fewer arenas and no thread pools for linear algebra keep each one
# small.
FRUGAL = {
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


def importable(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with this package importable from any folder, for a checkout that isn't installed."""
    root = Path(lead_coordinator.__file__).resolve().parent.parent
    if root.name in ("site-packages", "dist-packages"):
        return dict(environ)
    known = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if str(root) in known:
        return dict(environ)
    return {**environ, "PYTHONPATH": os.pathsep.join([str(root), *known])}


def told(settings: Settings, database_url: str, code_port: int, sandbox_url: str | None) -> dict[str, str]:
    """The variables that make a process part of this platform; secrets among them."""
    variables = {
        "LEAD_HOME": str(settings.home),
        "LEAD_SITE_DIR": str(settings.site_dir),
        "DAGSTER_HOME": str(settings.dagster_home),
        "DATABASE_URL": database_url,
        "LEAD_DAGSTER_DATABASE_URL": dagster_url(database_url),
        "LEAD_CODE_HOST": CODE_HOST,
        "LEAD_CODE_PORT": str(code_port),
        "LEAD_WEB_HOST": settings.web_host,
        "LEAD_WEB_PORT": str(settings.web_port),
    }
    if sandbox_url is None:
        return variables
    return {
        **variables,
        "LEAD_SANDBOX": "1",
        "GEMINI_BASE_URL": sandbox_url,
        "OPENAI_BASE_URL": f"{sandbox_url}/v1",
    }


def child_environment(environ: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: the caller's, frugal defaults where the caller has none, then what it is
    told."""
    return importable({**FRUGAL, **environ, **variables})
