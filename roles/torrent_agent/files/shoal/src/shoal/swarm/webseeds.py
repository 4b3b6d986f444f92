"""When a torrent turns to its web seeds: only while its swarm is stalled, and not all hosts at once."""

from __future__ import annotations

import random
from urllib.parse import urlsplit

from shoal.swarm.types import WebSeedPolicy

_SECOND_CHANCE = 60.0
"""Seconds a server is given to help: more than libtorrent's own urlseed_timeout and urlseed_wait_retry together."""

_PORTS = {"http": 80, "https": 443}


def port_of(url: str) -> int:
    """The port that ``url`` is fetched from; 0 if it says none, as a .torrent may say anything."""
    try:
        parts = urlsplit(url)
        return parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return 0


class WebSeedTimer:
    """Decides, knows no torrent. Times are of one monotonic clock, in seconds."""

    def __init__(self, policy: WebSeedPolicy) -> None:
        self.policy = policy
        self.in_use = False
        self.due: float | None = None  # when to turn to them; None: not waiting

    def start(self, now: float) -> None:
        """The torrent wants bytes: the clock runs."""
        self.in_use = False
        self._rearm(now)

    def stop(self) -> None:
        """It wants none any more: paused, complete, failed."""
        self.in_use = False
        self.due = None

    def swarm_delivered(self, now: float) -> None:
        """A peer sent bytes: the web seeds are not needed."""
        self.in_use = False
        if self.due is not None:
            self._rearm(now)

    def use(self, now: float) -> None:
        """They are given now. Should they not help either, they are to be given anew some time later."""
        self.in_use = True
        self._rearm(now, at_least=_SECOND_CHANCE)

    def delivered(self, now: float) -> None:
        """A web seed sent bytes."""
        if self.due is not None:
            self._rearm(now, at_least=_SECOND_CHANCE)

    def _rearm(self, now: float, at_least: float = 0.0) -> None:
        # drawn anew each time, so that hosts that stall together do not turn to the server together
        wait = max(at_least, self.policy.stall_after)
        self.due = now + wait + random.uniform(0, self.policy.jitter)
