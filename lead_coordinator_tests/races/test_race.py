"""The whole race, and then each check by itself. The checks are shown to notice: every one is given evidence
that was tampered with, in a transaction that is rolled back.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.races.checks import CHECKS, over_the_window
from lead_coordinator_tests.races.evidence import Evidence
from lead_coordinator_tests.races.journal import Entry
from lead_coordinator_tests.races.sabotage import SABOTAGES, sabotage
from lead_coordinator_tests.races.scenario import MAX_CONCURRENT, Scenario
from lead_coordinator_tests.races.server import race_database

ROOT = Path(__file__).parents[2]
# The first test waits for the race: a minute's window has to pass, and other tests may run beside it.
pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """Sixteen processes, fifty thousand tasks. Clients are forked, so the race has a process of its own."""
    folder = tmp_path_factory.mktemp("journals")
    scenario = Scenario()
    with race_database() as url, Database(url) as db:
        command = [
            sys.executable,
            "-m",
            "lead_coordinator_tests.races",
            "--url",
            url,
            "--folder",
            str(folder),
        ]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"the race fell over:\n{ended.stdout}\n{ended.stderr}"
        yield Evidence.of(scenario, db, folder)


@pytest.mark.parametrize("name", CHECKS)
def test_after_the_race(race: Evidence, name: str) -> None:
    wrong = list(CHECKS[name](race))
    assert not wrong, f"{len(wrong)} things are wrong:\n" + "\n".join(wrong[:20]) + f"\n{race.figures()}"


def in_database(statement: str) -> Callable[[Evidence], list[Entry]]:
    """Changes rows, and leaves the journals as they are."""

    def change(race: Evidence) -> list[Entry]:
        assert race.db.execute(statement) > 0, f"nothing to tamper with: {statement}"
        return race.entries

    return change


def in_journals(change: Callable[[list[Entry]], list[Entry]]) -> Callable[[Evidence], list[Entry]]:
    """Changes entries, and leaves the rows as they are."""
    return lambda race: change(race.entries)


def first(entries: list[Entry], did: str) -> Entry:
    return next(entry for entry in entries if entry.did == did)


def with_facts(entry: Entry, **facts: object) -> Entry:
    return replace(entry, facts=entry.facts | facts)


def with_another_fence(entries: list[Entry]) -> list[Entry]:
    chosen = first(entries, "completed")
    return [with_facts(entry, fence=-1) if entry is chosen else entry for entry in entries]


def never_asked_for(entries: list[Entry]) -> list[Entry]:
    chosen = first(entries, "completed")
    return [
        entry for entry in entries if entry.did != "completing" or entry["execution"] != chosen["execution"]
    ]


def never_heard_of(entries: list[Entry]) -> list[Entry]:
    """The acknowledgements of a client that was alive at the end are gone."""
    finished = {entry.who for entry in entries if entry.did == "completed"}
    alive = next(
        entry["who"]
        for entry in entries
        if entry.did == "over" and entry["code"] == 0 and entry["who"] in finished
    )
    return [entry for entry in entries if not (entry.who == alive and entry.did == "completed")]


def given_out_again(entries: list[Entry]) -> list[Entry]:
    done = first(entries, "completed")
    claim = first(entries, "claimed")
    return [*entries, with_facts(claim, asked_at=done.at + 1, tasks=done["tasks"], fence=-1, execution="x")]


def claimed_by_two(entries: list[Entry]) -> list[Entry]:
    return [*entries, replace(first(entries, "claimed"), who="somebody else")]


def sent_beyond_the_limit(entries: list[Entry]) -> list[Entry]:
    sent = first(entries, "sent")
    return [*entries, with_facts(sent, call=-1, provider="gemini", most=Decimal("0.6"))]


def sent_too_soon(entries: list[Entry]) -> list[Entry]:
    """All calls of the race within one minute."""
    return [replace(entry, at=0) if entry.did == "sent" else entry for entry in entries]


def told_another_price(entries: list[Entry]) -> list[Entry]:
    chosen = first(entries, "settled")
    return [with_facts(entry, cost="0.1") if entry is chosen else entry for entry in entries]


def one_run_too_many(entries: list[Entry]) -> list[Entry]:
    claim = first([entry for entry in entries if entry.facts.get("platform")], "claimed")
    runs = []
    for number in range(MAX_CONCURRENT + 1):
        run = f"run {number}"
        runs += [
            with_facts(claim, execution=run),
            Entry("run", "finishing", claim.at + 1, {"execution": run}),
        ]
    return [*entries, *runs]


TAMPERED: list[tuple[str, Callable[[Evidence], list[Entry]]]] = [
    (
        "every_task_is_completed_once",
        in_database(
            "INSERT INTO lead.task_attempt"
            " SELECT * FROM lead.task_attempt WHERE outcome = 'completed' LIMIT 1"
        ),
    ),
    (
        "every_task_is_completed_once",
        in_database("UPDATE lead.task SET status = 'queued' WHERE id = (SELECT min(id) FROM lead.task)"),
    ),
    (
        "every_task_is_completed_once",
        in_database("DELETE FROM lead.task WHERE id = (SELECT min(id) FROM lead.task)"),
    ),
    (
        "every_task_is_completed_once",
        in_database("UPDATE lead.task SET execution_id = 'x' WHERE id = (SELECT min(id) FROM lead.task)"),
    ),
    ("every_completion_is_what_its_client_believes", in_journals(with_another_fence)),
    ("every_completion_is_what_its_client_believes", in_journals(never_asked_for)),
    ("every_completion_is_what_its_client_believes", in_journals(never_heard_of)),
    ("every_completion_is_what_its_client_believes", in_journals(given_out_again)),
    ("no_lease_is_given_twice", in_journals(claimed_by_two)),
    (
        "queue_counts_are_real",
        in_database(
            "INSERT INTO lead.queue_depth_delta (task_type, status, tasks)"
            " VALUES ('seo_analysis', 'queued', 1)"
        ),
    ),
    (
        "queue_counts_are_real",
        in_database("INSERT INTO lead.ready VALUES ('seo_analysis', '', 50, now(), -1)"),
    ),
    ("queue_counts_are_real", in_database("INSERT INTO lead.due VALUES (now(), -1)")),
    (
        "ledger_equals_its_calls",
        in_database("UPDATE lead.budget_account SET spent_usd = spent_usd + 0.0001 WHERE scope = 'tenant'"),
    ),
    (
        "ledger_equals_its_calls",
        in_database("UPDATE lead.budget_account SET held_usd = 0.0001 WHERE scope = 'total'"),
    ),
    ("ledger_equals_its_calls", in_database("UPDATE lead.task SET cost_usd = cost_usd + 0.0001")),
    (
        "calls_cost_what_the_journals_say",
        in_database("UPDATE lead.api_call SET cost_usd = 0 WHERE outcome = 'unanswered'"),
    ),
    (
        "calls_cost_what_the_journals_say",
        in_database("UPDATE lead.api_call SET status = 'released' WHERE outcome = 'ok'"),
    ),
    (
        "calls_cost_what_the_journals_say",
        in_database(
            "DELETE FROM lead.api_call WHERE id = (SELECT min(id) FROM lead.api_call WHERE outcome = 'ok')"
        ),
    ),
    ("calls_cost_what_the_journals_say", in_journals(told_another_price)),
    ("no_budget_is_passed_by_the_journals", in_journals(sent_beyond_the_limit)),
    ("no_minute_holds_more_calls_than_allowed", in_journals(sent_too_soon)),
    (
        "no_minute_holds_more_calls_than_allowed",
        in_database("UPDATE lead.api_call SET sent_at = now() WHERE sent_at IS NOT NULL"),
    ),
    (
        "no_slot_is_leaked",
        in_database("UPDATE lead.rate_slot SET free_at = now() + interval '1 h' WHERE slot_no = 1"),
    ),
    ("no_slot_is_leaked", in_database("DELETE FROM lead.rate_slot WHERE slot_no = 1")),
    ("no_slot_is_leaked", in_database("UPDATE workflow_orchestration SET completed_at = NULL")),
    (
        "no_slot_is_leaked",
        in_database("UPDATE lead.circuit_breaker SET state = 'half_open', probes_started = 1"),
    ),
    ("runs_at_once_stay_within_the_limit", in_journals(one_run_too_many)),
    (
        "history_counts_every_execution_once",
        in_database("UPDATE execution_history SET total_executions = total_executions + 1"),
    ),
    (
        "history_counts_every_execution_once",
        in_database("UPDATE workflow_orchestration SET tasks_completed = tasks_completed + 1"),
    ),
    (
        "nothing_went_wrong_on_the_way",
        in_journals(lambda entries: [*entries, Entry("bulk 1", "error", 0, {"kind": "x", "why": "y"})]),
    ),
    (
        "nothing_went_wrong_on_the_way",
        in_journals(lambda entries: [*entries, Entry("race", "over", 0, {"who": "bulk 1", "code": 1})]),
    ),
    (
        "the_race_was_one",
        in_journals(lambda entries: [entry for entry in entries if entry.did != "raises"]),
    ),
]


@pytest.mark.parametrize(
    ("name", "tamper"), TAMPERED, ids=[f"{n}-{name}" for n, (name, _) in enumerate(TAMPERED)]
)
def test_a_check_notices(race: Evidence, name: str, tamper: Callable[[Evidence], list[Entry]]) -> None:
    with race.db.connection() as connection, connection.transaction(force_rollback=True):
        tampered = Evidence(race.scenario, race.db, tamper(race))
        assert list(CHECKS[name](tampered)), f"{name} was expected to notice"


@pytest.mark.parametrize("name", SABOTAGES)
def test_the_guard_that_a_sabotage_takes_out_is_there(race: Evidence, name: str) -> None:
    with race.db.connection() as connection, connection.transaction(force_rollback=True):
        sabotage(race.db, name)


def test_a_window_holds_its_limit_and_no_more() -> None:
    assert over_the_window([0.0, 30.0, 60.0, 90.0], 2) == []
    assert over_the_window([59.9, 0.0, 30.0], 2) == [0.0]
