"""Queues on PostgreSQL that can be compared: each fills a database, and claims and completes from it."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.systems.base import QueueSystem

SYSTEMS = ("ours", "ours-tenants", "plain", "pgqueuer", "pgqueuer-queries", "procrastinate")


def make_systems(names: Sequence[str]) -> list[QueueSystem]:
    """The systems of these names. Peers are imported only when asked for: they need the extra `bench`."""
    if unknown := [name for name in names if name not in (*SYSTEMS, "ours-bare")]:
        raise SystemExit(f"--systems: {unknown[0]} isn't one of {', '.join(SYSTEMS)}")
    return [_make(name) for name in names]


def _make(name: str) -> QueueSystem:
    if name in ("pgqueuer", "pgqueuer-queries"):
        from benchmarks.systems.pgqueuer import PgQueuer, PgQueuerQueries

        return PgQueuer() if name == "pgqueuer" else PgQueuerQueries()
    if name == "procrastinate":
        from benchmarks.systems.procrastinate import Procrastinate

        return Procrastinate()
    if name == "plain":
        from benchmarks.systems.plain import Plain

        return Plain()
    from benchmarks.systems.ours import Ours, OursBare

    return OursBare() if name == "ours-bare" else Ours(tenants=name == "ours-tenants")
