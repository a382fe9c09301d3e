"""The editorial gate at a terminal, and in Dagster."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dagster import Config as DagsterConfig
from dagster import DagsterInvalidConfigError, Failure
from pydantic import ValidationError

from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.errors import IllegalTransition
from lead_coordinator.pipelines.content.article import as_json
from lead_coordinator.pipelines.content.editorial import DecisionConfig, decide_article_job, decided
from lead_coordinator_tests.cli.conftest import Run
from lead_coordinator_tests.pipelines.content.material import article
from lead_coordinator_tests.sql.play import Play

assert issubclass(DecisionConfig, DagsterConfig)


@pytest.fixture
def waiting(play: Play) -> int:
    """The number of an article in review."""
    task_id = play.submit(1)[0]
    run = play.run_started()
    lease = {"execution_id": run.execution_id, "fence": run.fence, "current_time": play.now}
    row = play.call("begin_publication", task_id=task_id, site="main", slug="a-page", title="A page", **lease)
    kept = play.call(
        "keep_article",
        publication_id=row["publication_id"],
        task_id=task_id,
        content=as_json(article()),
        details={"cost_usd": "0.003", "models": ["some-model"], "scores": {"words": 1500}},
        signature=None,
        policy="review",
        **lease,
    )
    play.complete(run, task_id)
    play.finish(run)
    return int(kept["article_id"])


@pytest.fixture
def play(db: Database) -> Play:
    return Play(db)


def state(db: Database, article_id: int) -> str:
    row = db.row("SELECT state FROM lead.article WHERE id = %s", [article_id])
    assert row is not None
    return str(row["state"])


def test_articles_lists_and_shows(run: Run, database_url: str, waiting: int) -> None:
    listed = run("articles", DATABASE_URL=database_url)
    assert listed.exit_code == 0, listed.output
    assert "in_review" in listed.output
    assert "main/a-page  Water Once a Week" in listed.output
    rows = json.loads(run("articles", "--state", "in_review", "--json", DATABASE_URL=database_url).output)
    assert [row["article_id"] for row in rows] == [waiting]
    whole = run("articles", str(waiting), DATABASE_URL=database_url).output
    assert "# Water Once a Week" in whole
    assert "Cost 0.003 US dollars, models some-model" in whole
    assert run("articles", "--site", "other", DATABASE_URL=database_url).output == "No article.\n"


def test_a_wrong_state_is_one_sentence(run: Run, database_url: str) -> None:
    refused = run("articles", "--state", "lost", DATABASE_URL=database_url)
    assert refused.exit_code == 2
    assert "p_state: lost is not allowed; ready, draft, in_review" in refused.output


def test_approve_says_which_task_brings_it_out(
    run: Run, database_url: str, db: Database, waiting: int
) -> None:
    done = run("approve", str(waiting), "--as", "ada", "--reason", "good", DATABASE_URL=database_url)
    assert done.exit_code == 0, done.output
    row = db.row("SELECT publish_task_id AS id, decided_by FROM lead.article")
    assert row is not None
    assert done.output == f"Article {waiting} is approved: task {row['id']} brings it out.\n"
    assert row["decided_by"] == "ada"
    again = run("approve", str(waiting), DATABASE_URL=database_url)
    assert again.exit_code == 1
    assert f"article {waiting} cannot go from approved to approved" in again.output


def test_reject(run: Run, database_url: str, db: Database, waiting: int) -> None:
    answer = json.loads(run("reject", str(waiting), "--json", DATABASE_URL=database_url).output)
    assert (answer["state"], answer["publish_task_id"]) == ("rejected", None)
    assert state(db, waiting) == "rejected"


@pytest.mark.parametrize("when", ["tomorrow", "2030-06-30T12:00:00"])
def test_a_time_without_its_offset_is_refused(run: Run, database_url: str, waiting: int, when: str) -> None:
    refused = run("approve", str(waiting), "--publish-at", when, DATABASE_URL=database_url)
    assert refused.exit_code == 2
    assert "--publish-at: " in refused.output
    assert when in refused.output


def test_what_is_not_out_cannot_be_taken_off(run: Run, database_url: str, waiting: int) -> None:
    refused = run("unpublish", "a-page", DATABASE_URL=database_url)
    assert refused.exit_code == 1
    assert "is intended; to unpublish it must be published" in refused.output
    unknown = run("republish", "no-page", "--site", "shop", DATABASE_URL=database_url)
    assert unknown.exit_code == 1
    assert "site shop has no publication no-page" in unknown.output


# ---- the Dagster job ---------------------------------------------------------------------------------------


def test_the_job_decides(
    db: Database, database_url: str, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    done = decide_article_job.execute_in_process(
        run_config={"ops": {"decide": {"config": {"decision": "approve", "article_id": waiting}}}},
        resources={"database": DatabaseResource()},
    )
    assert done.success
    assert state(db, waiting) == "approved"
    audited = db.row("SELECT actor FROM lead.audit_log WHERE action = 'approve_article'")
    assert audited == {"actor": "dagster"}
    config = DecisionConfig(decision="unpublish", slug="a-page")
    with pytest.raises(IllegalTransition, match="must be published"):
        decided(config, DatabaseResource())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"decision": "approve"}, "article_id is needed to approve"),
        ({"decision": "unpublish", "slug": "../etc"}, "slug"),
        ({"decision": "unpublish"}, "slug is needed to unpublish"),
        ({"decision": "approve", "article_id": 1, "publish_at": "2030-06-30T12:00:00"}, "needs its offset"),
        ({"decision": "burn", "article_id": 1}, "decision"),
        ({"decision": "approve", "article_id": 0}, "article_id"),
    ],
)
def test_a_wrong_config_is_refused_before_anything_happens(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DecisionConfig(**config)


def test_the_job_says_what_the_database_refuses(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    with pytest.raises((Failure, DagsterInvalidConfigError), match="there is no article 99"):
        decide_article_job.execute_in_process(
            run_config={"ops": {"decide": {"config": {"decision": "reject", "article_id": 99}}}},
            resources={"database": DatabaseResource()},
        )
