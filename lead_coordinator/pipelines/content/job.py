"""`content_pipeline_job`: one run works one batch of briefs, in one process.

A process a run and not a process a step: a run costs seconds of CPU to start as it is, and the batch inside
is worked concurrently by asyncio. Retries belong to the queue, task by task, so the job has none.
"""

from dagster import AssetSelection, define_asset_job, in_process_executor

from lead_coordinator import tags

# For a run without a tag of its own; the dispatch sensor gives each run its execution's timeout and some
# grace.
MAX_RUNTIME_SECONDS = 600

content_pipeline_job = define_asset_job(
    name=tags.CONTENT_JOB,
    selection=AssetSelection.assets("articles"),
    description="Works a reserved batch of content tasks to published articles: outline, draft, edit and "
    "check. Started by `dispatch_sensor` for executions that are reserved in the database, never by hand: "
    "submit tasks with `lead-coordinator submit` or the SQL function `submit_task`, and a run follows within "
    "seconds.",
    executor_def=in_process_executor,
    run_tags={tags.MAX_RUNTIME: str(MAX_RUNTIME_SECONDS)},
    tags={"lead/component": "pipeline"},
    owners=[tags.OWNER_CONTENT],
)
