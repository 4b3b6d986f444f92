"""Each host begins with its own share of the pieces, by names alone, and the publisher sends nothing twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from swarm_helpers import hosts, make_payload, make_torrent

from shoal.swarm import settings
from shoal.swarm.queueing import DEEP, SHALLOW, Queueing
from shoal.swarm.shares import OWN, priorities

MB = 1_000_000


@pytest.mark.parametrize(("pieces", "number"), [(1000, 20), (1000, 7), (50, 50), (3, 8), (1, 2), (1954, 100)])
def test_shares_cover_the_torrent_and_never_overlap(pieces: int, number: int) -> None:
    names = [f"host{n}" for n in range(number)]
    own = Counter(
        piece
        for name in names
        for piece, priority in enumerate(priorities(pieces, name, set(names) - {name}))
        if priority == OWN
    )
    assert own == Counter(range(pieces))


def test_every_piece_is_wanted_and_rarest_first_still_holds() -> None:
    found = priorities(1000, "b", ["a", "c", "d", "e", "f"])
    assert set(found) == {4, 3, 2, 1}
    assert [4 if 1000 / 6 <= piece < 2000 / 6 else 0 for piece in range(1000)] == [
        priority if priority == OWN else 0 for priority in found
    ]
    # libtorrent's order: a piece that one seed alone has goes before any that another host has
    assert (1 + 0) * (8 - min(found)) < (1 + 1) * (8 - max(found))


def test_who_is_alone_has_all_of_it() -> None:
    assert priorities(10, "a", []) == [OWN] * 10
    assert priorities(10, "a", ["a"]) == [OWN] * 10


def test_requests_in_flight_follow_the_peers_or_the_limit() -> None:
    assert [settings.request_queue(0, peers) for peers in (0, 1, 5, 10, 20, 40, 500)] == [64, 64, 64, 32, 16, 8, 8]
    assert settings.request_queue(2 * MB, 1) == 8
    assert settings.request_queue(100 * MB, 100) == 64  # a limit says what the uplink carries


@pytest.mark.parametrize(
    ("story", "rates", "peers", "ends"),
    [
        ("a slow link", [200_000, 900_000, 1_100_000, 1_150_000, 1_000_000], 5, SHALLOW),
        ("a fast link", [2 * MB, 9 * MB, 11 * MB], 5, DEEP),
        ("a fast link, as soon as it shows", [7 * MB], 5, DEEP),
        ("nobody but the publisher and one more", [200_000, 900_000, 1_100_000], 2, DEEP),
        ("a long way: two blocks a peer bring less than the best", [1 * MB, 4 * MB] + [2 * MB] * 3, 5, DEEP),
        ("more blocks helped, and so it stays", [1 * MB, 4 * MB] + [2 * MB] * 3 + [4 * MB] * 20, 5, DEEP),
        ("others use the link now: more do not help", [1 * MB, 4 * MB] + [2 * MB] * 20, 5, SHALLOW),
        ("a moment's weakness", [1 * MB, 4 * MB, 2 * MB, 2 * MB, 4 * MB, 2 * MB, 4 * MB], 5, SHALLOW),
    ],
)
def test_what_is_asked_for_in_advance_is_found_out(story: str, rates: list[int], peers: int, ends: int) -> None:
    queueing = Queueing()
    assert [queueing.look(rate, rate, peers) for rate in rates][-1] == ends, story


def test_hosts_take_different_pieces_first(tmp_path: Path) -> None:
    """The publisher's limit makes it the bottleneck: what it sends beyond one payload was sent twice."""
    payload = make_payload(tmp_path / "app.tar", 4 * MB)
    torrent = make_torrent(payload, piece_length=16 * 1024)
    names = ("publisher", "one", "two", "three", "four")
    with hosts(tmp_path, *names) as (publisher, *fetching):
        publisher.engine.set_limits(upload=1 * MB, download=0)
        info_hash = publisher.seed(torrent, payload).info_hash
        for number, host in enumerate(fetching):
            host.fetch(torrent, *fetching[:number])
        for host in fetching:  # now that all know of each other, however long a slow disk took
            host.engine.connect(info_hash, [publisher.endpoint])
        for host in fetching:
            status = host.wait_complete(info_hash)
            assert Path(str(status.payload_path)).read_bytes() == payload.read_bytes()
        shared = [host.engine._torrents[info_hash].sharers for host in fetching]
        assert all(len(names) >= 2 for names in shared), shared
        sent = publisher.engine.status(info_hash).uploaded
    assert sent < 2.0 * payload.stat().st_size  # with curl it would be 4
