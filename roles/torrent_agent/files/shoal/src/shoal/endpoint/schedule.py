"""When a host polls: pure arithmetic, so that a whole fleet can be simulated.

Ten thousand hosts that start in the same second (power is back, a playbook ran) must not ask in the same second, and
not in step for ever after.
"""

from __future__ import annotations

import math
import random

INTERVAL = 60.0  # seconds between two polls
SPREAD = 0.25  # each waits this part of it more or less; two hosts in step are out of it after a few polls
MAX_WAIT = 300.0  # seconds; so long after an outage the last host is back


def first_delay(rng: random.Random, interval: float = INTERVAL) -> float:
    """Seconds from a host's start to its first poll.

    As if it had been polling for ever: what is left of an interval that a random moment falls into (the residual life
    of a renewal process: long intervals are hit more often). With it the fleet's rate is even from the first second;
    with a plain uniform delay the second round begins before the first one has ended, at 1.5 times the rate.
    """
    shortest, longest = (1 - SPREAD) * interval, (1 + SPREAD) * interval
    return rng.random() * math.sqrt(rng.uniform(shortest**2, longest**2))


def next_delay(rng: random.Random, failures: int = 0, interval: float = INTERVAL) -> float:
    """Seconds until the next poll, after ``failures`` polls in a row that got no answer, or none to believe."""
    wait = interval
    if failures > 0:
        # 2**20 intervals are above any limit already
        wait = max(interval, min(interval * 2 ** min(failures, 20), MAX_WAIT))
    return wait * rng.uniform(1 - SPREAD, 1 + SPREAD)
