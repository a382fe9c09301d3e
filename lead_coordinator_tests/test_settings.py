"""Settings: defaults, every kind of wrong value in one clear sentence, and no secret ever printed."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.settings import Settings, SettingsError, mask_url

SECRETS = {
    "DATABASE_URL": "postgresql://someone:s3cret-pw@db.example.org:5432/app",
    "SUPABASE_DB_PASSWORD": "s3cret-pw",
    "SUPABASE_SERVICE_ROLE_KEY": "s3cret-pw",
    "LEAD_DAGSTER_DATABASE_URL": "postgresql+psycopg2://someone:s3cret-pw@db.example.org/app",
    "GEMINI_API_KEY": "s3cret-pw",
    "OPENAI_API_KEY": "s3cret-pw",
    "SLACK_WEBHOOK_URL": "https://hooks.example.org/s3cret-pw",
    "SLACK_BOT_TOKEN": "s3cret-pw",
}
COMPANIONS = {"SUPABASE_URL": "https://x.example.org", "SLACK_CHANNEL": "#ops"}


def problem(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ)
    return str(caught.value)


def test_an_empty_environment_gives_the_contracts_defaults() -> None:
    settings = Settings.load({})
    assert settings.database_url is None, "without DATABASE_URL the embedded server is used"
    assert settings.use_sandbox, "without a key the sandbox writes"
    assert settings.platform_settings() == {
        "max_concurrent_workflows": 3,
        "daily_budget_usd": Decimal(500),
        "execution_timeout_minutes": 5,
        "gemini_rate_limit_per_minute": 60,
        "openai_rate_limit_per_minute": 50,
        "database_connection_limit": 20,
        "memory_limit_mb": 2048,
        "business_hours_start": 9,
        "business_hours_end": 17,
        "peak_hours_start": 10,
        "peak_hours_end": 16,
        "coordinator_timezone": "UTC",
    }


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("DAILY_BUDGET_USD", "abc", "an amount in US dollars"),
        ("DAILY_BUDGET_USD", "-1", "an amount in US dollars"),
        ("DAILY_BUDGET_USD", "NaN", "an amount in US dollars"),
        ("DAILY_BUDGET_USD", "1000001", "from 0 to 1000000"),
        ("MAX_CONCURRENT_WORKFLOWS", "99", "from 1 to 10"),
        ("MAX_CONCURRENT_WORKFLOWS", "2.5", "from 1 to 10"),
        ("EXECUTION_TIMEOUT_MINUTES", "0", "from 1 to 60"),
        ("LEAD_WEB_PORT", "70000", "from 1 to 65535"),
        ("BUSINESS_HOURS_START", "24", "from 0 to 23"),
        ("COORDINATOR_TIMEZONE", "Mars/Olympus", "IANA time zone"),
        ("COORDINATOR_TIMEZONE", "../../etc/passwd", "IANA time zone"),
        ("SANDBOX_LATENCY", "slow", "fast or real"),
        ("LEAD_SANDBOX", "maybe", "1 or 0"),
        ("LEAD_SITE_URL", "example.org", "web address"),
        ("LEAD_WEB_HOST", "local host", "host name"),
        ("SUPABASE_DB_HOST", "https://x.supabase.co/", "host name"),
    ],
)
def test_a_wrong_value_is_named_with_variable_value_and_what_is_allowed(
    variable: str, value: str, allowed: str
) -> None:
    sentence = problem(**{variable: value})
    assert sentence.startswith(f"{variable}={value} must be ")
    assert allowed in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "url",
    [
        "mysql://someone:s3cret-pw@host/db",
        "postgresql://someone:s3cret-pw#with-hash@host/db",
        "postgresql://someone:s3cret-pw@host:99999/db",
        "postgresql://someone:s3cret-pw@host:port/db",
        "postgresql+psycopg2://someone:s3cret-pw@host/db",
        "host=h password=s3cret-pw",
    ],
)
def test_a_wrong_database_url_is_refused_without_showing_its_password(url: str) -> None:
    sentence = problem(DATABASE_URL=url)
    assert sentence.startswith("DATABASE_URL=")
    assert "postgresql://user:password@host:5432/database" in sentence
    assert "s3cret" not in sentence


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"BUSINESS_HOURS_START": "18"}, "BUSINESS_HOURS_END=17 must be later than BUSINESS_HOURS_START=18"),
        ({"PEAK_HOURS_END": "10"}, "PEAK_HOURS_END=10 must be later than PEAK_HOURS_START=10"),
        ({"SUPABASE_DB_HOST": "db.example.org"}, "needs SUPABASE_DB_PASSWORD"),
        ({"SUPABASE_URL": "https://x.example.org"}, "SUPABASE_SERVICE_ROLE_KEY isn't"),
        ({"SUPABASE_SERVICE_ROLE_KEY": "k"}, "SUPABASE_URL isn't"),
        ({"SLACK_BOT_TOKEN": "xoxb"}, "needs SLACK_CHANNEL"),
        ({"LEAD_SANDBOX": "0"}, "needs GEMINI_API_KEY or OPENAI_API_KEY"),
    ],
)
def test_variables_that_contradict_each_other_are_refused(environ: dict[str, str], said: str) -> None:
    assert said in problem(**environ)


def test_an_empty_variable_counts_as_unset() -> None:
    settings = Settings.load({"DATABASE_URL": "", "GEMINI_API_KEY": "  ", "MAX_CONCURRENT_WORKFLOWS": ""})
    assert settings.database_url is None
    assert settings.use_sandbox
    assert settings.max_concurrent_workflows == 3


def test_supabase_host_and_password_make_a_database_url() -> None:
    environ = {"SUPABASE_DB_HOST": "db.x.supabase.co", "SUPABASE_DB_PASSWORD": "a/b@c:d"}
    expected = "postgresql://postgres:a%2Fb%40c%3Ad@db.x.supabase.co:5432/postgres?sslmode=require"
    assert Settings.load(environ).database_url == expected
    explicit = Settings.load({**environ, "DATABASE_URL": "postgresql://u@h/d"})
    assert explicit.database_url == "postgresql://u@h/d", "DATABASE_URL wins"


@pytest.mark.parametrize(
    ("environ", "sandbox"),
    [
        ({}, True),
        ({"OPENAI_API_KEY": "k"}, False),
        ({"OPENAI_API_KEY": "k", "LEAD_SANDBOX": "1"}, True),
        ({"GEMINI_API_KEY": "k", "LEAD_SANDBOX": "0"}, False),
    ],
)
def test_the_sandbox_writes_where_no_key_is_given_or_where_it_is_asked_for(
    environ: dict[str, str], sandbox: bool
) -> None:
    assert Settings.load(environ).use_sandbox is sandbox


def test_folders_are_absolute_and_lie_under_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({})
    monkeypatch.chdir("/")
    assert settings.home == tmp_path.resolve() / ".lead_coordinator", "relative to where the process started"
    assert settings.postgres_dir == settings.home / "postgres"
    assert settings.site_dir == settings.home / "site"
    assert Settings.load({"LEAD_SITE_DIR": "/srv/site"}).site_dir == Path("/srv/site")


@pytest.mark.parametrize("variable", SECRETS)
def test_no_secret_is_ever_shown(variable: str) -> None:
    settings = Settings.load({**SECRETS, **COMPANIONS})
    assert "s3cret" not in settings.masked()[variable]
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings.platform_settings())


def test_what_is_shown_has_a_name_in_the_environment() -> None:
    shown = Settings.load({**SECRETS, **COMPANIONS}).masked()
    assert shown["DATABASE_URL"] == "postgresql://someone:***@db.example.org:5432/app"
    assert shown["SLACK_CHANNEL"] == "#ops"
    assert all(name == name.upper() for name in shown)


@given(
    password=st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters=" "), min_size=1
    )
)
def test_a_password_never_survives_masking(password: str) -> None:
    marked = f"<<{password}>>"
    assert marked not in mask_url(f"postgresql://someone:{marked}@host:5432/db?sslmode=require")


def test_masking_keeps_what_isnt_secret() -> None:
    assert mask_url("postgresql://u:p@h:1/d?x=y") == "postgresql://u:***@h:1/d?x=y"
    assert mask_url("postgresql://u@/d?host=/tmp/s") == "postgresql://u@/d?host=/tmp/s"
    assert mask_url("postgresql://u@h/d?password=p&x=y") == "postgresql://u@h/d?password=***&x=y"
