"""What is raced for: the tasks, the limits that have to bind, and how often something breaks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from lead_coordinator.database.connection import Database

WORKFLOWS = {
    "content_generation": "content_pipeline",
    "seo_analysis": "seo_monitor",
    "revenue_optimization": "revenue_optimizer",
    "intelligence_analysis": "intelligence_engine",
}
TASK_TYPES = tuple(WORKFLOWS)
TENANTS = (None, "acme", "globex", "initech")
PROVIDERS = ("gemini", "openai")
ROLES = ("bulk",) * 7 + ("run",) * 5 + ("upkeep",) * 2 + ("submit",) * 2

ITEM_COST_LIMIT = Decimal("0.02")
LEAST_CALL, MOST_CALL = Decimal("0.002"), Decimal("0.004")
MAX_BATCH = 25
MAX_CONCURRENT = 8
LEASE_SECONDS = 5
GRANT_SECONDS = 2
MARGIN_MS = 1000
CHUNK = 250
OUTAGE_OVER = "outage_over"


@dataclass(frozen=True)
class Limit:
    """A budget limit that has to run out. `unit`: with less room than this, nothing more fits.

    `first` and `then` in US dollars: in force from the start, and once it was seen to bind.
    """

    scope: str
    key: str
    first: Decimal
    then: Decimal
    unit: Decimal


@dataclass(frozen=True)
class Scenario:
    """Everything random follows from `seed`; what the scheduler of the machine does is not repeatable.

    `calls_a_minute`: the rate limit of each provider. `kill_seconds`: mean time between two kills from
    outside. `self_kill`: chance that a client dies at a crossing (between two steps that belong together).
    `patience_seconds`: after this long a race has failed.
    """

    tasks: int = 50_000
    seed: int = 1
    calls_a_minute: int = 600
    kill_seconds: float = 1.5
    self_kill: float = 0.001
    bulk_pause_seconds: float = 0.3
    patience_seconds: float = 240.0

    @property
    def paid_tasks(self) -> int:
        """Tasks that call a provider: more calls than both providers may take in a minute."""
        return min(self.tasks, int(1.4 * self.calls_a_minute))

    @property
    def submitted_in_setup(self) -> int:
        return self.tasks - self.submitted_by_clients

    @property
    def submitted_by_clients(self) -> int:
        return self.tasks // 5 // CHUNK * CHUNK

    @property
    def limits(self) -> tuple[Limit, ...]:
        scale = Decimal(self.calls_a_minute) / 600
        return (
            Limit("provider", "gemini", Decimal("0.50") * scale, Decimal(60), LEAST_CALL),
            Limit("tenant", "acme", Decimal("0.20") * scale, Decimal(50), LEAST_CALL),
            Limit("workflow", "seo_monitor", ITEM_COST_LIMIT * MAX_BATCH, Decimal(70), ITEM_COST_LIMIT),
            Limit("total", "all", ITEM_COST_LIMIT * MAX_BATCH * 5, Decimal(100), ITEM_COST_LIMIT),
        )

    def is_down(self, provider: str, call_id: int, folder: Path) -> bool:
        """From a certain call on one provider fails, until the observer has seen its breaker open."""
        begun = provider == "openai" and call_id >= self.calls_a_minute * 2 // 5
        return begun and not (folder / OUTAGE_OVER).exists()

    def task(self, number: int) -> dict[str, Any]:
        """Task `number` as `submit_tasks` takes it; the same for every caller. Paid ones come first."""
        dice = random.Random(f"{self.seed} task {number}")
        paid = number < self.paid_tasks
        tenant = dice.choice(TENANTS)
        return {
            "task_type": dice.choice(TASK_TYPES),
            "payload": {"number": number, "calls": dice.choice((1, 2)) if paid else 0},
            "priority": dice.randint(60, 90) if paid else dice.randint(0, 55),
            "idempotency_key": f"race {number}",
            **({} if tenant is None else {"tenant": tenant}),
        }

    def chunks(self, first: int, until: int) -> Iterator[list[dict[str, Any]]]:
        for start in range(first, until, CHUNK):
            yield [self.task(number) for number in range(start, min(start + CHUNK, until))]


def prepare(db: Database, scenario: Scenario) -> None:
    """Settings, policies and limits of the race, and the tasks that wait when it begins."""
    for name, value in {
        # Noon, so that no race runs over the end of a budget day.
        "coordinator_timezone": f"Etc/GMT{datetime.now(UTC).hour - 12:+d}",
        "max_concurrent_workflows": MAX_CONCURRENT,
        "memory_limit_mb": 1_000_000,
        "database_connection_limit": 1000,
        "pacing_enabled": "false",
        "lease_seconds": LEASE_SECONDS,
        "launch_timeout_seconds": 10,
        "grant_seconds": GRANT_SECONDS,
        "rate_margin_ms": MARGIN_MS,
        "retry_base_seconds": 1,
        "retry_max_seconds": 4,
        "retry_jitter_seconds": 1,
        "breaker_cooldown_seconds": 2,
        "breaker_probe_wait_seconds": 1,
    }.items():
        db.execute("UPDATE lead.setting SET value = %s WHERE name = %s", [str(value), name])
    db.execute(
        "UPDATE lead.workflow_policy SET enabled = true, max_batch = %s, item_cost_limit_usd = %s,"
        " calls_per_item = 2, memory_mb = 64",
        [MAX_BATCH, ITEM_COST_LIMIT],
    )
    db.execute("UPDATE api_rate_limits SET requests_per_minute = %s", [scenario.calls_a_minute])
    for tenant in filter(None, TENANTS):
        db.execute("INSERT INTO lead.tenant (tenant) VALUES (%s)", [tenant])
    for limit in scenario.limits:
        set_limit(db, limit, limit.first)
    for chunk in scenario.chunks(0, scenario.submitted_in_setup):
        db.call("submit_tasks", tasks=chunk)


def set_limit(db: Database, limit: Limit, dollars: Decimal) -> None:
    """What an operator does: changes a row."""
    statement = {
        "provider": "UPDATE api_rate_limits SET daily_cost_limit = %s WHERE provider = %s",
        "tenant": "UPDATE lead.tenant SET daily_cost_limit_usd = %s WHERE tenant = %s",
        "workflow": "UPDATE lead.workflow_policy SET daily_cost_limit_usd = %s WHERE workflow_type = %s",
        "total": "UPDATE lead.setting SET value = %s WHERE name = 'daily_budget_usd' AND 'all' = %s",
    }[limit.scope]
    changed = db.execute(statement, [dollars if limit.scope != "total" else str(dollars), limit.key])
    assert changed == 1, f"{limit} has no row"
