"""Revisions of articles, decisions about them, and the steps that a task has paid for.

What a run does is asynchronous and carries its lease; what a person does is synchronous and audited.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import AsyncDatabase, Database, given
from lead_coordinator.database.executions import Lease
from lead_coordinator.errors import DestinationDown

Decision = Literal["approve", "reject"]
Wish = Literal["unpublish", "republish"]


@dataclass(frozen=True)
class KeptArticle:
    """A revision as it is stored. `state`: ready (publish it now), or draft, in_review, scheduled (wait)."""

    article_id: int
    revision: int
    state: str
    publish_task_id: int | None


@dataclass(frozen=True)
class Taken:
    """A publication that this run has taken over for a change. `changes`: how often what is out changed."""

    publication_id: int
    site: str
    slug: str
    status: str
    url: str | None
    changes: int
    details: Mapping[str, Any]
    published_at: datetime | None


@dataclass(frozen=True)
class Decided:
    """What was decided. `publish_task_id`: the task that brings it out, where it was approved."""

    article_id: int
    state: str
    site: str
    slug: str
    publish_task_id: int | None


# ---- a run -------------------------------------------------------------------------------------------------


async def keep_step(
    db: AsyncDatabase,
    lease: Lease,
    task_id: int,
    step: str,
    asked: str,
    kept: Mapping[str, Any],
    *,
    current_time: datetime | None = None,
) -> None:
    """Keeps what a step was answered, by the SHA-256 (hex) of what was asked. Raises `StaleLease`."""
    await db.call(
        "keep_step",
        task_id=task_id,
        execution_id=lease.execution_id,
        fence=lease.fence,
        step=step,
        asked=asked,
        kept=Jsonb(kept),
        **given(current_time=current_time),
    )


async def kept_steps(db: AsyncDatabase, task_id: int) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Step → (what was asked, what is kept) of earlier attempts of a task."""
    rows = await db.call_rows("kept_steps", task_id=task_id)
    return {row["step"]: (row["asked"], row["kept"]) for row in rows}


async def begin_update(
    db: AsyncDatabase,
    lease: Lease,
    task_id: int,
    publication_id: int,
    *,
    current_time: datetime | None = None,
) -> Taken:
    """Takes a publication over for a change. Raises `StaleLease`, `NotFound`, and `DestinationDown` while
    another task is at it."""
    answer = await db.call(
        "begin_update",
        task_id=task_id,
        execution_id=lease.execution_id,
        fence=lease.fence,
        publication_id=publication_id,
        **given(current_time=current_time),
    )
    if answer["busy"]:
        raise DestinationDown(
            f"publication {publication_id}: task {answer['holder_task_id']} is at it", retry_after_ms=20_000
        )
    published = answer["published_at"]
    return Taken(
        publication_id=answer["publication_id"],
        site=answer["site"],
        slug=answer["slug"],
        status=answer["status"],
        url=answer["url"],
        changes=answer["changes"],
        details=answer["details"],
        published_at=None if published is None else datetime.fromisoformat(published),
    )


async def keep_article(
    db: AsyncDatabase,
    lease: Lease,
    task_id: int,
    publication_id: int,
    content: Mapping[str, Any],
    details: Mapping[str, Any],
    *,
    signature: bytes | None,
    policy: str,
    publish_at: datetime | None = None,
    current_time: datetime | None = None,
) -> KeptArticle:
    """Stores a revision under the publication that this run holds; a task has one of each publication.

    Raises `StaleLease`.
    """
    answer = await db.call(
        "keep_article",
        publication_id=publication_id,
        task_id=task_id,
        execution_id=lease.execution_id,
        fence=lease.fence,
        content=Jsonb(content),
        details=Jsonb(details),
        signature=None if signature is None else signature.hex(),
        policy=policy,
        **given(publish_at=publish_at, current_time=current_time),
    )
    return KeptArticle(answer["article_id"], answer["revision"], answer["state"], answer["publish_task_id"])


async def confirm_unpublication(
    db: AsyncDatabase, lease: Lease, publication_id: int, *, current_time: datetime | None = None
) -> bool:
    """Records that the article is off its site. False where it wasn't out. Raises `StaleLease`."""
    answer = await db.call(
        "confirm_unpublication",
        publication_id=publication_id,
        execution_id=lease.execution_id,
        fence=lease.fence,
        **given(current_time=current_time),
    )
    return bool(answer)


async def find_publication(db: AsyncDatabase, site: str, slug: str) -> dict[str, Any] | None:
    """The publication of that address, with the content of its current article; None: there is none."""
    answer: dict[str, Any] | None = await db.call("find_publication", site=site, slug=slug)
    return answer


async def aget_article(db: AsyncDatabase, article_id: int) -> dict[str, Any]:
    """The whole revision: content, details, state. Raises `NotFound`."""
    answer: dict[str, Any] = await db.call("get_article", article_id=article_id)
    return answer


async def published_signatures(db: AsyncDatabase, *, limit: int | None = None) -> list[dict[str, Any]]:
    """publication_id, site, slug, url and signature (bytes) of all that is out, the newest first."""
    return await db.call_rows("published_signatures", **given(limit=limit))


# ---- a person ----------------------------------------------------------------------------------------------


def decide_article(
    db: Database,
    article_id: int,
    decision: Decision,
    *,
    reason: str | None = None,
    publish_at: datetime | None = None,
    actor: str | None = None,
    current_time: datetime | None = None,
) -> Decided:
    """Approves an article that waits (a task brings it out, at `publish_at` at the earliest), or rejects it.

    Raises `NotFound`, `IllegalTransition`, `InvalidInput`.
    """
    answer = db.call(
        "decide_article",
        article_id=article_id,
        decision=decision,
        **given(reason=reason, publish_at=publish_at, actor=actor, current_time=current_time),
    )
    return Decided(
        answer["article_id"], answer["state"], answer["site"], answer["slug"], answer["publish_task_id"]
    )


def change_publication(
    db: Database,
    site: str,
    slug: str,
    wish: Wish,
    *,
    reason: str | None = None,
    actor: str | None = None,
    current_time: datetime | None = None,
) -> int:
    """Has a task take an article off its site, or put it back; the task's id. Asked twice, it is one task.

    Raises `NotFound`, `IllegalTransition`, `InvalidInput`.
    """
    answer = db.call(
        "change_publication",
        site=site,
        slug=slug,
        wish=wish,
        **given(reason=reason, actor=actor, current_time=current_time),
    )
    return int(answer["task_id"])


def list_articles(
    db: Database, *, site: str | None = None, state: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Revisions, newest first. Raises `InvalidInput`."""
    return db.call_rows("list_articles", **given(site=site, state=state, limit=limit))


def get_article(db: Database, article_id: int) -> dict[str, Any]:
    """`aget_article` for callers without an event loop."""
    answer: dict[str, Any] = db.call("get_article", article_id=article_id)
    return answer
