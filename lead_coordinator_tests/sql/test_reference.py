"""docs/SQL-REFERENCE.md and docs/DIAGRAMS.md say what the database says, no more and no less."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from lead_coordinator.database.connection import Database, connect
from lead_coordinator_tests.database.filled import fill
from lead_coordinator_tests.reference import SIGNATURES

DOCS = Path(__file__).parents[2] / "docs"
SECTION = re.compile(r"^### `(\w+)`\n(.*?)(?=^#{2,3} |\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \| (?:`([^`]*)`)? ?\| (.+) \|$", re.MULTILINE)
# An example names rows that a database of its own would have; not to find them is all that may go wrong.
NOT_FOUND = ("LC002", "LC005")


@dataclass(frozen=True)
class Section:
    text: str
    parameters: list[tuple[str, str, str | None]]
    example: str


@pytest.fixture(scope="module")
def sections() -> dict[str, Section]:
    text = (DOCS / "SQL-REFERENCE.md").read_text(encoding="utf-8")
    found = {}
    for name, body in SECTION.findall(text):
        assert name not in found, f"{name} was expected to be documented once"
        examples = re.findall(r"^```sql\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
        assert len(examples) == 1, f"{name} was expected to have one example"
        parameters = [(row[0], row[1], row[2] or None) for row in ROW.findall(body)]
        for row in ROW.findall(body):
            assert len(row[3].strip()) >= 4, f"{name}: {row[0]} was expected to have a meaning"
        found[name] = Section(body, parameters, examples[0])
    return found


def test_every_public_function_is_documented_with_exactly_its_parameters(
    db: Database, sections: dict[str, Section]
) -> None:
    signatures: dict[str, list[tuple[str, str, str | None]]] = {}
    for row in db.rows(SIGNATURES):
        parameters = signatures.setdefault(row["function"], [])
        if row["parameter"] is not None:
            parameters.append((row["parameter"], row["type"], row["default"]))
    assert sorted(signatures.keys() - sections.keys()) == [], "undocumented functions"
    assert sorted(sections.keys() - signatures.keys()) == [], "documented functions that don't exist"
    for name, parameters in signatures.items():
        assert sections[name].parameters == parameters, f"the parameters of {name} as documented"


def test_every_function_says_purpose_result_errors_and_cost(sections: dict[str, Section]) -> None:
    for name, section in sections.items():
        purpose = section.text.strip().splitlines()[0]
        assert len(purpose) > 10, f"{name} was expected to say what it is for"
        assert not purpose.startswith(("|", "*", "`")), f"{name} was expected to begin with its purpose"
        for heading in ("**Returns** ", "**Errors** ", "**Cost** "):
            said = re.search(re.escape(heading) + r"(.+)", section.text)
            assert said is not None, f"{name}: {heading.strip()} is missing"
            assert len(said[1].strip()) >= 3, f"{name}: {heading.strip()} says nothing"
        assert re.search(rf"\b{name}\(", section.example), f"the example of {name} was expected to call it"


def test_every_example_runs(database_url: str, sections: dict[str, Section]) -> None:
    """Right after a deployment and with work in every state; whatever an example does is undone."""
    filled = fill(database_url)
    filled.play.db.close()
    failed = {}
    with connect(database_url) as connection:
        for name, section in sections.items():
            try:
                with connection.transaction(force_rollback=True):
                    connection.execute(section.example.encode()).fetchall()
            except psycopg.Error as error:
                if error.sqlstate not in NOT_FOUND:
                    failed[name] = f"{error.sqlstate} {error.diag.message_primary}"
    assert failed == {}


def test_the_errors_that_are_listed_are_those_that_exist(sections: dict[str, Section]) -> None:
    text = (DOCS / "SQL-REFERENCE.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(22023|LC\d+)` \|", text, re.MULTILINE))
    raised = {"22023"}
    for path in sorted((DOCS.parent / "sql").glob("*.sql")):
        if path.name != "testing-suite.sql":
            raised |= set(re.findall(r"ERRCODE = '(LC\d+)'", path.read_text(encoding="utf-8")))
    assert listed == raised - {"LC000"}, "LC000 never leaves the function that raises it"
    used = {code for section in sections.values() for code in re.findall(r"`(LC\d+|22023)`", section.text)}
    assert used <= listed


def test_the_state_diagrams_are_the_rows_of_the_table(db: Database) -> None:
    text = (DOCS / "DIAGRAMS.md").read_text(encoding="utf-8")
    coordinator, execution, task = re.findall(r"stateDiagram-v2\n(.*?)```", text, re.DOTALL)
    for subject, drawing in (("coordinator", coordinator), ("execution", execution)):
        drawn = re.findall(r"^\s+([A-Z_]+) --> ([A-Z_]+)$", drawing, re.MULTILINE)
        rows = db.rows("SELECT from_state, to_state FROM lead.state_transition WHERE subject = %s", [subject])
        assert sorted(drawn) == sorted((row["from_state"], row["to_state"]) for row in rows), subject
    statuses = set(re.findall(r"\b([a-z_]+) -->|--> ([a-z_]+)\b", task))
    named = {name for pair in statuses for name in pair if name} - {"dead"} | {"dead_letter"}
    row = db.row(
        "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint WHERE conname = 'task_status_check'"
    )
    assert row is not None
    assert named == set(re.findall(r"'([a-z_]+)'", row["text"])), "the life of a task names every status"


def test_the_diagrams_name_functions_that_exist(sections: dict[str, Section]) -> None:
    text = (DOCS / "DIAGRAMS.md").read_text(encoding="utf-8")
    prefixes = (
        "submit|claim|complete|cancel|replay|discard|orchestrate|launchable|start|heartbeat|begin|mark|settle"
    )
    prefixes += "|confirm|finish|recover|report|reserve|release"
    named = set(re.findall(rf"\b(?:{prefixes})_\w+", text))
    assert len(named) > 15
    assert named <= sections.keys()
