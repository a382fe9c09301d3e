"""The sandbox's admin API from Python: what the demo prints and rehearsals steer. Standard library only."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from lead_coordinator.errors import LeadCoordinatorError

TIMEOUT_SECONDS = 5.0


class SandboxUnreachable(LeadCoordinatorError):
    """The sandbox doesn't answer, or refuses what it was asked; the sentence says which."""


class SandboxAdmin:
    """`url`: the sandbox's address without a path, such as `http://127.0.0.1:8765`. Every call may raise
    `SandboxUnreachable`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        # No proxy: the sandbox is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def health(self) -> dict[str, Any]:
        return self._ask("GET", "health")

    def stats(self) -> dict[str, Any]:
        """`{"providers": {"gemini": {calls, ok, refused_429, injected, by_status, peak_60s, tokens …}},
        "limits", "faults"}`"""
        return self._ask("GET", "stats")

    def calls(self, limit: int = 1000) -> list[dict[str, Any]]:
        """The last calls, newest first; the fields of `CallRecord`."""
        calls: list[dict[str, Any]] = self._ask("GET", f"calls?limit={limit}")["calls"]
        return calls

    def set_faults(self, faults: Mapping[str, Mapping[str, float | bool]]) -> dict[str, Any]:
        """Replaces the plan, such as `{"all": {"rate_limited": 0.2}, "openai": {"down": True}}` (see
        `faults.FAULTS`)."""
        return self._ask("PUT", "faults", faults)

    def clear_faults(self) -> None:
        self._ask("DELETE", "faults")

    def reset(self) -> None:
        """Forgets counts, calls, faults and rate windows."""
        self._ask("POST", "reset")

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the address is ours
            f"{self.url}/sandbox/{path}", data, {"content-type": "application/json"}, method=method
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            raise SandboxUnreachable(
                f"The sandbox refuses: {error.read(2000).decode(errors='replace')}"
            ) from None
        except (OSError, ValueError) as error:
            raise SandboxUnreachable(f"The sandbox at {self.url} doesn't answer: {error}") from None
