"""What `doctor` looks at. Each check answers one line: ok, warn or fail, what it found, and what to do about
it.

Reads only: what a check would have to write to find out (`configure_platform`) is rolled back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg

from lead_coordinator.cli.platform.checks import NEWEST_POSTGRESQL, OLDEST_POSTGRESQL
from lead_coordinator.cli.platform.home import Runtime
from lead_coordinator.cli.platform.web import answers, get_json, graphql, web_url
from lead_coordinator.database.connection import Database, mask_url
from lead_coordinator.database.control import configure_platform
from lead_coordinator.database.reports import validate_coordinator_deployment
from lead_coordinator.errors import DatabaseError
from lead_coordinator.settings import Settings

# The daemon beats every 30 seconds; Dagster's own page calls it unhealthy much later.
HEARTBEAT_FAIL_SECONDS = 120
DISK_FAIL_BYTES = 200 * 1024 * 1024
DISK_WARN_BYTES = 1024 * 1024 * 1024
RESTART = "restart it: Ctrl-C, then `lead-coordinator up`"

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    check: str
    state: State
    found: str
    advice: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {"check": self.check, "state": self.state, "found": self.found, "advice": self.advice}


def disk(home: Path) -> Finding:
    """Free space where LEAD_HOME is, or will be."""
    folder = home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / 1024**3:.1f} GB free at {home}"
    if free < DISK_FAIL_BYTES:
        return Finding("disk", "fail", found, "free some space: PostgreSQL stops when it can't write")
    if free < DISK_WARN_BYTES:
        return Finding(
            "disk", "warn", found, "free some space, or set LEAD_HOME to a folder on a larger disk"
        )
    return Finding("disk", "ok", found)


def platform(settings: Settings, runtime: Runtime | None) -> Finding:
    if runtime is not None:
        return Finding("platform", "ok", f"{runtime.state}, pid {runtime.pid}, LEAD_HOME={settings.home}")
    if settings.database_url is not None:
        return Finding(
            "platform",
            "ok",
            f"nothing runs on LEAD_HOME={settings.home}; what uses this DATABASE_URL is looked at instead",
        )
    return Finding(
        "platform",
        "fail",
        f"nothing runs on LEAD_HOME={settings.home}",
        "start it with `lead-coordinator up`",
    )


def database(db: Database) -> Finding:
    """Reachability, version and connections."""
    where = mask_url(db.url)
    try:
        row = db.row(
            "SELECT current_setting('server_version') AS version,"
            " current_setting('server_version_num')::int / 10000 AS major,"
            " (SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name LIKE 'lead-coordinator%%') AS ours"
        )
    except (DatabaseError, psycopg.Error) as error:
        return Finding("database", "fail", str(error).strip(), "check DATABASE_URL, and that the server runs")
    assert row is not None
    found = f"PostgreSQL {row['version']} at {where}, {row['ours']} connections of ours"
    if row["major"] < OLDEST_POSTGRESQL:
        return Finding(
            "database", "fail", found, f"use PostgreSQL {OLDEST_POSTGRESQL} to {NEWEST_POSTGRESQL}"
        )
    if row["major"] > NEWEST_POSTGRESQL:
        return Finding(
            "database", "warn", found, f"this version is tested up to PostgreSQL {NEWEST_POSTGRESQL}"
        )
    return Finding("database", "ok", found)


def deployment(db: Database) -> Finding:
    """What the database itself says of the control plane in it."""
    try:
        answer = validate_coordinator_deployment(db)
    except (DatabaseError, psycopg.Error) as error:
        return Finding("deployment", "fail", str(error).strip(), "run `lead-coordinator deploy`")
    errors, warnings = answer.get("errors") or [], answer.get("warnings") or []
    if not answer.get("deployment_valid"):
        found = "; ".join(_text(error) for error in errors) or str(answer.get("status"))
        return Finding("deployment", "fail", found, "run `lead-coordinator deploy`")
    if warnings:
        return Finding(
            "deployment",
            "warn",
            "; ".join(_text(item) for item in warnings),
            "leave it if it is meant so; else set the row back, or drop what was added",
        )
    return Finding("deployment", "ok", str(answer.get("status", "READY")))


def _text(item: Any) -> str:
    return str(item.get("message", item)) if isinstance(item, dict) else str(item)


def settings_rows(db: Database, settings: Settings) -> Finding:
    """Rows in the database that say something else than the environment. The row wins; a person should
    know."""
    try:
        with db.connection() as connection, connection.transaction(force_rollback=True):
            answer = configure_platform(db, settings.platform_settings())
    except (DatabaseError, psycopg.Error) as error:
        return Finding("settings rows", "fail", str(error).strip(), "run `lead-coordinator deploy`")
    if not answer.differing:
        return Finding("settings rows", "ok", "the database has what the environment says")
    found = "; ".join(
        f"{d.name} is {d.row} in the database, {d.environment} in the environment" for d in answer.differing
    )
    return Finding("settings rows", "warn", found, "the row counts: change it there, or correct the variable")


def heartbeats(db: Database) -> Iterator[Finding]:
    """Dagster's daemons write one every half minute into its own tables."""
    try:
        rows = db.rows(
            "SELECT daemon_type, extract(epoch FROM (now() AT TIME ZONE 'UTC') - timestamp)::float AS age"
            " FROM dagster.daemon_heartbeats ORDER BY daemon_type"
        )
    except (DatabaseError, psycopg.Error):
        rows = []
    if not rows:
        yield Finding(
            "daemon", "fail", "Dagster's daemon has never run on this database", "start `lead-coordinator up`"
        )
        return
    newest = min(row["age"] for row in rows)
    if newest > HEARTBEAT_FAIL_SECONDS:
        yield Finding(
            "daemon",
            "fail",
            f"the last heartbeat is {_age(newest)} old: nothing is dispatched",
            "start `lead-coordinator up`, or dagster-daemon where you run the services yourself",
        )
        return
    stale = [row["daemon_type"] for row in rows if HEARTBEAT_FAIL_SECONDS < row["age"] < 86_400]
    if stale:
        yield Finding(
            "daemon",
            "warn",
            f"no heartbeat for two minutes from {', '.join(stale)}",
            f"{RESTART}; see daemon.log",
        )
        return
    yield Finding("daemon", "ok", f"{len(rows)} daemons, the last heartbeat {_age(newest)} ago")


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


