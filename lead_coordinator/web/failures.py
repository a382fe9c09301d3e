"""Why a page wasn't fetched. `str(error)` is one sentence with the address in it, cut to be readable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from lead_coordinator.errors import ErrorClass, TaskError

FailureKind = Literal[
    "invalid_url",
    "forbidden_address",
    "forbidden_scheme",
    "robots",
    "too_large",
    "timeout",
    "redirect_loop",
    "too_many_redirects",
    "dns",
    "connection",
    "tls",
    "decoding",
]
# What asking again can't mend.
_REFUSED: frozenset[FailureKind] = frozenset(
    {"invalid_url", "forbidden_address", "forbidden_scheme", "robots", "too_large"}
)
_SHOWN = 200


@dataclass(frozen=True)
class Hop:
    """One redirect: `url` answered with `status` and sent us to `location` (absolute)."""

    url: str
    status: int
    location: str


class FetchFailed(TaskError):
    """Nothing usable came back. `kind` says why, `hops` how far redirects led, `status` the answer's, if any.

    `declared_bytes`: the length that an answer too large announced.
    """

    def __init__(
        self,
        kind: FailureKind,
        url: str,
        reason: str,
        *,
        hops: tuple[Hop, ...] = (),
        status: int | None = None,
        declared_bytes: int | None = None,
    ) -> None:
        super().__init__(f"{shown(url)}: {reason}")
        self.kind: FailureKind = kind
        self.url = url
        self.reason = reason
        self.hops = hops
        self.status = status
        self.declared_bytes = declared_bytes


class FetchRefused(FetchFailed):
    """A failure that no retry mends: the address isn't one, isn't allowed, or holds more than we take."""

    error_class: ClassVar[ErrorClass] = "invalid_input"


def failed(
    kind: FailureKind,
    url: str,
    reason: str,
    *,
    hops: tuple[Hop, ...] = (),
    status: int | None = None,
    declared_bytes: int | None = None,
) -> FetchFailed:
    """The failure as the class that decides whether a task is tried again."""
    of_class = FetchRefused if kind in _REFUSED else FetchFailed
    return of_class(kind, url, reason, hops=hops, status=status, declared_bytes=declared_bytes)


def shown(url: str) -> str:
    """The address for a sentence: printable, at most 200 characters."""
    plain = "".join(character if character.isprintable() else "�" for character in url[: _SHOWN + 1])
    return plain if len(url) <= _SHOWN else plain[:_SHOWN] + "…"
