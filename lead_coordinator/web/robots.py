"""What a host's robots.txt permits (RFC 9309).

4xx: everything is permitted. 5xx or no answer: nothing is, until it answers. Of a file over 500 KiB the first
500 KiB count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lead_coordinator.web.failures import FetchFailed

if TYPE_CHECKING:
    from protego import Protego

MAX_ROBOTS_BYTES = 500 * 1024
_AGENT_DIRECTIVES = ("user-agent", "useragent", "user agent")
_OTHER = "other-agent"


@dataclass(frozen=True)
class Robots:
    """The rules of one origin for one agent. `status`: the HTTP status, None where nothing answered.

    `text`: the file, at most 500 KiB; `truncated`: it had more. `failure`: why nothing answered.
    """

    url: str
    agent: str
    status: int | None
    text: str = ""
    truncated: bool = False
    content_type: str = ""
    failure: FetchFailed | None = field(default=None, compare=False)
    _rules: Protego | None = field(default=None, repr=False, compare=False)

    @property
    def unreachable(self) -> bool:
        """Nothing may be fetched for now: the file couldn't be read."""
        return self.status is None or self.status >= 500

    def allows(self, url: str) -> bool:
        """Whether our agent may fetch this (canonical) address."""
        if urlsplit(url).path == "/robots.txt":
            return True
        if self.unreachable:
            return False
        return self._rules is None or bool(self._rules.can_fetch(url, self.agent))

    @property
    def crawl_delay(self) -> float | None:
        """Seconds between requests that the file asks for."""
        return None if self._rules is None else self._rules.crawl_delay(self.agent)

    @property
    def sitemaps(self) -> tuple[str, ...]:
        """The sitemaps it names, as written, at most a hundred."""
        if self._rules is None:
            return ()
        return tuple(name for _, name in zip(range(100), self._rules.sitemaps, strict=False))


def read_robots(
    url: str,
    user_agent: str,
    status: int | None,
    body: bytes = b"",
    *,
    content_type: str = "",
    failure: FetchFailed | None = None,
) -> Robots:
    """The rules in an answer. `user_agent`: our header, of which the first word counts."""
    agent = product_token(user_agent)
    if status is None or not 200 <= status < 300:
        return Robots(url, agent, status, content_type=content_type, failure=failure)
    from protego import Protego

    text = body[:MAX_ROBOTS_BYTES].decode("utf-8-sig", "replace").replace("\0", "\ufffd")
    return Robots(
        url,
        agent,
        status,
        text,
        truncated=len(body) > MAX_ROBOTS_BYTES,
        content_type=content_type,
        _rules=Protego.parse(_for_one_agent(text, agent)),
    )


def product_token(user_agent: str) -> str:
    """The name that robots.txt knows us by: the header's first word without its version, in lower case."""
    return user_agent.split("/", 1)[0].split(" ", 1)[0].strip().lower()


def _for_one_agent(text: str, agent: str) -> str:
    """The file with every agent that isn't us under one name.

    A group of ten thousand agents with ten thousand rules would otherwise become a hundred million rules.
    """
    return "\n".join(_agent_line(line, agent) for line in text.splitlines())


def _agent_line(line: str, agent: str) -> str:
    words = " ".join(line.partition("#")[0].split()).lower()
    for directive in _AGENT_DIRECTIVES:
        if words.startswith(directive):
            name = words[len(directive) :].lstrip(" :").replace("*", "") or "*"
            return f"User-agent: {name if name in ('*', agent) else _OTHER}"
    return line
