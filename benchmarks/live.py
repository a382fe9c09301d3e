"""A whole platform for a benchmark: daemon, webserver, code server, sandbox, PostgreSQL, in a folder of its
own; briefs to give it, and a way to wait that looks after it meanwhile."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lead_coordinator.cli.platform.checks import load_settings
from lead_coordinator.cli.platform.logs import Terminal
from lead_coordinator.cli.platform.run import Platform
from lead_coordinator.cli.platform.web import free_port
from lead_coordinator.database.queue import NewTask
from lead_coordinator.errors import LeadCoordinatorError
from lead_coordinator.pipelines.content.brief import TASK_TYPE, parse_brief
from lead_coordinator.providers.sandbox.admin import SandboxAdmin

THINGS = (
    *("rain garden", "heat pump", "bicycle brake", "sourdough starter", "wool jumper", "garden hedge"),
    *("wooden floor", "cellar window", "compost heap", "kitchen knife", "walking boot", "apple tree"),
    *("roof gutter", "fountain pen", "camping stove", "bread oven", "stone wall", "water butt"),
    *("door lock", "wall plaster", "sewing machine", "garden pond", "chimney flue", "rowing boat"),
    *("cast-iron pan", "linen curtain", "solar lamp", "potato bed", "leather saddle", "paper archive"),
)
WAYS = (
    *("How to choose a {}", "How to repair a {}", "Caring for a {} in winter", "What a {} really costs"),
    *("A {} for beginners", "Mistakes people make with a {}", "When to replace a {}", "A {} in a small home"),
    *("Lending a {} to neighbours", "Buying a {} second hand", "Storing a {} for years", "A {} by hand"),
    *("The parts of a {} explained", "Cleaning a {} without chemicals", "A {} on a tight budget"),
    *("Planning a {} with children", "Testing a {} before you pay", "A {} that lasts thirty years"),
    *("Sharing the cost of a {}", "Moving house with a {}", "Insuring a {}", "Selling a {} well"),
)
MOST_BRIEFS = len(THINGS) * len(WAYS)


class NeverHappened(LeadCoordinatorError):
    """What a benchmark waits for didn't come; the sentence says what that was."""


@contextmanager
def live_platform(latency: str = "fast") -> Iterator[Platform]:
    """A started platform on the sandbox provider; stopped, and its folder gone, at the end. Ctrl-C raises
    StopRequested."""
    with tempfile.TemporaryDirectory(prefix="lead-bench-") as folder:
        settings, environ = load_settings(
            {
                "LEAD_HOME": Path(folder) / "home",
                "LEAD_WEB_PORT": free_port(),
                "LEAD_SANDBOX": "1",
                "SANDBOX_LATENCY": latency,
            }
        )
        platform = Platform(settings, environ, Terminal(sys.stderr))
        with platform.supervisor.signals():
            try:
                platform.start()
                yield platform
            finally:
                platform.stop()


def sandbox_of(platform: Platform) -> SandboxAdmin:
    assert platform.sandbox_url is not None
    return SandboxAdmin(platform.sandbox_url)


def briefs(count: int) -> list[NewTask]:
    """So many different briefs, at most MOST_BRIEFS: near duplicates are refused by the quality gate."""
    if not 1 <= count <= MOST_BRIEFS:
        raise ValueError(f"count={count} must be 1 to {MOST_BRIEFS}")
    tasks = []
    for number in range(count):
        # Neighbours in the queue differ in both.
        thing = THINGS[number % len(THINGS)]
        way = WAYS[(number // len(THINGS) + number) % len(WAYS)]
        brief = parse_brief({"title": way.format(thing), "keyword": thing})
        tasks.append(NewTask(TASK_TYPE, brief.payload()))
    return tasks


def rest(platform: Platform, seconds: float) -> None:
    """Waits, and looks after the platform."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        platform.supervisor.pause(min(left, 0.5))
        platform.tend()


def wait_for(platform: Platform, done: Callable[[], bool], seconds: float, what: str) -> None:
    """Until `done`, looking twice a second. Raises NeverHappened."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise NeverHappened(f"waited {seconds:g} s in vain for {what}")
        rest(platform, 0.5)
