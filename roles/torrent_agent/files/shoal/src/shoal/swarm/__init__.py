"""The only room that imports libtorrent: session settings, engine, resume data."""

from libtorrent import __version__ as libtorrent_version

from shoal.swarm.engine import Engine
from shoal.swarm.errors import BadTorrent, ConflictingData, SwarmError, UnknownTorrent
from shoal.swarm.metainfo import PayloadFile
from shoal.swarm.types import (
    AddTorrent,
    Endpoint,
    EngineSettings,
    Event,
    EventKind,
    PeerStatus,
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
    "PayloadFile",
    "PeerStatus",
    "State",
    "SwarmError",
    "TorrentError",
    "TorrentStatus",
    "TrackerStatus",
    "UnknownTorrent",
    "WebSeedPolicy",
    "libtorrent_version",
]
