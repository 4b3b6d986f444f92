"""Who is in which swarm: the tracker's memory and its rules, without network, clock or chance of its own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address
Endpoint = tuple[Address, int]


class TrackerError(Exception):
    """Why a request is refused, in words for the user of the client that sent it."""


class Event(str, Enum):
    """Why a client announces itself (BEP 3); ``paused`` comes from a partial seed (BEP 21)."""

    REGULAR = ""
    STARTED = "started"
    COMPLETED = "completed"
    STOPPED = "stopped"
    PAUSED = "paused"


@dataclass(frozen=True)
class Announce:
    """What one client says of itself and wants to know."""

    info_hash: bytes
    peer_id: bytes
    address: Address
    port: int
    left: int  # bytes still missing; 0: a seed
    event: Event = Event.REGULAR
    numwant: int | None = None  # None: the client leaves it to us


@dataclass(frozen=True)
class Peer:
    """One place where a swarm's client can be reached; on two address families it is there twice."""

    address: Address
    port: int
    peer_id: bytes
    seed: bool


@dataclass(frozen=True)
class Counts:
    """A swarm in figures, as in a scrape (BEP 48). Clients, not addresses, are counted."""

    complete: int = 0
    incomplete: int = 0
    downloaded: int = 0  # how often a client told that it got the last piece


@dataclass(frozen=True)
class Limits:
    """Bounds on what strangers can make us remember (a peer costs less than 1 KB) and send."""

    swarms: int = 1_000
    peers_per_swarm: int = 2_000
    peers: int = 20_000
    default_numwant: int = 50  # BEP 3's own
    numwant: int = 200  # what libtorrent asks for


@dataclass
class _Swarm:
    peers: dict[Endpoint, Peer] = field(default_factory=dict)
    downloaded: int = 0

    def counts(self) -> Counts:
        seeds = {peer.peer_id for peer in self.peers.values() if peer.seed}
        everyone = {peer.peer_id for peer in self.peers.values()}
        return Counts(len(seeds), len(everyone - seeds), self.downloaded)


class Swarms:
    """All swarms of one tracker. Not safe to share between threads.

    Peers are known by address and port, not by peer_id: nobody can push another client's entry aside, and a client
    that was killed and started again takes the place of its old self at once.
    """

    def __init__(
        self,
        lifetime: float = 180,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        self._lifetime = lifetime
        self._limits = limits or Limits()
        self._clock = clock
        self._chance = chance or random.Random()
        self._swarms: dict[bytes, _Swarm] = {}
        self._seen: dict[tuple[bytes, Endpoint], float] = {}  # the longest unseen first: each announce moves to the end

    def announce(self, request: Announce) -> tuple[Counts, list[Peer]]:
        """Note what ``request`` says; the swarm's figures, and other peers for it, chosen by chance.

        Seeds are told of no seeds, and nobody of an address of its own. Raises TrackerError when there is no room.
        """
        self._expire()
        endpoint = (request.address, request.port)
        if request.event is Event.STOPPED:
            self._forget(request.info_hash, endpoint)
            return self.scrape(request.info_hash), []
        swarm = self._room_for(request.info_hash, endpoint)
        me = Peer(request.address, request.port, request.peer_id, seed=request.left == 0)
        mine = [peer for peer in swarm.peers.values() if peer.peer_id == me.peer_id]
        # On two address families the same download is announced as completed twice.
        if request.event is Event.COMPLETED and not any(peer.seed for peer in mine):
            swarm.downloaded += 1
        swarm.peers[endpoint] = me
        self._seen.pop((request.info_hash, endpoint), None)
        self._seen[request.info_hash, endpoint] = self._clock()
        others = [peer for peer in swarm.peers.values() if peer.peer_id != me.peer_id and not (me.seed and peer.seed)]
        wanted = self._limits.default_numwant if request.numwant is None else request.numwant
        return swarm.counts(), self._chance.sample(others, min(wanted, self._limits.numwant, len(others)))

    def scrape(self, info_hash: bytes) -> Counts:
        """The figures of one swarm; all zero for one nobody is in, which tells nothing of what we remember."""
        self._expire()
        swarm = self._swarms.get(info_hash)
        return swarm.counts() if swarm else Counts()

    def _expire(self) -> None:
        horizon = self._clock() - self._lifetime
        while self._seen:
            (info_hash, endpoint), seen = next(iter(self._seen.items()))
            if seen > horizon:
                return
            self._forget(info_hash, endpoint)

    def _forget(self, info_hash: bytes, endpoint: Endpoint) -> None:
        if self._seen.pop((info_hash, endpoint), None) is not None:
            del self._swarms[info_hash].peers[endpoint]

    def _room_for(self, info_hash: bytes, endpoint: Endpoint) -> _Swarm:
        """The swarm that ``endpoint`` is in or may join. Swarms without peers are kept, for what they count, until
        their place is needed."""
        swarm = self._swarms.get(info_hash, _Swarm())
        if endpoint not in swarm.peers:
            if len(self._seen) >= self._limits.peers:
                raise TrackerError(f"this tracker is full: it knows {len(self._seen)} peers; use another one")
            if len(swarm.peers) >= self._limits.peers_per_swarm:
                raise TrackerError(f"this swarm is full: it has {len(swarm.peers)} peers; use another tracker")
        if info_hash not in self._swarms and len(self._swarms) >= self._limits.swarms:
            idle = next((key for key, known in self._swarms.items() if not known.peers), None)
            if idle is None:
                raise TrackerError(f"this tracker is full: it has {len(self._swarms)} swarms; use another one")
            del self._swarms[idle]
        return self._swarms.setdefault(info_hash, swarm)
