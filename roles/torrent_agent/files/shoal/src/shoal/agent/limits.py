"""The agent's rate limits: those that the configuration has for now, or those that somebody set by hand since."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timezone

from shoal.agent.config import Limits, Span
from shoal.agent.log import log
from shoal.agent.schedule import active, next_look, zone
from shoal.swarm import Engine

LONGEST_SLEEP = 3600.0  # a clock may be set meanwhile


def _now() -> datetime:
    return datetime.now(timezone.utc)


class RateLimits:
    """Of the whole agent, bytes per second, 0 for none. What is set by hand holds until a reload or a restart, whatever
    the schedule says.

    :param clock: the time, in any zone
    """

    def __init__(self, engine: Engine, configured: Limits, clock: Callable[[], datetime] = _now) -> None:
        self._engine = engine
        self._clock = clock
        self._by_hand: dict[str, int] = {}
        self.changed = asyncio.Event()
        self.configure(configured)

    @property
    def upload(self) -> int:
        return self._by_hand.get("upload", self._scheduled("upload"))

    @property
    def download(self) -> int:
        return self._by_hand.get("download", self._scheduled("download"))

    def _scheduled(self, direction: str) -> int:
        limit = getattr(self.span, direction, None)
        return int(getattr(self._configured, direction) if limit is None else limit)

    def configure(self, limits: Limits) -> None:
        """Go by ``limits`` from now on."""
        self._configured = limits
        self._by_hand.clear()
        self.span: Span | None = active(limits.schedule, self._local())
        self.apply()

    def set(self, upload: int | None, download: int | None) -> None:
        """Override what is configured; None leaves a limit as it is."""
        given = {"upload": upload, "download": download}
        self._by_hand.update({direction: limit for direction, limit in given.items() if limit is not None})
        self.apply()

    def apply(self) -> None:
        """Have the engine keep to them."""
        self._engine.set_limits(self.upload, self.download)

    def look(self) -> float | None:
        """Apply what the schedule says by now; in how many seconds it may say something else, None: never."""
        local = self._local()
        span = active(self._configured.schedule, local)
        if span != self.span:
            self.span = span
            self.apply()
            log.info("rate limits by schedule: %s; %d B/s up, %d B/s down", span or "none", self.upload, self.download)
        there = next_look(self._configured.schedule, local)
        return None if there is None else (there - local.astimezone(timezone.utc)).total_seconds()

    def _local(self) -> datetime:
        return self._clock().astimezone(zone(str(self._configured.time_zone)))


async def follow_schedule(limits: RateLimits) -> None:
    """Change the limits when they are to change, and look anew whenever ``limits.changed`` is set."""
    while True:
        limits.changed.clear()
        wait = await asyncio.to_thread(limits.look)
        try:
            await asyncio.wait_for(limits.changed.wait(), None if wait is None else min(wait, LONGEST_SLEEP))
        except asyncio.TimeoutError:
            continue
