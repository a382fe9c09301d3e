"""The web servers of the demo: one for the example site and the feeds, one for the articles."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lead_coordinator.cli.demo_examples import ARTICLES_PORT, EXAMPLE_PORT, lay_out
from lead_coordinator.cli.platform.checks import load_settings
from lead_coordinator.cli.platform.run import Platform
from lead_coordinator.cli.platform.web import free_port, listens, port_is_free
from lead_coordinator.settings import Settings

HOST = "127.0.0.1"
READY_SECONDS = 60.0


@dataclass(frozen=True)
class Served:
    """Addresses without a slash at the end. `articles`: None where LEAD_SITE_URL names a place elsewhere."""

    examples: str
    articles: str | None


def with_articles_address(settings: Settings, environ: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """The settings with an address at which the demo can serve the articles, unless they name one."""
    if environ.get("LEAD_SITE_URL", "").strip():
        return settings, dict(environ)
    return load_settings({"LEAD_SITE_URL": f"http://{HOST}:{usual_port(ARTICLES_PORT)}/"}, environ)


def usual_port(port: int) -> int:
    """That port, or a free one where somebody has it."""
    return port if port_is_free(HOST, port) else free_port(HOST)


def serve(platform: Platform) -> Served:
    """Starts both as parts of the platform: they are looked after, and end with it."""
    folder = platform.settings.home / "demo"
    lay_out(folder, datetime.now(UTC))
    port = usual_port(EXAMPLE_PORT)
    _start(platform, "example-site", folder, port)
    articles_port = _own_port(platform.settings.site_url)
    if articles_port is not None and port_is_free(HOST, articles_port):
        platform.site_dir.mkdir(parents=True, exist_ok=True)
        _start(platform, "articles-site", platform.site_dir, articles_port)
    else:
        articles_port = None
    for part, its_port in (("example-site", port), ("articles-site", articles_port)):
        if its_port is not None:
            _wait(platform, part, its_port)
    return Served(
        f"http://{HOST}:{port}", None if articles_port is None else f"http://{HOST}:{articles_port}"
    )


def _wait(platform: Platform, part: str, port: int) -> None:
    platform.supervisor.wait_ready(part, lambda: listens(HOST, port), READY_SECONDS)


def _own_port(url: str) -> int | None:
    """The port, where the address is of this machine and at its root."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts.port if parts.hostname == HOST and parts.path in ("", "/") else None


def _start(platform: Platform, part: str, folder: Path, port: int) -> None:
    command = [sys.executable, "-m", "lead_coordinator.web.serve", str(folder), "--port", str(port)]
    platform.supervisor.start(part, command, platform.environment(), platform.settings.home)
