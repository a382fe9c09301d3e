"""The control plane's database as a Dagster resource.

One connection for each evaluation of a sensor or schedule and for each run, opened at the first call and
closed at the end, so that a tick which finds nothing to do costs none and a run that only computes holds
none. The secret stays in the environment: the resource has no configuration unless a test or another
deployment gives it a URL.
"""

from dagster import ConfigurableResource, InitResourceContext
from pydantic import Field, PrivateAttr

from lead_coordinator.database.connection import Database
from lead_coordinator.settings import Settings, SettingsError


class DatabaseResource(ConfigurableResource[Database]):
    """`database.db` is a `Database`, connected at first use; `database.url` the URL for those who connect
    themselves.
    """

    database_url: str | None = Field(
        default=None,
        description="PostgreSQL URL. Leave empty to take DATABASE_URL (or SUPABASE_DB_HOST) from the "
        "environment.",
    )
    _database: Database | None = PrivateAttr(default=None)

    @property
    def url(self) -> str:
        """Raises SettingsError when neither the resource nor the environment names a database."""
        if self.database_url is not None:
            return self.database_url
        url = Settings.load().database_url
        if url is None:
            raise SettingsError(
                "DATABASE_URL is not set: Dagster's processes need it, `lead-coordinator up` exports it for "
                "its own."
            )
        return url

    @property
    def db(self) -> Database:
        if self._database is None:
            self._database = Database(self.url)
        return self._database

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
