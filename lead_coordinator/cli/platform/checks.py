"""What is looked at before anything is started, so that a wrong setting ends at once, in one sentence."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping

from lead_coordinator.cli.platform.home import unusable_home
from lead_coordinator.cli.platform.web import free_port, port_is_free
from lead_coordinator.database.connection import connect, mask_url
from lead_coordinator.database.urls import with_parameters
from lead_coordinator.errors import DatabaseUnavailable, SettingsError
from lead_coordinator.settings import Settings

OLDEST_POSTGRESQL, NEWEST_POSTGRESQL = 15, 18
CONNECT_SECONDS = 5
SANDBOX_HOST = "127.0.0.1"  # no setting: the sandbox is for this machine only


def load_settings(
    overrides: Mapping[str, object], environ: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """Settings from the environment with the command's options on top (None: not given), and that
    environment.

    An option is checked like the variable it stands for, and a mistake in it named like one. SettingsError.
    """
    merged = dict(os.environ if environ is None else environ)
    merged.update({name: str(value) for name, value in overrides.items() if value is not None})
    return Settings.load(merged), merged


def with_free_port(settings: Settings, environ: dict[str, str]) -> tuple[Settings, dict[str, str]]:
    """The same with another port for the UI, where the one in the settings is taken."""
    try:
        if port_is_free(settings.web_host, settings.web_port):
            return settings, environ
    except OSError:
        return settings, environ  # no port will help: check_ports says what is wrong
    return load_settings({"LEAD_WEB_PORT": free_port()}, environ)


def check_ports(settings: Settings) -> None:
    """SettingsError when the webserver's or the sandbox's port is taken, or the host isn't ours."""
    host = settings.web_host
    try:
        _check_port("LEAD_WEB_PORT", settings.web_port, host)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(
            f"LEAD_WEB_HOST={host} can't be listened on ({reason}): it must be an address of this machine, "
            "such as 127.0.0.1 or 0.0.0.0."
        ) from None
    if settings.use_sandbox and settings.sandbox_port:
        _check_port("SANDBOX_PORT", settings.sandbox_port, SANDBOX_HOST)


def _check_port(variable: str, port: int, host: str) -> None:
    if not port_is_free(host, port):
        raise SettingsError(
            f"{variable}={port} can't be used: the port is in use on {host} by another program, "
            "or needs more rights; it must be a free port from 1 to 65535."
        )


def check_home(settings: Settings) -> None:
    """SettingsError when LEAD_HOME is no folder that can be written, or can't be made.

    Leaves nothing behind: what isn't there yet is tried with a folder beside it that is gone at once.
    """
    folder = settings.home
    try:
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryDirectory(prefix=".lead-", dir=folder):
            pass
    except OSError as error:
        raise unusable_home(settings.home, error) from None


def database_variable(settings: Settings) -> str:
    """The variable that names the external database."""
    return "DATABASE_URL" if settings.database_url_variable is not None else "SUPABASE_DB_HOST"


def check_database(settings: Settings) -> str:
    """The version of the external server, after one connection. SettingsError when it can't be used, password
    masked."""
    url = settings.database_url
    assert url is not None
    name = f"{database_variable(settings)}={mask_url(url)}"
    needed = (
        f"it must be the address of a running PostgreSQL {OLDEST_POSTGRESQL} to {NEWEST_POSTGRESQL}, "
        "or unset for the embedded server."
    )
    try:
        with connect(with_parameters(url, connect_timeout=str(CONNECT_SECONDS))) as connection:
            row = connection.execute(
                "SELECT current_setting('server_version') AS version,"
                " current_setting('server_version_num')::int / 10000 AS major"
            ).fetchone()
    except DatabaseUnavailable as error:
        reason = str(error).partition("can't be reached: ")[2].removeprefix("connection failed: ")
        raise SettingsError(f"{name} can't be reached ({reason or error}): {needed}") from None
    assert row is not None
    if row["major"] < OLDEST_POSTGRESQL:
        raise SettingsError(f"{name} is PostgreSQL {row['version']}: {needed}")
    return str(row["version"])
