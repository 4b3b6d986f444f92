"""The engine's events as the API hands them out: numbered, a bounded number of them, with a wait for the next."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque

import msgspec

from shoal.agent.errors import AgentError
from shoal.swarm import Event, EventKind, State

KEPT = 1000  # a client that follows is never that far behind; some 300 kB


class GoneError(AgentError):
    """Events that were asked for are not kept any more, or never were (the agent was restarted)."""


class NumberedEvent(msgspec.Struct, frozen=True):
    """An Event with its number and the time at which the agent heard of it."""

    id: int
    time: float
    kind: EventKind
    info_hash: str
    state: State | None
    piece: int | None
    what: str
    message: str


class EventLog:
    """Lives in the event loop's thread; ``publish`` is called there too (``loop.call_soon_threadsafe``)."""

    def __init__(self) -> None:
        self._events: deque[NumberedEvent] = deque(maxlen=KEPT)
        self._tick = asyncio.Event()  # set, and replaced by a new one, whenever something came
        self.last = 0
        self.closed = False

    @property
    def first(self) -> int:
        """The number of the oldest event that is kept; of the next one while there is none."""
        return self._events[0].id if self._events else self.last + 1

    def publish(self, event: Event) -> None:
        """Number ``event``, keep it and wake everybody who waits."""
        self.last += 1
        self._events.append(
            NumberedEvent(
                self.last, time.time(), event.kind, event.info_hash, event.state, event.piece, event.what, event.message
            )
        )
        self._wake()

    def close(self) -> None:
        """End every wait, now and later: the agent stops."""
        self.closed = True
        self._wake()

    def after(self, number: int) -> list[NumberedEvent]:
        """The events numbered higher than ``number``; GoneError if some of them are not here."""
        if number > self.last or number < self.first - 1:
            raise GoneError(f"events after {number} are not kept; the agent has {len(self._events)} up to {self.last}")
        # Newest first until the first known one: a waiter looks at what is new, not at the whole ring.
        new = list(itertools.takewhile(lambda event: event.id > number, reversed(self._events)))
        return new[::-1]

    async def wait(self, number: int, deadline: float, info_hash: str = "") -> None:
        """Return once an event after ``number`` (of torrent ``info_hash``, if given) is here, when the loop's
        clock reaches ``deadline``, or when the agent stops."""
        loop = asyncio.get_running_loop()
        seen = number
        while not self.closed:
            # A waiter that fell behind the ring has surely missed something: let it look.
            if seen < self.first - 1:
                return
            if any(info_hash in ("", event.info_hash) for event in self.after(seen)):
                return
            seen = self.last
            try:
                await asyncio.wait_for(self._tick.wait(), deadline - loop.time())
            except asyncio.TimeoutError:
                return

    def _wake(self) -> None:
        tick, self._tick = self._tick, asyncio.Event()
        tick.set()