_AUTOMATION = """{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
__typename
  ... on PythonError { message }
  ... on RepositoryLocation { repositories {
    schedules { name scheduleState { status } } sensors { name sensorState { status } } } } } } } } }"""
# Without these two nothing is dispatched; the others may be switched off by choice.
_NEEDED = ("coordinator_schedule", "dispatch_sensor")


def webserver(settings: Settings, runtime: Runtime | None) -> Iterator[Finding]:
    """The UI, the code behind it, and whether schedule and sensor are switched on."""
    url = runtime.web_url if runtime is not None else web_url(settings.web_host, settings.web_port)
    if not answers(f"{url}/server_info"):
        state: State = "fail" if runtime is not None else "warn"
        advice = (
            f"see LEAD_HOME/logs/webserver.log, or {RESTART}"
            if runtime
            else "set LEAD_WEB_HOST and LEAD_WEB_PORT to its place"
        )
        yield Finding("webserver", state, f"{url} doesn't answer", advice)
        return
    yield Finding("webserver", "ok", f"{url} answers")
    data = graphql(url, _AUTOMATION) or {}
    entries = (data.get("workspaceOrError") or {}).get("locationEntries") or []
    switched_off = []
    for entry in entries:
        loaded = entry.get("locationOrLoadError") or {}
        if loaded.get("__typename") == "PythonError":
            reason = str(loaded.get("message", "")).strip().splitlines() or [""]
            yield Finding(
                "code location",
                "fail",
                f"{entry['name']} doesn't load: {reason[0]}",
                "correct it, then reload it in the UI",
            )
            return
        for repository in loaded.get("repositories") or []:
            for item in [*repository["schedules"], *repository["sensors"]]:
                running = (item.get("scheduleState") or item.get("sensorState") or {}).get(
                    "status"
                ) == "RUNNING"
                if item["name"] in _NEEDED and not running:
                    switched_off.append(item["name"])
    if not entries:
        yield Finding("code location", "fail", "none is loaded", "see LEAD_HOME/logs/webserver.log")
    elif switched_off:
        names = " and ".join(switched_off)
        yield Finding(
            "automation",
            "fail",
            f"{names} switched off: nothing is dispatched",
            "switch on in the UI, page Automation",
        )
    else:
        yield Finding("automation", "ok", f"{' and '.join(_NEEDED)} are running")


