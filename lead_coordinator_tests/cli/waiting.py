"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def eventually(
    ask: Callable[[], T], what: str | Callable[[], str], seconds: float = 30.0, every: float = 0.05
) -> T:
    """The first answer that is true. Fails, saying what was expected, when there is none in time.

    `what` as a function is asked when the time is up: for what the moment of failure looks like.
    """
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            expected = what if isinstance(what, str) else what()
            pytest.fail(f"expected within {seconds:g} s: {expected}; the last answer was {answer!r}")
        time.sleep(every)
    return answer
