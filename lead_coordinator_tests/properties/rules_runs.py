"""Rules of executions: deciding, launching, leases, completing and failing tasks, runs that die."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition
from psycopg.types.json import Jsonb

from lead_coordinator.errors import IllegalTransition, NotFound, StaleLease
from lead_coordinator_tests.properties.model import RELAUNCHES, RESERVATION, Execution, Task
from lead_coordinator_tests.properties.world import POLICIES, TASK_TYPES, World, choice, pick, step

# Where an outsider gives none.
STRANGERS_PRIORITY = 50
ERROR_CLASSES = ("task_error", "invalid_input", "destination_down", "rate_limited", "budget_exhausted")
STATES = ("IDLE", "ANALYZING", "DISPATCHING", "MONITORING", "ERROR_RECOVERY")
TRANSITIONS = {
    "IDLE": {"ANALYZING", "ERROR_RECOVERY"},
    "ANALYZING": {"DISPATCHING", "IDLE", "ERROR_RECOVERY"},
    "DISPATCHING": {"MONITORING", "ERROR_RECOVERY"},
    "MONITORING": {"IDLE", "ERROR_RECOVERY"},
    "ERROR_RECOVERY": {"IDLE", "ANALYZING"},
}


class RunRules(World):
    def held(self) -> list[tuple[Execution, Task]]:
        """Each task that a run works on."""
        return [(e, t) for e in self.model.running() for t in self.model.held_by(e)]

    # ---- deciding --------------------------------------------------------------------------------------

    @step(most=st.integers(1, 4), worker=st.sampled_from(("tick", "tick", "other")))
    def decide(self, most: int, worker: str) -> None:
        """The tick: what is due is queued, free slots and money become executions with the best tasks."""
        self.decide_now(most, worker)

    def decide_now(self, most: int, worker: str) -> None:
        model = self.model
        answer = self.call("orchestrate_workflow_execution", worker_id=worker, max_concurrent=most)
        if model.decider is not None and model.decider[0] != worker and model.decider[1] > self.now:
            assert (answer["success"], answer["workflows_dispatched"]) == (False, 0)
            assert model.decider[0] in answer["reason"], f"who holds the lease is to be named: {answer}"
            self.tally.note("decision left to another")
            return
        self.tally.note("promoted", model.promote(self.now))
        priorities = {t["workflow_type"]: t["priority"] for t in answer["scheduled_tasks"]["tasks"]}
        expected = model.must_start(most, priorities, self.now)
        made = self.db.rows(
            "SELECT execution_id, task_ids FROM workflow_orchestration"
            " WHERE parent_execution_id = %s ORDER BY id",
            [answer["execution_id"]],
        )
        assert answer["workflows_dispatched"] == len(made)
        assert made or expected is None, (
            f"nothing is in the way of {expected}: {answer.get('reason')} {answer}"
        )
        plan = (answer.get("execution_plan") or {}).get("workflows_to_execute", [])
        # Numbered in the order in which the slots were given.
        plan.sort(key=lambda w: int(w["execution_id"].rpartition("-")[2]))
        model.decided(
            [(w["execution_id"], w["workflow_type"], w["batch_size"], w["priority"]) for w in plan],
            {row["execution_id"]: row["task_ids"] for row in made},
            most,
            self.now,
        )
        model.state = "MONITORING" if made else "IDLE"
        assert answer["coordinator_state"] == model.state
        self.tally.note("dispatched", len(made))
        self.tally.note("decided" if answer["success"] else "decision refused")
        if any(model.executions[row["execution_id"]].probe_of is not None for row in made):
            self.tally.note("probe run")

    @step(
        wanted=st.lists(st.tuples(choice, st.integers(1, 5)), min_size=1, max_size=3),
        then=st.sampled_from(("use", "use", "keep", "forget")),
    )
    def reserve(self, wanted: list[tuple[int, int]], then: str) -> None:
        """A plan of an outsider: all of it or nothing is reserved. What is forgotten is free in a minute."""
        runs = [e for e in self.model.running() if not e.external]
        if then != "keep" and runs:
            self.finish_one(runs[0], "completed")
        chosen = [(pick(list(POLICIES), index), batch) for index, batch in wanted]
        fits = self.model.can_reserve(chosen, self.now)
        plan_id = self.fresh("plan")
        workflows = [
            {"execution_id": f"{plan_id}-{n}", "workflow_type": workflow_type, "batch_size": batch}
            for n, (workflow_type, batch) in enumerate(chosen)
        ]
        plan = {"plan_id": plan_id, "workflows_to_execute": workflows}
        assert self.call("reserve_execution_resources", execution_plan=plan) is fits, f"fits: {fits}"
        self.tally.note("plan reserved" if fits else "plan refused")
        if fits:
            for workflow, (workflow_type, batch) in zip(workflows, chosen, strict=True):
                self.model.reserve(plan_id, str(workflow["execution_id"]), workflow_type, batch, self.now)

        if then == "forget":
            self.now += RESERVATION
            self.recover()
        elif then == "use" and self.model.reservations:
            self.create_reserved(pick(list(self.model.reservations.values()), len(wanted)).plan_id)

    def create_reserved(self, plan_id: str) -> None:
        """What was reserved becomes executions, each with what it could claim."""
        reserved = {i: r for i, r in self.model.reservations.items() if r.plan_id == plan_id}
        plan = {
            "plan_id": plan_id,
            "workflows_to_execute": [
                {"execution_id": i, "workflow_type": r.workflow_type, "batch_size": r.batch}
                for i, r in reserved.items()
            ],
        }
        created = self.call("create_execution_records", execution_plan=plan, worker_id="outsider")
        rows = self.db.rows(
            "SELECT execution_id, task_ids FROM workflow_orchestration WHERE execution_id = ANY(%s)",
            [list(reserved)],
        )
        claimed: dict[str, list[int]] = defaultdict(list, {r["execution_id"]: r["task_ids"] for r in rows})
        for execution_id in sorted(reserved):
            self.model.create(execution_id, claimed[execution_id], self.now)
        assert created == sum(bool(ids) for ids in claimed.values())
        self.tally.note("reservation used", created)
        self.tally.note("reservation given back", len(reserved) - created)

    @step(index=choice, batch=st.integers(1, 4), adopt=st.booleans())
    def insert_an_execution(self, index: int, batch: int, adopt: bool) -> None:
        """An outsider's row: reserved with its tasks, refused with a reason, or waiting for room."""
        execution_id, workflow_type = self.fresh("outsider"), pick(list(POLICIES), index)
        self.db.execute(
            "INSERT INTO workflow_orchestration"
            " (execution_id, workflow_type, worker_id, batch_size, created_at)"
            " VALUES (%s, %s, 'outsider', %s, %s)",
            [execution_id, workflow_type, batch, self.now],
        )
        self.model.strangers[execution_id] = (workflow_type, batch)
        self.refused(StaleLease, "start_execution", execution_id=execution_id, launch_number=1, run_id="r")
        if adopt:
            self.adopt()

    def adopt(self) -> None:
        model = self.model
        answer = self.call("adopt_executions")
        refused, waiting = ({r["execution_id"] for r in answer[k]} for k in ("refused", "waiting"))
        for execution_id, (workflow_type, batch) in list(model.strangers.items()):
            policy = model.policy_of(workflow_type)
            may_run = policy.claimable and bool(model.claimable(policy.task_type))
            if not may_run:
                assert execution_id in refused | waiting, f"no task waits for {workflow_type}: {answer}"
            elif not model.can_reserve([(workflow_type, batch)], self.now) or model.keeps_back(
                workflow_type, batch, 50, self.now
            ):
                assert execution_id in waiting, f"there is no room for {workflow_type}: {answer}"
            else:
                assert execution_id in answer["adopted"], f"{workflow_type} has room and tasks: {answer}"
                row = self.db.row(
                    "SELECT task_ids FROM workflow_orchestration WHERE execution_id = %s", [execution_id]
                )
                assert row is not None
                model.reserve("adopted", execution_id, workflow_type, batch, self.now)
                model.create(execution_id, row["task_ids"], self.now)
                self.tally.note("adopted")
            if execution_id not in waiting:
                del model.strangers[execution_id]
        self.tally.note("stranger refused", len(refused))
        self.tally.note("stranger waits", len(waiting))

    @step(
        state=st.sampled_from((*STATES, None)),
        worker=st.sampled_from(("tick", "other")),
        release=st.booleans(),
    )
    def take_the_coordinator(self, state: str | None, worker: str, release: bool) -> None:
        """A state by hand, where there is a way to it; or the lease of whoever decides."""
        if state is not None:
            arguments = {"state": state, "execution_plan": None, "worker_id": "a person"}
            if state in TRANSITIONS[self.model.state]:
                assert self.call("update_coordinator_state", **arguments)
                self.model.state = state
            else:
                self.refused(IllegalTransition, "update_coordinator_state", **arguments)
                self.tally.note("illegal transition refused")
            return
        model = self.model
        holds = model.decider is not None and model.decider[0] == worker
        if release:
            assert self.db.call("release_coordinator_lease", worker_id=worker) is holds
            model.decider = None if holds else model.decider
            return
        free = holds or model.decider is None or model.decider[1] <= self.now
        answer = self.call("acquire_coordinator_lease", worker_id=worker, ttl_seconds=20)
        assert answer["acquired"] is free
        if free:
            model.decider = (worker, self.now + timedelta(seconds=20))
            assert answer["fence"] > model.fence
            model.fence = answer["fence"]

    # ---- launching -------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.pending())
    @step(index=choice, launch=st.sampled_from(("at once", "at once", "again", "again, late")))
    def start(self, index: int, launch: str) -> None:
        """The outbox offers what is reserved; a run that it launches takes the lease, once. A launch that
        came to nothing gets the next number, or is the end of it.
        """
        execution = pick(self.model.pending(), index)
        if launch == "at once":
            self.start_one(execution)
        else:
            self.relaunch(execution, late=launch == "again, late")

    def relaunch(self, execution: Execution, *, late: bool) -> None:
        launch = execution.launch - late
        answer = self.call("relaunch_execution", execution_id=execution.id, launch_number=launch)
        if not late and execution.launch > RELAUNCHES:
            self.model.end(execution, "failed", self.now)
            self.tally.note("given up after its launches")
        elif not late:
            execution.launch += 1
            self.tally.note("relaunched")
        assert answer == execution.launch

    def start_one(self, execution: Execution) -> None:
        offered = {row["execution_id"]: row for row in self.call_rows("launchable_executions", limit=100)}
        assert offered.keys() == {e.id for e in self.model.pending()}, (
            "what is reserved is offered, and no more"
        )
        launch = execution.launch
        assert offered[execution.id]["launch_number"] == launch
        for other in (launch - 1, launch + 1):
            self.refused(
                StaleLease, "start_execution", execution_id=execution.id, launch_number=other, run_id="late"
            )
        run_id = self.fresh("run")
        answer = self.call("start_execution", execution_id=execution.id, launch_number=launch, run_id=run_id)
        assert sorted(t["task_id"] for t in answer["tasks"]) == sorted(execution.task_ids)
        for task in answer["tasks"]:
            assert task["attempt"] == self.model.tasks[task["task_id"]].attempts + 1
        self.model.started(execution, answer["fence"], run_id, self.now)
        self.refused(
            StaleLease, "start_execution", execution_id=execution.id, launch_number=launch, run_id="twin"
        )
        self.tally.note("started")

    # ---- leases ----------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.running())
    @step(index=choice)
    def heartbeat(self, index: int) -> None:
        execution = pick(self.model.running(), index)
        answer = self.call("heartbeat_execution", execution_id=execution.id, fence=execution.fence)
        self.model.beat(execution, self.now)
        assert execution.timeout_at is not None
        assert answer["stop"] is (execution.stop_requested or execution.timeout_at <= self.now)
        self.tally.note("told to stop", answer["stop"])

    @step(adopt=st.booleans())
    def look_after(self, adopt: bool) -> None:
        """What the sensor does between two decisions: recover, promote, and adopt."""
        self.recover()
        self.promote()
        if adopt:
            self.adopt()

    def promote(self) -> None:
        expected = self.model.promote(self.now)
        assert self.call("promote_due_tasks") == expected, f"{expected} tasks are due"
        self.tally.note("promoted", expected)

    def recover(self) -> None:
        """What lost its lease or timed out is given up, and its tasks are in the queue again at once."""
        lost = self.model.lost(self.now)
        reservations = len(self.model.reservations)
        answer = self.call("recover_executions")
        requeued, parked = self.model.recovered(self.now)
        found = {r["execution_id"]: r["status"] for r in answer["recovered"]}
        assert found == {e.id: e.status for e in lost}
        assert (answer["requeued"], answer["parked"]) == (requeued, parked)
        self.tally.note("recovered", len(lost))
        self.tally.note("requeued", requeued)
        self.tally.note("parked", parked)
        self.tally.note("reservation expired", reservations - len(self.model.reservations))

    @precondition(lambda self: self.model.running())
    @step(
        index=choice,
        how=st.sampled_from(("silent", "silent", "timed out", "reported", "reported by another")),
    )
    def lose_a_run(self, index: int, how: str) -> None:
        """A run dies: by its silence, by its timeout, or because somebody knows."""
        execution = pick(self.model.running(), index)
        if how.startswith("reported"):
            self.report_failure(execution, is_right=how == "reported")
            return
        assert execution.lease_until is not None
        assert execution.timeout_at is not None
        for _ in range(9 if how == "timed out" else 0):
            self.now += execution.lease * 0.9
            self.call("heartbeat_execution", execution_id=execution.id, fence=execution.fence)
            self.model.beat(execution, self.now)
        self.now = max(self.now, min(execution.timeout_at, execution.lease_until))
        self.recover()
        assert not execution.active

    def report_failure(self, execution: Execution, *, is_right: bool) -> None:
        answer = self.call(
            "report_run_failure",
            execution_id=execution.id,
            run_id=execution.run_id if is_right else "another run",
            reason="the process was killed",
        )
        if not is_right:
            assert "ignored" in answer
            return
        back, dead = self.model.died(execution, "failed", self.now)
        assert (answer["tasks_requeued"], answer["tasks_parked"]) == (back, dead)
        self.tally.note("reported dead")
        self.tally.note("parked", dead)

    @precondition(lambda self: self.model.executions)
    @step(index=choice)
    def call_off(self, index: int) -> None:
        """A person calls an execution off: one that waits ends at once, one that runs is told with its next
        beat.
        """
        execution = pick(list(self.model.executions.values()), index)
        was = execution.status
        answer = self.call("cancel_execution", execution_id=execution.id, reason="not today", actor="alice")
        assert (answer["status_before"], answer["changed"]) == (was, execution.active)
        if was == "running":
            execution.stop_requested = True
            beat = self.call("heartbeat_execution", execution_id=execution.id, fence=execution.fence)
            self.model.beat(execution, self.now)
            assert beat["stop"] is True
        elif was == "pending":
            back, _ = self.model.end(execution, "cancelled", self.now)
            assert answer["returned"] == back
        self.tally.note(f"called off while {was}")

    # ---- working ---------------------------------------------------------------------------------------

    def complete_one(self, execution: Execution, task: Task) -> None:
        """Said twice, it is done once."""
        arguments = {"task_id": task.id, "execution_id": execution.id, "fence": execution.fence}
        waiting = [t for t in self.model.tasks.values() if task.id in t.unmet and t.status == "deferred"]
        self.call("complete_task", result={"score": 90}, **arguments)
        self.model.complete(execution, [task.id], self.now)
        self.call("complete_task", result={"score": 10}, **arguments)
        self.tally.note("completed")
        self.tally.note("freed by a completion", sum(t.status == "queued" for t in waiting))

    @precondition(lambda self: self.held())
    @step(
        index=choice,
        error_class=st.sampled_from((None, None, None, "invalid_input", *ERROR_CLASSES)),
        retry_after=st.sampled_from((None, None, 0, 7_000, 3_600_000)),
    )
    def end_task(self, index: int, error_class: str | None, retry_after: int | None) -> None:
        """A task is completed (None), or fails."""
        execution, task = pick(self.held(), index)
        if error_class is None:
            self.complete_one(execution, task)
        else:
            self.fail_one(execution, task, error_class, retry_after)

    def fail_one(self, execution: Execution, task: Task, error_class: str, retry_after: int | None) -> str:
        asked = None if retry_after is None else timedelta(milliseconds=retry_after)
        least, most = self.model.retry_window(task, error_class, asked)
        answer = self.call(
            "fail_task",
            task_id=task.id,
            execution_id=execution.id,
            fence=execution.fence,
            error_class=error_class,
            error_message="it broke",
            retry_after_ms=retry_after,
        )
        retry_at = None if answer["retry_at"] is None else datetime.fromisoformat(answer["retry_at"])
        status = self.model.failed(execution, task, error_class, retry_at, self.now)
        assert (answer["status"], answer["attempts"]) == (status, task.attempts)
        if status == "deferred":
            assert retry_at is not None
            assert self.now + least <= retry_at <= self.now + most, (
                f"{least} to {most} were expected: {answer}"
            )
        self.tally.note(f"{error_class}: {status}")
        return status

    @precondition(lambda self: self.model.running())
    @step(index=choice, count=st.integers(1, 4))
    def give_back(self, index: int, count: int) -> None:
        execution = pick(self.model.running(), index)
        if not execution.task_ids:
            return
        ids = [*execution.task_ids[:count], 999_999]
        answer = self.call(
            "give_back_tasks", execution_id=execution.id, fence=execution.fence, task_ids=ids, reason="I stop"
        )
        expected = self.model.given_back(execution, ids, self.now)
        assert answer == expected
        self.tally.note("given back", expected)

    @precondition(lambda self: self.model.running())
    @step(index=choice, status=st.sampled_from(("completed", "completed", "failed", "cancelled")))
    def finish(self, index: int, status: str) -> None:
        self.finish_one(pick(self.model.running(), index), status)

    def finish_one(self, execution: Execution, status: str) -> None:
        calls = [c.status for c in self.model.open_calls(execution)]
        answer = self.call(
            "finish_execution", execution_id=execution.id, fence=execution.fence, status=status
        )
        back, _ = self.model.end(execution, status, self.now)
        assert (answer["status"], answer["returned"], answer["completed"]) == (
            status,
            back,
            execution.completed,
        )
        assert answer["actual_cost"] == execution.actual
        assert (answer["calls_released"], answer["calls_settled"]) == (
            calls.count("reserved"),
            calls.count("sent"),
        )
        self.tally.note(f"finished as {status}")
        self.tally.note("unanswered call paid", calls.count("sent"))

    @precondition(lambda self: self.model.pending() or self.held())
    @step(
        index=choice,
        error_class=st.sampled_from((None, None, *ERROR_CLASSES)),
        status=st.sampled_from(("completed", "failed")),
    )
    def work_off(self, index: int, error_class: str | None, status: str) -> None:
        """A whole run: started if it wasn't, each of its tasks ended the same way, and finished."""
        waiting = self.model.pending()
        if waiting:
            execution = pick(waiting, index)
            self.start_one(execution)
        else:
            execution, _ = pick(self.held(), index)
        for task in self.model.held_by(execution):
            if error_class is None:
                self.complete_one(execution, task)
            else:
                self.fail_one(execution, task, error_class, None)
        self.finish_one(execution, status)

    @precondition(lambda self: self.model.tasks)
    @step(index=choice, rounds=st.integers(3, 5))
    def fail_until_it_dies(self, index: int, rounds: int) -> None:
        """One task's own error, again and again, each time when its retry is due."""
        waiting = [t for t in self.model.tasks.values() if t.status in ("queued", "deferred") and not t.unmet]
        if not waiting:
            return
        task = pick(waiting, index)
        for _ in range(rounds):
            if task.due is not None:
                self.now = max(self.now, task.due)
            self.promote()
            execution = self.claim_one(task.task_type, 50, 60)
            if execution is None or task.execution_id != execution.id:
                return
            status = self.fail_one(execution, task, "task_error", None)
            self.finish_one(execution, "completed")
            if status == "dead_letter":
                return

    # ---- workers of one's own --------------------------------------------------------------------------

    @step(task_type=st.sampled_from(TASK_TYPES), limit=st.integers(1, 5), lease=st.sampled_from((5, 60, 900)))
    def claim(self, task_type: str, limit: int, lease: int) -> None:
        self.claim_one(task_type, limit, lease)

    def claim_one(self, task_type: str, limit: int, lease: int) -> Execution | None:
        rows = self.call_rows(
            "claim_tasks", worker_id="a worker", task_type=task_type, limit=limit, lease_seconds=lease
        )
        policy = self.model.policies[task_type]
        if policy.mode == "paused":
            assert not rows, f"{task_type} is paused: {rows}"
            return None
        ids = [row["task_id"] for row in rows]
        self.model.check_claim(task_type, ids, limit, self.now)
        if not rows:
            return None
        assert len({(row["execution_id"], row["fence"]) for row in rows}) == 1
        for row in rows:
            assert row["attempt"] == self.model.tasks[row["task_id"]].attempts + 1
        self.tally.note("claimed", len(rows))
        return self.model.claimed(
            "a worker",
            rows[0]["execution_id"],
            rows[0]["fence"],
            policy.workflow_type,
            ids,
            timedelta(seconds=lease),
            self.now,
        )

    @precondition(lambda self: self.model.running())
    @step(index=choice, count=st.sampled_from((None, None, 0, 1, 3)), end=st.booleans())
    def complete_many(self, index: int, count: int | None, end: bool) -> None:
        """Some of an execution's tasks in one call, or all that it holds; and its end, where wanted."""
        execution = pick(self.model.running(), index)
        ids = execution.task_ids if count is None else execution.task_ids[:count]
        results = None if count is None else Jsonb([{"task_id": i, "result": {"n": i}} for i in ids])
        done = self.call(
            "complete_tasks",
            execution_id=execution.id,
            fence=execution.fence,
            results=results,
            finish=end,
        )
        expected = self.model.complete(execution, ids, self.now)
        assert done == expected
        if end:
            self.model.end(execution, "completed", self.now)
        self.tally.note("completed in bulk", expected)

    # ---- who was given up for dead ---------------------------------------------------------------------

    @precondition(lambda self: self.model.executions)
    @step(index=choice, task=choice)
    def act_on_a_stale_lease(self, index: int, task: int) -> None:
        """An old fence, an ended execution: every function that is guarded refuses."""
        execution = pick(list(self.model.executions.values()), index)
        fence = execution.fence if not execution.active else execution.fence - 1
        task_id = pick(execution.task_ids, task)
        lease = {"execution_id": execution.id, "fence": fence}
        self.refused(StaleLease, "heartbeat_execution", **lease)
        self.refused(StaleLease, "complete_task", task_id=task_id, **lease)
        self.refused(
            StaleLease, "fail_task", task_id=task_id, error_class="task_error", error_message="late", **lease
        )
        self.refused(StaleLease, "complete_tasks", **lease)
        self.refused(StaleLease, "give_back_tasks", task_ids=[task_id], reason="late", **lease)
        self.refused(StaleLease, "finish_execution", status="completed", **lease)
        candidates = [{"provider": "gemini", "model": "m", "max_cost_usd": 0}]
        self.refused(StaleLease, "begin_api_call", task_id=task_id, step="s", candidates=candidates, **lease)
        self.refused(
            StaleLease, "begin_publication", task_id=task_id, site="blog", slug="late", title="Late", **lease
        )
        for call in [c for c in self.model.calls.values() if c.execution_id == execution.id]:
            self.refused(StaleLease, "mark_api_call_sent", call_id=call.id, fence=fence)
            if execution.active:
                assert self.call("release_api_call", call_id=call.id, fence=fence) is False
        self.tally.note("stale lease refused")

        if self.held():
            self.act_on_what_another_holds(index, task)

    def act_on_what_another_holds(self, index: int, other: int) -> None:
        execution, _ = pick(self.held(), index)
        strangers = [t for t in self.model.tasks.values() if t.execution_id != execution.id]
        arguments = {"execution_id": execution.id, "fence": execution.fence}
        if strangers:
            task_id = pick(strangers, other).id
            self.refused(StaleLease, "complete_task", task_id=task_id, **arguments)
            self.refused(
                StaleLease,
                "fail_task",
                task_id=task_id,
                error_class="task_error",
                error_message="x",
                **arguments,
            )
        self.refused(NotFound, "complete_task", task_id=999_999, **arguments)
        self.refused(NotFound, "heartbeat_execution", execution_id="nobody's", fence=1)
