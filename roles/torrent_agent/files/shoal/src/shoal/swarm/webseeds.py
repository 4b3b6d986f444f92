"""When a torrent turns to its web seeds: only while its swarm is stalled, and not all hosts at once."""

from __future__ import annotations

import random

from shoal.swarm.types import WebSeedPolicy


class WebSeedTimer:
    """Decides, knows no torrent. Times are of one monotonic clock, in seconds."""

    def __init__(self, policy: WebSeedPolicy) -> None:
        self._policy = policy
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

    def swarm_delivered(self, now: float) -> bool:
        """A peer sent bytes; True if the web seeds are to be taken away."""
        was_in_use, self.in_use = self.in_use, False
        if self.due is not None:
            self._rearm(now)
        return was_in_use

    def use(self, now: float) -> None:
        """They are given now. Should they not help either, they are given anew after another stall: libtorrent drops
        a web seed for good after some errors of the server."""
        self.in_use = True
        self._rearm(now)

    def delivered(self, now: float) -> None:
        """A web seed sent bytes."""
        if self.due is not None:
            self._rearm(now)

    def _rearm(self, now: float) -> None:
        # drawn anew each time, so that hosts that stall together do not turn to the server together
        self.due = now + self._policy.stall_after + random.uniform(0, self._policy.jitter)
