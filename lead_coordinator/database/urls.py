"""Addresses of databases: reading, comparing and translating them. Nothing here connects."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from lead_coordinator.settings import mask_url

__all__ = ["dagster_url", "mask_url", "with_database", "with_parameters"]

DAGSTER_SCHEMA = "dagster"
DAGSTER_APPLICATION_NAME = "lead-coordinator-dagster"


def with_database(url: str, database: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path="/" + quote(database, safe="")))


def with_parameters(url: str, **parameters: str) -> str:
    """The URL with query parameters added; those it already has win."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    merged = {**parameters, **query}
    return urlunsplit(parts._replace(query=urlencode(merged, quote_via=quote, safe="/")))


def dagster_url(url: str) -> str:
    """The address that Dagster's storage takes for the same database, its tables in the schema `dagster`.

    SQLAlchemy 2.1 reads `postgresql://` as psycopg 3, with which dagster-postgres fails, so the driver is
    said. A unix-socket folder moves to the query, the one place where SQLAlchemy and libpq both look. The
    application name makes these connections count as ours.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query.setdefault("application_name", DAGSTER_APPLICATION_NAME)
    query["options"] = " ".join(filter(None, (query.get("options"), f"-csearch_path={DAGSTER_SCHEMA}")))
    user, at, host = parts.netloc.rpartition("@")
    if host.lower().startswith("%2f"):
        socket_dir, _, port = host.partition(":")
        query["host"] = unquote(socket_dir)
        if port:
            query["port"] = port
        host = ""
    return urlunsplit(
        (
            "postgresql+psycopg2",
            f"{user}{at}{host}",
            parts.path or "/",
            urlencode(query, quote_via=quote, safe="/"),
            "",
        )
    )
