"""Publishing to a WordPress site: each article one post, whatever answer is lost."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lead_coordinator.database.articles import change_publication
from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.sites import StoredSite
from lead_coordinator.errors import AuthError, DestinationDown, TaskError
from lead_coordinator.pipelines.content.settings import ContentSettings, WordPressTarget, site_password
from lead_coordinator.pipelines.content.site import StaticSite
from lead_coordinator.pipelines.content.targets import Showing
from lead_coordinator.pipelines.content.wordpress import Refused, WordPress, retry_after_ms
from lead_coordinator.pipelines.profile import SiteProfiles
from lead_coordinator.settings import Settings
from lead_coordinator_tests.pipelines.content.material import (
    ScriptedCaller,
    article,
    run_batch,
    start,
    submit,
)
from lead_coordinator_tests.pipelines.content.wordpress_server import (
    PASSWORD,
    USER,
    WordPressServer,
    wordpress_server,
)

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SLUG = "water-once-a-week"


@pytest.fixture
def server() -> Iterator[WordPressServer]:
    with wordpress_server() as site:
        yield site


@pytest.fixture
async def wordpress(server: WordPressServer) -> AsyncIterator[WordPress]:
    made = WordPress(WordPressTarget(url=server.url, user=USER, allow_http=True, category_ids=(4,)), PASSWORD)
    yield made
    await made.close()


def showing(**changes: Any) -> Showing:
    values: dict[str, Any] = {
        "article": article(),
        "publication_id": 12,
        "task_id": 1,
        "slug": SLUG,
        "published_at": NOW,
        "updated_at": NOW,
        "sandbox": False,
    }
    return Showing(**(values | changes))


async def test_a_post_is_looked_up_and_created(server: WordPressServer, wordpress: WordPress) -> None:
    placed = await wordpress.put(showing())
    assert placed.url == f"{server.url}/{SLUG}/"
    assert placed.known == {"wordpress_id": 1}
    assert [method for method, _ in server.requests] == ["GET", "POST"], "looked up before it is created"
    assert f"slug={SLUG}&status=any" in server.requests[0][1]
    assert all(server.authorized)
    post = server.posts[1]
    assert (post["status"], post["slug"], post["categories"]) == ("publish", SLUG, [4])
    assert post["title"] == "Water Once a Week"
    assert post["date_gmt"] == "2026-11-24T12:00:00"
    assert post["content"]["raw"].startswith("<!-- lead-publication:12 -->\n<p>")
    assert "<h2>Part 1 of Water Once a Week</h2>" in post["content"]["raw"]


async def test_a_post_whose_answer_was_lost_is_found_again(
    server: WordPressServer, wordpress: WordPress
) -> None:
    real = server.find

    def find(query: dict[str, list[str]]) -> list[dict[str, Any]]:
        server.faults.append("lost")
        server.find = real  # type: ignore[method-assign]
        return real(query)

    server.find = find  # type: ignore[method-assign]
    with pytest.raises(DestinationDown):
        await wordpress.put(showing())
    assert list(server.posts) == [1], "it was created, and nobody heard of it"
    placed = await wordpress.put(showing())
    assert placed.known == {"wordpress_id": 1}
    assert list(server.posts) == [1], "one post"


async def test_a_draft_of_ours_counts_too(server: WordPressServer, wordpress: WordPress) -> None:
    server.add(SLUG, "<!-- lead-publication:12 -->\n<p>Old</p>", status="draft")
    await wordpress.put(showing())
    assert list(server.posts) == [1]
    assert server.posts[1]["status"] == "publish"


async def test_the_post_of_somebody_else_is_left_alone(server: WordPressServer, wordpress: WordPress) -> None:
    server.add(SLUG)
    server.add(f"{SLUG}-2", "<!-- lead-publication:120 -->")
    placed = await wordpress.put(showing())
    assert placed.url == f"{server.url}/{SLUG}-3/"
    assert server.posts[1]["content"] == {"raw": "somebody's"}
    assert (await wordpress.put(showing())).url == placed.url, "and is found there again"
    assert len(server.posts) == 3


async def test_it_is_updated_in_place_taken_off_and_put_back(
    server: WordPressServer, wordpress: WordPress
) -> None:
    first = await wordpress.put(showing())
    again = await wordpress.put(showing(article=article("Water Now and Then"), known=first.known))
    assert (again.url, again.known) == (first.url, first.known)
    assert server.posts[1]["title"] == "Water Now and Then"
    await wordpress.take_down(12, SLUG, first.known)
    assert server.posts[1]["status"] == "draft"
    await wordpress.put(showing(known=first.known))
    assert (list(server.posts), server.posts[1]["status"]) == ([1], "publish")
    del server.posts[1]
    await wordpress.take_down(12, SLUG, first.known)
    assert (await wordpress.put(showing(known=first.known))).url == first.url, (
        "deleted there, it is made anew"
    )


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (401, AuthError, "HTTP 401 (rest_made_up); the user editor must be allowed"),
        (403, AuthError, "HTTP 403"),
        (429, DestinationDown, "HTTP 429"),
        (500, DestinationDown, "HTTP 500"),
        (503, DestinationDown, "HTTP 503"),
        (400, Refused, "HTTP 400 (rest_made_up)"),
        ("garbage", DestinationDown, "isn't JSON"),
        ("flood", DestinationDown, "ReadError"),
        ("redirect", DestinationDown, "it redirects"),
        ("lost", DestinationDown, "Error"),
    ],
)
async def test_what_goes_wrong_has_its_error(
    server: WordPressServer,
    wordpress: WordPress,
    fault: int | str,
    kind: type[TaskError],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.faults.append(fault)
    with pytest.raises(kind) as caught:
        await wordpress.put(showing())
    assert said in str(caught.value)
    assert type(caught.value) is kind
    assert caught.value.retry_after_ms == (7000 if fault in (429, 503) else None)
    assert PASSWORD not in str(caught.value) + caplog.text, "the password is told to nobody"
    assert server.posts == {}


async def test_a_site_that_does_not_answer_is_given_up(server: WordPressServer) -> None:
    slow = WordPress(
        WordPressTarget(url=server.url, user=USER, allow_http=True).model_copy(
            update={"timeout_seconds": 0.2}
        ),
        PASSWORD,
    )
    server.faults.append("silent")
    with pytest.raises(DestinationDown):
        await slow.put(showing())
    await slow.close()


async def test_where_every_address_is_taken_a_person_has_to_look(
    server: WordPressServer, wordpress: WordPress
) -> None:
    for number in range(1, 21):
        server.add(SLUG if number == 1 else f"{SLUG}-{number}")
    with pytest.raises(Refused, match="hold other posts"):
        await wordpress.put(showing())


def test_retry_after_is_read_in_both_forms() -> None:
    assert retry_after_ms("30") == 30_000
    assert retry_after_ms("999999999") == 3_600_000
    assert retry_after_ms("Tue, 24 Nov 2026 12:01:00 GMT", now=NOW) == 60_000
    assert retry_after_ms("Tue, 24 Nov 2026 11:00:00 GMT", now=NOW) == 0
    assert [retry_after_ms(text) for text in (None, "", "soon", "-5", "9" * 400)] == [None] * 5


def test_passwords_are_given_per_site_or_once() -> None:
    assert site_password("abcd efgh", "any") == "abcd efgh"
    both = "main=abcd efgh; shop = ijkl mnop"
    assert [site_password(both, name) for name in ("main", "shop", "blog")] == [
        "abcd efgh",
        "ijkl mnop",
        None,
    ]


def test_the_settings_refuse_what_would_tell_the_password() -> None:
    with pytest.raises(ValidationError, match="must begin with https"):
        WordPressTarget(url="http://blog.example.org/", user=USER)
    with pytest.raises(ValidationError, match=r"needs wordpress\.url"):
        ContentSettings(target="wordpress")
    loaded = Settings.load({"WORDPRESS_APPLICATION_PASSWORD": PASSWORD})
    assert PASSWORD not in repr(loaded) + str(loaded.masked())


# ---- the whole way -----------------------------------------------------------------------------------------


async def test_an_article_goes_to_wordpress_comes_off_and_is_posted_once(
    db: Database, async_db: AsyncDatabase, server: WordPressServer, tmp_path: Path
) -> None:
    profile = {
        "content": {
            "target": "wordpress",
            "wordpress": {"url": server.url, "user": USER, "allow_http": True},
        }
    }
    more: dict[str, Any] = {
        "profiles": SiteProfiles([StoredSite("main", profile, NOW)]),
        "settings": Settings.load({"WORDPRESS_APPLICATION_PASSWORD": f"main={PASSWORD}"}),
    }
    db.execute("UPDATE lead.workflow_policy SET enabled = false WHERE workflow_type <> 'content_pipeline'")
    site = StaticSite(tmp_path / "site", "https://example.org/")
    [task_id] = submit(db, "Water Once a Week")
    caller = ScriptedCaller(lambda task_id: "Water Once a Week")

    server.faults += [500]
    await run_batch(async_db, caller.open, await start(async_db), site, **more)
    assert db.call("get_task", task_id=task_id)["status"] == "deferred"
    db.execute("UPDATE lead.task SET deferred_until = now() WHERE id = %s", [task_id])
    db.call("promote_due_tasks")
    asked = len(caller.requests)
    await run_batch(async_db, caller.open, await start(async_db), site, **more)
    found = db.call("get_task", task_id=task_id)
    assert (found["status"], found["result"]["url"]) == ("completed", f"{server.url}/{SLUG}/")
    assert len(caller.requests) == asked, "what was written is kept"
    assert found["publication"]["details"]["target"] == {"wordpress_id": 1}
    assert not site.root.exists()

    change_publication(db, "main", SLUG, "unpublish")
    await run_batch(async_db, caller.open, await start(async_db), site, **more)
    assert server.posts[1]["status"] == "draft"
    change_publication(db, "main", SLUG, "republish")
    await run_batch(async_db, caller.open, await start(async_db), site, **more)
    assert (len(server.posts), server.posts[1]["status"]) == (1, "publish")


async def test_without_a_password_the_task_waits(
    db: Database, async_db: AsyncDatabase, server: WordPressServer, tmp_path: Path
) -> None:
    profile = {
        "content": {"target": "wordpress", "wordpress": {"url": server.url, "user": USER, "allow_http": True}}
    }
    [task_id] = submit(db, "Water Once a Week")
    await run_batch(
        async_db,
        ScriptedCaller(lambda task_id: "Water Once a Week").open,
        await start(async_db),
        StaticSite(tmp_path / "site", "https://example.org/"),
        profiles=SiteProfiles([StoredSite("main", profile, NOW)]),
    )
    found = db.call("get_task", task_id=task_id)
    assert (found["status"], found["defer_reason"]) == ("deferred", "destination_down")
    assert "holds no password for it" in found["last_error_message"]
    assert server.requests == []
