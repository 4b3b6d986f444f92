"""Old payloads of the store are removed, by what was said of them when they were asked for.

The agent knows nothing of how applications are installed, and asks nobody: `shoal release` unpacks what it needs into
releases of its own, so that going back needs no payload. What is kept is kept for whoever fetches next.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable

from shoal.agent.config import Retention
from shoal.agent.log import log
from shoal.agent.reload import Configuration
from shoal.swarm import Engine, State, SwarmError, TorrentStatus

LONGEST_SLEEP = 3600.0  # a clock may be set meanwhile


def superseded(
    torrents: Iterable[TorrentStatus], retention: Retention, now: float
) -> tuple[list[TorrentStatus], float | None]:
    """Whose payloads are to go at ``now`` (Unix time), and when the next are due.

    Of each app, the versions that were asked for last stay, ``retention.keep`` of them. Only versions that are complete
    count: while a new one is on its way, an old one is not in its place.
    """
    versions: defaultdict[str, defaultdict[str, list[TorrentStatus]]] = defaultdict(lambda: defaultdict(list))
    for torrent in torrents:
        if torrent.label and torrent.in_store and torrent.state is State.COMPLETE and not torrent.pinned:
            versions[torrent.label.app][torrent.label.version].append(torrent)
    if not retention.keep:
        return [], None
    gone: list[TorrentStatus] = []
    due: float | None = None
    for payloads in versions.values():
        by_age = sorted(payloads.values(), key=lambda same: max(t.wanted_at for t in same), reverse=True)
        for torrent in (torrent for same in by_age[retention.keep :] for torrent in same):
            end = torrent.wanted_at + retention.min_age
            if end <= now:
                gone.append(torrent)
            else:
                due = end if due is None else min(due, end)
    return gone, due


async def tidy(engine: Engine, configuration: Configuration, wake: asyncio.Event) -> None:
    """Remove what is superseded, now, whenever ``wake`` is set, and when more is due."""
    while True:
        wake.clear()
        retention = configuration.current.retention
        gone, due = superseded(await asyncio.to_thread(engine.statuses), retention, time.time())
        for torrent in gone:
            assert torrent.label is not None
            what = f"{torrent.label.app} {torrent.label.version}"
            why = f"{what} is not among the {retention.keep} versions that were asked for last"
            try:
                # unless somebody has asked for it since we looked
                await asyncio.to_thread(engine.remove_unwanted, torrent.info_hash, torrent.wanted_at, why)
            except SwarmError as error:
                log.error("an old payload could not be removed: %s", error)
        sleep = None if due is None else min(LONGEST_SLEEP, max(0.0, due - time.time()))
        try:
            await asyncio.wait_for(wake.wait(), sleep)
        except asyncio.TimeoutError:
            continue
