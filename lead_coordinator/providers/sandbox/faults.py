"""Faults on request: what share of a provider's requests fails, and how. Validated, because a rehearsal with
a misspelt fault proves nothing."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

PROVIDERS = ("gemini", "openai")

# name → what the client sees
FAULTS = {
    "rate_limited": "429, as if the limit were lower than it is",
    "server_error": "500",
    "overloaded": "503",
    "timeout": "no answer until the client gives up",
    "truncated": "200, and the connection closes in the middle of the body",
    "garbage": "200 and a body that is not the protocol's",
    "bad_answer": "200 and a well-formed body, in which the model's text is cut off in mid-JSON",
    "bad_key": "the key is refused (401; Gemini: 400 with API_KEY_INVALID)",
    "billing_stop": "the account has no money",
}


class InvalidFaults(ValueError):
    """The sentence names field, value and what is allowed."""


class FaultPlan:
    """Rates per provider, and a switch that takes one down altogether (503 for every request)."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.clear()

    def clear(self) -> None:
        """No faults."""
        self._rates: dict[str, dict[str, float]] = {name: {} for name in PROVIDERS}
        self._down: dict[str, bool] = dict.fromkeys(PROVIDERS, False)

    def replace(self, wanted: object) -> None:
        """Replaces the whole plan. `{"gemini": {"server_error": 0.1, "down": true}, "all": {...}}`; `all`
        means both providers, and what a provider says itself wins. Raises `InvalidFaults` and changes
        nothing."""
        if not isinstance(wanted, Mapping):
            raise InvalidFaults('faults must be an object, such as {"gemini": {"server_error": 0.1}}')
        rates: dict[str, dict[str, float]] = {name: {} for name in PROVIDERS}
        down = dict.fromkeys(PROVIDERS, False)
        for scope in sorted(wanted, key=lambda scope: scope != "all"):
            if scope not in (*PROVIDERS, "all"):
                raise InvalidFaults(f"provider={scope} must be gemini, openai or all")
            if not isinstance(wanted[scope], Mapping):
                raise InvalidFaults(f"{scope} must be an object of faults and their rates")
            for name, value in wanted[scope].items():
                for provider in PROVIDERS if scope == "all" else (scope,):
                    if name == "down":
                        down[provider] = _switch(scope, value)
                    else:
                        rates[provider][name] = _rate(scope, name, value)
        for provider, ones in rates.items():
            if sum(ones.values()) > 1 + 1e-9:
                raise InvalidFaults(
                    f"{provider}: the rates add up to {sum(ones.values()):g}; together at most 1"
                )
        self._rates, self._down = rates, down

    def draw(self, provider: str) -> str | None:
        """The fault that the next request of a provider meets, or None."""
        if self._down[provider]:
            return "overloaded"
        rates = self._rates[provider]
        if not rates:
            return None
        point = self._random.random()
        for name, rate in rates.items():
            if point < rate:
                return name
            point -= rate
        return None

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The plan in the form that `replace` takes."""
        return {
            name: {**self._rates[name], **({"down": True} if self._down[name] else {})} for name in PROVIDERS
        }


def _switch(scope: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidFaults(f"{scope}.down={value!r} must be true or false")
    return value


def _rate(scope: str, name: object, value: object) -> float:
    if name not in FAULTS:
        raise InvalidFaults(f"{scope}.{name} is not a fault; allowed: {', '.join(FAULTS)}, down")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InvalidFaults(f"{scope}.{name}={value!r} must be a rate from 0 to 1")
    return float(value)
