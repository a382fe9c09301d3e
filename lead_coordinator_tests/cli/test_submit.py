"""`submit`: what is taken, what is refused, and that nothing is taken twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator.database.operations import change_policy
from lead_coordinator_tests.cli.conftest import Run


def test_a_single_task_carries_what_was_said_of_it(run: Run, database_url: str, db: Database) -> None:
    done = run(
        *(
            "submit",
            "--title",
            "Rain gardens",
            "--keyword",
            "rain garden",
            "--audience",
            "owners of small gardens",
        ),
        *(
            "--notes",
            "Say what it costs.",
            "--value",
            "12.50",
            "--deadline",
            "2031-06-30",
            "--priority",
            "70",
            "--key",
            "k-1",
        ),
        DATABASE_URL=database_url,
    )
    assert done.exit_code == 0, done.output
    row = db.row("SELECT * FROM lead.task")
    assert row is not None
    assert done.output == f"Task {row['id']} is in the queue.\n"
    assert row["task_type"] == "content_generation"
    assert row["payload"]["title"] == "Rain gardens"
    assert row["payload"]["notes"] == "Say what it costs."
    assert (str(row["value_usd"].normalize()), row["priority_base"], row["idempotency_key"]) == (
        "12.5",
        70,
        "k-1",
    )
    assert row["deadline_at"].isoformat() == "2031-06-30T23:59:59+00:00"


def test_the_same_again_is_the_same_task(run: Run, database_url: str, db: Database) -> None:
    first = json.loads(run("submit", "--title", "Rain gardens", "--json", DATABASE_URL=database_url).output)
    again = run("submit", "--title", "RAIN  gardens", DATABASE_URL=database_url)
    assert again.output == f"Nothing new: this is task {first['task_id']}, submitted before (queued).\n"
    assert db.rows("SELECT id FROM lead.task") == [{"id": first["task_id"]}]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--title", "x", "--priority", "101"), "priority: 101 given, a whole number from 0 to 100 allowed"),
        (("--title", "x", "--value=-1"), "value_usd: '-1' given, 0 to 1000000 US dollars allowed"),
        (("--title", "x", "--deadline", "soon"), "deadline: 'soon' given: an ISO date"),
        (("--audience", "everyone"), "a title or a keyword is required"),
        ((), "submit needs a file of topics, or a task by options"),
        (("--title", "x", "topics.csv"), "submit takes a file or the options of a single task, not both"),
        (("topics.csv", "--type", "seo_analysis"), "a file holds topics, whose type is content_generation"),
        (("--payload", "{}", "--title", "x"), "submit takes --payload, a file, or the options of a brief"),
        (("--payload", "{}", "topics.csv"), "submit takes --payload, a file, or the options of a brief"),
        (("--payload", "[1]", "--type", "seo_analysis"), "payload: '[1]' given, a JSON object"),
        (("--payload", "{'a': 1}", "--type", "seo_analysis"), "a JSON object such as"),
        (("--payload", "[" * 100_000, "--type", "seo_analysis"), "a JSON object such as"),
        (("--title", "x", "--type", "seo_analysis"), "--type=seo_analysis: only an article is a brief"),
        (("nowhere.csv",), "file nowhere.csv: No such file or directory"),
    ],
)
def test_a_wrong_call_names_field_value_and_what_is_allowed(
    run: Run, database_url: str, db: Database, options: tuple[str, ...], sentence: str
) -> None:
    refused = run("submit", *options, DATABASE_URL=database_url)
    assert refused.exit_code == 2
    assert sentence in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert db.rows("SELECT id FROM lead.task") == []


def test_a_task_of_another_type_is_a_payload(run: Run, database_url: str, db: Database) -> None:
    audit = ("submit", "--type", "seo_analysis", "--payload", '{"site": "main"}')
    change_policy(db, "seo_monitor", {"enabled": False})
    refused = run(*audit, DATABASE_URL=database_url)
    assert refused.exit_code == 1
    assert "seo_analysis is disabled" in refused.stderr
    change_policy(db, "seo_monitor", {"enabled": True})
    assert run(*audit, "--key", "k", "--priority", "70", DATABASE_URL=database_url).exit_code == 0
    row = db.row("SELECT task_type, payload, priority_base, idempotency_key FROM lead.task")
    assert row == {
        "task_type": "seo_analysis",
        "payload": {"site": "main"},
        "priority_base": 70,
        "idempotency_key": "k",
    }
    unknown = run("submit", "--payload", "{}", "--type", "gardening", DATABASE_URL=database_url)
    assert unknown.exit_code == 2
    assert "gardening" in unknown.stderr


def write_topics(folder: Path) -> Path:
    file = folder / "topics.csv"
    file.write_text(
        "title,keyword,value_usd\n"
        "Good one,first,10\n"
        ",,5\n"
        "Good two,second,-4\n"
        "Good three,third,\n"
        "Good one,first,11\n"
    )
    return file


def test_good_rows_of_a_file_are_taken_and_bad_ones_reported(
    run: Run, database_url: str, db: Database, tmp_path: Path
) -> None:
    done = run("submit", str(write_topics(tmp_path)), DATABASE_URL=database_url)
    assert done.exit_code == 1, "some rows weren't taken"
    assert done.stdout == "2 tasks submitted, 3 reported above.\n"
    reports = done.stderr.splitlines()
    assert reports[0] == "line 3: a title or a keyword is required"
    assert reports[1].startswith("line 4, value_usd: '-4' given, 0 to 1000000 US dollars allowed")
    assert reports[2] == "line 6: asks for the same article as line 2; it is taken once"
    titles = [
        row["title"] for row in db.rows("SELECT payload ->> 'title' AS title FROM lead.task ORDER BY id")
    ]
    assert titles == ["Good one", "Good three"]


def test_the_same_file_again_submits_nothing(
    run: Run, database_url: str, db: Database, tmp_path: Path
) -> None:
    file = str(write_topics(tmp_path))
    first = json.loads(run("submit", file, "--json", DATABASE_URL=database_url).stdout)
    again = json.loads(run("submit", file, "--json", DATABASE_URL=database_url).stdout)
    assert (first["submitted"], first["known"]) == (2, 0)
    assert (again["submitted"], again["known"]) == (0, 2)
    assert [task["task_id"] for task in again["tasks"]] == [task["task_id"] for task in first["tasks"]]
    assert [row["line"] for row in again["bad"]] == [3, 4, 6]
    assert len(db.rows("SELECT id FROM lead.task")) == 2


def test_what_only_the_database_refuses_costs_no_other_row(
    run: Run, database_url: str, db: Database, tmp_path: Path
) -> None:
    file = tmp_path / "topics.jsonl"
    rows = [{"title": f"Topic {number}", "keyword": "k"} for number in range(5)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    # A rule that the reader of files doesn't know.
    db.execute(
        "CREATE FUNCTION lead.refuse_topic() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF NEW.payload ->> 'title' = 'Topic 3' THEN"
        " RAISE EXCEPTION 'payload: Topic 3 isn''t wanted here' USING ERRCODE = '22023';"
        " END IF; RETURN NEW; END$$"
    )
    db.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON lead.task FOR EACH ROW EXECUTE FUNCTION lead.refuse_topic()"
    )
    done = run("submit", str(file), DATABASE_URL=database_url)
    assert done.exit_code == 1
    assert done.stdout == "4 tasks submitted, 1 reported above.\n"
    assert done.stderr == "line 4: payload: Topic 3 isn't wanted here\n"
    assert len(db.rows("SELECT id FROM lead.task")) == 4
