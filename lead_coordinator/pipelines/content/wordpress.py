"""A WordPress site as a target, over its REST API (`/wp-json/wp/v2/posts`, Basic auth by an application
password).

WordPress knows no idempotency key. So a post carries a mark in its source (a comment with the publication's
id), and before one is created its address is looked up among all statuses: what carries our mark is ours,
made by a request whose answer was lost, and is updated; what doesn't is left alone, and another address is
taken.

Nothing follows redirects: the password would go along. No message holds the password.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from lead_coordinator.errors import AuthError, DestinationDown, TaskError
from lead_coordinator.pipelines.content.settings import WordPressTarget
from lead_coordinator.pipelines.content.targets import Placed, Showing

MAX_BODY_BYTES = 4_000_000
MAX_ADDRESSES = 20
LONGEST_PAUSE_MS = 3_600_000


class Refused(TaskError):
    """WordPress refuses the request itself; a person should look."""


class WordPress:
    """One site. `password`: an application password of the settings' user. Close it at the end of the run."""

    def __init__(self, settings: WordPressTarget, password: str) -> None:
        self._settings = settings
        self._posts = settings.url.rstrip("/") + "/wp-json/wp/v2/posts"
        self._client = httpx2.AsyncClient(
            auth=(settings.user, password),
            timeout=settings.timeout_seconds,
            follow_redirects=False,
            trust_env=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )

    @asynccontextmanager
    async def hold(self, slug: str) -> AsyncIterator[None]:
        """The publication's row is what holds the page: there is nothing else to lock."""
        yield

    async def put(self, showing: Showing) -> Placed:
        """Creates the post, or updates the one that there is. Raises DestinationDown, AuthError, Refused."""
        content = await asyncio.to_thread(marked_html, showing)
        post = await self._known(showing.publication_id, showing.known)
        slug = showing.slug
        if post is None:
            post, slug = await self._found(showing.publication_id, showing.slug)
        article = showing.article
        fields: dict[str, Any] = {
            "title": article.title,
            "content": content,
            "excerpt": article.meta_description,
            "status": "publish",
            "date_gmt": showing.published_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        }
        if self._settings.category_ids:
            fields["categories"] = list(self._settings.category_ids)
        if post is None:
            answer = await self._send("POST", self._posts, {**fields, "slug": slug})
        else:
            answer = await self._send("POST", f"{self._posts}/{_id(post)}", fields)
        link = answer.get("link")
        if not isinstance(link, str) or not re.match(r"https?://[^\s<>\"']{1,1900}\Z", link):
            raise DestinationDown(f"{self._settings.url}: the answer names no address of the post")
        digest = hashlib.sha256(content.encode()).hexdigest()
        return Placed(link, digest, {"wordpress_id": _id(answer)})

    async def take_down(self, publication_id: int, slug: str, known: Mapping[str, Any]) -> None:
        """Makes the post a draft, so that it can come back; nothing where there is none of ours."""
        post = await self._known(publication_id, known)
        if post is None:
            post, _ = await self._found(publication_id, slug)
        if post is not None:
            await self._send("POST", f"{self._posts}/{_id(post)}", {"status": "draft"})

    async def refresh(self) -> None:
        """WordPress makes its own listings."""

    async def close(self) -> None:
        await self._client.aclose()

    # ---- finding ours --------------------------------------------------------------------------------------

    async def _known(self, publication_id: int, known: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The post of the id that was kept, if it is there and still ours."""
        number = known.get("wordpress_id")
        if not isinstance(number, int):
            return None
        post = await self._send("GET", f"{self._posts}/{number}?context=edit", missing=True)
        return post if post and _is_ours(post, publication_id) and post.get("status") != "trash" else None

    async def _found(self, publication_id: int, slug: str) -> tuple[Mapping[str, Any] | None, str]:
        """(our post, its address), or (None, the first address that is free)."""
        for number in range(1, MAX_ADDRESSES + 1):
            wish = slug if number == 1 else f"{slug}-{number}"
            posts = await self._send("GET", f"{self._posts}?slug={wish}&status=any&context=edit")
            listed = posts.get("posts", [])
            for post in listed:
                if _is_ours(post, publication_id):
                    return post, wish
            if not listed:
                return None, wish
        raise Refused(
            f"{self._settings.url}: {slug} and {MAX_ADDRESSES - 1} addresses like it hold other posts"
        )

    # ---- asking --------------------------------------------------------------------------------------------

    async def _send(
        self, method: str, url: str, fields: Mapping[str, Any] | None = None, *, missing: bool = False
    ) -> dict[str, Any]:
        """The JSON object of an answer (a list as `posts`). `missing`: 404 and 410 give {}."""
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                request = self._client.build_request(method, url, json=fields)
                answer = await self._client.send(request, stream=True)
                try:
                    body = await _bounded(answer)
                finally:
                    await answer.aclose()
        except (TimeoutError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise DestinationDown(f"{self._settings.url}: {type(error).__name__}") from None
        if missing and answer.status_code in (404, 410):
            return {}
        if answer.status_code not in (200, 201):
            raise self._failure(answer.status_code, answer.headers, body)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise DestinationDown(
                f"{self._settings.url}: the answer isn't JSON; is its REST API on?"
            ) from None
        if isinstance(value, list):
            return {"posts": [one for one in value if isinstance(one, dict)]}
        if not isinstance(value, dict):
            raise DestinationDown(f"{self._settings.url}: the answer is no object; is its REST API on?")
        return value

    def _failure(self, status: int, headers: Mapping[str, str], body: bytes) -> TaskError:
        sentence = f"{self._settings.url}: HTTP {status}{_reason(body)}"
        if status in (401, 403):
            return AuthError(f"{sentence}; the user {self._settings.user} must be allowed to publish posts")
        if status in (408, 425, 429) or status >= 500:
            return DestinationDown(sentence, retry_after_ms=retry_after_ms(headers.get("retry-after")))
        if 300 <= status < 400:
            return DestinationDown(f"{sentence}: it redirects; set the address that it redirects to")
        return Refused(sentence)


def marked_html(showing: Showing) -> str:
    """The post's source: our mark, and the article."""
    from lead_coordinator.pipelines.content.render import body_html

    note = ""
    if showing.sandbox:
        note = "<p><em>Sandbox text: made by the local sandbox provider, not by a language model.</em></p>\n"
    return f"{_mark(showing.publication_id)}\n{note}{body_html(showing.article)}"


def retry_after_ms(value: str | None, *, now: datetime | None = None) -> int | None:
    """A Retry-After header (seconds, or a date) in milliseconds, at most an hour; None: it says nothing."""
    if not value:
        return None
    if value.strip().isdigit() and len(value.strip()) < 10:
        return min(int(value) * 1000, LONGEST_PAUSE_MS)
    try:
        moment = parsedate_to_datetime(value)
        seconds = (moment.astimezone(UTC) - (now or datetime.now(UTC))).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0, min(int(seconds * 1000), LONGEST_PAUSE_MS))


def _mark(publication_id: int) -> str:
    return f"<!-- lead-publication:{publication_id} -->"


def _is_ours(post: Mapping[str, Any], publication_id: int) -> bool:
    content = post.get("content")
    raw = content.get("raw") if isinstance(content, Mapping) else None
    return isinstance(raw, str) and _mark(publication_id) in raw[:2000]


def _id(post: Mapping[str, Any]) -> int:
    number = post.get("id")
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise DestinationDown("WordPress: the answer names no id of the post")
    return number


def _reason(body: bytes) -> str:
    """WordPress's own word for what was wrong; its message may repeat what was sent, so it isn't told."""
    try:
        code = json.loads(body).get("code")
    except (ValueError, RecursionError, AttributeError):
        return ""
    return f" ({code})" if isinstance(code, str) and re.fullmatch(r"[a-z0-9_]{1,60}", code) else ""


async def _bounded(answer: httpx2.Response) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise httpx2.ReadError("the answer is too large")
    return bytes(body)
