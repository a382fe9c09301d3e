"""What the log of differences says of the oldest task of each level: whatever happens to the tasks, and
however transactions overlap, none is older. `oldest_queued` and `pick_from_lane` rest on it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.sql.play import Play

CONTENT = "content_generation"
# No two of them lock the same row: each works on tasks of its own number modulo this.
WRITERS = 3
LEVELS = """
SELECT r.task_id, r.queued_at FROM lead.ready AS r
LEFT JOIN (
    SELECT q.task_type, q.lane, q.score, min(q.oldest_from) AS oldest_from
    FROM lead.queue_depth_delta AS q WHERE q.status = 'queued' GROUP BY q.task_type, q.lane, q.score
) AS l ON l.task_type = r.task_type AND l.lane = r.lane AND l.score = r.score
WHERE l.oldest_from IS NULL OR l.oldest_from > r.queued_at
"""
MISCOUNTED = """
SELECT m.task_type, m.lane, m.score, sum(m.tasks) AS tasks FROM (
    SELECT q.task_type, q.lane, q.score, q.tasks FROM lead.queue_depth_delta AS q WHERE q.status = 'queued'
    UNION ALL SELECT r.task_type, r.lane, r.score, -1 FROM lead.ready AS r
) AS m GROUP BY m.task_type, m.lane, m.score HAVING sum(m.tasks) <> 0
"""
OLDEST = "SELECT min(r.queued_at) AS oldest FROM lead.ready AS r WHERE r.task_type = %s"
INSERT = """
INSERT INTO lead.task (task_type, payload, priority_base, tenant, created_at, queued_at)
SELECT 'content_generation', '{}', %(priority)s, %(tenant)s, %(now)s,
    %(now)s - n * %(age)s * interval '1 minute'
