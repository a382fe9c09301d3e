"""Rules of calls to providers: grants, sending, answers, breakers, limits, and what each costs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition

from lead_coordinator.errors import InvalidInput
from lead_coordinator_tests.properties.limits import GRANT, MARGIN, WINDOW
from lead_coordinator_tests.properties.model import ENDINGS, Call, Candidate, Execution, Task
from lead_coordinator_tests.properties.money import CENT, ZERO
from lead_coordinator_tests.properties.rules_runs import RunRules
from lead_coordinator_tests.properties.world import LIMITS, choice, pick, step

PROVIDERS = ("gemini", "openai")
MAXIMA = ("0", "0.004", "0.02", "0.05")
# What an answer costs, as a share of its maximum; None: unknown.
SHARES = (None, "0", "0.5", "1", "1.25")
MILLISECOND = timedelta(milliseconds=1)
HELPLESS = ("budget", "item_cost_limit")

candidate_strategy = st.builds(Candidate, st.sampled_from(PROVIDERS), st.sampled_from(MAXIMA).map(Decimal))


class CallRules(RunRules):
    def calls(self, status: str) -> list[Call]:
        """Calls of a status, whose execution still runs."""
        return [
            c
            for c in self.model.calls.values()
            if c.status == status and self.model.executions[c.execution_id].status == "running"
        ]

    def begin_one(self, execution: Execution, task: Task, candidates: Sequence[Candidate]) -> Call | None:
        """Asks for a call."""
        answer = self.call(
            "begin_api_call",
            execution_id=execution.id,
            fence=execution.fence,
            task_id=task.id,
            step="draft",
            candidates=_named(candidates),
        )
        return self.check_grant(execution, task, candidates, answer)

    def check_grant(
        self, execution: Execution, task: Task, candidates: Sequence[Candidate], answer: dict[str, Any]
    ) -> Call | None:
        """The first candidate that nothing keeps back is granted; else each has its reason."""
        obstacles = [self.model.obstacles(execution, task, c, self.now) for c in candidates]
        places = [self.model.breakers[f"provider:{c.provider}"].places(self.now) for c in candidates]
        if answer["granted"]:
            granted = int(answer["model"].rpartition(" ")[2])
            for n, (must, may) in enumerate(obstacles[:granted]):
                assert must or may, f"candidate {n} comes before {granted}, and nothing keeps it back"
            must, _ = obstacles[granted]
            assert not must, f"{candidates[granted]} had to be refused for {must}"
            assert answer["use_by_ms"] == GRANT // MILLISECOND
            assert answer["probe"] is (places[granted] is not None)
            self.tally.note("granted")
            self.tally.note("probe granted", answer["probe"])
            self.tally.note("granted to a second choice", granted > 0)
            return self.model.begun(answer["call_id"], execution, task, candidates[granted], self.now)
        assert len(answer["blocked"]) == len(candidates)
        for candidate, (must, may), blocked in zip(candidates, obstacles, answer["blocked"], strict=True):
            assert blocked["provider"] == candidate.provider
            assert blocked["reason"] in must | may, (
                f"{candidate}: {must or may or 'nothing'} was expected: {answer}"
            )
            self._check_wait(candidate, blocked)
            self.tally.note(f"refused: {blocked['reason']}")
        waits = [b["wait_ms"] for b in answer["blocked"] if b["wait_ms"] is not None]
        assert answer["wait_ms"] == (min(waits) if waits else None)
        return None

    def _check_wait(self, candidate: Candidate, blocked: dict[str, Any]) -> None:
        """The wait that is asked for is what it takes, and no wait where waiting doesn't help."""
        reason, wait_ms = blocked["reason"], blocked["wait_ms"]
        assert (wait_ms is None) is (reason in HELPLESS), f"{blocked}"
        if wait_ms is None:
            return
        asked = self.now + wait_ms * MILLISECOND
        provider = self.model.providers[candidate.provider]
        if reason == "breaker_open":
            retry_at = self.model.breakers[f"provider:{candidate.provider}"].retry_at
            half_open = self.model.breakers[f"provider:{candidate.provider}"].state == "half_open"
            assert half_open or retry_at == asked, f"it may be tried again at {retry_at}: {blocked}"
        elif provider.blocked_until is not None and provider.blocked_until > self.now:
            assert provider.blocked_until == asked, f"it rests until {provider.blocked_until}: {blocked}"
        elif not provider.settles(self.now):
            taken = self.model.taken(provider.name, self.now)
            soonest, latest = taken[0], taken[len(taken) - min(provider.in_force, len(taken))]
            assert soonest <= asked <= latest + 20 * MILLISECOND, f"{soonest} to {latest}: {blocked}"

    def send_one(self, call: Call) -> bool:
        """The last thing before the request leaves. A grant that is too old is released."""
        execution = self.model.executions[call.execution_id]
        answer = self.call("mark_api_call_sent", call_id=call.id, fence=execution.fence)
        in_time = call.reserved_at + GRANT > self.now
        assert answer["ok"] is (call.status == "reserved" and in_time), f"{call}: {answer}"
        if answer["ok"]:
            self.model.sent(call, self.now)
            self.tally.note("sent")
        elif call.status == "reserved":
            self.model.release(call, self.now)
            self.tally.note("grant too old")
        return bool(answer["ok"])

    def settle_one(self, call: Call, outcome: str, share: str | None, retry_after: int) -> None:
        """The answer is here. Said twice, it is booked once."""
        cost = None if share is None else call.maximum * Decimal(share)
        breaker = self.model.breakers[f"provider:{call.provider}"]
        was = breaker.state
        asked = timedelta(milliseconds=retry_after)
        provider = self.model.providers[call.provider]
        may_become = provider.may_become(outcome, self.now)
        answer = self.call(
            "settle_api_call",
            call_id=call.id,
            outcome=outcome,
            cost_usd=cost,
            http_status=429 if outcome == "rate_limited" else 200,
            retry_after_ms=retry_after if outcome == "rate_limited" else None,
        )
        assert answer["cost_usd"] == self.model.settled(call, outcome, cost, asked, self.now)
        assert answer["breaker_state"] in (
            breaker.state,
            "open" if breaker.state == "half_open" else breaker.state,
        )
        again = self.call("settle_api_call", call_id=call.id, outcome="server_error", cost_usd=9)
        assert again["already_settled"]
        assert again["cost_usd"] == call.cost
        row = self.db.row("SELECT adaptive_limit FROM api_rate_limits WHERE provider = %s", [call.provider])
        assert row is not None
        assert row["adaptive_limit"] in may_become, (
            f"{outcome} makes {provider.in_force} one of {may_become}: {row}"
        )
        self.tally.note("limit lowered by a 429", row["adaptive_limit"] < provider.in_force)
        provider.in_force = row["adaptive_limit"]
        self.tally.note(f"answer: {outcome}")
        self.tally.note("cost above its maximum", cost is not None and cost > call.maximum)
        if breaker.state != was:
            self.tally.note(f"breaker {was} to {breaker.state}")

    # ---- rules -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.held())
    @step(index=choice, candidates=st.lists(candidate_strategy, min_size=1, max_size=3))
    def begin_call(self, index: int, candidates: list[Candidate]) -> None:
        self.begin_one(*pick(self.held(), index), candidates)

    @precondition(lambda self: self.held())
    @step(index=choice, candidate=candidate_strategy)
    def begin_and_send(self, index: int, candidate: Candidate) -> None:
        """The answer is still out."""
        call = self.begin_one(*pick(self.held(), index), [candidate])
        if call is not None:
            self.send_one(call)

    @precondition(lambda self: self.calls("reserved") or self.calls("sent"))
    @step(index=choice)
    def send_call(self, index: int) -> None:
        self.send_one(pick([*self.calls("reserved"), *self.calls("sent")], index))

    @precondition(lambda self: bool(self.held()))
    @step(
        index=choice,
        outcome=st.sampled_from(("ok", *ENDINGS)),
        share=st.sampled_from(SHARES),
        retry_after=st.sampled_from((0, 7_000, 500_000)),
    )
    def settle_call(self, index: int, outcome: str, share: str | None, retry_after: int) -> None:
        """Any answer to any call that is out; where none is, one goes out first."""
        if not self.calls("sent"):
            call = self.begin_one(*pick(self.held(), index), [Candidate("openai", CENT)])
            if call is None or not self.send_one(call):
                return
        self.settle_one(pick(self.calls("sent"), index), outcome, share, retry_after)

    @precondition(lambda self: bool(self.held()))
    @step(index=choice, candidate=candidate_strategy, too_late=st.booleans())
    def begin_and_not_send(self, index: int, candidate: Candidate, too_late: bool) -> None:
        """Never sent: it can't be settled, only given back, once; too late, sending it gives it back."""
        begun = self.begin_one(*pick(self.held(), index), [candidate])
        reserved = self.calls("reserved")
        if not reserved:
            return
        call = pick(reserved, index) if begun is None else begun
        fence = self.model.executions[call.execution_id].fence
        self.refused(InvalidInput, "settle_api_call", call_id=call.id, outcome="ok", cost_usd=ZERO)
        if too_late:
            self.now += GRANT
            assert not self.send_one(call)
        else:
            assert self.call("release_api_call", call_id=call.id, fence=fence) is True
            self.model.release(call, self.now)
            self.tally.note("released")
        assert self.call("release_api_call", call_id=call.id, fence=fence) is False

    @precondition(lambda self: any(not c.open for c in self.model.calls.values()))
    @step(index=choice, share=st.sampled_from(SHARES))
    def answer_too_late(self, index: int, share: str | None) -> None:
        """Whoever was given up for dead brings an answer: its call is resolved already, and nothing
        changes.
        """
        call = pick([c for c in self.model.calls.values() if not c.open], index)
        answer = self.call(
            "settle_api_call",
            call_id=call.id,
            outcome="server_error",
            cost_usd=None if share is None else Decimal(share),
        )
        assert (answer["already_settled"], answer["cost_usd"]) == (True, call.cost)
        self.tally.note("late answer ignored")

    @precondition(lambda self: self.held())
    @step(index=choice, candidate=candidate_strategy, share=st.sampled_from(SHARES), times=st.integers(1, 4))
    def calls_succeed(self, index: int, candidate: Candidate, share: str | None, times: int) -> None:
        self.call_in_a_row(index, candidate, "ok", share, times)

    @precondition(lambda self: self.held())
    @step(
        index=choice,
        provider=st.sampled_from(PROVIDERS),
        outcome=st.sampled_from(("server_error", "server_error", "timeout", "auth_error")),
        times=st.integers(3, 6),
    )
    def calls_fail(self, index: int, provider: str, outcome: str, times: int) -> None:
        """Five in a row open a breaker; over time, since fewer may be made in a minute."""
        self.call_in_a_row(index, Candidate(provider, ZERO), outcome, None, times, seconds=20)

    @precondition(lambda self: self.held())
    @step(
        index=choice,
        candidate=candidate_strategy,
        outcome=st.sampled_from(("rate_limited", "rate_limited", "client_error", "cancelled")),
        times=st.integers(1, 6),
    )
    def calls_say_nothing(self, index: int, candidate: Candidate, outcome: str, times: int) -> None:
        """Back-pressure, our own mistakes: no breaker learns from them."""
        self.call_in_a_row(index, candidate, outcome, "0", times, seconds=12)

    def call_in_a_row(
        self, index: int, candidate: Candidate, outcome: str, share: str | None, times: int, seconds: int = 0
    ) -> None:
        """Whole calls, all with the same answer, until one isn't granted."""
        held = self.held()
        for n in range(times):
            call = self.begin_one(*pick(held, index + n), [candidate])
            if call is None or not self.send_one(call):
                return
            self.now += timedelta(seconds=seconds)
            self.settle_one(call, outcome, share, 7_000)

    @precondition(lambda self: self.held())
    @step(index=choice, batch=st.lists(candidate_strategy, min_size=1, max_size=5))
    def begin_many(self, index: int, batch: list[Candidate]) -> None:
        """Several calls of one execution at a time: each is granted or not by itself, in the order given."""
        execution, _ = pick(self.held(), index)
        tasks = self.model.held_by(execution)
        wanted = [(pick(tasks, n), [candidate]) for n, candidate in enumerate(batch)]
        answers = self.call(
            "begin_api_calls",
            execution_id=execution.id,
            fence=execution.fence,
            calls=[{"task_id": t.id, "step": "draft", "candidates": _named(c)} for t, c in wanted],
        )
        for (task, candidates), answer in zip(wanted, answers, strict=True):
            assert answer["task_id"] == task.id
            self.check_grant(execution, task, candidates, answer)
        self.tally.note("granted in a batch", sum(a["granted"] for a in answers))

    @precondition(lambda self: self.held())
    @step(index=choice, provider=st.sampled_from(PROVIDERS), limit=st.integers(1, 5), back=st.booleans())
    def change_a_rate_under_load(self, index: int, provider: str, limit: int, back: bool) -> None:
        """The limit is used up, changed, and perhaps changed back: no minute holds more than it allowed."""
        self._use_up(index, provider)
        self.limit_rate(provider, limit)
        if back:
            self.limit_rate(provider, LIMITS[provider])
        self._use_up(index, provider)

    def _use_up(self, index: int, provider: str) -> None:
        for n in range(7):
            call = self.begin_one(*pick(self.held(), index + n), [Candidate(provider, ZERO)])
            if call is None:
                return
            self.now += timedelta(seconds=1)
            self.send_one(call)

    @precondition(lambda self: self.held())
    @step(
        index=choice,
        provider=st.sampled_from(PROVIDERS),
        endings=st.lists(
            st.sampled_from(("ok", "ok", "ok", "ok", "server_error", "cancelled", None)),
            min_size=2,
            max_size=12,
        ),
    )
    def probe(self, index: int, provider: str, endings: list[str | None]) -> None:
        """A provider without money, whose breaker opens at once: each time that it lets probes through, all
        of them go out, and one answer comes back (None: none yet), perhaps of a probe of before.
        """
        breaker = self.model.breakers[f"provider:{provider}"]
        if breaker.state == "closed":
            self.call_in_a_row(index, Candidate(provider, ZERO), "billing_stop", None, 1)
        for ending in endings:
            if breaker.state == "open" and breaker.retry_at is not None:
                self.now = max(self.now, breaker.retry_at)
            for n in range(breaker.places(self.now) or 0):
                call = self.begin_one(*pick(self.held(), index + n), [Candidate(provider, ZERO)])
                if call is None:
                    self.now += WINDOW + MARGIN
                    break
                self.send_one(call)
            out = [c for c in self.calls("sent") if c.provider == provider and c.probe_of is not None]
            if out and ending is not None:
                self.tally.note("late probe answered", out[0].probe_of != breaker.episode)
                self.settle_one(out[0], ending, "0", 0)


def _named(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """As the function takes them; the model's name tells them apart."""
    return [
        {"provider": c.provider, "model": f"candidate {n}", "max_cost_usd": c.maximum}
        for n, c in enumerate(candidates)
    ]
