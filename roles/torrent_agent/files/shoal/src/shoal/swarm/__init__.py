"""The only room that imports libtorrent: session settings, engine, resume data."""

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
    "Endpoint",
    "EngineSettings",
    "Event",
    "EventKind",
    "PeerStatus",
    "State",
    "TorrentError",
    "TorrentStatus",
    "TrackerStatus",
    "WebSeedPolicy",
]
