"""Reading a feed in a child process, so that a hostile one can cost no more than its limits.

A feed can keep a parser busy for minutes or fill gigabytes, and a regular expression that runs away holds
the interpreter, with it the event loop, and with that the heartbeat. So the bytes go to a child that has a
limit of processor time and of memory, no open file but its pipes, no environment with secrets in it, and that
is killed when its time is over. It answers in JSON. Starting one takes a sixth of a second.

Run as a module, this file is the child.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from dataclasses import dataclass
from typing import Any

from lead_coordinator.pipelines.intelligence.parse import NotAFeed, ParsedFeed, ParsedItem, parse_feed

_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LANG", "LC_ALL", "SYSTEMROOT")
# What a child's answer may have: 200 items of 10,000 characters, escaped.
_MAX_ANSWER = 64_000_000


@dataclass(frozen=True)
class ReadLimits:
    """What reading one feed may cost: seconds (of processor and of the clock), megabytes, items."""

    seconds: float = 15.0
    memory_mb: int = 512
    max_items: int = 200


class FeedReader:
    """Reads feeds, at most `concurrency` at once, each in a child of its own."""

    def __init__(self, limits: ReadLimits = ReadLimits(), *, concurrency: int = 2) -> None:
        self._limits = limits
        self._places = asyncio.Semaphore(max(1, concurrency))

    async def read(self, body: bytes, url: str, content_type: str = "") -> ParsedFeed:
        """The feed in `body`. Raises `NotAFeed`, also where it can't be read within the limits."""
        limits = self._limits
        head = {
            "url": url,
            "content_type": content_type,
            "max_items": limits.max_items,
            "seconds": limits.seconds,
            "memory_mb": limits.memory_mb,
        }
        async with self._places:
            answer = await self._ask(json.dumps(head).encode() + b"\n" + body)
        if "error" in answer:
            raise NotAFeed(str(answer["error"]))
        items = tuple(ParsedItem.from_json(item) for item in answer["items"])
        return ParsedFeed(answer["kind"], answer["title"], items, answer["malformed"])

    async def _ask(self, request: bytes) -> dict[str, Any]:
        limits = self._limits
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "lead_coordinator.pipelines.intelligence.reader",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(limits.seconds + 5):
                said, _ = await child.communicate(request)
        except TimeoutError:
            return {"error": f"it can't be read within {limits.seconds:g} s"}
        finally:
            if child.returncode is None:
                child.kill()
                # Reaped whatever happens, or it stays as a zombie until we end.
                await asyncio.shield(child.wait())
        if child.returncode != 0 or len(said) > _MAX_ANSWER:
            return {
                "error": f"it can't be read within {limits.seconds:g} s of processor time and "
                f"{limits.memory_mb} MB of memory"
            }
        answer: dict[str, Any] = json.loads(said)
        return answer


def _limit(seconds: float, memory_mb: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Nothing is written but the pipe.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        bytes_ = memory_mb * 1_000_000
        resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))


def child(request: bytes) -> dict[str, Any]:
    """The answer to one request: the head line, then the feed's bytes."""
    line, _, body = request.partition(b"\n")
    head = json.loads(line)
    try:
        feed = parse_feed(body, head["url"], content_type=head["content_type"], max_items=head["max_items"])
    except NotAFeed as error:
        return {"error": str(error)}
    except (MemoryError, RecursionError):
        return {"error": f"it can't be read within {head['memory_mb']} MB of memory"}
    items = [item.as_json() for item in feed.items]
    return {"kind": feed.kind, "title": feed.title, "items": items, "malformed": feed.malformed}


def main() -> None:
    request = sys.stdin.buffer.read()
    head = json.loads(request.partition(b"\n")[0])
    _limit(head["seconds"], head["memory_mb"])
    sys.stdout.buffer.write(json.dumps(child(request)).encode())


if __name__ == "__main__":
    main()
