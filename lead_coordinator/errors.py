"""Every error that one room raises and another may have to catch.

Two families matter to callers:

- What the SQL functions refuse (`InvalidInput`, `TypeDisabled`, `StaleLease`, `IllegalTransition`,
  `ClockOff`, `NotFound`): `lead_coordinator.database.connection` maps SQLSTATEs to them, once. `StaleLease`
  means the work was given to somebody else: stop at once and write nothing more.
- What a task can fail with (`TaskError` and its subclasses): `error_class` is the word that the SQL function
  `fail_task` takes, and decides whether an attempt is spent (`task_error`), the task is dead-lettered at once
  (`invalid_input`, `quality`) or only deferred (`destination_down`, `rate_limited`, `budget_exhausted`).

`str(error)` is one sentence meant for a person; it never holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

ErrorClass = Literal[
    "task_error", "invalid_input", "quality", "destination_down", "rate_limited", "budget_exhausted"
]


class LeadCoordinatorError(Exception):
    """Base of every error of this package."""


class SettingsError(LeadCoordinatorError):
    """A variable in the environment is wrong: the sentence names it, its value and what is allowed."""


class MissingFile(LeadCoordinatorError):
    """A file that belongs to the product (SQL, configuration, an example) isn't where it should be."""


# ---- what the database says ------------------------------------------------------------------------------


class DatabaseError(LeadCoordinatorError):
    """Base of what the database room raises."""


class DatabaseUnavailable(DatabaseError):
    """The server can't be reached, or the connection broke.

    Whether the last statement took effect is unknown.
    """


class UnsupportedServer(DatabaseError):
    """The server is older than PostgreSQL 15."""


class DeployError(DatabaseError):
    """The control plane couldn't be deployed; nothing was changed."""


class NotDeployed(DatabaseError):
    """A function or table of the control plane is missing: `lead-coordinator deploy` comes first."""


class EmbeddedServerError(DatabaseError):
    """The embedded PostgreSQL can't be started or stopped."""


class ServerOwned(EmbeddedServerError):
    """Another process already owns the embedded server of this data folder."""


class TypeDisabled(DatabaseError):
    """SQLSTATE LC001: the task type is known, and disabled by policy."""


class StaleLease(DatabaseError):
    """SQLSTATE LC002: the execution is no longer ours (recovered, finished, or launched again)."""


class IllegalTransition(DatabaseError):
    """SQLSTATE LC003: a state machine refuses the step; the sentence names both states."""


class ClockOff(DatabaseError):
    """SQLSTATE LC004: the time given is too far from the server's clock for a production database."""


class NotFound(DatabaseError):
    """SQLSTATE LC005: no such task or execution."""


# ---- what a task can fail with -----------------------------------------------------------------------------


class TaskError(LeadCoordinatorError):
    """A task's own failure: an attempt is spent, retried after 1, 2 and 4 minutes, then the dead letters.

    `retry_after_ms`: how long the destination asked to be left alone, where it said so.
    """

    error_class: ClassVar[ErrorClass] = "task_error"

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms

    def facts(self) -> dict[str, Any]:
        """What the failure's record keeps beside the sentence, JSON-able; a subclass may have some."""
        return {}


class InvalidInput(TaskError, DatabaseError):
    """Bad input; no retry can help.

    Also SQLSTATE 22023: the sentence names field, value and what is allowed.
    """

    error_class: ClassVar[ErrorClass] = "invalid_input"


class BadAnswer(TaskError):
    """A provider answered, and what it said can't be used (truncated, not JSON, not the schema, refused)."""


class ItemCostLimit(TaskError):
    """The next call could take the task over what its policy allows one item to cost."""


class QualityRefused(TaskError):
    """The result isn't good enough, and trying again won't help: a person has to look at it.

    `problems`: a sentence each. `context`: what the person needs (the draft, notes, scores), JSON-able.
    """

    error_class: ClassVar[ErrorClass] = "quality"

    def __init__(
        self,
        message: str,
        problems: Sequence[str] = (),
        context: Mapping[str, Any] | None = None,
        *,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.problems = tuple(problems)
        self.context = dict(context or {})

    def facts(self) -> dict[str, Any]:
        return {"problems": list(self.problems[:50]), **self.context}


class DestinationDown(TaskError):
    """A provider (or the site) can't do its work now: deferred, no attempt spent, never dead-lettered."""

    error_class: ClassVar[ErrorClass] = "destination_down"


class AuthError(DestinationDown):
    """A provider refuses our key or our account: a person must act; tasks wait meanwhile."""


class RateLimited(TaskError):
    """No request slot came free in time: deferred, no attempt spent."""

    error_class: ClassVar[ErrorClass] = "rate_limited"


class BudgetExhausted(TaskError):
    """The daily budget doesn't cover the call: deferred, no attempt spent."""

    error_class: ClassVar[ErrorClass] = "budget_exhausted"
