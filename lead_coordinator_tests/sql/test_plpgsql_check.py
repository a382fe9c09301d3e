"""plpgsql_check reads the body of every function against the schema and reports nothing.

It finds columns, types and casts that are wrong on a branch no test takes, variables nobody reads, and
volatility that is declared wrongly. It exists for PostgreSQL 15 on Debian (postgresql-15-plpgsql-check);
elsewhere it is skipped.
"""

from __future__ import annotations

import psycopg
import pytest

from lead_coordinator.database.connection import connect

# These run SQL that is put together, of nothing but names out of the catalog or of our own files.
RUN_TEXT_OF_OUR_OWN = {
    "lead.apply_security()": "GRANT and REVOKE of privileges and objects that lead.expected_grants names",
    "lead.expect_error(text, text, text, text)": "a statement of the test suite; only the owner calls it",
    "public.benchmark_coordinator_performance(integer)": "the statements of lead.benchmarks",
}
CHECK = """
    SELECT f.name, c.lineno, c.level, c.sqlstate, c.message, coalesce(c.detail, c.hint) AS detail, c.statement
    FROM lead.our_functions() AS f
    INNER JOIN pg_proc AS p ON p.oid = f.oid
    INNER JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
    LEFT JOIN LATERAL (
        SELECT t.tgrelid, t.tgoldtable::text, t.tgnewtable::text FROM pg_trigger AS t WHERE t.tgfoid = f.oid
    ) AS t ON true
    CROSS JOIN LATERAL plpgsql_check_function_tb(
        f.oid, coalesce(t.tgrelid, 0), oldtable => t.tgoldtable, newtable => t.tgnewtable,
        fatal_errors => false, extra_warnings => true, performance_warnings => false,
        security_warnings => true
    ) AS c
    ORDER BY 1, 2
"""


@pytest.fixture(scope="session")
def server_kind() -> str:
    return "system-15"


def test_it_reports_nothing_on_any_function(admin_url: str) -> None:
    with connect(admin_url) as admin:
        try:
            admin.execute("CREATE EXTENSION plpgsql_check")
        except (psycopg.errors.UndefinedFile, psycopg.errors.FeatureNotSupported):
            pytest.skip("PostgreSQL 15 is here without plpgsql_check (Debian: postgresql-15-plpgsql-check)")
        checked = admin.execute(
            "SELECT count(*) AS functions FROM lead.our_functions() AS f"
            " INNER JOIN pg_proc AS p ON p.oid = f.oid"
            " INNER JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname = 'plpgsql'"
        ).fetchone()
        assert checked is not None
        assert checked["functions"] > 100
        rows = admin.execute(CHECK).fetchall()
    found = [
        f"{row['name']} line {row['lineno']}: {row['level']} {row['sqlstate']} {row['message']}"
        f" ({row['detail']})"
        for row in rows
        if not (row["level"] == "security" and row["name"] in RUN_TEXT_OF_OUR_OWN)
    ]
    assert found == [], "\n".join(found)
    still = {row["name"] for row in rows if row["level"] == "security"}
    assert still == set(RUN_TEXT_OF_OUR_OWN), "the exceptions were expected to be needed"
