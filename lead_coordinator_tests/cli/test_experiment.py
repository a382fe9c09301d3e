"""`experiment`: from its beginning to its end on the command line."""

from __future__ import annotations

import json

import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.cli.conftest import Run

CREATE = (
    *("experiment", "create", "roses", "--page", "/roses.html", "--variant", "control=Old"),
    *("--variant", "b=New [bold]and[/bold] better", "--maximum-days", "30"),
)


def test_an_experiment_from_beginning_to_end(run: Run, database_url: str, db: Database) -> None:
    def call(*arguments: str, code: int = 0) -> str:
        done = run(*arguments, DATABASE_URL=database_url)
        assert done.exit_code == code, done.output
        return done.output

    assert call("experiment", "list").startswith("There is no experiment")
    assert call(*CREATE) == "Experiment roses has begun with 2 variants.\n"
    assert call(*CREATE) == "Nothing new: experiment roses is there already.\n"
    assert (
        call("experiment", "record", "roses", "control=30/1000", "b=36/1000", "--key", "k") == "Recorded.\n"
    )
    again = call("experiment", "record", "roses", "control=30/1000", "--key", "k")
    assert again == "Nothing new: k was recorded before.\n"
    shown = call("experiment", "show", "roses")
    for said in ("roses: headline on /roses.html", "[bold]and", "3.60%", "●", "ahead", "30 days"):
        assert said in shown, "a table, a plot and what it comes to were expected"
    answer = json.loads(call("experiment", "show", "roses", "--json"))
    assert [(v["variant"], v["exposures"], v["successes"]) for v in answer["variants"]] == [
        ("control", 1000, 30),
        ("b", 1000, 36),
    ]
    assert answer["rules"]["maximum_days"] == 30
    assert answer["rules"]["minimum_exposures"] == 500, "what isn't said is as in the site's profile"
    assert 0.7 < answer["variants"][1]["chance"] < 0.85
    call("experiment", "stop", "roses", "--winner", "b", "--reason", "enough seen")
    assert call("experiment", "stop", "roses", "--reason", "x").startswith("Nothing new")
    listed = call("experiment", "list", "--status", "stopped")
    assert listed == "main  roses  headline on /roses.html, 2,000 visitors, b: enough seen\n"
    assert "Ended: b; enough seen" in call("experiment", "show", "roses")
    assert json.loads(call("experiment", "list", "--json"))[0]["winner"] == "b"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "tulips"), 1, "site main has no experiment 'tulips'"),
        (
            ("record", "roses", "b=5"),
            2,
            "'b=5' given, VARIANT=SUCCESSES/VISITORS with whole numbers is needed",
        ),
        (("record", "roses", "b=5/4"), 2, "p_outcomes[0].successes: 5 is not allowed"),
        (("record", "roses", "c=1/4"), 2, "a variant of this experiment is needed: control, b"),
        (("stop", "roses", "--reason", "x", "--winner", "c"), 2, "p_winner: c is not allowed"),
        (
            ("create", "r", "--page", "/r", "--variant", "a"),
            2,
            "--variant: 'a' given, NAME=CONTENT is needed",
        ),
        (("create", "r", "--page", "/r", "--variant", "a=b"), 2, "1 variants is not allowed"),
        (("create", "r", "--page", "/r", "--variant", "a=b", "--site", "Ä"), 2, "name: Ä given"),
        (("list", "--status", "won"), 2, "p_status: won is not allowed"),
    ],
)
def test_wrong_usage_ends_in_one_sentence(
    run: Run, database_url: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    run(*CREATE, DATABASE_URL=database_url)
    done = run("experiment", *arguments, DATABASE_URL=database_url)
    assert done.exit_code == code
    assert message in done.output
    assert len(done.output.splitlines()) == 1


def test_without_a_visitor_there_is_a_table_and_no_plot(run: Run, database_url: str) -> None:
    run(*CREATE, DATABASE_URL=database_url)
    shown = run("experiment", "show", "roses", DATABASE_URL=database_url).output
    assert "fewer than 500 visitors" in shown
    assert "●" not in shown