def providers(settings: Settings, runtime: Runtime | None) -> Finding:
    """Which providers write the articles. No call that costs money is made."""
    if settings.use_sandbox:
        if runtime is None or runtime.sandbox_url is None:
            return Finding(
                "providers",
                "warn",
                "no key is set and no sandbox runs",
                "set GEMINI_API_KEY or OPENAI_API_KEY, or run `up`",
            )
        if get_json(f"{runtime.sandbox_url}/sandbox/stats") is None:
            return Finding(
                "providers", "fail", f"the sandbox at {runtime.sandbox_url} doesn't answer", RESTART
            )
        return Finding(
            "providers",
            "ok",
            f"the sandbox provider at {runtime.sandbox_url}: articles are sandbox text, no key is used",
        )
    given = [name for name in ("GEMINI_API_KEY", "OPENAI_API_KEY") if name in settings.masked()]
    missing = {"GEMINI_API_KEY", "OPENAI_API_KEY"} - set(given)
    found = f"{' and '.join(given)} set"
    if missing:
        return Finding(
            "providers",
            "ok",
            f"{found}; {missing.pop()} isn't: no second provider steps in when this one fails",
        )
    return Finding("providers", "ok", found)


def supabase(settings: Settings) -> Iterator[Finding]:
    """Through REST: the service role can call, a caller without a key can't. Only where SUPABASE_URL is
    set."""
    if settings.supabase_url is None or settings.supabase_service_role_key is None:
        return
    import urllib.error
    import urllib.request

    def call(headers: dict[str, str]) -> int | str:
        request = urllib.request.Request(  # noqa: S310 (the scheme was checked by settings)
            f"{settings.supabase_url}".rstrip("/") + "/rest/v1/rpc/get_platform_status",
            b"{}",
            {"Content-Type": "application/json", **headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError as error:
            return str(getattr(error, "reason", error))

    key = settings.supabase_service_role_key.get_secret_value()
    allowed = call({"apikey": key, "Authorization": f"Bearer {key}"})
    if allowed == 200:
        yield Finding("REST service role", "ok", f"{settings.supabase_url} answers it")
    else:
        found = f"{settings.supabase_url} answers {allowed} where 200 is due"
        yield Finding(
            "REST service role",
            "fail",
            found,
            "check SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY, then `lead-coordinator deploy`",
        )
    refused = call({})
    if refused in (401, 403, 404):
        yield Finding("REST without a key", "ok", f"refused ({refused})")
    elif refused == 200:
        yield Finding(
            "REST without a key",
            "fail",
            "anyone can call the control plane",
            "run `lead-coordinator deploy`: it takes the grants away",
        )
    else:
        yield Finding("REST without a key", "warn", f"unclear: {refused}", "check SUPABASE_URL")


def examine(settings: Settings, runtime: Runtime | None) -> Iterator[Finding]:
    """Every check in turn; those that need what an earlier one missed are left out."""
    yield Finding("settings", "ok", f"{len(settings.masked())} variables are valid")
    yield disk(settings.home)
    found = platform(settings, runtime)
    yield found
    url = settings.database_url or (runtime.database_url if runtime is not None else None)
    if url:
        with Database(url) as db:
            reached = database(db)
            yield reached
            if reached.state != "fail":
                yield deployment(db)
                yield settings_rows(db, settings)
                yield from heartbeats(db)
    if url:
        yield from webserver(settings, runtime)
        yield providers(settings, runtime)
    yield from supabase(settings)
