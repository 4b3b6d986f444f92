"""The only room that imports libtorrent: session settings, engine, resume data."""

from libtorrent import __version__ as libtorrent_version

from shoal.swarm.engine import Engine
from shoal.swarm.errors import BadTorrent, ConflictingData, NoSpace, SwarmError, UnknownTorrent
from shoal.swarm.metainfo import PayloadFile
from shoal.swarm.types import (
    AddTorrent,
    Endpoint,
    EngineSettings,
    Event,
    EventKind,
    Hold,
    Label,
    PeerStatus,
    Reserve,
    SeedingPolicy,
    SpaceStatus,
    State,
    TorrentError,
    TorrentStatus,
    TrackerStatus,
    WebSeedPolicy,
)

__all__ = [
    "AddTorrent",
    "BadTorrent",
    "ConflictingData",
    "Endpoint",
    "Engine",
    "EngineSettings",
    "Event",
    "EventKind",
    "Hold",
    "Label",
    "NoSpace",
    "PayloadFile",
    "PeerStatus",
    "Reserve",
    "SeedingPolicy",
    "SpaceStatus",
    "State",
    "SwarmError",
    "TorrentError",
    "TorrentStatus",
    "TrackerStatus",
    "UnknownTorrent",
    "WebSeedPolicy",
    "libtorrent_version",
]
