"""`coordinator_job`: the whole round of the coordinator in one process."""

from dagster import in_process_executor, job

from lead_coordinator import tags
from lead_coordinator.coordinator import ops

# A tick takes seconds. One that takes minutes hangs: it is ended before the tick after next.
MAX_RUNTIME_SECONDS = 240


@job(
    name=tags.COORDINATOR_JOB,
    description="One tick of the coordinator: health, recovery, resources, queue, schedule, state, dispatch, "
    "metrics. Every five minutes by `coordinator_schedule`; `dispatch_sensor` keeps work flowing in between. "
    "Safe to start by hand at any time: one tick decides at a time, a second leaves politely. It decides and "
    "recovers; it never works a task itself.",
    executor_def=in_process_executor,
    hooks={ops.record_error},
    # Before any pipeline run in Dagster's queue, and never counted against their limit.
    tags={tags.MAX_RUNTIME: str(MAX_RUNTIME_SECONDS), tags.PRIORITY: "1000", "lead/component": "coordinator"},
    owners=[tags.OWNER_PLATFORM],
)
def coordinator_job() -> None:
    tick = ops.system_health_check()
    tick = ops.global_error_handler(tick)
    tick = ops.resource_manager(tick)
    tick = ops.priority_queue_manager(tick)
    tick = ops.intelligent_scheduler(tick)
    tick = ops.state_machine_controller(tick)
    tick = ops.dynamic_workflow_dispatcher(tick)
    ops.metrics_collector(tick)
