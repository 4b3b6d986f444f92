"""How long what was fetched is seeded, and who may be a peer at all; both may change while torrents run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from swarm_helpers import SEES_NAMES, Host, hosts, make_payload, make_torrent

from shoal.swarm import EventKind, SeedingPolicy, State
from shoal.swarm.settings import ip_filter

SIZE = 1_000_000


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, bytes]:
    payload = make_payload(tmp_path / "shop.tar", SIZE)
    return payload, make_torrent(payload)


def change(host: Host, **settings: Any) -> None:
    host.settings = replace(host.settings, **settings)
    host.engine.apply(host.settings)


def test_seeding_ends_when_the_ratio_is_reached_and_begins_again_when_it_may(
    tmp_path: Path, shop: tuple[Path, bytes]
) -> None:
    payload, torrent = shop
    names = ("publisher", "host1", "host2", "host3")
    with hosts(tmp_path, *names, seeding=SeedingPolicy(ratio=1)) as (publisher, host1, host2, host3):
        publisher.seed(torrent, payload)
        info_hash = host1.fetch(torrent, publisher)
        assert host1.wait_complete(info_hash).held is None
        publisher.wait_until(info_hash, lambda status: status.uploaded >= SIZE)
        with publisher.engine._lock:
            publisher.engine._look_after_seeding()
        assert publisher.engine.status(info_hash).held is None, "what was given to seed is seeded for ever"
        publisher.engine.pause(info_hash)  # all of it is to come from host1
        host2.fetch(torrent, host1)
        host2.wait_complete(info_hash)
        ended = host1.wait_until(info_hash, lambda status: status.held)
        assert ended.held is not None
        assert ended.held.message == "not seeded any more: 1 times its size has been sent"
        assert (ended.state, ended.paused, ended.uploaded >= SIZE) == (State.COMPLETE, False, True)
        assert ended.payload_path is not None
        assert ended.payload_path.stat().st_size == SIZE, "the data is kept"
        assert host1.events.wait_for(EventKind.SEEDING_ENDED).what == "seeding"
        host1.restart()
        host1.wait_until(info_hash, lambda status: status.held)
        change(host1, seeding=SeedingPolicy())
        host1.wait_until(info_hash, lambda status: not status.held)
        host3.fetch(torrent, host1, download_limit=SEES_NAMES)
        assert host3.wait_complete(info_hash).from_peers["host1"] > 0


def test_seeding_ends_after_its_time(tmp_path: Path, shop: tuple[Path, bytes]) -> None:
    payload, torrent = shop
    with hosts(tmp_path, "publisher", "host1", seeding=SeedingPolicy(time=0.001)) as (publisher, host1):
        publisher.seed(torrent, payload)
        info_hash = host1.fetch(torrent, publisher)
        ended = host1.wait_until(info_hash, lambda status: status.held)
        assert ended.held is not None
        assert ended.held.message == "not seeded any more: it has been complete for 0.001 s"
        host1.engine.recheck(info_hash)  # damage would be mended: it is held only while it is complete
        host1.wait_until(info_hash, lambda status: status.rehashed == SIZE and status.held)
        change(host1, seeding=SeedingPolicy(time=3600))
        host1.wait_until(info_hash, lambda status: not status.held)
        assert publisher.engine.status(info_hash).held is None


def test_peers_of_other_networks_are_neither_let_in_nor_dialled(tmp_path: Path, shop: tuple[Path, bytes]) -> None:
    payload, torrent = shop
    with hosts(tmp_path, "publisher", "host1", allowed_peers=("127.0.0.2", "10.0.0.0/8")) as (publisher, host1):
        change(host1, allowed_peers=())
        host2 = Host(tmp_path, "host2", listen=("127.0.0.2:0",)).start()
        try:
            info_hash = publisher.seed(torrent, payload).info_hash
            host1.fetch(torrent, publisher, download_limit=100_000)  # dials: is not let in
            host2.fetch(torrent)
            endpoints = [host1.endpoint, ("127.0.0.2", host2.engine.listen_ports[0])]
            publisher.engine.connect(info_hash, endpoints)  # dials: only the one
            host2.wait_complete(info_hash)
            assert host1.engine.status(info_hash).downloaded == 0

            change(publisher, allowed_peers=("127.0.0.0/8",))
            host1.wait_until(info_hash, lambda status: status.downloaded)
            change(publisher, allowed_peers=("10.0.0.0/8",))  # and out again, in the middle
            host1.wait_until(info_hash, lambda status: status.peers == 0)
            assert host1.engine.status(info_hash).state is State.DOWNLOADING
            change(publisher, allowed_peers=())
            host1.engine.set_torrent_limits(info_hash, 0, 0)
            assert host1.wait_complete(info_hash).downloaded == SIZE
        finally:
            host2.engine.stop(5)


FILTER = [
    ((), "192.0.2.1", True),
    ((), "2001:db8::1", True),
    (("10.0.0.0/8",), "10.255.255.255", True),
    (("10.0.0.0/8",), "11.0.0.0", False),
    (("10.0.0.0/8",), "::ffff:10.1.2.3", True),
    (("10.0.0.0/8",), "::ffff:11.1.2.3", False),
    (("10.0.0.0/8",), "127.0.0.1", False),
    (("10.0.0.0/8",), "2001:db8::1", False),
    (("2001:db8::/32", "192.0.2.7"), "2001:db8:ffff::1", True),
    (("2001:db8::/32", "192.0.2.7"), "192.0.2.7", True),
    (("2001:db8::/32", "192.0.2.7"), "192.0.2.8", False),
    (("2001:db8::/32", "192.0.2.7"), "::1", False),
]


@pytest.mark.parametrize(("allowed", "address", "passes"), FILTER)
def test_who_may_be_a_peer(allowed: tuple[str, ...], address: str, passes: bool) -> None:
    assert (ip_filter(allowed).access(address) == 0) is passes
