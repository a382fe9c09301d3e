"""What people and dashboards look at. Synchronous, read-only; each function is one SQL function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import Database, given

Json = dict[str, Any]


@dataclass(frozen=True)
class Alert:
    """Something a person should know; severity is critical, warning or info."""

    alert_type: str
    severity: str
    message: str
    metric_value: Decimal | None
    threshold: Decimal | None


def get_platform_status(db: Database, *, current_time: datetime | None = None) -> Json:
    """Everything the live view shows, in one answer: queue, executions, budget, providers, times."""
    answer: Json = db.call("get_platform_status", **given(current_time=current_time))
    return answer


def get_coordinator_dashboard(
    db: Database, *, hours_back: int | None = None, current_time: datetime | None = None
) -> Json:
    """The last `hours_back` hours (24): executions, resources, performance, health, recommendations."""
    answer: Json = db.call(
        "get_coordinator_dashboard", **given(hours_back=hours_back, current_time=current_time)
    )
    return answer


def generate_recommendations(
    db: Database, execution_stats: Json, resource_stats: Json, health_stats: Json
) -> list[Json]:
    """`generate_coordinator_recommendations`."""
    answer: list[Json] = db.call(
        "generate_coordinator_recommendations",
        execution_stats=Jsonb(execution_stats),
        resource_stats=Jsonb(resource_stats),
        health_stats=Jsonb(health_stats),
    )
    return answer


def check_coordinator_alerts(db: Database, *, current_time: datetime | None = None) -> list[Alert]:
    """What is wrong now, or soon will be."""
    names = Alert.__dataclass_fields__
    rows = db.call_rows("check_coordinator_alerts", **given(current_time=current_time))
    return [Alert(**{name: row[name] for name in names}) for row in rows]


def validate_coordinator_deployment(db: Database, *, current_time: datetime | None = None) -> Json:
    """`deployment_valid`, `status` READY or FAILED, `errors`, `warnings`: each names an object."""
    answer: Json = db.call("validate_coordinator_deployment", **given(current_time=current_time))
    return answer


def run_coordinator_test_suite(db: Database) -> list[Json]:
    """The SQL test suite; it leaves no trace. One row a test, `status` PASS or FAIL."""
    return db.call_rows("run_coordinator_test_suite")


def failures(results: Sequence[Json]) -> list[Json]:
    """The rows of `run_coordinator_test_suite` that didn't pass."""
    return [row for row in results if row["status"] != "PASS"]


def analyze_test_results(db: Database) -> list[Json]:
    """`analyze_test_results`."""
    return db.call_rows("analyze_test_results")


def benchmark_coordinator_performance(db: Database, *, iterations: int | None = None) -> list[Json]:
    """Times of the deciding functions in milliseconds, over `iterations` (10); it leaves no trace."""
    return db.call_rows("benchmark_coordinator_performance", **given(iterations=iterations))
