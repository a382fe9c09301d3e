"""How long a service takes to answer: lognormal, drawn from the seed and the request alone."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

# 95 % of a normal distribution lie below this many standard deviations.
Z95 = 1.6448536269514722


@dataclass(frozen=True)
class Latency:
    """Lognormal with the given median and 95th percentile, seconds."""

    median_seconds: float
    p95_seconds: float

    def draw(self, source: random.Random) -> float:
        """Seconds until the answer."""
        sigma = math.log(self.p95_seconds / self.median_seconds) / Z95
        return source.lognormvariate(math.log(self.median_seconds), sigma)


# `real` is the one that published figures use; `fast` is for the demo and for tests.
PROFILES = {"fast": Latency(0.3, 0.8), "real": Latency(4.0, 15.0)}
