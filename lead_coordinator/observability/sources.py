"""The two tables that everything starts from, as external assets: Dagster shows them, the database keeps
them.
"""

from dagster import AssetSpec

from lead_coordinator import tags

task_queue = AssetSpec(
    "task_queue",
    description="Tasks that were submitted and wait to be worked: the view `public.task_queue`. Anyone fills "
    "it: `lead-coordinator submit`, the SQL function `submit_task`, or a plain INSERT.",
    group_name=tags.GROUP_CONTROL,
    owners=[tags.OWNER_PLATFORM],
    kinds={"postgres", "table"},
    metadata={"dagster/table_name": "public.task_queue"},
)

executions = AssetSpec(
    "executions",
    deps=[task_queue],
    description="Batches of tasks that were given money, request slots and memory: the table "
    "`public.workflow_orchestration`. Planned and reserved in one transaction; each becomes one run of its "
    "pipeline.",
    group_name=tags.GROUP_CONTROL,
    owners=[tags.OWNER_PLATFORM],
    kinds={"postgres", "table"},
    metadata={"dagster/table_name": "public.workflow_orchestration"},
)
