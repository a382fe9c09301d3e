"""Work that cancellation must not interrupt: a statement whose outcome has to be known."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")

# How long a cancelled caller may still wait for it.
FAREWELL_SECONDS = 20.0


async def uninterrupted(work: Coroutine[Any, Any, _T]) -> tuple[_T | None, asyncio.CancelledError | None]:
    """Runs `work` to its end even where the caller is cancelled meanwhile; its result, and the cancellation
    to raise.

    Once cancelled it gets `FAREWELL_SECONDS` more; then it is cancelled too, and the result is None. Its own
    errors are raised, unless a cancellation is on its way.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    deadline = 0.0
    while not task.done():
        try:
            await asyncio.wait(
                {task}, timeout=None if cancelled is None else max(0.0, deadline - loop.time())
            )
        except asyncio.CancelledError as error:
            if cancelled is None:
                deadline = loop.time() + FAREWELL_SECONDS
            cancelled = cancelled or error
        if cancelled is not None and loop.time() >= deadline and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
            return None, cancelled
    if cancelled is None:
        return task.result(), None
    if task.cancelled() or task.exception() is not None:
        return None, cancelled
    return task.result(), cancelled
