"""Rate limits as a service enforces them: exact, over every window of 60 seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Admission:
    """`retry_after_seconds`: when the next request would be admitted, if nobody else comes; 0 where it was
    admitted."""

    admitted: bool
    retry_after_seconds: float
    remaining: int


class SlidingWindow:
    """At most `limit` admitted requests in any half-open window of `seconds`.

    A request exactly `seconds` after another is outside its window. A refused request takes no place. Times
    are seconds of any clock that doesn't go back.
    """

    def __init__(self, limit: int, seconds: float = 60.0) -> None:
        if limit < 1 or seconds <= 0:
            raise ValueError(f"limit={limit} must be 1 or more and seconds={seconds} more than 0")
        self.limit = limit
        self.seconds = seconds
        self._admitted: deque[float] = deque()

    def admit(self, now: float) -> Admission:
        """Takes a place for a request that arrives `now`, or says when there will be one."""
        admitted = self._admitted
        while admitted and now - admitted[0] >= self.seconds:
            admitted.popleft()
        if len(admitted) >= self.limit:
            return Admission(False, self.seconds - (now - admitted[0]), 0)
        admitted.append(now)
        return Admission(True, 0.0, self.limit - len(admitted))

    def clear(self) -> None:
        """Forgets every request."""
        self._admitted.clear()


class PeakCounter:
    """The most requests that ever fell into one window of `seconds`."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.peak = 0
        self._seconds = seconds
        self._recent: deque[float] = deque()

    def count(self, now: float) -> None:
        recent = self._recent
        recent.append(now)
        while now - recent[0] >= self._seconds:
            recent.popleft()
        self.peak = max(self.peak, len(recent))
