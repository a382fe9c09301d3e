"""The database and the model side by side, at one virtual time: what every rule of the machine works with.

An example is one transaction, rolled back at its end; a call that is to be refused is a savepoint, so that
it undoes only itself. Sequences, which a rollback leaves alone, are set back at the beginning: the same
steps get the same ids, and with them the same jitter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lead_coordinator.database.connection import Database
from lead_coordinator.errors import DatabaseError
from lead_coordinator_tests.properties import snapshot
from lead_coordinator_tests.properties.model import Model
from lead_coordinator_tests.properties.tally import Tally

Item = TypeVar("Item")
Step = TypeVar("Step", bound=Callable[..., None])

TENANTS = (None, "acme", "zenith")
POLICIES = {
    "content_pipeline": ("content_generation", "0.09", 3),
    "seo_monitor": ("seo_analysis", "0.05", 4),
    "intelligence_engine": ("intelligence_analysis", "0.25", 1),
}
TASK_TYPES = tuple(task_type for task_type, _, _ in POLICIES.values())
SEQUENCES = ("lead.task_id_seq", "lead.api_call_id_seq", "lead.fence")
LIMITS = {"gemini": 4, "openai": 3}
# How far an index into a list may reach; it is taken modulo the list's length.
choice = st.integers(0, 30)


def pick(items: Sequence[Item], index: int) -> Item:
    return items[index % len(items)]


def step(**arguments: st.SearchStrategy[Any]) -> Callable[[Step], Step]:
    """A rule that is counted."""

    def wrap(function: Step) -> Step:
        @functools.wraps(function)
        def counted(self: World, **drawn: Any) -> None:
            self.tally.step(function.__name__)
            function(self, **drawn)

        decorated: Step = cast("Any", rule)(**arguments)(counted)
        return decorated

    return wrap


def prepare(db: Database) -> None:
    """What all examples begin with: small limits that a few steps reach, and memory that is never short."""
    for workflow_type, (_, item_limit, batch) in POLICIES.items():
        changes = {"enabled": True, "max_batch": batch, "item_cost_limit_usd": Decimal(item_limit)}
        db.call("change_policy", workflow_type=workflow_type, changes=changes)
    db.call("change_setting", name="memory_limit_mb", value="1000000")
    for provider, limit in LIMITS.items():
        db.execute(
            "UPDATE api_rate_limits SET requests_per_minute = %s WHERE provider = %s", [limit, provider]
        )
    db.execute("INSERT INTO lead.tenant (tenant) VALUES ('acme'), ('zenith')")


class World(RuleBasedStateMachine):
    """Rules come from the classes that extend it."""

    def __init__(self, db: Database, tally: Tally) -> None:
        super().__init__()
        self.db = db
        self.tally = tally
        self.model: Model
        self.now: datetime
        self._number = 0
        self._example = ExitStack()
        self.connection = self._example.enter_context(db.connection())
        self._example.enter_context(self.connection.transaction(force_rollback=True))
        # The same few statements, ten thousands of times.
        self.connection.prepare_threshold = 3
        for sequence in SEQUENCES:
            self.connection.execute("SELECT setval(%s, 1, false)", [sequence])

    def teardown(self) -> None:
        self._example.close()

    # ---- calling ---------------------------------------------------------------------------------------

    def call(self, function: str, **params: Any) -> Any:
        """What the function answers at this time."""
        return self.db.call(function, current_time=self.now, **params)

    def call_rows(self, function: str, **params: Any) -> list[dict[str, Any]]:
        return self.db.call_rows(function, current_time=self.now, **params)

    def refused(self, error: type[DatabaseError], function: str, **params: Any) -> None:
        """The function is expected to refuse, and to change nothing: the invariants look."""
        try:
            with self.connection.transaction():
                answer = self.call(function, **params)
        except error:
            return
        raise AssertionError(f"{function} was expected to refuse {params} with {error.__name__}: {answer}")

    def fresh(self, word: str) -> str:
        """A name that wasn't used in this example."""
        self._number += 1
        return f"{word}-{self._number}"

    def change_setting(self, name: str, value: str) -> None:
        self.db.call("change_setting", name=name, value=value)

    def change_columns(self, workflow_type: str, **changes: object) -> None:
        self.db.call("change_policy", workflow_type=workflow_type, changes=changes)

    # ---- both sides at once ----------------------------------------------------------------------------

    def limit_tenant(self, tenant: str, limit: str | None) -> None:
        self.db.execute("UPDATE lead.tenant SET daily_cost_limit_usd = %s WHERE tenant = %s", [limit, tenant])
        self.model.tenant_limits.pop(tenant, None)
        if limit is not None:
            self.model.tenant_limits[tenant] = Decimal(limit)

    def limit_workflow(self, workflow_type: str, limit: str | None) -> None:
        value = None if limit is None else Decimal(limit)
        self.change_columns(workflow_type, daily_cost_limit_usd=value)
        self.model.policy_of(workflow_type).daily_limit = value

    def limit_provider(self, provider: str, limit: str | None) -> None:
        self.db.execute(
            "UPDATE api_rate_limits SET daily_cost_limit = %s WHERE provider = %s", [limit, provider]
        )
        self.model.providers[provider].cost_limit = None if limit is None else Decimal(limit)

    def limit_rate(self, provider: str, limit: int) -> None:
        """An operator's UPDATE, as PostgREST or psql sends it."""
        self.db.execute(
            "UPDATE api_rate_limits SET requests_per_minute = %s WHERE provider = %s", [limit, provider]
        )
        self.model.providers[provider].change(limit, self.now)

    def submit_one(
        self,
        task_type: str,
        *,
        tenant: str | None = None,
        priority: int = 50,
        value: int | None = None,
        not_before: datetime | None = None,
        dependencies: Sequence[int] = (),
        key: str | None = None,
    ) -> int:
        """Submits a new task, on both sides; answers its id."""
        answer = self.call(
            "submit_task",
            task_type=task_type,
            payload={"brief": 1},
            priority=priority,
            idempotency_key=key,
            value_usd=value,
            deadline=self.now + timedelta(hours=1),
            not_before=not_before,
            dependencies=list(dependencies),
            tenant=tenant,
        )
        assert answer["created"], f"a new task was expected: {answer}"
        task = self.model.submitted(
            answer["task_id"],
            self.now,
            task_type=task_type,
            tenant=tenant,
            priority=priority,
            value=value,
            not_before=not_before,
            dependencies=dependencies,
            key=key,
        )
        assert answer["status"] == task.status, f"it was expected to be {task.status}: {answer}"
        return task.id

    @invariant()
    def the_database_is_as_the_model_says(self) -> None:
        rows = snapshot.take(self.connection)
        found = snapshot.differences(self.model, rows, self.now)
        assert not found, "\n".join([f"at {self.now}:", *found])
