"""The one place where everything is put together: what Dagster loads (`workspace.yaml` names this module).

Loading reads the environment once (a wrong variable is shown as one sentence in the UI) and connects to
nothing.
"""

# Owners of jobs, schedules and sensors are "beta" in Dagster, whose version is pinned: the warning in every
# process of every run would only bury others. It is given while the modules below are imported.
# ruff: noqa: E402
import warnings

warnings.filterwarnings("ignore", message="Parameter `owners` of")

from dagster import Definitions, in_process_executor, mem_io_manager

from lead_coordinator.coordinator.job import coordinator_job
from lead_coordinator.coordinator.schedule import coordinator_schedule
from lead_coordinator.coordinator.sensors import dispatch_sensor, run_canceled_sensor, run_failure_sensor
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.observability import sources
from lead_coordinator.observability.assets import assets as insight_assets
from lead_coordinator.observability.automation import reports_job, reports_sensor
from lead_coordinator.observability.retention import prune_job, prune_schedule
from lead_coordinator.pipelines.content.editorial import decide_article_job
from lead_coordinator.pipelines.jobs import PIPELINE_ASSETS, PIPELINE_JOBS

defs = Definitions(
    assets=[sources.task_queue, sources.executions, *PIPELINE_ASSETS, *insight_assets],
    jobs=[coordinator_job, *PIPELINE_JOBS, decide_article_job, reports_job, prune_job],
    schedules=[coordinator_schedule, prune_schedule],
    sensors=[dispatch_sensor, run_failure_sensor, run_canceled_sensor, reports_sensor],
    # One process a run: starting a process for each step would cost seconds of CPU and nothing here needs
    # it. So what one op hands to the next can stay in memory.
    resources={"database": DatabaseResource(), "io_manager": mem_io_manager},
    executor=in_process_executor,
)
