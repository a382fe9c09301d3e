"""`site`: profiles go in from a file, all or none, and come out as a file that goes in again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lead_coordinator.database import sites
from lead_coordinator.database.connection import Database
from lead_coordinator_tests.cli.conftest import Run

PROFILE = """\
name: main
url: https://example.org/
content:
  policy: review
  cost_cap_usd: 0.05
intelligence:
  feeds:
  - url: https://example.org/feed.xml
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(PROFILE)
    return path


def test_a_profile_is_created_changed_or_left(run: Run, database_url: str, db: Database, file: Path) -> None:
    assert run("site", "apply", str(file), DATABASE_URL=database_url).output == "main: created.\n"
    assert run("site", "apply", str(file), DATABASE_URL=database_url).output == "main: as it was.\n"
    file.write_text("name: main\n")
    assert run("site", "apply", str(file), DATABASE_URL=database_url).output == "main: changed.\n"
    assert sites.get_site(db, "main") == {}, "a profile replaces the one before"
    row = db.row("SELECT reason FROM lead.audit_log WHERE subject = 'site:main' ORDER BY id DESC LIMIT 1")
    assert row == {"reason": "site apply site.yaml"}


def test_what_is_shown_can_be_applied_again(
    run: Run, database_url: str, db: Database, file: Path, tmp_path: Path
) -> None:
    run("site", "apply", str(file), DATABASE_URL=database_url)
    stored = sites.get_site(db, "main")
    shown = run("site", "show", "main", DATABASE_URL=database_url)
    assert yaml.safe_load(shown.output)["content"] == {"policy": "review", "cost_cap_usd": "0.05"}
    for extra in ((), ("--all",), ("--json",)):
        again = tmp_path / "again.yaml"
        again.write_text(run("site", "show", "main", *extra, DATABASE_URL=database_url).output)
        assert run("site", "apply", str(again), DATABASE_URL=database_url).exit_code == 0
    assert run("site", "apply", str(file), DATABASE_URL=database_url).exit_code == 0
    assert sites.get_site(db, "main") == stored
    everything = run("site", "show", "main", "--all", "--json", DATABASE_URL=database_url)
    assert json.loads(everything.output)["language"] == "en"


def test_sites_are_listed(run: Run, database_url: str, file: Path) -> None:
    assert run("site", "list", DATABASE_URL=database_url).output.startswith("No site has a profile")
    file.write_text(PROFILE + "---\nname: travel\n")
    done = run("site", "apply", str(file), "--json", DATABASE_URL=database_url)
    assert [one["site"] for one in json.loads(done.output)] == ["main", "travel"]
    lines = run("site", "list", DATABASE_URL=database_url).output.splitlines()
    assert lines[0].startswith("main  https://example.org/  (set 20")
    assert lines[1].startswith("travel  no address  (set 20")
    listed = json.loads(run("site", "list", "--json", DATABASE_URL=database_url).output)
    assert listed[1]["profile"] == {}


def test_a_site_that_is_none_is_said(run: Run, database_url: str) -> None:
    refused = run("site", "show", "nowhere", DATABASE_URL=database_url)
    assert refused.exit_code == 1
    assert "there is no site 'nowhere'" in refused.stderr


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "0 profiles found, 1 to 1000 are needed"),
        (b"- main", "a profile is a table of settings"),
        (b"url: https://example.org/", "name is needed"),
        (b"name: main\ncolour: red", "site main: colour is no setting"),
        (b"name: main\nurl: ftp://x", "site main: url: ftp://x given: must be a web address"),
        (b"name: main\nname: other", "line 2: name stands there twice"),
        (b"name: main\ncontent: {policy: auto, policy: draft}", "line 2: policy stands there twice"),
        (b"name: a\n---\nname: a", "site a is in it 2 times"),
        (b"name: main\n---\nname: ../etc", "site ../etc: name: ../etc given"),
        (b"name: [main", "line 1: "),
        (b"name: !!python/object/apply:os.system ['true']", "line 1: could not determine a constructor"),
        (b"\xff\xfe\xfa", "it isn't YAML in UTF-8"),
        (b"name: main\x00", "it isn't YAML in UTF-8"),
        (BOMB.encode(), "line 2: an alias (*a) isn't allowed"),
        (b"name: main\nx: " + b"[" * 100 + b"]" * 100, "line 2: nested deeper than 20"),
        (b"[" * 100_000, "line 1: nested deeper than 20"),
        (b"name: main\n#" + b"x" * 1_000_000, "it is larger than 1000000 bytes"),
        (b"---\nname: a\n" * 1001, "1001 profiles found"),
        (b"name: 2026-11-24", "name: datetime.date(2026, 11, 24) given"),
        (b"? {a: b}\n: c", "line 1: found unhashable key"),
        (b"1: 2", "a profile is a table of settings"),
    ],
    ids=lambda value: None if isinstance(value, str) else value[:20].decode("latin-1"),
)
def test_a_bad_file_is_refused_whole_in_one_sentence(
    run: Run, database_url: str, db: Database, file: Path, text: bytes, sentence: str
) -> None:
    file.write_bytes(text)
    refused = run("site", "apply", str(file), DATABASE_URL=database_url)
    assert refused.exit_code == 2, refused.output
    assert refused.stderr.startswith(f"lead-coordinator: file {file}: ")
    assert sentence in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert sites.list_sites(db) == []


def test_a_file_that_is_none_is_said(run: Run, tmp_path: Path) -> None:
    refused = run("site", "apply", str(tmp_path / "nowhere.yaml"))
    assert refused.exit_code == 2
    assert "No such file or directory" in refused.stderr


def test_help_answers_for_the_group_and_its_commands(run: Run) -> None:
    assert "apply" in run("help", "site").output
    for command in ("list", "show", "apply"):
        assert run("site", command, "--help").exit_code == 0
