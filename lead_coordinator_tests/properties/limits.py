"""Circuit breakers and rate limits as the documents describe them: what lets a call through, and what an
answer teaches.

- A breaker opens after 5 consecutive failures and cools down for 5 minutes; half-open it lets one probe
  through, then two, then four, and closes when they succeed; a failed probe waits 30 s; what says nothing
  about the destination (a 429, a 400, a cancelled call, an unanswered or unsent one) counts neither way.
- A request takes a place of its provider's limit for 60 s and a margin, from its grant, and anew from its
  sending.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

FAILURES = 5
COOL_DOWN = timedelta(minutes=5)
PROBE_WAIT = timedelta(seconds=30)
LAST_PROBES = 4
WINDOW = timedelta(seconds=60)
MARGIN = timedelta(milliseconds=500)
# A granted call has to be sent within this.
GRANT = timedelta(seconds=5)
LONGEST_REST = timedelta(minutes=2)

Ending = Literal["success", "failure", "neutral"]
Seen = tuple[object, ...]


@dataclass(slots=True)
class Breaker:
    """One destination: a provider or a pipeline."""

    name: str
    state: Literal["closed", "open", "half_open"] = "closed"
    failures: int = 0
    retry_at: datetime | None = None
    probes: int = 0
    started: int = 0
    succeeded: int = 0
    # Counts the times it was half-open: a probe of an earlier time says nothing about this one.
    episode: int = 0

    def _wake(self, now: datetime) -> None:
        if self.state == "open" and self.retry_at is not None and self.retry_at <= now:
            self.state = "half_open"
            self.probes, self.started, self.succeeded = 1, 0, 0
            self.episode += 1

    def places(self, now: datetime) -> int | None:
        """How many it would let through now; None: any number."""
        self._wake(now)
        if self.state == "closed":
            return None
        return 0 if self.state == "open" else self.probes - self.started

    def admit(self, now: datetime) -> int | None:
        """Lets one through. Answers the episode that it probes for; None: it is no probe."""
        places = self.places(now)
        if places is None:
            return None
        assert places > 0, f"{self.name} was expected to let nothing through: {self}"
        self.started += 1
        return self.episode

    def record(self, ending: Ending, probe_of: int | None, now: datetime, *, at_once: bool = False) -> bool:
        """One ending of what was let through. Answers whether the destination is known to answer again.

        `at_once`: the failure can't heal by itself (a bad key, no money), so one is enough.
        """
        self._wake(now)
        if ending == "failure":
            self.failures += 1
        if self.state == "half_open" and probe_of == self.episode:
            if ending == "success":
                self._probe_succeeded()
                return True
            if ending == "failure":
                self.state, self.retry_at = "open", now + PROBE_WAIT
            else:
                self.started -= 1
        elif self.state == "closed":
            if ending == "success":
                self.failures = 0
            elif ending == "failure" and (at_once or self.failures >= FAILURES):
                self.state, self.retry_at = "open", now + COOL_DOWN
        return False

    def _probe_succeeded(self) -> None:
        self.succeeded += 1
        if self.succeeded < self.probes:
            return
        if self.probes >= LAST_PROBES:
            self.reset()
        else:
            self.probes, self.started, self.succeeded = 2 * self.probes, 0, 0

    def reset(self) -> None:
        """Closed, whatever it had counted."""
        self.state, self.failures, self.retry_at = "closed", 0, None
        self.probes = self.started = self.succeeded = 0

    def seen(self, now: datetime) -> Seen:
        """What counts of it in its state: an open one that is due is half-open to whoever comes next."""
        self._wake(now)
        if self.state == "closed":
            return ("closed", self.failures)
        if self.state == "open":
            return ("open", self.retry_at)
        return ("half_open", self.probes, self.started, self.succeeded)


@dataclass(slots=True)
class Provider:
    """A provider's limits. `in_force` is the adaptive limit, lowered by a 429 and raised again by
    successes.
    """

    name: str
    limit: int
    in_force: int
    cost_limit: Decimal | None = None
    blocked_until: datetime | None = None
    # A limit that was lowered, and until when requests granted under it may be among those of the last
    # minute.
    former: tuple[int, datetime] | None = None

    def change(self, limit: int, now: datetime) -> None:
        """An operator sets another limit."""
        if limit == self.limit:
            return
        if limit < self.limit:
            self.former = (self.most_sent(now), now + WINDOW + GRANT)
        self.limit = self.in_force = limit

    def settles(self, now: datetime) -> bool:
        """Whether requests granted under a higher limit may still be among those of the last minute. Until
        then the lowered limit may be passed by grants that were given back, and may hold back a little more
        than it has to.
        """
        return self.former is not None and self.former[1] > now

    def most_sent(self, now: datetime) -> int:
        """The most requests that the last 60 s may hold."""
        return (
            max(self.limit, self.former[0]) if self.former is not None and self.settles(now) else self.limit
        )

    def may_become(self, outcome: str, now: datetime) -> set[int]:
        """The limits that may be in force after an answer: a tenth less after a 429, but never under half;
        one more after a success, until the limit is reached.
        """
        if outcome == "rate_limited":
            return {self.in_force, max(-(-self.limit // 2), self.in_force * 9 // 10, 1)}
        if outcome == "ok" and self.in_force < self.limit:
            return {self.in_force, self.in_force + 1}
        return {self.in_force}
