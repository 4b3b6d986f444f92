"""Rate limits hold where fleets live, on loopback and private addresses, which libtorrent exempts by default."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from swarm_helpers import Host, hosts, make_payload, make_torrent

from shoal.swarm import EventKind, State
from shoal.swarm.settings import request_queue

LIMIT = 2_000_000
SIZE = 12_000_000


def seconds_to_fetch(host: Host, info_hash: str) -> float:
    """From the first byte to the last: how long libtorrent takes to connect is no matter of rates."""
    host.wait_until(info_hash, lambda s: s.downloaded > 0 or s.state is State.COMPLETE)
    began = time.monotonic()
    host.events.wait_for(EventKind.COMPLETE)
    return time.monotonic() - began


@pytest.mark.parametrize("side", ["download", "upload", "torrent"])
def test_a_limit_of_2_mb_a_second_is_held(tmp_path: Path, side: str) -> None:
    payload = make_payload(tmp_path / "shop.tar", SIZE)
    torrent = make_torrent(payload, piece_length=64 * 1024)
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, payload)
        options = {}
        if side == "download":
            host1.engine.set_limits(0, LIMIT)
        elif side == "upload":
            publisher.engine.set_limits(LIMIT, 0)
        else:
            options["download_limit"] = LIMIT
        info_hash = host1.fetch(torrent, publisher, **options)
        taken = seconds_to_fetch(host1, info_hash)
    assert SIZE / taken == pytest.approx(LIMIT, rel=0.1)


def test_what_is_in_flight_follows_the_limit() -> None:
    """reqq of BEP 10: deep enough to fill the link, shallow enough that peers pass pieces on before the seed does."""
    assert request_queue(0) == 64
    assert [request_queue(mb * 1_000_000) for mb in (1, 2, 10, 100)] == [8, 8, 15, 64]
