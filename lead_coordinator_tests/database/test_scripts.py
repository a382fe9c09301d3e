"""Reading psql scripts: what psql would run, in order, minus its own transaction."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.database.deploy import sql_files
from lead_coordinator.database.scripts import ScriptError, Statement, statements


def texts(script: str) -> list[str]:
    return [statement.text for statement in statements(script)]


def test_meta_lines_and_the_files_own_transaction_are_left_out() -> None:
    script = r"""
\set ON_ERROR_STOP on
BEGIN;
SELECT 1;
\echo done
SELECT 2;
COMMIT;
START TRANSACTION;
END WORK;
"""
    assert texts(script) == ["SELECT 1", "SELECT 2"]


@pytest.mark.parametrize(
    "statement",
    [
        "DO $$ BEGIN PERFORM 1; COMMIT; END $$",
        "CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $body$ BEGIN RETURN $$a;b$$; END; $body$",
        "SELECT 'a;b', \"c;d\", 'it''s; fine'",
        "SELECT E'it\\'s; fine'",
        "SELECT 1 -- not; the end\n, 2",
        "SELECT 1 /* nor; /* nested; */ here; */ , 2",
        "CREATE FUNCTION f(a int) RETURNS int BEGIN ATOMIC SELECT CASE WHEN a > 0 THEN 1 END; SELECT 2; END",
        "SELECT a$1$b FROM t",
        "SELECT $1 + $2",
    ],
)
def test_semicolons_inside_something_dont_end_a_statement(statement: str) -> None:
    assert texts(f"{statement};\nSELECT 'next';") == [statement, "SELECT 'next'"]


def test_a_backslash_in_a_body_or_string_is_no_meta_command() -> None:
    body = "DO $$\n\\if looks like one\n$$"
    assert texts(f"{body};") == [body]


def test_each_statement_knows_its_line() -> None:
    script = "-- a comment\n\\set ON_ERROR_STOP on\n/* two\nlines */\nSELECT 1;\n\n  SELECT\n2;"
    assert list(statements(script)) == [Statement("SELECT 1", 5), Statement("SELECT\n2", 7)]


def test_a_last_statement_needs_no_semicolon_and_blank_ones_dont_count() -> None:
    assert texts(";;\n-- nothing\n;SELECT 1") == ["SELECT 1"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("SELECT 1;\n\\if true\n", "line 2: .*if true can't be run"),
        ("\\i other.sql\n", "line 1"),
        ("\\set name value\n", "line 1: .*set name value"),
        ("\n\nDO $x$ BEGIN", "line 3: \\$x\\$ is never closed"),
        ("SELECT 1; /* open", "line 1: a comment is never closed"),
    ],
)
def test_what_would_change_the_scripts_meaning_is_refused_with_its_line(script: str, said: str) -> None:
    with pytest.raises(ScriptError, match=said):
        list(statements(script))


quoted = st.sampled_from(["'{}'", '"{}"', "$${}$$", "$t${}$t$", "/*{}*/"])
inner = st.text(st.sampled_from(list("ab;- \n(CASEND")), max_size=12)


@given(st.lists(st.tuples(quoted, inner), min_size=1, max_size=5))
def test_whatever_is_quoted_stays_in_one_piece(pieces: list[tuple[str, str]]) -> None:
    statement = "SELECT " + ", ".join(["1", *(frame.format(content) for frame, content in pieces), "1"])
    assert texts(f"{statement};SELECT 2;") == [statement, "SELECT 2"]


def test_our_own_files_can_be_read() -> None:
    for path in sql_files():
        found = texts(path.read_text(encoding="utf-8"))
        assert len(found) > 3, path.name
        assert not [text for text in found if text.upper() in ("BEGIN", "COMMIT")], path.name
