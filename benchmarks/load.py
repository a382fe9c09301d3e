"""The load: the same payloads and priorities for every queue, in Python and as SQL.

About 300 bytes of JSON a task, and priorities of 0 to 100 that aren't in the order of arrival (7,919 is a
prime, so neighbours differ).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from lead_coordinator.database.connection import connect

FILL_STEP = 100_000

PAYLOAD_SQL = (
    "jsonb_build_object('title', 'How to care for roses in month ' || n,"
    " 'keyword', 'rose care ' || mod(n, 997), 'audience', 'gardeners', 'tone', 'plain', 'words', 900,"
    " 'notes', repeat('water, prune, feed; ', 8))"
)
PRIORITY_SQL = "mod(n::bigint * 7919, 101)::integer"
_FILL = f"""
INSERT INTO lead.task (task_type, payload, priority_base, tenant, created_at, queued_at)
SELECT (%(task_types)s::text[])[1 + mod(n, cardinality(%(task_types)s::text[]))],
    {PAYLOAD_SQL}, {PRIORITY_SQL},
    CASE WHEN mod(n, 3) = 0 THEN (%(tenants)s::text[])[1 + mod(n / 3, cardinality(%(tenants)s::text[]))] END,
    t.at, t.at
FROM generate_series(%(first)s::integer, %(last)s::integer) AS n,
    LATERAL (SELECT %(oldest)s + (%(youngest)s - %(oldest)s) * (n::float8 / %(tasks)s) AS at) AS t
"""


def payload(n: int) -> dict[str, Any]:
    """What `PAYLOAD_SQL` makes of row n."""
    return {
        "title": f"How to care for roses in month {n}",
        "keyword": f"rose care {n % 997}",
        "audience": "gardeners",
        "tone": "plain",
        "words": 900,
        "notes": "water, prune, feed; " * 8,
    }


def priority(n: int) -> int:
    """What `PRIORITY_SQL` makes of row n: 0 to 100."""
    return n * 7919 % 101


def fill_control_plane(
    url: str,
    tasks: int,
    *,
    now: datetime,
    oldest: timedelta,
    youngest: timedelta = timedelta(0),
    task_types: Sequence[str] = ("content_generation",),
    tenants: Sequence[str] = (),
) -> None:
    """Inserts so many waiting tasks, spread evenly over the types and over the ages given.

    With `tenants` every third task belongs to one of them. It is a bare INSERT as an outsider would make it:
    the triggers keep what may be claimed, and the log of the depth is folded at the end.
    """
    no_tenant: list[str | None] = [None]
    with connect(url) as connection:
        for first in range(1, tasks + 1, FILL_STEP):
            connection.execute(
                _FILL,
                {
                    "first": first,
                    "last": min(tasks, first + FILL_STEP - 1),
                    "tasks": tasks,
                    "oldest": now - oldest,
                    "youngest": now - youngest,
                    "task_types": list(task_types),
                    "tenants": [*tenants] or no_tenant,
                },
            )
        connection.execute("SELECT lead.fold_queue_depth()")
