"""A real PostgreSQL for every test that asks: one server a pytest process, one database a test.

- `database_url`: a fresh, deployed database, marked as a scratch one (any p_current_time is accepted); the
  platform's role owns it and is no superuser.
- `admin_url`: the same database as superuser (for roles, grants and what an outsider may do).
- `db`, `async_db`: `Database` and `AsyncDatabase` on `database_url`.
- `empty_database_url`: a fresh database without anything in it; `superuser_url` is the same as superuser, and
  `owner_url` as an owner without privileges, under Supabase's default privileges.
- `postgres_server`: the server itself; an xdist worker has its own, in a folder that is gone afterwards.
- `settings`: settings of an empty environment, LEAD_HOME under the test's `tmp_path`.

A test marked `every_server` runs on each PostgreSQL the machine has (18 embedded, 16 carried with it, 15 the
system's); elsewhere it is the embedded one. Databases are copies of one template that is deployed once a
server, so a test pays some 50 ms for its own. `async def` tests run by anyio's plugin, on asyncio.
"""

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.deploy import deploy
from lead_coordinator.database.embedded import ROLE, EmbeddedServer
from lead_coordinator.database.urls import with_database
from lead_coordinator.settings import Settings
from lead_coordinator_tests.psql import hand_over_as_supabase
from lead_coordinator_tests.servers import KINDS, PlainServer, ServerMissing, Servers

TEMPLATE = "lead_template"
_numbers = count(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `--dist loadgroup`: the end-to-end tests share one booted platform, and those of the race share
    one race, so one worker each runs them, and begins with them because they take longest. (xdist 3.8 marks
    groups by an attribute that pytest 9.2 no longer has.)
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class PlatformsTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            shares = "/e2e/" in nodeid or "/races/" in nodeid
            return nodeid.partition("::")[0] if shares else nodeid

    return PlatformsTogether(config, log)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server_kind" in metafunc.fixturenames and metafunc.definition.get_closest_marker("every_server"):
        metafunc.parametrize("server_kind", KINDS, indirect=True, scope="session")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server_kind(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "embedded"))


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    servers = Servers()
    try:
        yield servers
    finally:
        servers.stop()


@pytest.fixture
def postgres_server(servers: Servers, server_kind: str) -> EmbeddedServer | PlainServer:
    try:
        return servers.get(server_kind)
    except ServerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def deployed_templates() -> set[str]:
    """The servers (by address) whose template is there."""
    return set()


@pytest.fixture
def empty_database_url(postgres_server: EmbeddedServer | PlainServer) -> Iterator[str]:
    name = f"empty_{next(_numbers)}"
    _create(postgres_server.admin_url, name)
    yield with_database(postgres_server.url, name)
    _drop(postgres_server.admin_url, name)


@pytest.fixture
def superuser_url(postgres_server: EmbeddedServer | PlainServer, empty_database_url: str) -> str:
    """An empty database, as superuser."""
    return with_database(postgres_server.admin_url, urlsplit(empty_database_url).path.lstrip("/"))


@pytest.fixture
def owner_url(superuser_url: str) -> str:
    """An empty database as Supabase hands it over, as its owner."""
    return hand_over_as_supabase(superuser_url)


@pytest.fixture
def database_url(
    postgres_server: EmbeddedServer | PlainServer, deployed_templates: set[str]
) -> Iterator[str]:
    admin_url = postgres_server.admin_url
    if admin_url not in deployed_templates:
        _create(admin_url, TEMPLATE)
        url = with_database(postgres_server.url, TEMPLATE)
        deploy(url, Settings.load({}))
        with Database(url) as db:
            db.execute("UPDATE lead.setting SET value = 'true' WHERE name = 'scratch_database'")
        deployed_templates.add(admin_url)
    name = f"test_{next(_numbers)}"
    _create(admin_url, name, template=TEMPLATE)
    yield with_database(postgres_server.url, name)
    _drop(admin_url, name)


@pytest.fixture
def admin_url(postgres_server: EmbeddedServer | PlainServer, database_url: str) -> str:
    name = database_url.partition("?")[0].rpartition("/")[2]
    return with_database(postgres_server.admin_url, name)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


@pytest.fixture
async def async_db(database_url: str) -> AsyncIterator[AsyncDatabase]:
    async with AsyncDatabase(database_url) as database:
        yield database


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({"LEAD_HOME": str(tmp_path / "home")})


def _create(admin_url: str, name: str, template: str = "template0") -> None:
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(ROLE), sql.Identifier(template)
            )
        )


def _drop(admin_url: str, name: str) -> None:
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
