"""Rules of the queue: submitting, pausing, cancelling, dead letters, pruning."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition

from lead_coordinator.errors import InvalidInput, NotFound, TypeDisabled
from lead_coordinator_tests.properties.model import Task
from lead_coordinator_tests.properties.world import TASK_TYPES, TENANTS, World, choice, pick, step

KEEP = timedelta(days=1)


class QueueRules(World):
    def _tasks(self, *statuses: str) -> list[Task]:
        return [t for t in self.model.tasks.values() if t.status in statuses]

    @step(
        task_type=st.sampled_from(TASK_TYPES),
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from((10, 50, 60, 100)),
        value=st.sampled_from((None, None, 20, 1000)),
        later=st.sampled_from((None, None, None, 0, 20, 300)),
        needed=st.lists(choice, max_size=2),
    )
    def submit(
        self,
        task_type: str,
        tenant: str | None,
        priority: int,
        value: int | None,
        later: int | None,
        needed: list[int],
    ) -> None:
        """One task; some are put off, some depend on others."""
        if not self.try_to_submit(task_type, tenant):
            return
        known = list(self.model.tasks)
        task_id = self.submit_one(
            task_type,
            tenant=tenant,
            priority=priority,
            value=value,
            not_before=None if later is None else self.now + timedelta(seconds=later),
            dependencies=[pick(known, n) for n in needed] if known else [],
        )
        self.tally.note(f"submitted as {self.model.tasks[task_id].status}")
        if self.model.tasks[task_id].unmet:
            self.tally.note("submitted with something to wait for")

    def try_to_submit(self, task_type: str, tenant: str | None) -> bool:
        """Whether a task of these would be taken; one that wouldn't is refused."""
        if self.model.takes(task_type, tenant):
            return True
        self.refused(TypeDisabled, "submit_task", task_type=task_type, payload={}, tenant=tenant)
        self.tally.note("submission refused by a draining queue")
        return False

    def cancel_one(self, task: Task) -> None:
        waits = task.status in ("queued", "deferred")
        assert self.call("cancel_task", task_id=task.id, reason="no more wanted") is waits
        if waits:
            task.status, task.due, task.processed_at = "cancelled", None, self.now
            self.tally.note("cancelled")

    @step(
        types=st.lists(st.sampled_from(TASK_TYPES), min_size=1, max_size=4),
        keys=st.lists(st.sampled_from((None, None, "key 1", "key 2", "key 3")), min_size=4, max_size=4),
        tenant=st.sampled_from(TENANTS),
    )
    def submit_a_bulk(self, types: list[str], keys: list[str | None], tenant: str | None) -> None:
        """All or none. A key makes one task, ever: also when that has ended, and when it was pruned."""
        given = list(zip(types, keys, strict=False))
        tasks: list[dict[str, object]] = [
            {"task_type": task_type, "payload": {}, "tenant": tenant, "idempotency_key": key}
            for task_type, key in given
        ]
        keys_given = [key for _, key in given]
        new = [
            key is None or (key not in self.model.keys and key not in keys_given[:place])
            for place, key in enumerate(keys_given)
        ]
        if any(n and not self.model.takes(t, tenant) for n, (t, _) in zip(new, given, strict=True)):
            self.refused(TypeDisabled, "submit_tasks", tasks=tasks)
            self.tally.note("submission refused by a draining queue")
            return
        answer = self.call("submit_tasks", tasks=tasks)
        assert [t["created"] for t in answer["tasks"]] == new, f"{new} were expected to be new: {answer}"
        assert (answer["submitted"], answer["duplicates"]) == (sum(new), len(new) - sum(new))
        for made, is_new, (task_type, key) in zip(answer["tasks"], new, given, strict=True):
            if is_new:
                self.model.submitted(
                    made["task_id"],
                    self.now,
                    task_type=task_type,
                    tenant=tenant,
                    priority=50,
                    value=None,
                    not_before=None,
                    dependencies=(),
                    key=key,
                )
            else:
                known = self.model.keys[str(key)]
                assert made["task_id"] == known
                self.tally.note("key known" if known in self.model.tasks else "key known after pruning")

    @precondition(lambda self: self.model.tasks)
    @step(index=choice, priority=st.sampled_from((None, 0, 45, 100)))
    def cancel_or_reprioritise(self, index: int, priority: int | None) -> None:
        """Without a priority it is cancelled, if it waits: one that is worked on is left to end."""
        task = pick(list(self.model.tasks.values()), index)
        if priority is None:
            self.cancel_one(task)
            return
        changes = task.status in ("queued", "deferred", "processing") and task.priority != priority
        answer = self.call("reprioritise_task", task_id=task.id, priority=priority)
        assert (answer["changed"], answer["priority_before"]) == (changes, task.priority)
        if changes:
            task.priority = priority
            self.tally.note("reprioritised")

    # ---- dead letters ----------------------------------------------------------------------------------

    @precondition(lambda self: self._tasks("dead_letter"))
    @step(index=choice, everything=st.booleans(), discard=st.booleans())
    def resolve_dead_letters(self, index: int, everything: bool, discard: bool) -> None:
        """Replayed with fresh attempts, or given up for good."""
        dead = self._tasks("dead_letter")
        chosen = pick(dead, index)
        wanted: dict[str, object] = {"all": True}
        meant = dead
        if not everything:
            meant = [t for t in dead if t.died_of == chosen.died_of and t.tenant == chosen.tenant]
            wanted = {"error_class": chosen.died_of, "tenant": chosen.tenant}
        function, word = (
            ("discard_dead_letters", "discarded") if discard else ("replay_dead_letters", "replayed")
        )
        answer = self.call(function, filter=wanted, actor="alice", reason="looked at")
        assert answer[word] == len(meant)
        assert sorted(answer["task_ids"]) == sorted(t.id for t in meant)
        if discard:
            gone = {t.id for t in meant}
            waiting = sum(bool(t.unmet & gone) for t in self.model.tasks.values())
            assert answer["dependents_waiting"] == waiting
            for task in meant:
                task.status, task.died_of, task.processed_at = "failed", None, self.now
        else:
            self.model.replayed(meant, self.now)
        self.tally.note(word, len(meant))

    # ---- retention -------------------------------------------------------------------------------------

    @step(days=st.sampled_from((0, 0, 3)))
    def prune(self, days: int) -> None:
        """What ended more than a day ago goes; whatever lives stays, and so do keys."""
        self.prune_now(days)

    def prune_now(self, days: int) -> None:
        self.now += timedelta(days=days)
        for _ in range(60):
            answer = self.call("prune_history", keep=KEEP, limit=30)
            if not answer["more"]:
                break
        assert not answer["more"], "pruning a few rows was expected to come to an end"
        before = self.now - KEEP
        may, must = self.model.may_be_pruned(before)
        left = {row["id"] for row in self.db.rows("SELECT id FROM lead.task")}
        gone = self.model.tasks.keys() - left
        assert must <= gone <= may, f"{must} had to be pruned and {may} could be: {gone} were"
        self.model.prune(gone, before)
        self.tally.note("tasks pruned", len(gone))
        for task_id in gone:
            self.refused(NotFound, "cancel_task", task_id=task_id, reason="it is gone")
            self.refused(
                InvalidInput, "submit_task", task_type=TASK_TYPES[0], payload={}, dependencies=[task_id]
            )
