"""The names under which runs, assets and their owners are found in the Dagster UI, in one place for all."""

from __future__ import annotations

from typing import Final, NamedTuple

# Tags of a pipeline run. `WORKFLOW_TYPE` is also what the backstop in dagster.yaml counts: only pipeline
# runs carry it.
EXECUTION_ID: Final = "lead/execution_id"
WORKFLOW_TYPE: Final = "lead/workflow_type"
ATTEMPT: Final = "lead/attempt"

# Dagster's own tags. Seconds as text; run monitoring ends a run that is older. Priority is an integer as
# text.
MAX_RUNTIME: Final = "dagster/max_runtime"
PRIORITY: Final = "dagster/priority"

OWNER_PLATFORM: Final = "team:platform"
OWNER_CONTENT: Final = "team:content"
OWNER_SEO: Final = "team:seo"
OWNER_REVENUE: Final = "team:revenue"
OWNER_INTELLIGENCE: Final = "team:intelligence"
OWNER_INSIGHT: Final = "team:insight"

GROUP_CONTROL: Final = "control_plane"
GROUP_CONTENT: Final = "content"
GROUP_SEO: Final = "seo"
GROUP_REVENUE: Final = "revenue"
GROUP_INTELLIGENCE: Final = "intelligence"
GROUP_INSIGHT: Final = "insight"

# What the pipelines leave, in the order of the circle: each asset's lineage names the ones before it.
TOPICS: Final = "topics"
ARTICLES: Final = "articles"
SITE_AUDITS: Final = "site_audits"
REFRESH_RANKING: Final = "refresh_ranking"
REFRESHED_ARTICLES: Final = "refreshed_articles"

CONTENT_JOB: Final = "content_pipeline_job"
SEO_JOB: Final = "seo_monitor_job"
REVENUE_JOB: Final = "revenue_optimizer_job"
INTELLIGENCE_JOB: Final = "intelligence_engine_job"
COORDINATOR_JOB: Final = "coordinator_job"
REPORTS_JOB: Final = "reports_job"
PRUNE_JOB: Final = "prune_job"

CONTENT_OP: Final = "work_content_batch"
SEO_OP: Final = "work_seo_batch"
REVENUE_OP: Final = "work_revenue_batch"
INTELLIGENCE_OP: Final = "work_intelligence_batch"


class Pipeline(NamedTuple):
    """What works a workflow type: a job, and in it the op that is told which execution to work."""

    job: str
    op: str


# A workflow type that is missing here has no pipeline: its executions aren't launched.
PIPELINE_OF_WORKFLOW: Final[dict[str, Pipeline]] = {
    "content_pipeline": Pipeline(CONTENT_JOB, CONTENT_OP),
    "seo_monitor": Pipeline(SEO_JOB, SEO_OP),
    "revenue_optimizer": Pipeline(REVENUE_JOB, REVENUE_OP),
    "intelligence_engine": Pipeline(INTELLIGENCE_JOB, INTELLIGENCE_OP),
}
