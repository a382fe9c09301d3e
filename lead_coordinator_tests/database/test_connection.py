"""Connections: types survive the way, errors say what they mean, lost connections come back."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import psycopg
import pytest

from lead_coordinator.database.connection import (
    APPLICATION_NAME,
    AsyncDatabase,
    Database,
    aconnect,
    connect,
    given,
)
from lead_coordinator.database.embedded import EmbeddedServer
from lead_coordinator.errors import (
    ClockOff,
    DatabaseUnavailable,
    IllegalTransition,
    InvalidInput,
    LeadCoordinatorError,
    NotDeployed,
    NotFound,
    StaleLease,
    TypeDisabled,
)

DEAD_URL = "postgresql://someone:s3cret@127.0.0.1:1/nowhere"


@pytest.fixture
def plain(empty_database_url: str) -> Database:
    return Database(empty_database_url)


@pytest.mark.every_server
def test_every_value_survives_the_way_there_and_back(empty_database_url: str) -> None:
    moment = datetime(2026, 11, 24, 5, 30, tzinfo=timezone(timedelta(hours=3)))
    with Database(empty_database_url) as db:
        db.execute(
            "CREATE FUNCTION public.echo(p_text text, p_number numeric, p_at timestamptz, p_json jsonb,"
            " p_ids bigint[], p_unset text DEFAULT 'untouched') RETURNS SETOF record LANGUAGE sql AS"
            " 'SELECT p_text, p_number, p_at, p_json, p_ids, p_unset'"
        )
        db.execute("SET TIME ZONE 'Asia/Kathmandu'")
        row = db.row(
            "SELECT * FROM public.echo(%s, %s, %s, %s, %s) AS e"
            " (text text, number numeric, at timestamptz, json jsonb, ids bigint[], unset text)",
            [
                "ünïcødé",
                Decimal("0.0000000001"),
                moment,
                psycopg.types.json.Jsonb({"usd": Decimal("1.10")}),
                [],
            ],
        )
    assert row == {
        "text": "ünïcødé",
        "number": Decimal("0.0000000001"),
        "at": moment,
        "json": {"usd": Decimal("1.10")},
        "ids": [],
        "unset": "untouched",
    }
    assert row["at"].tzinfo is UTC, "times come back in UTC whatever the session speaks"


@pytest.mark.every_server
def test_a_function_is_called_by_the_names_of_its_parameters(empty_database_url: str) -> None:
    with Database(empty_database_url) as db:
        db.execute(
            "CREATE FUNCTION public.greet(p_name text, p_times integer DEFAULT 2, p_more jsonb DEFAULT NULL)"
            " RETURNS text LANGUAGE sql"
            " AS $$ SELECT repeat(p_name, p_times) || coalesce(p_more ->> 'end', '?') $$"
        )
        assert db.call("greet", name="ha") == "haha?", "what isn't given keeps its default"
        assert db.call("greet", p_times=1, p_name="ha", more={"end": "!"}) == "ha!"
        assert db.call("greet", name="ha", times=None) is None, "None is NULL"
        assert db.call_rows("greet", name="ha") == [{"greet": "haha?"}]


def test_given_leaves_out_what_is_none_and_nothing_else() -> None:
    assert given(a=None, b=0, c="", d=False) == {"b": 0, "c": "", "d": False}


@pytest.mark.parametrize("name", ["now(); DROP TABLE x; --", "pg_sleep ", "Capital", 'a"b', ""])
def test_only_names_are_functions(plain: Database, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of an SQL function"):
        plain.call(name)
    with pytest.raises(ValueError, match="not the name of an SQL function"):
        plain.call("now", **{name: 1})


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("22023", InvalidInput),
        ("22P02", InvalidInput),
        ("LC001", TypeDisabled),
        ("LC002", StaleLease),
        ("LC003", IllegalTransition),
        ("LC004", ClockOff),
        ("LC005", NotFound),
    ],
)
async def test_what_sql_refuses_has_a_class_of_its_own(
    empty_database_url: str, state: str, kind: type[LeadCoordinatorError]
) -> None:
    refuse = f"DO $$ BEGIN RAISE EXCEPTION 'p_field: 7 is not allowed' USING ERRCODE = '{state}'; END $$"
    with Database(empty_database_url) as db, pytest.raises(kind, match=r"^p_field: 7 is not allowed$"):
        db.execute(refuse)
    async with AsyncDatabase(empty_database_url) as adb:
        with pytest.raises(kind, match=r"^p_field: 7 is not allowed$"):
            await adb.execute(refuse)


def test_a_missing_function_or_table_says_what_to_run(plain: Database) -> None:
    with pytest.raises(NotDeployed, match="lead-coordinator deploy"):
        plain.call("submit_task", task_type="content_generation")
    with pytest.raises(NotDeployed, match="lead-coordinator deploy"):
        plain.rows("SELECT * FROM lead.task")


def test_what_isnt_ours_stays_psycopgs(plain: Database) -> None:
    with pytest.raises(psycopg.errors.SyntaxError):
        plain.rows("SELEC 1")


def test_a_time_without_zone_and_a_nul_are_refused_before_anything_is_sent(plain: Database) -> None:
    with pytest.raises(InvalidInput, match=r"p_current_time is .* without a time zone"):
        plain.call("now", current_time=datetime(2026, 11, 24))  # noqa: DTZ001
    with pytest.raises(InvalidInput, match="p_name holds a NUL"):
        plain.call("now", name="a\x00b")


async def test_a_dead_address_is_one_sentence_without_the_password() -> None:
    for attempt in (lambda: connect(DEAD_URL), lambda: Database(DEAD_URL).row("SELECT 1")):
        with pytest.raises(
            DatabaseUnavailable, match=r"someone:\*\*\*@127\.0\.0\.1:1/nowhere can't be reached"
        ):
            attempt()
    with pytest.raises(DatabaseUnavailable) as caught:
        await aconnect(DEAD_URL)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(DatabaseUnavailable):
        await AsyncDatabase(DEAD_URL).open()


def test_connections_are_counted_as_ours_and_hold_nothing(plain: Database) -> None:
    row = plain.row("SELECT application_name, state FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    assert row == {"application_name": APPLICATION_NAME, "state": "active"}
    assert plain.row("SHOW transaction_read_only") == {"transaction_read_only": "off"}
    with plain.connection() as connection:
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        assert connection.prepare_threshold is None, "a transaction pooler may sit between"


def terminate_all(admin_url: str, url: str) -> None:
    database = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [database]
        )


async def test_a_connection_that_died_while_idle_is_replaced_before_anything_is_sent(
    empty_database_url: str, postgres_server: EmbeddedServer
) -> None:
    async with AsyncDatabase(empty_database_url) as adb:
        with Database(empty_database_url) as db:
            first = db.row("SELECT pg_backend_pid() AS pid"), await adb.row("SELECT pg_backend_pid() AS pid")
            terminate_all(postgres_server.admin_url, empty_database_url)
            second = db.row("SELECT pg_backend_pid() AS pid"), await adb.row("SELECT pg_backend_pid() AS pid")
    assert None not in second
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_a_connection_that_breaks_under_a_statement_isnt_retried(
    plain: Database,
) -> None:
    plain.execute("CREATE TABLE done (what text)")
    with pytest.raises(DatabaseUnavailable, match="connection to the database broke"):
        plain.rows("INSERT INTO done VALUES ('x'); SELECT pg_terminate_backend(pg_backend_pid())")
    assert plain.rows("SELECT * FROM done") == [], "nobody sent the statement a second time"


def test_threads_share_one_connection_without_mixing_their_answers(plain: Database) -> None:
    answers: dict[int, object] = {}

    def ask(number: int) -> None:
        for _ in range(20):
            answers[number] = plain.row("SELECT %s::int AS n, pg_backend_pid() AS pid", [number])

    threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: answer["n"] for number, answer in answers.items()} == {n: n for n in range(8)}  # type: ignore[index]
    assert len({answer["pid"] for answer in answers.values()}) == 1  # type: ignore[index]


async def test_many_tasks_share_the_one_connection_of_a_run(empty_database_url: str) -> None:
    async with AsyncDatabase(empty_database_url) as adb:
        rows = await asyncio.gather(
            *(adb.row("SELECT %s::int AS n, pg_backend_pid() AS pid", [n]) for n in range(30))
        )
        assert [row["n"] for row in rows if row] == list(range(30))
        assert len({row["pid"] for row in rows if row}) == 1
        used = await adb.row("SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()")
    assert used == {"n": 1}, "a run holds one connection"


async def test_a_cancelled_task_gives_its_connection_back(empty_database_url: str) -> None:
    async with AsyncDatabase(empty_database_url) as adb:
        await adb.row("SELECT 1")
        sleeper = asyncio.create_task(adb.row("SELECT pg_sleep(600)"))
        while not await _is_sleeping(empty_database_url):  # noqa: ASYNC110 (another process's state)
            await asyncio.sleep(0.01)
        sleeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeper
        assert await adb.row("SELECT 1 AS one") == {"one": 1}


async def _is_sleeping(url: str) -> bool:
    async with await aconnect(url) as connection:
        cursor = await connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'"
        )
        return await cursor.fetchone() is not None


async def test_a_call_without_flush_changes_only_its_own_commit(
    plain: Database, empty_database_url: str
) -> None:
    # Tests run on a server that waits for no disk.
    plain.execute(
        "DO $$ BEGIN EXECUTE format("
        "'ALTER DATABASE %I SET synchronous_commit = on', current_database()); END $$"
    )
    async with AsyncDatabase(empty_database_url) as adb:
        await adb.execute(
            "CREATE FUNCTION public.how_it_commits() RETURNS text LANGUAGE sql"
            " RETURN current_setting('synchronous_commit')"
        )
        before = await adb.call("how_it_commits")
        assert before == "on"
        await adb.execute("CREATE TABLE public.written (it text)")
        await adb.execute(
            "CREATE FUNCTION public.write_it() RETURNS text LANGUAGE sql"
            " AS 'INSERT INTO public.written VALUES (1) RETURNING it'"
        )
        assert await adb.call_without_flush("write_it") == "1"
        assert await adb.call("how_it_commits") == before
        assert await adb.rows("SELECT it FROM public.written") == [{"it": "1"}]