FROM generate_series(1, %(tasks)s) AS n
"""
MINE = "mod(t.id, 3) = %(writer)s AND mod(t.id, 7) < %(part)s"
CHANGES = (
    INSERT,
    INSERT,
    # Backdated, and put into another level.
    f"UPDATE lead.task AS t SET queued_at = t.queued_at - %(age)s * interval '1 hour' WHERE {MINE}",
    f"UPDATE lead.task AS t SET queued_at = t.queued_at + %(age)s * interval '1 hour' WHERE {MINE}",
    f"UPDATE lead.task AS t SET priority_base = %(priority)s WHERE {MINE}",
    f"UPDATE lead.task AS t SET tenant = %(tenant)s WHERE {MINE}",
    # Two levels change places.
    f"UPDATE lead.task AS t SET priority_base = 100 - t.priority_base WHERE {MINE} AND t.priority_base <> 50",
    # Taken, and back again.
    f"UPDATE lead.task AS t SET status = 'processing' WHERE {MINE} AND t.status = 'queued'",
    f"UPDATE lead.task AS t SET status = 'queued' WHERE {MINE} AND t.status <> 'queued'",
    f"UPDATE lead.task AS t SET status = 'cancelled' WHERE {MINE} AND t.status = 'queued'",
    f"DELETE FROM lead.task AS t WHERE {MINE}",
)
LONG_LOG = """
INSERT INTO lead.queue_depth_delta (task_type, status, tasks, oldest_from)
SELECT 'content_generation', 'completed', 0, 'infinity' FROM generate_series(1, 700)
"""


@pytest.fixture
def play(db: Database) -> Play:
    return Play(db)


@pytest.fixture
def writers(database_url: str) -> Iterator[list[psycopg.Connection[DictRow]]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(psycopg.connect(database_url, row_factory=dict_row)) for _ in range(WRITERS)
        ]


def fold(connection: psycopg.Connection[Any]) -> None:
    connection.execute(LONG_LOG)
    connection.execute("SELECT lead.fold_queue_depth()")


def check(db: Database) -> None:
    assert db.rows(LEVELS) == [], "no task was expected to be older than what the log says of its level"
    assert db.rows(MISCOUNTED) == []
    expected = db.row(OLDEST, [CONTENT])
    assert db.row("SELECT lead.oldest_queued(%s) AS oldest", [CONTENT]) == expected


@pytest.mark.parametrize("seed", range(8))
def test_no_task_is_older_than_the_log_says(
    db: Database, play: Play, writers: list[psycopg.Connection[DictRow]], seed: int
) -> None:
    """Several transactions are open at once; they change tasks, fold, commit and roll back in any order."""
    chance = random.Random(seed)
    for _ in range(150):
        writer = chance.randrange(WRITERS)
        connection = writers[writer]
        what = chance.random()
        if what < 0.15:
            fold(connection)
        elif what < 0.45:
            connection.commit()
        elif what < 0.55:
            connection.rollback()
        else:
            connection.execute(
                chance.choice(CHANGES),
                {
                    "writer": writer,
                    "part": chance.randint(1, 7),
                    "priority": chance.choice((0, 50, 100)),
                    "tenant": chance.choice((None, "acme")),
                    "age": chance.randint(0, 90),
                    "tasks": chance.randint(1, 4),
                    "now": play.now,
                },
            )
        check(db)
    for connection in writers:
        connection.commit()
    with db.connection() as connection:
        fold(connection)
    check(db)


def test_folding_makes_exact_what_is_noted_where_tasks_have_gone(db: Database, play: Play) -> None:
    db.execute(INSERT, {"priority": 50, "tenant": None, "age": 10, "tasks": 2, "now": play.now})
    db.execute("DELETE FROM lead.task AS t WHERE t.queued_at = (SELECT min(u.queued_at) FROM lead.task AS u)")
    noted = "SELECT min(oldest_from) AS oldest FROM lead.queue_depth_delta WHERE status = 'queued'"
    assert db.row(noted) != db.row(OLDEST, [CONTENT])
    with db.connection() as connection:
        fold(connection)
    assert db.row(noted) == db.row(OLDEST, [CONTENT])


def test_what_is_unknown_is_found_out_by_the_first_fold(db: Database, play: Play) -> None:
    """As an older deployment is brought forward: nothing is known of the tasks that wait."""
    play.submit(3)
    db.execute("UPDATE lead.queue_depth_delta SET oldest_from = DEFAULT")
    check(db)
    db.execute("SELECT lead.fold_queue_depth()")
    check(db)
    known = db.row("SELECT min(oldest_from) AS oldest FROM lead.queue_depth_delta WHERE status = 'queued'")
    assert known == db.row(OLDEST, [CONTENT])


def test_half_of_a_level_is_folded_while_another_folds(
    db: Database, play: Play, writers: list[psycopg.Connection[DictRow]]
) -> None:
    """The sum of the rows that are left may be nothing, and the oldest task is still known."""
    first, second, _ = writers
    task = {"priority": 50, "tenant": None, "age": 10, "tasks": 1, "now": play.now}
    db.execute(INSERT, task)
    db.execute(INSERT, {**task, "age": 5})
    first.execute(
        "SELECT 1 FROM lead.queue_depth_delta AS q WHERE q.oldest_from = (SELECT max(m.oldest_from)"
        " FROM lead.queue_depth_delta AS m) FOR UPDATE"
    )
    db.execute(
        "UPDATE lead.task AS t SET status = 'cancelled' WHERE t.id = (SELECT max(u.id) FROM lead.task AS u)"
    )
    fold(second)
    second.commit()
    first.commit()
    check(db)


def test_the_overdue_are_taken_oldest_first_over_all_levels(db: Database, play: Play) -> None:
    for age, priority in ((3_000, 10), (4_000, 90), (3_500, 50), (2_000, 70), (100, 5)):
        db.execute(INSERT, {"priority": priority, "tenant": None, "age": age, "tasks": 1, "now": play.now})
    taken = []
    for number in range(5):
        row = db.row("SELECT lead.take_overdue_task(%s, %s, %s) AS id", [f"run {number}", CONTENT, play.now])
        assert row is not None
        taken.append(row["id"])
        if number == 1:
            with db.connection() as connection:
                fold(connection)
        check(db)
    ages = {row["id"]: row["minutes"] for row in db.rows(
        "SELECT id, (extract(EPOCH FROM created_at - queued_at) / 60)::integer AS minutes FROM lead.task"
    )}  # fmt: skip
    assert [id and ages[id] for id in taken] == [4_000, 3_500, 3_000, 2_000, None]
