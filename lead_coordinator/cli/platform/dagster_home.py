"""How Dagster's processes and the sandbox are started: their folder, their configuration, their commands."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lead_coordinator.cli.platform.environment import CODE_HOST
from lead_coordinator.files import product_file
from lead_coordinator.settings import Settings

# Beside the one it keeps. The whole platform has twenty connections; a request waits a moment for its turn
# instead.
WEBSERVER_EXTRA_CONNECTIONS = 2
# A call is some 280 bytes: about a hundred thousand calls, looked at when the sandbox is started.
MAX_CALL_LOG_BYTES = 32 * 1024 * 1024


def prepare_home(settings: Settings) -> None:
    """Makes DAGSTER_HOME, which is also where Dagster's processes run: nothing in the caller's folder shall
    matter to them.

    The product's dagster.yaml is copied at every start, so that a changed one arrives with the next.
    """
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(product_file("dagster.yaml"), settings.dagster_home / "dagster.yaml")


def code_server_command(port: int) -> list[str]:
    """One process that serves the code location to webserver and daemon, and whose children are the runs.

    Loaded lazily: code that doesn't load is then shown in the UI, and in one sentence by `up`.
    """
    return [
        *(sys.executable, "-m", "dagster", "api", "grpc"),
        *("--module-name", "lead_coordinator.definitions", "--location-name", "lead_coordinator"),
        *("--host", CODE_HOST, "--port", str(port)),
        *("--lazy-load-user-code", "--log-level", "warning"),
    ]


def webserver_command(settings: Settings) -> list[str]:
    return [
        *(sys.executable, "-m", "dagster_webserver"),
        *("-w", str(product_file("workspace.yaml"))),
        *("-h", settings.web_host, "-p", str(settings.web_port)),
        *("--db-pool-max-overflow", str(WEBSERVER_EXTRA_CONNECTIONS)),
    ]


def daemon_command() -> list[str]:
    return [sys.executable, "-m", "dagster._daemon", "run", "-w", str(product_file("workspace.yaml"))]


def keep_bounded(path: Path, max_bytes: int = MAX_CALL_LOG_BYTES) -> None:
    """Puts a file that has grown large aside, over the one put aside before."""
    if path.exists() and path.stat().st_size > max_bytes:
        path.replace(path.with_name(f"{path.name}.1"))


def sandbox_command(settings: Settings, port: int) -> list[str]:
    call_log = settings.log_dir / "sandbox-calls.jsonl"
    keep_bounded(call_log)
    return [
        *(sys.executable, "-m", "lead_coordinator.providers.sandbox"),
        *("--port", str(port), "--latency", settings.sandbox_latency),
        *("--gemini-limit", str(settings.gemini_rate_limit_per_minute)),
        *("--openai-limit", str(settings.openai_rate_limit_per_minute)),
        *("--call-log", str(call_log)),
    ]
