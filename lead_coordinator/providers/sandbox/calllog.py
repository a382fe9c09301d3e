"""What the sandbox did: counts per provider, the last calls, and a JSONL file with every call.

The counts are the service's own view, against which the platform's ledger is checked: `refused_429` counts
only requests over the real limit, `injected` what was broken on request.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from lead_coordinator.providers.sandbox.faults import PROVIDERS
from lead_coordinator.providers.sandbox.window import PeakCounter

KEPT_CALLS = 20_000


@dataclass(frozen=True)
class CallRecord:
    """One request. `time`: arrival, ISO 8601 in UTC. Tokens are those that a real service would bill for."""

    time: str
    id: str
    provider: str
    model: str
    status: int
    input_tokens: int
    output_tokens: int
    thinking_tokens: int
    cached_tokens: int
    latency_ms: int
    refused: bool
    fault: str | None


class CallLog:
    def __init__(self, path: Path | None) -> None:
        self._file: IO[str] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        self.clear()

    def clear(self) -> None:
        """Counts start again; the file keeps what it has."""
        self._calls: deque[CallRecord] = deque(maxlen=KEPT_CALLS)
        self._status: dict[str, Counter[str]] = {name: Counter() for name in PROVIDERS}
        self._totals: dict[str, Counter[str]] = {name: Counter() for name in PROVIDERS}
        self._injected: dict[str, Counter[str]] = {name: Counter() for name in PROVIDERS}
        self._received = {name: PeakCounter() for name in PROVIDERS}
        self._admitted = {name: PeakCounter() for name in PROVIDERS}

    def arrived(self, provider: str, now: float) -> None:
        self._received[provider].count(now)

    def admitted(self, provider: str, now: float) -> None:
        self._admitted[provider].count(now)

    def add(self, record: CallRecord) -> None:
        """Books one finished request, and writes it to the file at once."""
        self._calls.append(record)
        totals = self._totals[record.provider]
        totals["calls"] += 1
        for field in ("input_tokens", "output_tokens", "thinking_tokens", "cached_tokens"):
            totals[field] += getattr(record, field)
        totals["refused_429"] += record.refused
        self._status[record.provider][str(record.status)] += 1
        if record.fault:
            self._injected[record.provider][record.fault] += 1
        if self._file is not None:
            self._file.write(json.dumps(asdict(record)) + "\n")
            self._file.flush()

    def stats(self) -> dict[str, Any]:
        """Per provider: calls, ok, refused_429, injected, by_status, tokens, and peaks in any 60 seconds."""
        return {name: self._provider_stats(name) for name in PROVIDERS}

    def _provider_stats(self, name: str) -> dict[str, Any]:
        totals = self._totals[name]
        return {
            "calls": totals["calls"],
            "ok": self._status[name]["200"],
            "refused_429": totals["refused_429"],
            "injected": dict(self._injected[name]),
            "by_status": dict(self._status[name]),
            "peak_60s": self._admitted[name].peak,
            "peak_60s_received": self._received[name].peak,
            "input_tokens": totals["input_tokens"],
            "output_tokens": totals["output_tokens"],
            "thinking_tokens": totals["thinking_tokens"],
            "cached_tokens": totals["cached_tokens"],
        }

    def calls(self, provider: str | None, limit: int) -> list[dict[str, Any]]:
        """The last calls, newest first."""
        chosen: Iterable[CallRecord] = (c for c in reversed(self._calls) if provider in (None, c.provider))
        return [asdict(call) for call, _ in zip(chosen, range(limit), strict=False)]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
