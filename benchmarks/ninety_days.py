"""Ninety days of ten thousand tasks a day, pruned daily, in minutes: do tables and indexes stay bounded?

Run `python -m benchmarks.ninety_days [days] [tasks a day]`: an embedded server (fsync off) and a scratch
database of its own. A day is written in SQL, in the statements that the platform would use (a task is
inserted, claimed and completed; a call is reserved, sent and settled; an execution starts, beats and ends),
so that it leaves the dead rows which real work leaves. One task in a hundred dies; of the dead a third is
replayed, a third discarded, a third stays open. Every night `prune_history` runs in steps of 5,000 with seven
days to keep, and indexes that have become sparse are rebuilt, as `prune_job` does it.

Nothing here waits for autovacuum, which would take real hours: the tables are vacuumed five times a day, as
it would do several times an hour. Prints rows and sizes (table, and all its indexes) every ten days, and ends
with exit code 1 if a table that is pruned, or its indexes, were larger in the second half than in the first
(which says something from some sixty days on).
What is kept for ever by design (idempotency keys, audit, hourly history, budget days, and open dead letters
with what hangs on them) is shown too and may grow.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lead_coordinator.database import operations
from lead_coordinator.database.connection import Database
from lead_coordinator.database.deploy import deploy
from lead_coordinator.database.embedded import EmbeddedServer
from lead_coordinator.database.upkeep import rebuild_sparse_indexes
from lead_coordinator.settings import Settings

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
KEEP = timedelta(days=7)
STEP = 5_000
QUARTERS = 4
MAY_GROW = 1.15  # open dead letters add a thirtieth to what seven days hold
NEGLIGIBLE = (2_000_000, 10_000_000)  # bytes of a table, of its indexes: one under 8 MB is never rebuilt

PRUNED = (
    "lead.task",
    "lead.task_attempt",
    "lead.api_call",
    "public.workflow_orchestration",
    "public.workflow_states",
    "lead.tick",
    "public.resource_usage",
)
PASSING = ("lead.ready", "lead.due", "lead.queue_depth_delta", "lead.task_dependency", "lead.prune_progress")
KEPT = (
    "lead.dead_letter",
    "lead.submission",
    "lead.audit_log",
    "public.execution_history",
    "lead.budget_account",
)

# A quarter of a day's work, as a function of this session.
QUARTER = Path(__file__).with_suffix(".sql").read_text()


Size = tuple[int, int]


def sizes(db: Database, tables: tuple[str, ...]) -> dict[str, Size]:
    """Bytes of each table (with what is stored beside it) and of its indexes."""
    rows = db.rows(
        "SELECT t.name, pg_table_size(t.name::regclass) AS bytes,"
        " pg_indexes_size(t.name::regclass) AS indexes FROM unnest(%s::text[]) AS t (name)",
        [list(tables)],
    )
    return {row["name"]: (row["bytes"], row["indexes"]) for row in rows}


def show(db: Database, day: int, found: dict[str, Size], took: float) -> None:
    print(f"\nday {day}, after {took:.0f} s               rows   table MB   indexes MB")
    for table, (heap, indexes) in found.items():
        count = db.row(f"SELECT count(*) AS n FROM {table}")
        assert count is not None
        print(f"  {table:32} {count['n']:9}   {heap / 1e6:8.1f}   {indexes / 1e6:10.1f}")
    total = [sum(size[place] for size in found.values()) / 1e6 for place in (0, 1)]
    print(f"  {'all':32} {'':9}   {total[0]:8.1f}   {total[1]:10.1f}", flush=True)


def simulate(db: Database, days: int, tasks_a_day: int) -> bool:
    """True: what is pruned stays bounded."""
    db.execute("UPDATE lead.setting SET value = 'true' WHERE name = 'scratch_database'")
    tables = (*PRUNED, *PASSING, *KEPT)
    began = time.monotonic()
    daily: list[dict[str, Size]] = []
    with db.connection() as connection:
        connection.execute(QUARTER)
        for day in range(1, days + 1):
            midnight = BEGIN + timedelta(days=day)
            for quarter in range(QUARTERS):
                since = midnight - timedelta(days=1) + quarter * timedelta(days=1) / QUARTERS
                connection.execute(
                    "SELECT pg_temp.work_a_quarter(%s, %s, %s)",
                    [since, tasks_a_day // QUARTERS, (day - 1) * QUARTERS + quarter],
                )
                for table in tables:
                    connection.execute(f"VACUUM {table}")
            some_of_the_dead(db, midnight, tasks_a_day)
            while operations.prune_history(db, keep=KEEP, limit=STEP, current_time=midnight).more:
                pass
            for table in tables:
                connection.execute(f"VACUUM ANALYZE {table}")
            daily.append(sizes(db, tables))
            for index in rebuild_sparse_indexes(db):
                before, after = index.bytes_before / 1e6, index.bytes_after / 1e6
                print(f"day {day}: {index.index_name} was sparse, {before:.1f} MB are now {after:.1f}")
            if day % 10 == 0 or day == days:
                show(db, day, sizes(db, tables), time.monotonic() - began)
    return bounded(daily)


def some_of_the_dead(db: Database, now: datetime, tasks_a_day: int) -> None:
    """A third of the day's dead is replayed (and cancelled at once: replaying is not the point), a third
    discarded.
    """
    third = max(1, tasks_a_day // 300)
    chosen = operations.DeadLetterFilter(created_after=now - timedelta(days=1))
    replayed = operations.replay_dead_letters(db, chosen, actor="simulation", limit=third, current_time=now)
    db.execute(
        "UPDATE lead.task SET status = 'cancelled', processed_at = %s WHERE id = ANY (%s)",
        [now, list(replayed)],
    )
    operations.discard_dead_letters(
        db, chosen, "simulated", actor="simulation", limit=third, current_time=now
    )


def bounded(daily: list[dict[str, Size]]) -> bool:
    """Compares the largest of the second half with the largest of the first: an index that is rebuilt now and
    then goes up and down.
    """
    half = len(daily) // 2
    if half <= KEEP.days:
        return True  # nothing has been pruned yet
    print(f"\nlargest of days {half + 1} to {len(daily)} by that of days 1 to {half}    table   indexes")
    good = True
    for table in (*PRUNED, *PASSING):
        peaks = [
            [max(day[table][place] for day in part) for place in (0, 1)]
            for part in (daily[:half], daily[half:])
        ]
        factors = [peaks[1][place] / max(1, peaks[0][place]) for place in (0, 1)]
        within = all(peaks[1][place] < NEGLIGIBLE[place] or factors[place] <= MAY_GROW for place in (0, 1))
        good = good and within
        print(f"  {table:52} {factors[0]:6.2f}    {factors[1]:6.2f}  {'' if within else 'grows'}")
    return good


def main() -> int:
    days = int(sys.argv[1]) if len(sys.argv) > 1 else 90
    tasks_a_day = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    with tempfile.TemporaryDirectory(prefix="lc-90-") as folder:
        Path(folder).chmod(0o755)  # the server gives up root, and must still come in
        server = EmbeddedServer(Path(folder) / "d", durable=False)
        url = server.start()
        try:
            deploy(url, Settings.load({}))
            with Database(url) as db:
                good = simulate(db, days, tasks_a_day)
        finally:
            server.stop()
    print("\nbounded" if good else "\nNOT bounded")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
