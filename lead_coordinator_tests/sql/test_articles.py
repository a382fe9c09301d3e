"""Revisions of articles in SQL: fenced, each state after a legal one, kept no longer than needed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from lead_coordinator.errors import IllegalTransition, InvalidInput, NotFound, StaleLease
from lead_coordinator_tests.sql.play import Play, Run

CONTENT = {"title": "A page", "words": 1300}


def lease(play: Play, run: Run) -> dict[str, Any]:
    return {"execution_id": run.execution_id, "fence": run.fence, "current_time": play.now}


def intended(play: Play, run: Run, task_id: int, slug: str = "a-page") -> int:
    row = play.call(
        "begin_publication", task_id=task_id, site="main", slug=slug, title="A page", **lease(play, run)
    )
    return int(row["publication_id"])


def keep(play: Play, run: Run, task_id: int, publication_id: int, **changes: Any) -> dict[str, Any]:
    values = {"content": CONTENT, "details": {}, "signature": None, "policy": "auto"} | changes
    answer: dict[str, Any] = play.call(
        "keep_article", publication_id=publication_id, task_id=task_id, **values, **lease(play, run)
    )
    return answer


def confirm(play: Play, run: Run, publication_id: int, article_id: int | None = None) -> None:
    play.call(
        "confirm_publication",
        publication_id=publication_id,
        url="http://localhost/a",
        content_sha256="0" * 64,
        article_id=article_id,
        **lease(play, run),
    )


@pytest.fixture
def run(play: Play) -> Run:
    play.submit(3)
    return play.run_started()


def test_a_revision_is_stored_once_and_comes_out(play: Play, run: Run) -> None:
    task_id = run.task_ids[0]
    publication_id = intended(play, run, task_id)
    first = keep(play, run, task_id, publication_id)
    assert (first["revision"], first["state"]) == (1, "ready")
    again = keep(play, run, task_id, publication_id, content={"title": "Another", "words": 9})
    assert again["article_id"] == first["article_id"], "a task has one revision"
    confirm(play, run, publication_id, first["article_id"])
    row = play.call("find_publication", site="main", slug="a-page")
    assert (row["title"], row["status"], row["changes"], row["revision"]) == ("Another", "published", 1, 1)
    late = keep(play, run, task_id, publication_id, content={"title": "Too late"})
    assert late["state"] == "current", "what is out isn't overwritten"
    assert play.call("find_publication", site="main", slug="a-page")["content"]["title"] == "Another"


def test_a_second_revision_supersedes_the_first(play: Play, run: Run) -> None:
    one, two, _ = run.task_ids
    publication_id = intended(play, run, one)
    first = keep(play, run, one, publication_id)
    confirm(play, run, publication_id, first["article_id"])
    assert not play.call("begin_update", task_id=two, publication_id=publication_id, **lease(play, run))[
        "busy"
    ]
    second = keep(play, run, two, publication_id, content={"title": "Newer"})
    confirm(play, run, publication_id, second["article_id"])
    states = {row["revision"]: row["state"] for row in play.db.call_rows("list_articles")}
    assert states == {1: "superseded", 2: "current"}
    play.call("begin_update", task_id=two, publication_id=publication_id, **lease(play, run))
    with pytest.raises(IllegalTransition, match="cannot go from superseded to current"):
        confirm(play, run, publication_id, first["article_id"])
    with pytest.raises(NotFound, match="has no article 999"):
        confirm(play, run, publication_id, 999)


def test_two_tasks_never_change_a_publication_at_once(play: Play, run: Run) -> None:
    one, two, three = run.task_ids
    publication_id = intended(play, run, one)
    confirm(play, run, publication_id)
    ask = {"publication_id": publication_id, **lease(play, run)}
    assert not play.call("begin_update", task_id=two, **ask)["busy"]
    refused = play.call("begin_update", task_id=three, **ask)
    assert (refused["busy"], refused["holder_task_id"]) == (True, two)
    assert not play.call("begin_update", task_id=two, **ask)["busy"], "who holds it may ask again"
    play.complete(run, two)
    assert not play.call("begin_update", task_id=three, **ask)["busy"], "a task that has ended holds nothing"


def test_an_old_lease_writes_nothing(play: Play, run: Run) -> None:
    task_id = run.task_ids[0]
    publication_id = intended(play, run, task_id)
    old = Run(run.execution_id, run.fence - 1, run.task_ids)
    for ask in (
        lambda: keep(play, old, task_id, publication_id),
        lambda: confirm(play, old, publication_id),
        lambda: play.call("confirm_unpublication", publication_id=publication_id, **lease(play, old)),
        lambda: play.call("begin_update", task_id=task_id, publication_id=publication_id, **lease(play, old)),
        lambda: play.call(
            "keep_step", task_id=task_id, step="draft", asked="0" * 64, kept={}, **lease(play, old)
        ),
    ):
        with pytest.raises(StaleLease):
            ask()
    assert play.db.rows("SELECT 1 FROM lead.article") == []
    assert play.db.rows("SELECT 1 FROM lead.kept_step") == []


def test_steps_are_kept_until_the_article_is(play: Play, run: Run) -> None:
    task_id = run.task_ids[0]
    for number in ("0", "1"):
        play.call(
            "keep_step",
            task_id=task_id,
            step="draft",
            asked=number * 64,
            kept={"n": number},
            **lease(play, run),
        )
    rows = play.db.call_rows("kept_steps", task_id=task_id)
    assert [(row["step"], row["asked"], row["kept"]) for row in rows] == [("draft", "1" * 64, {"n": "1"})]
    keep(play, run, task_id, intended(play, run, task_id))
    assert play.db.call_rows("kept_steps", task_id=task_id) == []


def test_a_time_in_the_past_waits_for_nobody(play: Play, run: Run) -> None:
    one, two, _ = run.task_ids
    past = keep(play, run, one, intended(play, run, one), publish_at=play.now - timedelta(hours=1))
    assert past["state"] == "ready"
    coming = keep(play, run, two, intended(play, run, two), publish_at=play.now + timedelta(hours=1))
    assert coming["state"] == "scheduled"
    (task,) = play.db.rows("SELECT * FROM lead.task WHERE id = %s", [coming["publish_task_id"]])
    assert task["not_before"] == play.now + timedelta(hours=1)
    assert task["idempotency_key"] == f"publish:{coming['article_id']}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"content": {"words": 3}}, "p_content: .* a JSON object with a title"),
        ({"content": []}, "p_content"),
        ({"details": Jsonb(5)}, "p_details: 5 is not allowed; a JSON object"),
        ({"signature": "xyz"}, "p_signature: xyz is not allowed; pairs of hexadecimal digits"),
        ({"policy": "maybe"}, "p_policy: maybe is not allowed; auto, review or draft"),
    ],
)
def test_bad_input_is_named(play: Play, run: Run, changes: dict[str, Any], said: str) -> None:
    publication_id = intended(play, run, run.task_ids[0])
    with pytest.raises(InvalidInput, match=said):
        keep(play, run, run.task_ids[0], publication_id, **changes)


def test_what_no_page_shows_any_more_is_pruned(play: Play, run: Run) -> None:
    one, two, three = run.task_ids
    publication_id = intended(play, run, one)
    confirm(play, run, publication_id, keep(play, run, one, publication_id)["article_id"])
    play.call("begin_update", task_id=two, publication_id=publication_id, **lease(play, run))
    confirm(play, run, publication_id, keep(play, run, two, publication_id)["article_id"])
    play.call("keep_step", task_id=three, step="draft", asked="0" * 64, kept={}, **lease(play, run))
    play.finish(run)
    play.pass_time(days=200)
    play.call("prune_history", keep=timedelta(days=90), current_time=play.now)
    assert [row["state"] for row in play.db.call_rows("list_articles")] == ["current"]
    assert play.db.rows("SELECT 1 FROM lead.kept_step") == []
    assert play.call("find_publication", site="main", slug="a-page")["revision"] == 2
