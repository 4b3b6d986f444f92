"""What the engine is told and what it tells: plain values, no libtorrent in them.

Units everywhere: sizes in bytes, rates in bytes per second, durations in seconds, times as Unix time.
Info hashes are lower-case hex: 40 digits of SHA-1 for v1 and hybrid torrents (BEP 3, BEP 52), for a v2-only
torrent the first 40 digits of its SHA-256, as on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

Endpoint = tuple[str, int]
"""A peer's address and port: ``("192.0.2.7", 6891)``."""


class State(str, Enum):
    """Where a torrent is on its way."""

    METADATA = "metadata"  # a magnet whose metainfo is still to come from peers (BEP 9)
    CHECKING = "checking"  # data on disk is being hashed
    DOWNLOADING = "downloading"
    COMPLETE = "complete"  # every byte is here and verified; seeding unless paused
    ERROR = "error"  # see TorrentStatus.error; the agent does not go on by itself


@dataclass(frozen=True)
class WebSeedPolicy:
    """When a stalled torrent may turn to its web seeds (BEP 19)."""

    stall_after: float = 20.0  # without a byte for so long, the swarm is stalled
    jitter: float = 20.0  # plus a random share of this, so that a fleet does not turn to the server at once
    max_connections: int = 2  # per torrent


@dataclass(frozen=True)
class Reserve:
    """What is to stay free on the store's file system: the sum of both."""

    bytes: int = 0
    percent: float = 0.0  # of the whole file system

    def of(self, total: int) -> int:
        return self.bytes + int(total * self.percent / 100)


@dataclass(frozen=True)
class SeedingPolicy:
    """When to stop seeding what was fetched; 0: never for this reason."""

    ratio: float = 0.0  # bytes sent, in sizes of the payload
    time: float = 0.0  # seconds since it was complete


@dataclass(frozen=True)
class EngineSettings:
    """Everything the engine has to be told; defaults are right for a fleet on a private network."""

    state_dir: Path  # resume data, .torrent files, the dirty mark
    store_dir: Path  # payloads that the agent owns: store_dir/INFO_HASH/NAME
    listen: tuple[str, ...] = ("0.0.0.0:6891", "[::]:6891")
    agent_name: str = ""  # told to peers with the client's name, so that they can say where bytes came from
    upload_limit: int = 0  # for the whole agent; 0: no limit
    download_limit: int = 0
    dht: bool = False
    lsd: bool = False
    upnp: bool = False
    natpmp: bool = False
    allowed_peers: tuple[str, ...] = ()  # networks (CIDR), to and from which peers may connect; none: all
    announce_ip: str = ""  # the address told to trackers; empty: as they see us
    resume_interval: float = 30.0  # between saves of resume data while a torrent downloads
    web_seed: WebSeedPolicy = field(default_factory=WebSeedPolicy)
    min_free: Reserve = Reserve()  # no download and no import takes it
    seeding: SeedingPolicy = SeedingPolicy()
    refuse_when_full: bool = False  # `add` refuses what does not fit; else it is added and waits


@dataclass(frozen=True)
class Label:
    """What a payload is a version of, in the words of who asked for it."""

    app: str
    version: str


@dataclass(frozen=True)
class AddTorrent:
    """One torrent to add: exactly one of ``torrent`` (the bytes of a .torrent file) and ``magnet``."""

    torrent: bytes | None = None
    magnet: str | None = None
    data_path: Path | None = None
    """An existing payload (the file or directory itself) to seed in place, checked first and never written to.
    None: the payload lives in the store."""
    trackers: tuple[tuple[str, ...], ...] = ()  # announce tiers added to the torrent's own (BEP 12)
    peers: tuple[Endpoint, ...] = ()
    web_seeds: tuple[str, ...] = ()  # beside the torrent's own url-list; all are held back until it stalls
    upload_limit: int = 0
    download_limit: int = 0
    paused: bool = False
    label: Label | None = None


@dataclass(frozen=True)
class TorrentError:
    """Why a torrent stands still: libtorrent's own words, and the file or tracker they are about."""

    message: str
    what: str = ""


@dataclass(frozen=True)
class Hold:
    """Why the agent keeps a torrent still that nobody paused."""

    reason: str  # space, seeding
    message: str  # for people, with the numbers
    needed: int = 0  # bytes that are still to come
    reserved: int = 0  # bytes that others are still to write
    free: int = 0  # on the store's file system
    min_free: int = 0


