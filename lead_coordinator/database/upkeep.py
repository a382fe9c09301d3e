"""What the server does not do by itself: making indexes small again that pruning has left sparse.

It needs the right to rebuild an index, which the owner of the tables has. Nobody is stopped meanwhile: each
index is rebuilt beside the old one (`REINDEX INDEX CONCURRENTLY`), which waits for transactions that are open
and makes none wait.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql

from lead_coordinator.database.connection import Database
from lead_coordinator.database.operations import find_sparse_indexes

logger = logging.getLogger(__name__)

# What a rebuild that was killed leaves behind, unless another is at work on that table at this moment.
LEFT_OVER = """
SELECT n.nspname AS schema_name, c.relname AS index_name
FROM pg_index AS i
INNER JOIN pg_class AS c ON c.oid = i.indexrelid
INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND n.nspname IN ('lead', 'public') AND c.relname ~ '_cc(new|old)[0-9]*$'
    AND NOT EXISTS (
        SELECT 1 FROM pg_stat_progress_create_index AS p
        WHERE p.datname = current_database() AND p.relid = i.indrelid
    )
"""

COMES_LATER = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
)


@dataclass(frozen=True)
class Rebuilt:
    """An index with its size before and after, in bytes."""

    index_name: str
    bytes_before: int
    bytes_after: int


def rebuild_sparse_indexes(db: Database, *, minimum_bytes: int | None = None) -> list[Rebuilt]:
    """Rebuilds each index that is more than twice as large as its entries need (and at least 8 MB).

    One that can't be rebuilt now (no right to it, or a transaction that does not end) is logged and left.
    """
    for row in db.rows(LEFT_OVER):
        _try(db, "DROP INDEX CONCURRENTLY IF EXISTS {}", row["schema_name"], row["index_name"])
    rebuilt = []
    for sparse in find_sparse_indexes(db, minimum_bytes=minimum_bytes):
        schema, name = sparse.schema_name, sparse.index_name
        if not _try(db, "REINDEX INDEX CONCURRENTLY {}", schema, name):
            continue
        after = db.row(
            "SELECT pg_relation_size(format('%%I.%%I', %s::text, %s::text)) AS size", [schema, name]
        )
        assert after is not None
        rebuilt.append(Rebuilt(f"{schema}.{name}", sparse.size_bytes, after["size"]))
    return rebuilt


def _try(db: Database, statement: LiteralString, schema: str, name: str) -> bool:
    try:
        with db.connection() as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(schema, name)))
    except COMES_LATER as error:
        logger.warning("Index %s.%s is left as it is: %s", schema, name, error.diag.message_primary)
        return False
    return True
