"""The environment, typed and validated once.

`Settings.load()` reads the variables that the README lists and nothing else. Whatever is wrong ends in one
`SettingsError`: one sentence with the variable, its value (masked where it is secret) and what is allowed;
the command line turns it into exit code 2. An empty variable counts as unset.

Environment and database rows: `platform_settings()` is what `configure_platform` seeds rows from. A row that
exists wins over the environment, and `doctor` tells where they differ.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lead_coordinator.errors import SettingsError
from lead_coordinator.settings_values import (
    EndHour,
    Hour,
    Port,
    PostgresUrl,
    WebAddress,
    mask_url,
    money,
    one_of,
    problem,
    timezone,
    truth,
    web_address,
    whole_number,
)

__all__ = ["Settings", "SettingsError", "mask_url"]

Environment = Mapping[str, str]


def _variable(name: str, default: Any = None) -> Any:
    return Field(default, validation_alias=name)


class _EnvironmentSource(PydanticBaseSettingsSource):
    """Reads the given mapping by each field's variable name.

    Nothing is guessed from field names or prefixes.
    """

    def __init__(self, settings_cls: type[BaseSettings], environ: Environment) -> None:
        super().__init__(settings_cls)
        self._environ = environ

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = str(field.validation_alias or field_name)
        value = self._environ.get(name, "").strip()
        return (value or None), name, False

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for field_name, field in self.settings_cls.model_fields.items():
            value, name, _ = self.get_field_value(field, field_name)
            if value is not None:
                values[name] = value
        return values


class Settings(BaseSettings):
    """Settings of one process. Build with `Settings.load()`; frozen afterwards."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    # -- the database
    database_url_variable: PostgresUrl | None = _variable("DATABASE_URL")
    supabase_db_host: str | None = _variable("SUPABASE_DB_HOST")
    supabase_db_password: SecretStr | None = _variable("SUPABASE_DB_PASSWORD")
    supabase_url: WebAddress | None = _variable("SUPABASE_URL")
    supabase_service_role_key: SecretStr | None = _variable("SUPABASE_SERVICE_ROLE_KEY")
    dagster_database_url_variable: SecretStr | None = _variable("LEAD_DAGSTER_DATABASE_URL")

    # -- providers
    gemini_api_key: SecretStr | None = _variable("GEMINI_API_KEY")
    openai_api_key: SecretStr | None = _variable("OPENAI_API_KEY")
    gemini_base_url: WebAddress | None = _variable("GEMINI_BASE_URL")
    openai_base_url: WebAddress | None = _variable("OPENAI_BASE_URL")
    gemini_model: str = _variable("LEAD_GEMINI_MODEL", "gemini-2.5-flash-lite")
    openai_model: str = _variable("LEAD_OPENAI_MODEL", "gpt-6-luna")
    sandbox_variable: Annotated[bool, BeforeValidator(truth)] | None = _variable("LEAD_SANDBOX")
    sandbox_latency: Annotated[Literal["fast", "real"], one_of("fast", "real")] = _variable(
        "SANDBOX_LATENCY", "fast"
    )
    sandbox_port: Port = _variable("SANDBOX_PORT", 0)

    # -- limits (rows in the database are seeded from these)
    max_concurrent_workflows: Annotated[int, whole_number(1, 10)] = _variable("MAX_CONCURRENT_WORKFLOWS", 3)
    daily_budget_usd: Annotated[Decimal, BeforeValidator(money)] = _variable("DAILY_BUDGET_USD", Decimal(500))
    execution_timeout_minutes: Annotated[int, whole_number(1, 60)] = _variable("EXECUTION_TIMEOUT_MINUTES", 5)
    gemini_rate_limit_per_minute: Annotated[int, whole_number(1, 10000)] = _variable(
        "GEMINI_RATE_LIMIT_PER_MINUTE", 60
    )
    openai_rate_limit_per_minute: Annotated[int, whole_number(1, 10000)] = _variable(
        "OPENAI_RATE_LIMIT_PER_MINUTE", 50
    )
    database_connection_limit: Annotated[int, whole_number(5, 1000)] = _variable(
        "DATABASE_CONNECTION_LIMIT", 20
    )
    memory_limit_mb: Annotated[int, whole_number(256, 1048576)] = _variable("MEMORY_LIMIT_MB", 2048)

    # -- hours, in COORDINATOR_TIMEZONE; a start is inclusive, an end exclusive
    business_hours_start: Hour = _variable("BUSINESS_HOURS_START", 9)
    business_hours_end: EndHour = _variable("BUSINESS_HOURS_END", 17)
    peak_hours_start: Hour = _variable("PEAK_HOURS_START", 10)
    peak_hours_end: EndHour = _variable("PEAK_HOURS_END", 16)
    coordinator_timezone: Annotated[str, AfterValidator(timezone)] = _variable("COORDINATOR_TIMEZONE", "UTC")

    # -- Slack
    slack_webhook_url: SecretStr | None = _variable("SLACK_WEBHOOK_URL")
    slack_bot_token: SecretStr | None = _variable("SLACK_BOT_TOKEN")
    slack_channel: str | None = _variable("SLACK_CHANNEL")

    # -- publishing: one password for all WordPress sites, or `main=abcd efgh; shop=ijkl mnop`
    wordpress_application_password: SecretStr | None = _variable("WORDPRESS_APPLICATION_PASSWORD")

    # -- this machine
    lead_home: Path = _variable("LEAD_HOME", Path(".lead_coordinator"))
    site_dir_variable: Path | None = _variable("LEAD_SITE_DIR")
    site_url: WebAddress = _variable("LEAD_SITE_URL", "http://localhost/")
    web_host: str = _variable("LEAD_WEB_HOST", "127.0.0.1")
    web_port: Annotated[int, whole_number(1, 65535)] = _variable("LEAD_WEB_PORT", 3000)

    _start: Path = PrivateAttr(default_factory=Path.cwd)

    # -- loading

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @classmethod
    def load(cls, environ: Environment | None = None) -> Self:
        """Settings from `environ` (default: the process's environment).

        Raises `SettingsError` for the first problem found, in one sentence.
        """
        values = _EnvironmentSource(cls, os.environ if environ is None else environ)()
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingsError(cls._sentence(error, values)) from None

    @classmethod
    def _sentence(cls, error: ValidationError, values: Mapping[str, Any]) -> str:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            return f"{message}."
        variable = str(first["loc"][0])
        return f"{variable}={cls._printable(variable, str(values.get(variable, '')))} {message}."

    @field_validator("supabase_db_host")
    @classmethod
    def _host_only(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9._-]+(:\d+)?", value):
            raise problem("must be a host name, such as db.abcdefgh.supabase.co")
        return value

    @field_validator("slack_webhook_url")
    @classmethod
    def _webhook(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            web_address(value.get_secret_value())
        return value

    @field_validator("web_host")
    @classmethod
    def _listen_address(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._:-]+", value):
            raise problem("must be a host name or address, such as 127.0.0.1")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("BUSINESS_HOURS", "PEAK_HOURS"):
            start, end = getattr(self, f"{name.lower()}_start"), getattr(self, f"{name.lower()}_end")
            if start >= end:
                raise problem(f"{name}_END={end} must be later than {name}_START={start}")
        if self.supabase_db_host and not self.supabase_db_password and not self.database_url_variable:
            raise problem(f"SUPABASE_DB_HOST={self.supabase_db_host} needs SUPABASE_DB_PASSWORD beside it")
        if bool(self.supabase_url) != bool(self.supabase_service_role_key):
            given, missing = (
                ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY")
                if self.supabase_url
                else ("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_URL")
            )
            raise problem(f"{given} is set and {missing} isn't: set both or neither")
        if self.slack_bot_token and not self.slack_channel:
            raise problem("SLACK_BOT_TOKEN needs SLACK_CHANNEL beside it, such as #content-ops")
        if self.sandbox_variable is False and not (self.gemini_api_key or self.openai_api_key):
            raise problem("LEAD_SANDBOX=0 needs GEMINI_API_KEY or OPENAI_API_KEY beside it")
        return self

    # -- what callers ask

    @property
    def database_url(self) -> str | None:
        """The database to use, password included; None means the embedded server."""
        if self.database_url_variable is not None:
            return self.database_url_variable.get_secret_value()
        if self.supabase_db_host and self.supabase_db_password:
            host, _, port = self.supabase_db_host.partition(":")
            password = quote(self.supabase_db_password.get_secret_value(), safe="")
            return f"postgresql://postgres:{password}@{host}:{port or 5432}/postgres?sslmode=require"
        return None

    @property
    def dagster_database_url(self) -> str | None:
        """What `dagster.yaml` reads; set by `up`, or by whoever runs Dagster's processes by hand."""
        return (
            self.dagster_database_url_variable.get_secret_value()
            if self.dagster_database_url_variable
            else None
        )

    @property
    def use_sandbox(self) -> bool:
        """True where articles are written by the sandbox provider: asked for, or no key is given."""
        if self.sandbox_variable is not None:
            return self.sandbox_variable
        return self.gemini_api_key is None and self.openai_api_key is None

    @property
    def home(self) -> Path:
        """`LEAD_HOME`, absolute.

        The embedded server's data, Dagster's home, logs and the site lie under it.
        """
        return (self._start / self.lead_home.expanduser()).resolve()

    @property
    def postgres_dir(self) -> Path:
        """Data folder of the embedded server."""
        return self.home / "postgres"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @property
    def log_dir(self) -> Path:
        return self.home / "logs"

    @property
    def site_dir(self) -> Path:
        """Where articles are published to: `LEAD_SITE_DIR`, else `LEAD_HOME/site`."""
        if self.site_dir_variable is None:
            return self.home / "site"
        return (self._start / self.site_dir_variable.expanduser()).resolve()

    def platform_settings(self) -> dict[str, Any]:
        """The argument of `configure_platform`: variable names in lower case; money as Decimal dollars."""
        return {name: getattr(self, name) for name in _PLATFORM_SETTINGS}

    def masked(self) -> dict[str, str]:
        """Every variable with its value as a person may see it; unset ones are left out."""
        shown: dict[str, str] = {}
        for field_name, field in type(self).model_fields.items():
            value = getattr(self, field_name)
            if value is not None:
                text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                variable = str(field.validation_alias)
                shown[variable] = self._printable(variable, text)
        return shown

    @classmethod
    def _printable(cls, variable: str, text: str) -> str:
        if variable in ("DATABASE_URL", "LEAD_DAGSTER_DATABASE_URL"):
            # The mask knows URLs; of any other text (a DSN with password=…, say) nothing is shown.
            return mask_url(text) if re.match(r"\w+(\+\w+)?://", text) else "***"
        field = next(f for f in cls.model_fields.values() if f.validation_alias == variable)
        return "***" if "SecretStr" in str(field.annotation) else text


_PLATFORM_SETTINGS = (
    "max_concurrent_workflows",
    "daily_budget_usd",
    "execution_timeout_minutes",
    "gemini_rate_limit_per_minute",
    "openai_rate_limit_per_minute",
    "database_connection_limit",
    "memory_limit_mb",
    "business_hours_start",
    "business_hours_end",
    "peak_hours_start",
    "peak_hours_end",
    "coordinator_timezone",
)