@dataclass(frozen=True)
class SpaceStatus:
    """The store's file system and who counts on it, in bytes."""

    total: int
    free: int
    min_free: int
    reserved: int  # what running downloads and imports are still to write
    waiting: int  # torrents that are held for want of space


@dataclass(frozen=True)
class TrackerStatus:
    url: str
    tier: int
    working: bool
    message: str = ""  # the last error or warning, in libtorrent's or the tracker's own words
    next_announce: float | None = None  # seconds from now
    seeders: int | None = None  # as last scraped or announced
    leechers: int | None = None


@dataclass(frozen=True)
class PeerStatus:
    """One connected peer of one torrent."""

    address: str
    port: int
    client: str  # as it names itself; an agent of ours adds its agent_name
    agent_name: str  # empty where the peer is not an agent of ours
    source: str  # how we know it: tracker, manual, incoming, dht, lsd, pex, resume_data
    progress: float
    seed: bool
    downloaded: int  # payload bytes received from it over this connection
    uploaded: int
    download_rate: int
    upload_rate: int
    flags: tuple[str, ...] = ()  # interesting, choked, remote_interested, remote_choked, snubbed, ...


@dataclass(frozen=True)
class TorrentStatus:
    """All that is known of one torrent at one moment."""

    info_hash: str
    info_hash_v2: str | None
    name: str
    state: State
    paused: bool
    size: int  # of the whole payload; 0 while the metainfo is unknown
    done: int  # verified bytes that are here
    progress: float  # 0 to 1, of `state`: of the check while checking
    piece_length: int
    pieces: int
    pieces_done: int
    files: int
    payload_path: Path | None  # the file or directory; None while the metainfo is unknown
    in_store: bool  # False: seeded in place from data_path
    private: bool
    download_rate: int
    upload_rate: int
    downloaded: int
    """Payload bytes received since the torrent was added, restarts included: the sum of `from_peers` and
    `from_web_seeds`. Blocks that came twice are not in it, those that failed the hash check are."""
    uploaded: int  # likewise sent; brought up to date once a second
    from_peers: dict[str, int]
    """Payload bytes received by source: a peer's agent_name where it told one, else its address."""
    from_web_seeds: int
    wasted: int  # received but thrown away: failed the hash check, or came twice
    refetched: int  # received once, but not on disk any more at a later check: lost in a crash, or damaged
    rehashed: int  # bytes read back and hashed since this process started, because the record was not trusted
    peers: int
    seeds: int
    trackers: tuple[TrackerStatus, ...]
    web_seeds: tuple[str, ...]
    upload_limit: int
    download_limit: int
    error: TorrentError | None
    stalled_for: float  # seconds since the last payload byte came while downloading; 0 otherwise
    added_at: float
    completed_at: float | None
    download_seconds: float  # time spent downloading until complete, restarts included
    held: Hold | None = None
    label: Label | None = None
    pinned: bool = False  # never removed by itself
    wanted_at: float = 0.0  # when it was asked for last


class EventKind(str, Enum):
    ADDED = "added"
    REMOVED = "removed"
    STATE = "state"  # the state changed: Event.state
    PROGRESS = "progress"  # at most one a second and torrent, only while bytes come in
    METADATA = "metadata"  # a magnet's metainfo arrived
    COMPLETE = "complete"
    ERROR = "error"  # Event.message: libtorrent's own text
    HASH_FAILED = "hash_failed"  # Event.piece; the bytes are fetched again
    TRACKER_ERROR = "tracker_error"
    PEER_ERROR = "peer_error"
    HELD = "held"  # kept still by the agent itself: Event.what the reason, message the numbers
    SEEDING_ENDED = "seeding_ended"  # held, too: the policy has it so; message: why
    RELEASED = "released"  # goes on again
    WEB_SEEDS_USED = "web_seeds_used"
    RESUME_SAVED = "resume_saved"
    LISTEN_FAILED = "listen_failed"  # no torrent; Event.what: the address


@dataclass(frozen=True)
class Event:
    """Something that happened, in the order it happened."""

    kind: EventKind
    info_hash: str = ""
    state: State | None = None
    piece: int | None = None
    what: str = ""  # the file, tracker, peer or address it is about
    message: str = ""
