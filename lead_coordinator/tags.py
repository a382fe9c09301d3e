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
OWNER_INSIGHT: Final = "team:insight"

GROUP_CONTROL: Final = "control_plane"
GROUP_CONTENT: Final = "content"
GROUP_INSIGHT: Final = "insight"

CONTENT_JOB: Final = "content_pipeline_job"
COORDINATOR_JOB: Final = "coordinator_job"
REPORTS_JOB: Final = "reports_job"
PRUNE_JOB: Final = "prune_job"

CONTENT_OP: Final = "work_content_batch"


class Pipeline(NamedTuple):
    """What works a workflow type: a job, and in it the op that is told which execution to work."""

    job: str
    op: str


# A workflow type that is missing here has no pipeline yet: its policy is disabled in SQL.
PIPELINE_OF_WORKFLOW: Final[dict[str, Pipeline]] = {"content_pipeline": Pipeline(CONTENT_JOB, CONTENT_OP)}
