"""`doctor`: each check says ok, warn or fail, what it found, and what to do."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from lead_coordinator.cli import checkup
from lead_coordinator.cli.checkup import Finding
from lead_coordinator.database.connection import Database
from lead_coordinator.settings import Settings
from lead_coordinator_tests.cli.conftest import Run


def test_without_a_platform_it_says_how_to_start_one(run: Run) -> None:
    done = run("doctor")
    assert done.exit_code == 1
    assert "fail  platform: nothing runs on LEAD_HOME=" in done.stdout
    assert "→ start it with `lead-coordinator up`" in done.stdout
    assert "ok    settings" in done.stdout


def test_json_has_every_finding(run: Run, database_url: str) -> None:
    done = run("doctor", "--json", DATABASE_URL=database_url)
    answer = json.loads(done.stdout)
    assert not answer["healthy"], "no daemon runs here"
    assert done.exit_code == 1
    states = {finding["check"]: finding["state"] for finding in answer["findings"]}
    assert {states[check] for check in ("settings", "database", "settings rows")} == {"ok"}, answer
    assert states["deployment"] in ("ok", "warn"), answer
    assert states["daemon"] == "fail"
    assert states["webserver"] == "warn", "services that run elsewhere may have their UI elsewhere"
    assert all(finding["advice"] for finding in answer["findings"] if finding["state"] == "fail")


def test_a_database_without_the_control_plane_fails_with_advice(empty_database_url: str) -> None:
    with Database(empty_database_url) as db:
        assert checkup.database(db).state == "ok"
        assert checkup.deployment(db).state == "fail"
        assert checkup.deployment(db).advice == "run `lead-coordinator deploy`"


def test_a_database_that_isnt_there_fails_without_its_password() -> None:
    with Database("postgresql://lead:s3cret@127.0.0.1:1/lead") as db:
        found = checkup.database(db)
    assert found.state == "fail"
    assert "s3cret" not in found.found


def test_rows_that_differ_from_the_environment_are_told_and_not_changed(db: Database) -> None:
    count = "SELECT name, value FROM lead.setting ORDER BY name"
    before = db.rows(count)
    settings = Settings.load({"MAX_CONCURRENT_WORKFLOWS": "7"})
    found = checkup.settings_rows(db, settings)
    assert found.state == "warn"
    assert "max_concurrent_workflows is 3 in the database, 7 in the environment" in found.found
    assert db.rows(count) == before, "looking must not change anything"
    assert checkup.settings_rows(db, Settings.load({})).state == "ok"


def heartbeat_table(db: Database, **ages: float) -> None:
    db.execute("CREATE TABLE dagster.daemon_heartbeats (daemon_type text, timestamp timestamp)")
    for daemon, age in ages.items():
        db.execute(
            "INSERT INTO dagster.daemon_heartbeats"
            " VALUES (%s, (now() AT TIME ZONE 'UTC') - make_interval(secs => %s))",
            [daemon, age],
        )


@pytest.mark.parametrize(
    ("ages", "state", "said"),
    [
        ({"SENSOR": 5.0, "SCHEDULER": 20.0}, "ok", "2 daemons, the last heartbeat 5 s ago"),
        (
            {"SENSOR": 300.0, "SCHEDULER": 290.0},
            "fail",
            "the last heartbeat is 5 minutes old: nothing is dispatched",
        ),
        ({"SENSOR": 300.0, "SCHEDULER": 20.0}, "warn", "no heartbeat for two minutes from SENSOR"),
        ({}, "fail", "Dagster's daemon has never run on this database"),
    ],
)
def test_heartbeats(db: Database, ages: dict[str, float], state: str, said: str) -> None:
    heartbeat_table(db, **ages)
    (found,) = checkup.heartbeats(db)
    assert (found.state, found.found) == (state, said)


@pytest.mark.parametrize(("free_gb", "state"), [(50.0, "ok"), (0.5, "warn"), (0.1, "fail")])
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_gb: float, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=int(free_gb * 1024**3)))
    found = checkup.disk(tmp_path / "not" / "there" / "yet")
    assert found.state == state
    assert (found.advice is None) == (state == "ok")


class Rest(BaseHTTPRequestHandler):
    """PostgREST, as far as doctor asks it: the service role may, and so may anyone where `open_to_all`."""

    open_to_all = False

    def do_POST(self) -> None:
        key = self.headers.get("Authorization")
        self.send_response(200 if key == "Bearer s3rvice" or (key is None and self.open_to_all) else 401)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def rest() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), type("RestOfThisTest", (Rest,), {}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def supabase(server: HTTPServer, key: str = "s3rvice") -> dict[str, Finding]:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    settings = Settings.load({"SUPABASE_URL": url, "SUPABASE_SERVICE_ROLE_KEY": key})
    return {finding.check: finding for finding in checkup.supabase(settings)}


def test_rest_lets_the_service_role_in_and_nobody_else(rest: HTTPServer) -> None:
    assert {check: finding.state for check, finding in supabase(rest).items()} == {
        "REST service role": "ok",
        "REST without a key": "ok",
    }


def test_a_control_plane_open_to_anyone_fails(rest: HTTPServer) -> None:
    rest.RequestHandlerClass.open_to_all = True  # type: ignore[attr-defined]
    found = supabase(rest)["REST without a key"]
    assert (found.state, found.found) == ("fail", "anyone can call the control plane")


def test_a_wrong_service_key_fails_and_isnt_printed(rest: HTTPServer) -> None:
    found = supabase(rest, key="wr0ng")["REST service role"]
    assert found.state == "fail"
    assert "wr0ng" not in found.found + str(found.advice)


def test_without_supabase_nothing_is_asked() -> None:
    assert list(checkup.supabase(Settings.load({}))) == []
