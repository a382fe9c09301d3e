"""What every command promises: exit codes, one clear sentence, a quick start."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lead_coordinator import __version__
from lead_coordinator.cli.platform.checks import check_ports, load_settings, with_free_port
from lead_coordinator.cli.platform.dagster_home import keep_bounded
from lead_coordinator.cli.platform.environment import importable
from lead_coordinator.cli.platform.processes import postgres_processes
from lead_coordinator.cli.platform.web import web_url
from lead_coordinator.database.connection import Database
from lead_coordinator.errors import SettingsError
from lead_coordinator_tests.cli.conftest import Run

HEAVY = (
    "dagster",
    "sqlalchemy",
    "pandas",
    "openai",
    "google.genai",
    "jinja2",
    "pydantic",
    "psycopg",
    "psutil",
)
ITS_OWN = ("pydantic", "psycopg", "psutil")  # what a supervisor can't do without


def test_help_names_every_command_and_answers_for_each(run: Run) -> None:
    listed = run("--help")
    assert listed.exit_code == 0
    for command in ("up", "demo", "deploy", "submit", "site", "status", "doctor", "help"):
        assert f"\n  {command} " in listed.output
        assert run("help", command).output == run(command, "--help").output
    assert run("help").output == listed.output


def test_help_for_an_unknown_command_names_the_known_ones(run: Run) -> None:
    refused = run("help", "deplyo")
    assert refused.exit_code == 2
    assert "no command 'deplyo'; there are: up, demo, deploy, submit, articles, approve, " in refused.output


def test_version(run: Run) -> None:
    assert run("--version").output == f"lead-coordinator {__version__}\n"


def test_starting_the_command_imports_nothing_heavy() -> None:
    program = f"import sys, lead_coordinator.cli.app;print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], env=importable({}), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n", "help and usage errors come at once"


def test_the_supervisor_stays_light() -> None:
    program = (
        "import sys, lead_coordinator.cli.platform.run;"
        f"print([name for name in {HEAVY} if name in sys.modules and name not in {ITS_OWN}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=importable({}), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", ["up", "demo", "deploy", "status", "doctor"])
@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("DAILY_BUDGET_USD", "abc", "must be an amount in US dollars"),
        ("MAX_CONCURRENT_WORKFLOWS", "99", "must be a whole number from 1 to 10"),
        ("LEAD_WEB_PORT", "0", "must be a whole number from 1 to 65535"),
        ("SANDBOX_LATENCY", "slow", "must be fast or real"),
    ],
)
def test_a_wrong_setting_ends_at_once_in_one_sentence(
    run: Run, home: Path, command: str, variable: str, value: str, allowed: str
) -> None:
    refused = run(command, **{variable: value})
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"lead-coordinator: {variable}={value} {allowed}")
    assert refused.stderr.count("\n") == 1
    assert not home.exists(), "nothing may be begun with a wrong setting"


EVERY_COMMAND = (("up",), ("demo",), ("deploy",), ("status",), ("submit", "--title", "x"), ("doctor",))


@pytest.mark.parametrize("arguments", [command for command in EVERY_COMMAND if command != ("doctor",)])
def test_a_dead_database_url_ends_at_once_and_hides_its_password(
    run: Run, arguments: tuple[str, ...]
) -> None:
    with socket.socket() as nobody:  # a port where certainly nobody listens
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        refused = run(*arguments, DATABASE_URL=f"postgresql://lead:s3cret@{address}/lead")
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert f"DATABASE_URL=postgresql://lead:***@{address}/lead can't be reached" in refused.stderr
    assert "it must be the address of a running PostgreSQL 15 to 18" in refused.stderr
    assert "s3cret" not in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", EVERY_COMMAND)
@pytest.mark.parametrize("kind", ["a file", "under a file", "where nothing can be made"])
def test_a_home_that_cant_be_written_ends_at_once(
    run: Run, tmp_path: Path, kind: str, arguments: tuple[str, ...]
) -> None:
    file = tmp_path / "a_file"
    file.write_text("not a folder")
    home = {"a file": file, "under a file": file / "home", "where nothing can be made": Path("/proc/x")}[kind]
    refused = run(*arguments, LEAD_HOME=str(home))
    assert refused.exit_code == 2, refused.output
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"lead-coordinator: LEAD_HOME={home} can't be used (")
    assert "must be a folder that can be made and written" in refused.stderr
    assert refused.stderr.count("\n") == 1, "one sentence"


def test_looking_at_a_home_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    assert run("status").exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "variable"), [("--port", "LEAD_WEB_PORT"), (None, "LEAD_WEB_PORT"), (None, "SANDBOX_PORT")]
)
def test_a_port_in_use_ends_at_once(run: Run, home: Path, option: str | None, variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = run("up", option, port) if option else run("up", **{variable: port})
    assert refused.exit_code == 2
    assert f"{variable}={port} can't be used: the port is in use on 127.0.0.1" in refused.stderr
    assert "a free port from 1 to 65535" in refused.stderr
    assert refused.stdout == ""
    assert not (home / "postgres").exists(), "no part may be started"


def test_an_option_is_checked_like_the_variable_it_stands_for(run: Run) -> None:
    assert (
        "LEAD_WEB_PORT=80800 must be a whole number from 1 to 65535." in run("up", "--port", "80800").stderr
    )
    assert "LEAD_WEB_HOST=no where must be" in run("up", "--host", "no where").stderr
    assert "LEAD_SANDBOX=0 needs GEMINI_API_KEY or OPENAI_API_KEY" in run("up", "--no-sandbox").stderr


def test_a_host_that_isnt_ours_is_refused(run: Run) -> None:
    refused = run("up", "--host", "192.0.2.1")  # TEST-NET-1: no machine has it
    assert refused.exit_code == 2
    assert "LEAD_WEB_HOST=192.0.2.1 can't be listened on" in refused.stderr


@pytest.mark.parametrize("arguments", [("status",), ("submit", "--title", "x")])
def test_without_a_platform_a_command_says_what_to_do(
    run: Run, home: Path, arguments: tuple[str, ...]
) -> None:
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert f"No platform runs on LEAD_HOME={home}" in refused.stderr
    assert "`lead-coordinator up`" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_database_without_the_control_plane_is_told_apart(run: Run, empty_database_url: str) -> None:
    refused = run("status", DATABASE_URL=empty_database_url)
    assert refused.exit_code == 1
    assert "`lead-coordinator deploy`" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_deploy_makes_and_fills_the_embedded_server_and_stops_it(run: Run) -> None:
    with tempfile.TemporaryDirectory(prefix="lead-cli-") as home:  # see the e2e tests on pytest's own folder
        first = run("deploy", LEAD_HOME=home)
        assert first.exit_code == 0, first.output
        assert first.output.startswith(f"control plane {__version__} is deployed to PostgreSQL 18")
        assert postgres_processes(Path(home) / "postgres") == []
        again = run("deploy", LEAD_HOME=home, MAX_CONCURRENT_WORKFLOWS="5")
    assert again.exit_code == 0, again.output
    assert "max_concurrent_workflows stays 3, as the database says; the environment says 5" in again.output


def test_deploy_goes_to_the_database_that_is_named(run: Run, empty_database_url: str, home: Path) -> None:
    assert run("deploy", DATABASE_URL=empty_database_url).exit_code == 0
    assert run("status", DATABASE_URL=empty_database_url).exit_code == 0
    assert not home.exists(), "another database was named: no server of our own"


def test_a_dry_run_says_what_would_change_and_changes_nothing(run: Run, empty_database_url: str) -> None:
    database = {"DATABASE_URL": empty_database_url}
    planned = run("deploy", "--dry-run", **database)
    assert planned.exit_code == 0, planned.output
    assert planned.output.startswith(f"A new deployment of version {__version__} would be made: ")
    assert run("status", **database).exit_code == 1, "nothing was deployed"

    assert run("deploy", **database).exit_code == 0
    with Database(empty_database_url) as db:
        db.execute("DROP POLICY readers ON lead.tick")
    planned = run("deploy", "--dry-run", MAX_CONCURRENT_WORKFLOWS="5", **database)
    lines = planned.output.splitlines()
    assert lines[0] == f"Version {__version__} again: 1 added."
    assert lines[1].startswith("  + policy lead.tick.readers: SELECT TO lead_application, lead_dashboard")
    assert lines[2:] == [
        "max_concurrent_workflows stays 3, as the database says; the environment says 5 (the row wins)"
    ]
    assert run("deploy", "--dry-run", **database).output == planned.output.replace(f"\n{lines[2]}", "")
    assert run("deploy", **database).exit_code == 0
    assert "nothing would change" in run("deploy", "--dry-run", **database).output


def test_deploying_answers_machines_in_json(run: Run, empty_database_url: str) -> None:
    database = {"DATABASE_URL": empty_database_url}
    planned = json.loads(run("deploy", "--dry-run", "--json", **database).stdout)
    assert (planned["dry_run"], planned["version_before"], planned["version_after"]) == (
        True,
        None,
        __version__,
    )
    assert planned["changes_nothing"] is False
    assert planned["counts"]["added"] == len(planned["changes"]) > 500
    assert {"action": "added", "kind": "schema", "name": "lead", "before": None, "after": ""} in (
        planned["changes"]
    )
    done = json.loads(run("deploy", "--json", **database).stdout)
    assert (done["dry_run"], done["version"]) == (False, __version__)
    assert [file["name"] for file in done["files"]] == [
        "database-schema.sql",
        "resource-management.sql",
        "monitoring-functions.sql",
        "testing-suite.sql",
    ]
    again = json.loads(run("deploy", "--dry-run", "--json", **database).stdout)
    assert (again["changes_nothing"], again["changes"]) == (True, [])


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--dry-run", "--json"]])
def test_deploying_over_a_newer_version_is_refused(
    run: Run, empty_database_url: str, options: list[str]
) -> None:
    assert run("deploy", DATABASE_URL=empty_database_url).exit_code == 0
    with Database(empty_database_url) as db:
        db.execute("INSERT INTO lead.deployment (version) VALUES ('99.0.0')")
    refused = run("deploy", *options, DATABASE_URL=empty_database_url)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "this database is at 99.0.0" in refused.stderr
    assert "deploy version 99.0.0 or a newer one" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_dry_run_on_a_home_without_a_server_makes_none(run: Run, home: Path) -> None:
    planned = run("deploy", "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert planned.output.startswith(f"A new deployment of version {__version__} would be made: ")
    assert not home.exists()


def test_what_belongs_to_somebody_else_is_told_apart_from_what_doesnt_run(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    (home / "runtime.json").write_text("{}")
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK)  # root may read all
    assert "belongs to another user" in run("status").stderr


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("box.lan", "box.lan"),
    ],
)
def test_the_address_shown_is_one_to_go_to(host: str, shown: str) -> None:
    assert web_url(host, 3000) == f"http://{shown}:3000"


def test_a_log_of_calls_that_has_grown_large_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "sandbox-calls.jsonl"
    keep_bounded(path)
    for text in ("old", "older than this"):
        path.write_text(text)
        keep_bounded(path, max_bytes=10)
    assert not path.exists()
    assert (tmp_path / "sandbox-calls.jsonl.1").read_text() == "older than this"


def test_the_demo_takes_another_port_where_its_own_is_taken(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings, environ = load_settings({"LEAD_WEB_PORT": port}, {"LEAD_HOME": str(home)})
        other, told = with_free_port(settings, environ)
    assert other.web_port != port
    assert told["LEAD_WEB_PORT"] == str(other.web_port)
    assert with_free_port(other, told) == (other, told), "a free one is kept"


def test_an_impossible_host_is_left_to_the_check_that_explains_it(home: Path) -> None:
    settings, environ = load_settings({"LEAD_WEB_HOST": "192.0.2.1"}, {"LEAD_HOME": str(home)})
    assert with_free_port(settings, environ) == (settings, environ)
    with pytest.raises(SettingsError, match=r"LEAD_WEB_HOST=192\.0\.2\.1 can't be listened on"):
        check_ports(settings)
