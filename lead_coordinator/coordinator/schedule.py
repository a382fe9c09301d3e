"""`coordinator_schedule`: the tick every five minutes, never overlapping itself.

Dagster has no switch against overlapping, so the schedule looks for a run of the job that hasn't ended.
Between that look and the launch another run may start: the lease that the first op takes is the real
guarantee.
"""

from dagster import DefaultScheduleStatus, RunRequest, ScheduleEvaluationContext, SkipReason, schedule

from lead_coordinator import tags
from lead_coordinator.coordinator.job import coordinator_job
from lead_coordinator.coordinator.runs import unfinished_run_of_job
from lead_coordinator.settings import Settings


@schedule(
    cron_schedule="*/5 * * * *",
    job=coordinator_job,
    name="coordinator_schedule",
    description="Starts the coordinator's tick every five minutes, unless the tick before hasn't ended yet.",
    execution_timezone=Settings.load().coordinator_timezone,
    default_status=DefaultScheduleStatus.RUNNING,
    tags={"lead/component": "coordinator"},
    owners=[tags.OWNER_PLATFORM],
)
def coordinator_schedule(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
    unfinished = unfinished_run_of_job(context.instance, tags.COORDINATOR_JOB)
    if unfinished is not None:
        return SkipReason(
            f"Run {unfinished.run_id} of {tags.COORDINATOR_JOB} is still {unfinished.status.value}: 1 tick "
            "at a time, the next look is in 5 minutes. A tick that hangs is ended by run monitoring."
        )
    return RunRequest(run_key=context.scheduled_execution_time.isoformat())
