"""Connections to PostgreSQL, and calls of SQL functions by name.

Invariants
- Every connection is in autocommit: one call of a function is one transaction, and nothing is held between
  calls.
- No server-side prepared statements (`prepare_threshold=None`), no session state: a transaction pooler may
  sit between.
- jsonb comes back as Python with Decimal for numbers that aren't whole; timestamptz comes back in UTC.
- SQLSTATEs become the errors of `lead_coordinator.errors` here, once. What isn't ours (a bug in a query, a
  broken constraint) stays psycopg's.
- A statement that was sent is never sent again: where a connection breaks, `DatabaseUnavailable` says that
  the outcome is unknown. A connection that died while idle is noticed before anything is sent and replaced.
"""

from __future__ import annotations

import re
import select
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NoReturn, Self, cast

import psycopg
from psycopg import sql
from psycopg.adapt import Loader
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg.types.datetime import TimestamptzLoader
from psycopg.types.json import Jsonb, set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from lead_coordinator.database import json as exact_json
from lead_coordinator.database.urls import dagster_url, mask_url, with_database
from lead_coordinator.errors import (
    ClockOff,
    DatabaseError,
    DatabaseUnavailable,
    IllegalTransition,
    InvalidInput,
    NotDeployed,
    NotFound,
    StaleLease,
    TypeDisabled,
)

__all__ = [
    "APPLICATION_NAME",
    "AsyncDatabase",
    "Database",
    "aconnect",
    "connect",
    "dagster_url",
    "given",
    "mask_url",
    "translate",
    "with_database",
]

# Our connections are counted by this prefix: every process of the platform keeps it.
APPLICATION_NAME = "lead-coordinator"
CONNECT_TIMEOUT_SECONDS = 10

Row = dict[str, Any]
Query = str | sql.Composable
Params = Sequence[Any] | Mapping[str, Any] | None

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_ERRORS: dict[str, type[DatabaseError]] = {
    "LC001": TypeDisabled,
    "LC002": StaleLease,
    "LC003": IllegalTransition,
    "LC004": ClockOff,
    "LC005": NotFound,
    "42883": NotDeployed,  # undefined_function
    "42P01": NotDeployed,  # undefined_table
    "3F000": NotDeployed,  # invalid_schema_name
}


class _UtcLoader(TimestamptzLoader):
    """timestamptz in UTC, whatever time zone the session speaks."""

    def load(self, data: Any) -> datetime:
        return super().load(data).astimezone(UTC)


