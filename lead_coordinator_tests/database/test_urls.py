"""Addresses: the same database for psycopg and for Dagster's SQLAlchemy."""

import pytest
from sqlalchemy.engine import make_url

from lead_coordinator.database.urls import dagster_url, with_database, with_parameters


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40ss@db.example.org:6543/app?sslmode=require",
        "postgres://u:p%40ss@db.example.org:6543/app?sslmode=require",
    ],
)
def test_dagster_speaks_psycopg2_to_the_same_database_in_a_schema_of_its_own(url: str) -> None:
    translated = make_url(dagster_url(url))
    assert translated.drivername == "postgresql+psycopg2"
    assert (translated.username, translated.password) == ("u", "p@ss")
    assert (translated.host, translated.port, translated.database) == ("db.example.org", 6543, "app")
    assert translated.query["sslmode"] == "require"
    assert translated.query["options"] == "-csearch_path=dagster"
    assert str(translated.query["application_name"]).startswith("lead-coordinator")


@pytest.mark.parametrize(
    "url", ["postgresql://u@/app?host=/var/run/a%20b", "postgresql://u@%2Fvar%2Frun%2Fa%20b/app"]
)
def test_a_socket_folder_is_where_sqlalchemy_finds_it(url: str) -> None:
    translated = make_url(dagster_url(url))
    assert translated.host is None
    assert translated.query["host"] == "/var/run/a b"
    assert translated.database == "app"


def test_options_that_are_there_are_kept() -> None:
    translated = make_url(dagster_url("postgresql://u@h/d?options=-cstatement_timeout%3D5s"))
    assert translated.query["options"] == "-cstatement_timeout=5s -csearch_path=dagster"


def test_another_database_of_the_same_server() -> None:
    assert with_database("postgresql://u:p@h:1/a?x=y", "b c") == "postgresql://u:p@h:1/b%20c?x=y"


def test_parameters_are_added_and_dont_override() -> None:
    url = with_parameters("postgresql://u@h/d?connect_timeout=3", connect_timeout="10", sslmode="require")
    assert url == "postgresql://u@h/d?connect_timeout=3&sslmode=require"
