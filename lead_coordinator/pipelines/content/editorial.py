"""`decide_article_job`: the editorial gate in the Dagster UI, for who would rather click than type.

Started by hand with a validated config; it asks the database what the command line asks (`approve`, `reject`,
`unpublish`, `republish`), and a task of the content pipeline does the rest.
"""

from datetime import datetime
from typing import Literal

from dagster import Config, Failure, OpExecutionContext, in_process_executor, job, op
from pydantic import Field, field_validator, model_validator

from lead_coordinator import tags
from lead_coordinator.database.articles import change_publication, decide_article
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.errors import DatabaseError

DECIDE_JOB = "decide_article_job"
# It asks the database one thing.
MAX_RUNTIME_SECONDS = 120
Decision = Literal["approve", "reject", "unpublish", "republish"]


class DecisionConfig(Config):
    """What is decided. An article's number stands in the table of `articles` that wait, and in
    `lead-coordinator articles`."""

    decision: Decision = Field(description="approve, reject, unpublish or republish")
    article_id: int | None = Field(
        default=None, ge=1, description="Number of the article, for approve and reject"
    )
    site: str = Field(default="main", max_length=63, description="Site, for unpublish and republish")
    slug: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$",
        max_length=200,
        description="Address of the article, for unpublish and republish",
    )
    publish_at: str | None = Field(
        default=None, description="For approve: not before this time, such as 2030-06-30T12:00:00Z"
    )
    reason: str | None = Field(
        default=None, min_length=1, max_length=200, description="Why, for the audit log"
    )
    actor: str = Field(
        default="dagster", min_length=1, max_length=200, description="Who decides, for the audit log"
    )

    @field_validator("publish_at")
    @classmethod
    def _aware(cls, value: str | None) -> str | None:
        if value is not None and datetime.fromisoformat(value).tzinfo is None:
            raise ValueError("the time needs its offset from UTC, such as Z or +02:00")
        return value

    @model_validator(mode="after")
    def _complete(self) -> "DecisionConfig":
        needed = "article_id" if self.decision in ("approve", "reject") else "slug"
        if getattr(self, needed) is None:
            raise ValueError(f"{needed} is needed to {self.decision}")
        return self


@op(description="Asks the database for the decision; a task of the content pipeline carries it out.")
def decide(context: OpExecutionContext, config: DecisionConfig, database: DatabaseResource) -> None:
    try:
        done = decided(config, database)
    except DatabaseError as refused:
        raise Failure(str(refused), allow_retries=False) from None
    context.log.info(done)
    context.add_output_metadata({"decision": done})


def decided(config: DecisionConfig, database: DatabaseResource) -> str:
    """What came of it, as a sentence. Raises what the SQL functions refuse."""
    if config.decision in ("approve", "reject"):
        assert config.article_id is not None
        at = None if config.publish_at is None else datetime.fromisoformat(config.publish_at)
        answer = decide_article(
            database.db,
            config.article_id,
            "approve" if config.decision == "approve" else "reject",
            reason=config.reason,
            publish_at=at,
            actor=config.actor,
        )
        by = "" if answer.publish_task_id is None else f"; task {answer.publish_task_id} brings it out"
        return f"article {config.article_id} is {answer.state}{by}"
    assert config.slug is not None
    wish: Literal["unpublish", "republish"] = "unpublish" if config.decision == "unpublish" else "republish"
    task_id = change_publication(
        database.db, config.site, config.slug, wish, reason=config.reason, actor=config.actor
    )
    return f"task {task_id} is to {wish} {config.site}/{config.slug}"


@job(
    name=DECIDE_JOB,
    description="The editorial gate: approves or rejects an article that waits, takes one off its site or "
    "puts it back. Start it by hand in the launchpad, with the decision and the article's number or address.",
    executor_def=in_process_executor,
    tags={tags.MAX_RUNTIME: str(MAX_RUNTIME_SECONDS), "lead/component": "pipeline"},
    owners=[tags.OWNER_CONTENT],
)
def decide_article_job() -> None:
    decide()
