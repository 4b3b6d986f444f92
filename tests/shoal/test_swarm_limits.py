"""Rate limits hold where fleets live, on loopback and private addresses, which libtorrent exempts by default."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarm_helpers import Host, hosts, make_payload, make_torrent

from shoal.swarm import EventKind
from shoal.swarm.settings import request_queue

LIMIT = 2_000_000
SIZE = 10_000_000


def measured_rate(host: Host, info_hash: str) -> float:
    """Bytes per second once it is under way: how long connecting and warming up takes is no matter of limits."""
    host.wait_until(info_hash, lambda s: s.downloaded >= SIZE / 10)
    began = time.monotonic()
    warm = host.engine.status(info_hash).downloaded
    host.events.wait_for(EventKind.COMPLETE)
    return (SIZE - warm) / (time.monotonic() - began)


@pytest.fixture
def private_address() -> Iterator[str]:
    """An address of 10/8 on this machine, which libtorrent takes for a peer of the local network."""
    address = f"10.253.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"
    command = ["ip", "address", "add", f"{address}/32", "dev", "lo"]
    if not shutil.which("ip") or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs ip and the right to give this machine an address")
    yield address
    command[2] = "delete"
    subprocess.run(command, check=True)


def hold_a_limit(root: Path, side: str, address: str = "127.0.0.1") -> None:
    payload = make_payload(root / "shop.tar", SIZE)
    torrent = make_torrent(payload, piece_length=64 * 1024)
    with hosts(root, "publisher", "host1", listen=(f"{address}:0",)) as (publisher, host1):
        publisher.seed(torrent, payload)
        if side == "download":
            host1.engine.set_limits(0, LIMIT)
        elif side == "upload":
            publisher.engine.set_limits(LIMIT, 0)
        info_hash = host1.fetch(torrent, download_limit=LIMIT if side == "torrent" else 0)
        host1.engine.connect(info_hash, [(address, publisher.engine.listen_ports[0])])
        assert measured_rate(host1, info_hash) == pytest.approx(LIMIT, rel=0.1)


@pytest.mark.parametrize("side", ["download", "upload"])
def test_a_limit_of_2_mb_a_second_is_held(tmp_path: Path, side: str) -> None:
    hold_a_limit(tmp_path, side)


def test_a_limit_is_held_on_a_private_network(tmp_path: Path, private_address: str) -> None:
    hold_a_limit(tmp_path, "torrent", private_address)


def test_what_is_in_flight_follows_the_limit() -> None:
    """reqq of BEP 10: deep enough to fill the link, shallow enough that peers pass pieces on before the seed does."""
    assert request_queue(0) == 64
    assert [request_queue(mb * 1_000_000) for mb in (1, 2, 10, 100)] == [12, 24, 64, 64]
