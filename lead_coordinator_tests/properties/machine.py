"""The state machine: all rules together, and the platform with which each example begins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, run_state_machine_as_test

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.properties.limits import FAILURES, Provider
from lead_coordinator_tests.properties.model import Candidate, Model, Policy
from lead_coordinator_tests.properties.money import CENT
from lead_coordinator_tests.properties.rules_calls import PROVIDERS
from lead_coordinator_tests.properties.rules_operations import OperationRules
from lead_coordinator_tests.properties.rules_queue import QueueRules
from lead_coordinator_tests.properties.tally import Tally
from lead_coordinator_tests.properties.world import LIMITS, POLICIES, TASK_TYPES, TENANTS, choice, pick, step

# Of an example.
STEPS = 60
# Moments around which days are short, long, or just over, each where it is interesting.
STARTS = (
    ("UTC", datetime(2026, 11, 24, 12, 0, tzinfo=UTC)),
    ("UTC", datetime(2026, 11, 24, 23, 58, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 3, 50, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 9, 3, 59, tzinfo=UTC)),
    ("Asia/Kolkata", datetime(2026, 7, 1, 18, 20, tzinfo=UTC)),
    ("Pacific/Auckland", datetime(2026, 9, 26, 11, 59, tzinfo=UTC)),
)


class ControlPlane(OperationRules, QueueRules):
    """A queue, its budget, its limits and its breakers, worked on by many and operated by a person."""

    @initialize(
        start=st.sampled_from(STARTS),
        budget=st.sampled_from(("50", "2", "0.60")),
        max_concurrent=st.integers(1, 3),
        pacing=st.booleans(),
        tenant_limit=st.sampled_from((None, None, "0.06")),
        workflow_limit=st.sampled_from((None, None, "0.30")),
        provider_limit=st.sampled_from((None, None, "0.15")),
    )
    def begin(
        self,
        start: tuple[str, datetime],
        budget: str,
        max_concurrent: int,
        pacing: bool,
        tenant_limit: str | None,
        workflow_limit: str | None,
        provider_limit: str | None,
    ) -> None:
        """A platform in some time zone, at some moment of its budget's day, with work under way."""
        zone, self.now = start
        self.change_setting("coordinator_timezone", zone)
        self.change_setting("daily_budget_usd", budget)
        self.change_setting("max_concurrent_workflows", str(max_concurrent))
        self.change_setting("pacing_enabled", str(pacing).lower())
        self.model = Model(
            zone=ZoneInfo(zone),
            policies={t: Policy(t, w, Decimal(limit), batch) for w, (t, limit, batch) in POLICIES.items()},
            providers={name: Provider(name, limit, limit) for name, limit in LIMITS.items()},
            daily_budget=Decimal(budget),
            max_concurrent=max_concurrent,
            pacing=pacing,
        )
        self.limit_tenant("acme", tenant_limit)
        self.limit_workflow("seo_monitor", workflow_limit)
        self.limit_provider("openai", provider_limit)
        for task_type in TASK_TYPES:
            self.work_arrives(task_type, "acme", 2, False)

    @step(
        task_type=st.sampled_from(TASK_TYPES),
        tenant=st.sampled_from(TENANTS),
        count=st.integers(1, 4),
        external=st.booleans(),
    )
    def bring_work(self, task_type: str, tenant: str | None, count: int, external: bool) -> None:
        self.work_arrives(task_type, tenant, count, external)

    def work_arrives(self, task_type: str, tenant: str | None, count: int, external: bool) -> None:
        """Tasks are submitted, and worked on at once where that is possible: by runs, or by a worker of its
        own.
        """
        if not self.model.takes(task_type, tenant):
            return
        for _ in range(count):
            self.submit_one(task_type, tenant=tenant)
        if external:
            self.claim_one(task_type, count, 60)
        else:
            self.decide_now(3, "tick")
            for execution in self.model.pending():
                self.start_one(execution)

    @step()
    def carry_on(self) -> None:
        """The ordinary day: a task is called for, paid and completed; where none is under way, work arrives.

        Without an argument it is the rule that Hypothesis draws most.
        """
        held = self.held()
        if not held:
            self.recover()
            self.work_arrives(TASK_TYPES[0], None, 2, False)
            return
        execution, task = held[0]
        call = self.begin_one(execution, task, [Candidate("gemini", CENT), Candidate("openai", CENT)])
        if call is not None:
            self.send_one(call)
            self.settle_one(call, "ok", "0.5", 0)
            self.complete_one(execution, task)

    @step(
        task_type=st.sampled_from(TASK_TYPES),
        tenant=st.sampled_from(TENANTS),
        whole_type=st.booleans(),
        mode=st.sampled_from(("paused", "paused", "draining")),
    )
    def stop_and_go_on(self, task_type: str, tenant: str | None, whole_type: bool, mode: str) -> None:
        """Work waits, its type or tenant is paused or drained, workers ask for it, and it is open again."""
        whose = task_type if whole_type or tenant is None else tenant
        if self.model.takes(task_type, tenant):
            self.submit_one(task_type, tenant=tenant)
        self.set_mode(mode, whose)
        self.try_to_submit(task_type, tenant)
        self.claim_one(task_type, 3, 60)
        self.decide_now(3, "tick")
        self.set_mode("open", whose)

    @step(
        task_type=st.sampled_from(TASK_TYPES),
        later=st.sampled_from((None, None, 90)),
        done=st.integers(1, 2),
    )
    def depend_on_two(self, task_type: str, later: int | None, done: int) -> None:
        """A task waits for two others: it is free when both have completed, and not before its own time."""
        if not self.model.takes(task_type, None):
            return
        needed = [self.submit_one(task_type, priority=100) for _ in range(2)]
        waits_until = None if later is None else self.now + timedelta(seconds=later)
        self.submit_one(task_type, dependencies=needed, not_before=waits_until)
        execution = self.claim_one(task_type, 50, 60)
        for task in [] if execution is None else self.model.held_by(execution):
            if execution is not None and task.id in needed[:done]:
                self.complete_one(execution, task)

    @step(
        task_type=st.sampled_from(TASK_TYPES),
        tenant=st.sampled_from(TENANTS),
        minutes=st.sampled_from((29, 30, 1_500)),
        external=st.booleans(),
    )
    def grow_old(self, task_type: str, tenant: str | None, minutes: int, external: bool) -> None:
        """A task of little worth waits, and better ones come: after half an hour it is as good as they."""
        if not self.model.takes(task_type, tenant):
            return
        self.submit_one(task_type, tenant=tenant, priority=10)
        self.now += timedelta(minutes=minutes)
        for priority in (50, 60):
            self.submit_one(task_type, tenant=tenant, priority=priority)
        if external:
            self.claim_one(task_type, 2, 60)
        else:
            self.decide_now(3, "tick")

    @step(
        task_type=st.sampled_from(TASK_TYPES),
        tenant=st.sampled_from(TENANTS),
        minutes=st.lists(st.sampled_from((0, 1, 29, 30, 1_500)), max_size=3),
    )
    def fold_the_log(self, task_type: str, tenant: str | None, minutes: list[int]) -> None:
        """Tasks of one score come one after the other, and the log is long enough for the next decision to
        fold it.
        """
        for later in minutes:
            if self.model.takes(task_type, tenant):
                self.submit_one(task_type, tenant=tenant)
            self.now += timedelta(minutes=later)
        self.db.execute(
            "INSERT INTO lead.queue_depth_delta (task_type, status, tasks, oldest_from)"
            " SELECT %s, 'completed', 0, 'infinity' FROM generate_series(1, 600)",
            [task_type],
        )
        self.decide_now(3, "tick")

    @precondition(lambda self: bool(self.held()))
    @step(
        index=choice,
        provider=st.sampled_from(PROVIDERS),
        which=st.sampled_from(("total", "workflow", "provider", "tenant")),
    )
    def run_out_of_money(self, index: int, provider: str, which: str) -> None:
        """A limit leaves room for one small call; each call asks for more than the half of it."""
        execution, task = pick(self.held(), index)
        keys = {"total": "all", "workflow": execution.workflow_type, "provider": provider}
        key = keys.get(which, task.tenant)
        if key is None:
            return
        left = str(self.model.ledger.committed(execution.day, which, key) + CENT)
        match which:
            case "total":
                self.change_setting("daily_budget_usd", left)
                self.model.daily_budget = Decimal(left)
            case "workflow":
                self.limit_workflow(key, left)
            case "provider":
                self.limit_provider(key, left)
            case _:
                self.limit_tenant(key, left)
        for _ in range(3):
            self.begin_one(execution, task, [Candidate(provider, Decimal("0.006"))])

    @step(
        task_type=st.sampled_from(TASK_TYPES),
        times=st.integers(3, 6),
        status=st.sampled_from(("failed", "failed", "cancelled")),
    )
    def runs_fail(self, task_type: str, times: int, status: str) -> None:
        """Whole runs in a row: five that fail open their pipeline's breaker, those called off never do."""
        self.fail_runs(task_type, times, status)

    def fail_runs(self, task_type: str, times: int, status: str) -> None:
        for _ in range(times):
            if not self.model.takes(task_type, None):
                return
            self.submit_one(task_type)
            execution = self.claim_one(task_type, 1, 60)
            if execution is None:
                return
            self.finish_one(execution, status)

    @step(task_type=st.sampled_from(TASK_TYPES))
    def prune_in_the_middle(self, task_type: str) -> None:
        """A run goes on for days; a task of its first day is long done, and one with a key was cancelled."""
        if self.model.takes(task_type, None) and "key 3" not in self.model.keys:
            self.cancel_one(self.model.tasks[self.submit_one(task_type, key="key 3")])
        held = self.held()
        if held:
            execution, task = held[0]
            call = self.begin_one(execution, task, [Candidate("gemini", CENT)])
            if call is not None:
                self.send_one(call)
                self.settle_one(call, "ok", "0.5", 0)
            self.complete_one(execution, task)
        self.prune_now(3)

    @step(task_type=st.sampled_from(TASK_TYPES), times=st.integers(1, 4), paid=st.booleans())
    def lose_again_and_again(self, task_type: str, times: int, paid: bool) -> None:
        """A task that kills its run: from the second time on it goes alone, after the third it is parked."""
        if not self.model.takes(task_type, None):
            return
        task = self.model.tasks[self.submit_one(task_type, priority=100)]
        for _ in range(times):
            execution = self.claim_one(task_type, 2, 5)
            if execution is None or task.execution_id != execution.id:
                return
            call = self.begin_one(execution, task, [Candidate("gemini", CENT)]) if paid else None
            if call is not None:
                self.send_one(call)
                self.settle_one(call, "ok", "0.5", 0)
            self.now += execution.lease
            self.recover()

    @step(
        task_type=st.sampled_from(TASK_TYPES),
        endings=st.lists(
            st.sampled_from(("completed", "completed", "failed", "cancelled")), min_size=2, max_size=8
        ),
    )
    def probe_a_pipeline(self, task_type: str, endings: list[str]) -> None:
        """A pipeline that has failed: its breaker lets probes through, one decision after the other, while
        much waits.
        """
        breaker = self.model.pipeline(self.model.policies[task_type].workflow_type)
        if breaker.state == "closed":
            self.fail_runs(task_type, FAILURES, "failed")
        for ending in endings:
            if breaker.state == "open" and breaker.retry_at is not None:
                self.now = max(self.now, breaker.retry_at)
            self.recover()
            self.work_arrives(task_type, None, 2, False)
            probes = [e for e in self.model.running() if e.probe_of is not None and not e.external]
            if probes:
                self.finish_one(probes[0], ending)
                self.tally.note(f"probe run {ending}")


def run(
    db: Database, tally: Tally, examples: int, *, same_as: int | None = None, shrink: bool = True
) -> None:
    """Runs so many examples of `STEPS` steps; raises what the shortest one that fails raised.

    same_as: a number for which the steps are the same each time; None: others each time. Without `shrink`
    the first failure is raised as it came.
    """

    def machine() -> ControlPlane:
        return ControlPlane(db, tally)

    run_state_machine_as_test(
        machine if same_as is None else seed(same_as)(machine),  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
