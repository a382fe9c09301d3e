"""What a rehearsal of faults came to: read from the ledger, the sandbox's own call log and the site.

The benchmark (`python -m benchmarks.rehearsals`) and the short version among the tests judge by the same
figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from lead_coordinator.database.connection import Database
from lead_coordinator.providers.sandbox.admin import SandboxAdmin

# Of each hundred requests: twenty 429, ten 500, five that are never answered, two answers that are garbage.
FAULTS = {"all": {"rate_limited": 0.2, "server_error": 0.1, "timeout": 0.05, "garbage": 0.02}}
BOTH_DOWN = {"all": {"down": True}}
WINDOW_SECONDS = 60.0
ENDED = frozenset({"completed", "dead_letter", "cancelled", "failed"})


@dataclass(frozen=True)
class Calls:
    """One provider's calls, by its own log. `peak`: most in any 60 seconds; `over_limit`: those it refused
    because there were more than `limit` in 60 seconds; `injected`: how many of each fault."""

    calls: int
    limit: int
    peak: int
    over_limit: int
    injected: Mapping[str, int]


@dataclass(frozen=True)
class Outcome:
    """Of the tasks of a rehearsal. `attempts`, `stalls`: spent by them together; `dead`: reasons, counted.

    `published_twice`: tasks with more than one publication, slugs that two have, and pages that no
    publication has. `dearest_usd`: the most that one task cost; `item_cap_usd`: what one may.
    """

    tasks: int
    succeeded: int
    dead: Mapping[str, int]
    attempts: int
    deferrals: int
    stalls: int
    published_twice: int
    providers: Mapping[str, Calls]
    cost_usd: Decimal
    dearest_usd: Decimal
    item_cap_usd: Decimal
    day_cost_usd: Decimal
    day_cap_usd: Decimal
    left_open: int

    @property
    def over_limit(self) -> int:
        return sum(one.over_limit + max(0, one.peak - one.limit) for one in self.providers.values())


@dataclass(frozen=True)
class Resumed:
    """Seconds from the providers' return to the first call that was admitted, the first that was answered
    and the first task that was completed; None: there was none."""

    admitted: float | None
    answered: float | None
    completed: float | None


def statuses(db: Database, task_ids: Sequence[int]) -> Counter[str]:
    rows = db.rows(
        "SELECT status, count(*) AS n FROM lead.task WHERE id = ANY(%s) GROUP BY status", [list(task_ids)]
    )
    return Counter({row["status"]: row["n"] for row in rows})


def most_in_any_window(times: Iterable[datetime], seconds: float = WINDOW_SECONDS) -> int:
    """The most of these moments that lie within less than `seconds` of each other."""
    ordered = sorted(times)
    most = first = 0
    for last, moment in enumerate(ordered):
        while (moment - ordered[first]).total_seconds() >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def calls_of(log: Sequence[Mapping[str, Any]], limits: Mapping[str, int]) -> dict[str, Calls]:
    """The sandbox's call log, counted by provider."""
    found = {}
    for provider, limit in limits.items():
        mine = [call for call in log if call["provider"] == provider]
        found[provider] = Calls(
            calls=len(mine),
            limit=limit,
            peak=most_in_any_window(datetime.fromisoformat(call["time"]) for call in mine),
            over_limit=sum(call["refused"] for call in mine),
            injected=Counter(call["fault"] for call in mine if call["fault"]),
        )
    return found


def observe(db: Database, sandbox: SandboxAdmin, site: Path, task_ids: Sequence[int]) -> Outcome:
    """Everything there is to say of the tasks, at this moment. `site`: the folder of the published site."""
    ids = list(task_ids)
    tasks = db.rows("SELECT * FROM lead.task WHERE id = ANY(%s)", [ids])
    costs = db.rows(
        "SELECT task_id, sum(coalesce(cost_usd, max_cost_usd)) AS usd FROM lead.api_call"
        " WHERE task_id = ANY(%s) GROUP BY task_id",
        [ids],
    )
    day = db.row(
        "SELECT coalesce(sum(a.held_usd + a.spent_usd), 0) AS used FROM lead.budget_account AS a"
        " WHERE a.scope = 'total' AND a.budget_day = lead.budget_day(clock_timestamp())"
    )
    caps = db.row(
        "SELECT p.item_cost_limit_usd AS item, lead.setting_number('daily_budget_usd') AS day"
        " FROM lead.workflow_policy AS p WHERE p.workflow_type = 'content_pipeline'"
    )
    open_calls = db.row("SELECT count(*) AS n FROM lead.api_call WHERE status IN ('reserved', 'sent')")
    dead = db.rows("SELECT reason FROM lead.dead_letter WHERE task_id = ANY(%s)", [ids])
    assert day is not None
    assert caps is not None
    assert open_calls is not None
    return Outcome(
        tasks=len(ids),
        succeeded=sum(task["status"] == "completed" for task in tasks),
        dead=Counter(row["reason"] for row in dead),
        attempts=sum(task["attempts"] for task in tasks),
        deferrals=sum(task["deferrals"] for task in tasks),
        stalls=sum(task["stalls"] for task in tasks),
        published_twice=_published_twice(db, site, ids),
        providers=calls_of(sandbox.calls(20_000), sandbox.stats()["limits"]),
        cost_usd=sum((row["usd"] for row in costs), Decimal(0)),
        dearest_usd=max((row["usd"] for row in costs), default=Decimal(0)),
        item_cap_usd=Decimal(str(caps["item"])),
        day_cost_usd=Decimal(str(day["used"])),
        day_cap_usd=Decimal(str(caps["day"])),
        left_open=open_calls["n"],
    )


def _published_twice(db: Database, site: Path, ids: list[int]) -> int:
    rows = db.rows("SELECT task_id, slug, status FROM lead.publication WHERE task_id = ANY(%s)", [ids])
    by_task = Counter(row["task_id"] for row in rows)
    by_slug = Counter(row["slug"] for row in rows)
    every = db.rows("SELECT slug FROM lead.publication WHERE status = 'published'")
    pages = {path.stem for path in (site / "articles").glob("*.html")}
    strangers = pages - {row["slug"] for row in every}
    twice = sum(count - 1 for counts in (by_task, by_slug) for count in counts.values())
    return twice + len(strangers)


def resumed(db: Database, since: datetime, task_ids: Sequence[int]) -> Resumed:
    """How soon work went on after the providers' return at `since`. The first admitted call is one that was
    given a slot after it."""
    row = db.row(
        "SELECT"
        " (SELECT min(c.reserved_at) FROM lead.api_call AS c WHERE c.reserved_at >= %(since)s) AS admitted,"
        " (SELECT min(c.settled_at) FROM lead.api_call AS c"
        "  WHERE c.reserved_at >= %(since)s AND c.outcome = 'ok') AS answered,"
        " (SELECT min(t.processed_at) FROM lead.task AS t"
        "  WHERE t.id = ANY(%(ids)s) AND t.status = 'completed'"
        "  AND t.processed_at >= %(since)s) AS completed",
        {"since": since, "ids": list(task_ids)},
    )
    assert row is not None
    spans = {
        name: None if moment is None else (moment - since).total_seconds() for name, moment in row.items()
    }
    return Resumed(spans["admitted"], spans["answered"], spans["completed"])