def _prepare(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    connection.adapters.register_loader("timestamptz", cast("type[Loader]", _UtcLoader))
    set_json_loads(exact_json.loads, connection)
    set_json_dumps(exact_json.dumps, connection)


def _arguments(application_name: str) -> dict[str, Any]:
    return {
        "autocommit": True,
        "prepare_threshold": None,
        "row_factory": dict_row,
        "application_name": application_name,
    }


def _conninfo(url: str) -> str:
    try:
        return (
            make_conninfo(url, connect_timeout=CONNECT_TIMEOUT_SECONDS)
            if "connect_timeout" not in url
            else url
        )
    except psycopg.ProgrammingError as error:
        raise DatabaseUnavailable(
            f"{mask_url(url)} isn't an address of a PostgreSQL database: {error}"
        ) from None


def _unreachable(url: str, error: psycopg.Error) -> DatabaseUnavailable:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return DatabaseUnavailable(f"The database {mask_url(url)} can't be reached: {reason}")


def connect(url: str, application_name: str = APPLICATION_NAME) -> psycopg.Connection[DictRow]:
    """A connection in autocommit with dict rows. Raises `DatabaseUnavailable`, the password masked."""
    try:
        connection = psycopg.Connection[DictRow].connect(_conninfo(url), **_arguments(application_name))
    except psycopg.OperationalError as error:
        raise _unreachable(url, error) from None
    _prepare(connection)
    return connection


async def aconnect(url: str, application_name: str = APPLICATION_NAME) -> psycopg.AsyncConnection[DictRow]:
    """`connect` for asyncio."""
    try:
        connection = await psycopg.AsyncConnection[DictRow].connect(
            _conninfo(url), **_arguments(application_name)
        )
    except psycopg.OperationalError as error:
        raise _unreachable(url, error) from None
    _prepare(connection)
    return connection


def translate(error: psycopg.Error) -> Exception:
    """The error of ours that a psycopg error stands for; the error itself where it is none of ours."""
    state = error.sqlstate or ""
    message = error.diag.message_primary or str(error)
    if state in _ERRORS:
        kind = _ERRORS[state]
        return kind(
            f"{message} (is the control plane deployed? `lead-coordinator deploy`)"
            if kind is NotDeployed
            else message
        )
    if state.startswith("22"):  # data exceptions; our functions raise 22023
        return InvalidInput(message)
    if state.startswith(("08", "57P")) or (
        not state and isinstance(error, (psycopg.OperationalError, PoolTimeout))
    ):
        return DatabaseUnavailable(f"The connection to the database broke: {message.strip().splitlines()[0]}")
    return error


def _raise(error: psycopg.Error) -> NoReturn:
    translated = translate(error)
    if translated is error:
        raise error
    raise translated from error


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        _raise(error)


def given(**params: Any) -> dict[str, Any]:
    """The parameters that aren't None: the others keep the SQL function's own default."""
    return {name: value for name, value in params.items() if value is not None}


def _adapted(name: str, value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is None:
        raise InvalidInput(f"{name} is {value.isoformat()}, without a time zone: give an aware datetime.")
    if isinstance(value, str) and "\x00" in value:
        raise InvalidInput(f"{name} holds a NUL character, which PostgreSQL can't store.")
    if isinstance(value, Mapping) or (
        isinstance(value, (list, tuple)) and any(isinstance(i, Mapping) for i in value)
    ):
        return Jsonb(value)
    return list(value) if isinstance(value, tuple) else value


# In the statement itself, since a pooler gives each transaction another session.
WITHOUT_FLUSH = sql.SQL("{} AS value, set_config('synchronous_commit', 'off', true) AS committed")


def _statement(head: str, function: str, params: Mapping[str, Any]) -> tuple[sql.Composed, dict[str, Any]]:
    for name in (function, *params):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an SQL function or parameter")
    names = {name if name.startswith("p_") else f"p_{name}": value for name, value in params.items()}
    arguments = sql.SQL(", ").join(
        sql.SQL("{} := {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in names
    )
    call = sql.SQL("{}public.{}({})").format(sql.SQL(cast("Any", head)), sql.Identifier(function), arguments)
    return call, {name: _adapted(name, value) for name, value in names.items()}


def _idle_and_dead(connection: psycopg.BaseConnection[Any]) -> bool:
    """True where the server has closed a connection that nobody was using (it restarted, a pooler cut it)."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    try:
        while poll.poll(0):  # a last message first, then the end of the stream, which raises
            connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return connection.closed


class Database:
    """A thread-safe, synchronous face of one database: one connection, opened when first needed, reopened
    when lost.

    Calls from several threads queue behind one another; a call never waits for anything but the database.
    """

    def __init__(self, url: str, application_name: str = APPLICATION_NAME) -> None:
        self.url = url
        self._application_name = application_name
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[DictRow] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Database({mask_url(self.url)!r})"

    def close(self) -> None:
        """Closes the connection; the next call opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[DictRow]]:
        """The connection, held by this thread meanwhile.

        For several statements use `connection.transaction()`.
        """
        with self._lock:
            if self._connection is None or _idle_and_dead(self._connection):
                self.close()
                self._connection = connect(self.url, self._application_name)
            with _translating():
                yield self._connection

    def call(self, function: str, **params: Any) -> Any:
        """The value of `public.<function>(p_a := …)`.

        Names may be given with or without `p_`; None is sent as NULL.
        """
        statement, values = _statement("SELECT ", function, params)
        with self.connection() as connection:
            row = connection.execute(sql.SQL("{} AS value").format(statement), values).fetchone()
        return None if row is None else row["value"]

    def call_rows(self, function: str, **params: Any) -> list[Row]:
        """The rows of a function that returns a table."""
        statement, values = _statement("SELECT * FROM ", function, params)
        with self.connection() as connection:
            return connection.execute(statement, values).fetchall()

    def rows(self, query: Query, params: Params = None) -> list[Row]:
        """All rows of a query. `query` is written by us, values go into `params`."""
        with self.connection() as connection:
            return connection.execute(cast("Any", query), params).fetchall()

    def row(self, query: Query, params: Params = None) -> Row | None:
        """The first row of a query, or None."""
        with self.connection() as connection:
            return connection.execute(cast("Any", query), params).fetchone()

    def execute(self, query: Query, params: Params = None) -> int:
        """Runs a statement that returns no rows; answers how many rows it touched."""
        with self.connection() as connection:
            return connection.execute(cast("Any", query), params).rowcount


class AsyncDatabase:
    """`Database` for asyncio, over a pool of at most `max_size` connections.

    One is all that a pipeline run needs. Opens with `async with`, or when first used. A connection is taken
    for one call and given back: never held while something else is waited for.
    """

    def __init__(self, url: str, max_size: int = 1, application_name: str = APPLICATION_NAME) -> None:
        self.url = url
        self._opened = False
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[DictRow]] = AsyncConnectionPool(
            _conninfo(url),
            connection_class=psycopg.AsyncConnection[DictRow],
            kwargs=_arguments(application_name),
            min_size=1,
            max_size=max_size,
            open=False,
            timeout=30,
            configure=self._configure,
            check=self._check,
        )

    @staticmethod
    async def _configure(connection: psycopg.AsyncConnection[DictRow]) -> None:
        _prepare(connection)

    @staticmethod
    async def _check(connection: psycopg.AsyncConnection[DictRow]) -> None:
        if _idle_and_dead(connection):
            raise psycopg.OperationalError("the server closed the connection")

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncDatabase({mask_url(self.url)!r})"

    async def open(self) -> None:
        """Opens the pool. Raises `DatabaseUnavailable` at once where the server can't be reached."""
        if not self._opened:
            probe = await aconnect(self.url)  # the pool alone would say only, and late, that it timed out
            await probe.close()
            await self._pool.open()
            self._opened = True

    async def close(self) -> None:
        if self._opened:
            self._opened = False
            await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[DictRow]]:
        """A connection of the pool, given back at the end of the block."""
        await self.open()
        with _translating():
            async with self._pool.connection() as connection:
                yield connection

    async def call(self, function: str, **params: Any) -> Any:
        """See `Database.call`."""
        statement, values = _statement("SELECT ", function, params)
        async with self.connection() as connection:
            cursor = await connection.execute(sql.SQL("{} AS value").format(statement), values)
            row = await cursor.fetchone()
        return None if row is None else row["value"]

    async def call_without_flush(self, function: str, **params: Any) -> Any:
        """`call`, committed without waiting for the disk (`synchronous_commit = off`, for this call alone).

        For what every process queues at, and may be lost when the server's machine fails in the next half
        second: a later commit that does wait brings it to the disk too.
        """
        statement, values = _statement("SELECT ", function, params)
        async with self.connection() as connection:
            cursor = await connection.execute(WITHOUT_FLUSH.format(statement), values)
            row = await cursor.fetchone()
        return None if row is None else row["value"]

    async def call_rows(self, function: str, **params: Any) -> list[Row]:
        """See `Database.call_rows`."""
        statement, values = _statement("SELECT * FROM ", function, params)
        async with self.connection() as connection:
            return await (await connection.execute(statement, values)).fetchall()

    async def rows(self, query: Query, params: Params = None) -> list[Row]:
        """See `Database.rows`."""
        async with self.connection() as connection:
            return await (await connection.execute(cast("Any", query), params)).fetchall()

    async def row(self, query: Query, params: Params = None) -> Row | None:
        """See `Database.row`."""
        async with self.connection() as connection:
            return await (await connection.execute(cast("Any", query), params)).fetchone()

    async def execute(self, query: Query, params: Params = None) -> int:
        """See `Database.execute`."""
        async with self.connection() as connection:
            return (await connection.execute(cast("Any", query), params)).rowcount
