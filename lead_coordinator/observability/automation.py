"""The day's figures follow the work: one run of all three reports, at most once in five minutes.

A run costs about five seconds of CPU and reports slow nobody down as long as they don't run while work does.
So they follow when the pipelines have come to rest, and at the latest five minutes after the first thing
that no report shows. The cursor says up to when the figures are reported; a sensor that dies after its
answer asks for the same run again under the same key.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import (
    AssetSelection,
    DefaultSensorStatus,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    define_asset_job,
    in_process_executor,
    sensor,
)

from lead_coordinator import tags
from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource
from lead_coordinator.observability.assets import assets, days, wrong_timezone

AT_MOST_EVERY = timedelta(minutes=5)
LOOK_EVERY_SECONDS = 59
MAX_RUNTIME_SECONDS = 600

# After a long stop with work from many days, the latest ones first; older days can be backfilled from the UI.
DAYS_AT_ONCE = 3

reports_job = define_asset_job(
    name=tags.REPORTS_JOB,
    selection=AssetSelection.assets(*assets),
    description="Reads a day's figures from the database: execution_metrics, daily_cost_report, "
    "platform_summary. Safe to run again for any day: the same figures come out.",
    executor_def=in_process_executor,
    run_tags={tags.MAX_RUNTIME: str(MAX_RUNTIME_SECONDS), tags.PRIORITY: "-10"},
    tags={"lead/component": "insight"},
    owners=[tags.OWNER_INSIGHT],
)

# Bounds first: task_attempt is in the order of ended_at, and its BRIN index answers "after".
WORK = """
WITH zone AS (
    SELECT value AS name FROM lead.setting WHERE name = 'coordinator_timezone'
), ended AS (
    SELECT a.ended_at FROM lead.task_attempt AS a WHERE a.ended_at > %(reported_until)s
)
SELECT
    (SELECT min(ended_at) FROM ended) AS first_at,
    (SELECT max(ended_at) FROM ended) AS last_at,
    (SELECT count(*) FROM ended) AS attempts,
    (
        SELECT array_agg(DISTINCT (ended_at AT TIME ZONE zone.name)::date::text) FROM ended CROSS JOIN zone
    ) AS days,
    EXISTS (
        SELECT 1 FROM public.workflow_orchestration AS w
        WHERE w.status IN ('pending', 'analyzing', 'dispatching', 'running')
    ) AS busy,
    clock_timestamp() AS now
"""


@dataclass(frozen=True)
class Cursor:
    """Up to when figures are reported, and when the last report was asked for."""

    reported_until: datetime
    asked_at: datetime

    @classmethod
    def read(cls, text: str | None, now: datetime) -> "Cursor":
        """Without a cursor (a new deployment), a week back: whoever upgrades sees the recent days, not all
        of history.
        """
        if not text:
            return cls(reported_until=now - timedelta(days=7), asked_at=now - AT_MOST_EVERY)
        fields = json.loads(text)
        return cls(*(datetime.fromisoformat(fields[name]) for name in ("reported_until", "asked_at")))

    def write(self) -> str:
        return json.dumps(
            {"reported_until": self.reported_until.isoformat(), "asked_at": self.asked_at.isoformat()}
        )


def why_not(work: dict[str, Any], cursor: Cursor) -> str | None:
    """Why no report is due, in numbers; None when one is."""
    if not work["attempts"]:
        return "No task has ended since the last report."
    now: datetime = work["now"]
    since_asked = now - cursor.asked_at
    if since_asked < AT_MOST_EVERY:
        ago = f"the last report was {since_asked.seconds} s ago, one in 300 s is enough"
        return f"{work['attempts']} tries are unreported; {ago}."
    waiting = now - work["first_at"]
    if work["busy"] and waiting < AT_MOST_EVERY:
        wait = "executions still run, reports wait up to 300 s"
        return f"{work['attempts']} tries are unreported for {waiting.seconds} s; {wait}."
    return None


@sensor(
    name="reports_sensor",
    job=reports_job,
    minimum_interval_seconds=LOOK_EVERY_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Starts `reports_job` for the days on which work ended since the last report: once the "
    "pipelines rest, at the latest after five minutes, never more often than that.",
    tags={"lead/component": "insight"},
    owners=[tags.OWNER_INSIGHT],
)
def reports_sensor(context: SensorEvaluationContext, database: DatabaseResource) -> SensorResult | SkipReason:
    cursor = Cursor.read(context.cursor, datetime.now(UTC))
    work = unreported_work(database.db, cursor)
    reason = why_not(work, cursor)
    if reason is None:
        reason = wrong_timezone(database.db)
    if reason is not None:
        return SkipReason(reason)
    until: datetime = work["last_at"]
    known = set(days.get_partition_keys())
    due = [day for day in sorted(work["days"], reverse=True) if day in known][:DAYS_AT_ONCE]
    return SensorResult(
        run_requests=[
            RunRequest(run_key=f"reports:{day}:{until.isoformat()}", partition_key=day) for day in due
        ],
        cursor=Cursor(reported_until=until, asked_at=work["now"]).write(),
    )


def unreported_work(db: Database, cursor: Cursor) -> dict[str, Any]:
    row = db.row(WORK, {"reported_until": cursor.reported_until})
    assert row is not None  # a SELECT without FROM has one row
    return row
