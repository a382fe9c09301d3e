"""Site profiles as the database keeps them: JSON objects; `pipelines/profile.py` says what they may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import AsyncDatabase, Database, given


@dataclass(frozen=True)
class StoredSite:
    """A site and its profile: what was set, without defaults."""

    site: str
    profile: Mapping[str, Any]
    updated_at: datetime


@dataclass(frozen=True)
class SetSite:
    """`created`: there was none of this name; `changed`: it is another than before."""

    site: str
    created: bool
    changed: bool


def set_site(
    db: Database,
    site: str,
    profile: Mapping[str, Any],
    *,
    actor: str | None = None,
    reason: str | None = None,
) -> SetSite:
    """Makes a site or replaces its profile. `actor`, `reason`: who and why, for the audit log.

    Raises `InvalidInput`.
    """
    answer = db.call("set_site", site=site, profile=Jsonb(profile), **given(actor=actor, reason=reason))
    return SetSite(answer["site"], bool(answer["created"]), bool(answer["changed"]))


def get_site(db: Database, site: str) -> dict[str, Any] | None:
    """A site's profile; None where there is no such site."""
    found: dict[str, Any] | None = db.call("get_site", site=site)
    return found


def list_sites(db: Database) -> list[StoredSite]:
    """Every site, by name."""
    return [StoredSite(**row) for row in db.call_rows("list_sites")]


async def alist_sites(db: AsyncDatabase) -> list[StoredSite]:
    """`list_sites` for a run."""
    return [StoredSite(**row) for row in await db.call_rows("list_sites")]
