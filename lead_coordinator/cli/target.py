"""Which database a command talks to: the one that is configured, or that of the platform running on this
LEAD_HOME."""

import os

from lead_coordinator.cli.platform.checks import check_database, check_home
from lead_coordinator.cli.platform.home import Runtime, read_runtime, runtime_path
from lead_coordinator.errors import LeadCoordinatorError
from lead_coordinator.settings import Settings


class NotRunning(LeadCoordinatorError):
    """No database is configured and no platform runs on this LEAD_HOME."""


def find_database(settings: Settings) -> tuple[str, Runtime | None]:
    """The database's URL, and the running platform if there is one.

    Raises NotRunning, and SettingsError for a DATABASE_URL or a LEAD_HOME that can't be used.
    """
    if settings.database_url is not None:
        check_database(settings)
    runtime = read_runtime(settings.home)
    url = settings.database_url or (runtime.database_url if runtime is not None else None)
    path = runtime_path(settings.home)
    if not url and os.access(path, os.F_OK) and not os.access(path, os.R_OK):
        raise NotRunning(
            f"The platform on LEAD_HOME={settings.home} belongs to another user: run as that one."
        )
    if not url:
        check_home(settings)
        if runtime is not None:
            raise NotRunning(
                f"The platform on LEAD_HOME={settings.home} is still starting: try again in a few seconds."
            )
        raise NotRunning(
            f"No platform runs on LEAD_HOME={settings.home} and DATABASE_URL is not set: "
            "start one with `lead-coordinator up`, or set DATABASE_URL."
        )
    return url, runtime
