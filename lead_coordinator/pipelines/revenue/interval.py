"""A figure with the interval it lies in, by simulation with a fixed seed: same data, same figure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """`low` to `high` holds the figure with the probability that the settings name; `mean` is expected."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:,.2f} ({self.low:,.2f} to {self.high:,.2f})"


def simulated(seed: str, draw: Callable[[random.Random], float], probability: float) -> Estimate:
    """What `draw` gives over 2,000 draws of a generator that begins at `seed`."""
    source = random.Random(seed)
    values = sorted(draw(source) for _ in range(DRAWS))
    tail = (1 - probability) / 2
    return Estimate(
        sum(values) / DRAWS, values[round(tail * (DRAWS - 1))], values[round((1 - tail) * (DRAWS - 1))]
    )


def beta(source: random.Random, mean: float, strength: float) -> float:
    return source.betavariate(mean * strength, (1 - mean) * strength)
