"""Rules of time and of people: clocks, settings, limits, breakers, publications, and questions."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st
from hypothesis.stateful import precondition

from lead_coordinator.errors import StaleLease
from lead_coordinator_tests.properties.model import RESERVATION
from lead_coordinator_tests.properties.rules_calls import PROVIDERS, CallRules
from lead_coordinator_tests.properties.world import POLICIES, TASK_TYPES, TENANTS, choice, pick, step

FUNCTION_OF_MODE = {"open": "resume_queue", "paused": "pause_queue", "draining": "drain_queue"}


class OperationRules(CallRules):
    # ---- time ------------------------------------------------------------------------------------------

    @step(seconds=st.sampled_from((0.5, 3, 6, 12, 31, 61, 301, 1_801, "eve", "midnight")))
    def pass_time(self, seconds: float | str) -> None:
        """To the last second of the budget day, or over it: the next day has a budget of its own."""
        if isinstance(seconds, str):
            local = self.now.astimezone(self.model.zone)
            tomorrow = local.date() + timedelta(days=1)
            midnight = datetime.combine(tomorrow, datetime.min.time(), self.model.zone)
            left = midnight.timestamp() - self.now.timestamp()
            seconds = left - 1 if seconds == "eve" and left > 1 else left
            self.tally.note("midnight", self.model.day(self.now + timedelta(seconds=seconds)) == tomorrow)
        self.now += timedelta(seconds=seconds)

    @step(index=choice)
    def wait_for_something(self, index: int) -> None:
        """To the moment at which something changes by itself."""
        model = self.model
        moments = [
            *(t.due for t in model.tasks.values() if t.status == "deferred"),
            *(e.lease_until for e in model.running()),
            *(e.timeout_at for e in model.running()),
            *(b.retry_at for b in model.breakers.values() if b.state == "open"),
            *(p.blocked_until for p in model.providers.values()),
            *(c.taken_until for c in model.calls.values()),
            *(r.reserved_at + RESERVATION for r in model.reservations.values()),
        ]
        to_come = sorted({m for m in moments if m is not None and m > self.now})
        if to_come:
            self.now = pick(to_come[:4], index)

    # ---- people ----------------------------------------------------------------------------------------

    @step(
        what=st.sampled_from(
            (
                "budget",
                "budget",
                "concurrency",
                "tenant",
                "workflow",
                "provider",
                "item",
                "rate",
                "mode",
                "mode",
                "breaker",
            )
        ),
        dollars=st.sampled_from((None, "0.02", "0.09", "0.25", "0.60", "50")),
        number=st.integers(1, 6),
        word=st.sampled_from(("open", "open", "open", "paused", "draining")),
    )
    def change(self, what: str, dollars: str | None, number: int, word: str) -> None:
        """What a person changes, up or down. A lowered limit grants nothing new; what is held or spent
        already stays. An item's limit holds for calls at once, for envelopes from the next on.
        """
        model = self.model
        match what:
            case "budget":
                self.change_setting("daily_budget_usd", dollars or "0")
                model.daily_budget = Decimal(dollars or "0")
            case "concurrency":
                self.change_setting("max_concurrent_workflows", str(number))
                model.max_concurrent = number
            case "tenant":
                self.limit_tenant(str(pick(TENANTS[1:], number)), dollars)
            case "workflow":
                self.limit_workflow(pick(list(POLICIES), number), dollars)
            case "provider":
                self.limit_provider(pick(PROVIDERS, number), dollars)
            case "item":
                policy = pick(list(model.policies.values()), number)
                policy.item_limit, policy.max_batch = Decimal(dollars or "0"), number
                self.change_columns(
                    policy.workflow_type, item_cost_limit_usd=policy.item_limit, max_batch=policy.max_batch
                )
            case "rate":
                self.limit_rate(pick(PROVIDERS, number), number)
            case "mode":
                self.set_mode(word, pick((*TASK_TYPES, *TENANTS[1:]), number))
            case _:
                self.reset_breaker(pick(list(model.breakers), number))

    def set_mode(self, mode: str, whose: str) -> None:
        """A type, or a tenant, is paused, drained or open again."""
        model, is_type = self.model, whose in TASK_TYPES
        was = model.policies[whose].mode if is_type else model.tenant_modes.get(whose, "open")
        waiting = sum(t.status == "queued" and whose in (t.task_type, t.tenant) for t in model.tasks.values())
        answer = self.call(
            FUNCTION_OF_MODE[mode],
            task_type=whose if is_type else None,
            tenant=None if is_type else whose,
            actor="alice",
            reason="a try",
        )
        assert answer == {"mode": mode, "was": was, "waiting": waiting}
        if is_type:
            model.policies[whose].mode = mode
        else:
            model.tenant_modes[whose] = mode
        self.tally.note(f"queue {mode}")

    def reset_breaker(self, name: str) -> None:
        was = self.model.breakers[name].seen(self.now)
        answer = self.call("reset_breaker", name=name, actor="alice", reason="it is up again")
        assert answer["state"] == "closed"
        self.tally.note(f"breaker reset when {was[0]}")
        self.model.reset_breaker(name, self.now)

    # ---- publications ----------------------------------------------------------------------------------

    @precondition(lambda self: self.held())
    @step(index=choice, confirm=st.booleans())
    def publish(self, index: int, confirm: bool) -> None:
        """Once a task and once an address, however often it is tried."""
        execution, task = pick(self.held(), index)
        lease = {"execution_id": execution.id, "fence": execution.fence}
        intent = self.call(
            "begin_publication", task_id=task.id, site="blog", slug="a-page", title="A page", **lease
        )
        known = self.model.pages.setdefault(task.id, (intent["publication_id"], intent["slug"]))
        assert (intent["publication_id"], intent["slug"]) == known, "a task has one page"
        assert len({slug for _, slug in self.model.pages.values()}) == len(self.model.pages), (
            "an address has one"
        )
        assert intent["already_published"] is (task.id in self.model.published)
        if confirm:
            page = {"publication_id": intent["publication_id"], "url": "/a-page/", "content_sha256": "0" * 64}
            self.call("confirm_publication", **page, **lease)
            self.model.published.add(task.id)
            self.refused(StaleLease, "confirm_publication", **page, **{**lease, "fence": execution.fence - 1})
            self.tally.note("published")

    # ---- questions -------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.tasks)
    @step(index=choice)
    def ask(self, index: int) -> None:
        """Answers agree with what is, and change nothing."""
        model = self.model
        task = pick(list(model.tasks.values()), index)
        explained = self.call("explain_task", task_id=task.id)
        assert explained["status"] == task.status
        assert explained["why"] or task.status == "queued", f"why it doesn't run has to be said: {explained}"
        known = self.db.call("get_task", task_id=task.id)
        assert (known["status"], known["attempts"], known["cost_usd"]) == (
            task.status,
            task.attempts,
            task.cost,
        )
        given = [{"task_type": task.task_type, "payload": {}, "idempotency_key": "key 1"}] * 3
        estimate = self.call("estimate_tasks", tasks=given)
        assert estimate["tasks"] == ("key 1" not in model.keys)
        status = self.call("get_platform_status")
        day = model.ledger.accounts[model.day(self.now), "total", "all"]
        committed = Decimal(status["budget"]["spent_usd"]) + Decimal(status["budget"]["held_usd"])
        live = sum(e.actual for e in model.executions.values() if e.active and e.day == model.day(self.now))
        assert committed == day.spent + max(day.held, live)
