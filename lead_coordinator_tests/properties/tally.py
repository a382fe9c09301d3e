"""What a run of the machine really did, so that it can't become vacuous unnoticed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Steps that were run, by rule, and what came of them."""

    steps: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)

    def step(self, rule: str) -> None:
        self.steps += 1
        self.rules[rule] += 1

    def note(self, outcome: str, times: int = 1) -> None:
        self.outcomes[outcome] += times

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {', '.join(f'{what} {times}' for what, times in sorted(counts.items()))}"
            for name, counts in (("rules", self.rules), ("outcomes", self.outcomes))
        )
