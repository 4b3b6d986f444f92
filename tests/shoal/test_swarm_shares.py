"""Each host begins with its own share of the pieces, by names alone, and the publisher sends nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
from swarm_helpers import Host, hosts, make_payload, make_torrent, wait_for

from shoal.swarm import engine, settings
from shoal.swarm.queueing import DEEP, SHALLOW, Queueing
from shoal.swarm.shares import BEST, NEXT, OWN, REST, Shares

MB = 1_000_000


def of(pieces: int, name: str, others: Iterable[str]) -> list[int]:
    shares = Shares(pieces, name)
    shares.add(others)
    return shares.priorities()


def own(found: list[int]) -> set[int]:
    return {piece for piece, priority in enumerate(found) if priority >= OWN}


@pytest.mark.parametrize(("pieces", "number"), [(1000, 20), (1000, 7), (50, 50), (3, 8), (1, 2), (1954, 100)])
def test_each_piece_is_one_hosts_and_one_is_next_in_line(pieces: int, number: int) -> None:
    names = [f"host{n}" for n in range(number)]
    found = [of(pieces, name, names) for name in names]
    assert Counter(piece for of_one in found for piece in own(of_one)) == Counter(range(pieces))
    following = Counter(piece for of_one in found for piece, priority in enumerate(of_one) if priority == NEXT)
    assert following == Counter(range(pieces))


def test_every_piece_is_wanted_and_rarest_first_still_holds() -> None:
    found = of(1000, "b", ["a", "c", "d", "e", "f"])
    assert set(found) == {BEST, OWN, NEXT, REST}
    # libtorrent's order: a piece that one seed alone has goes before any that another host has
    assert (1 + 0) * (8 - min(found)) < (1 + 1) * (8 - max(found))


def test_who_is_alone_has_all_of_it() -> None:
    assert own(of(10, "a", [])) == own(of(10, "a", ["a"])) == set(range(10))


def test_what_a_host_begins_with_before_it_knows_the_others_is_its_own() -> None:
    names = [f"host{n}" for n in range(20)]
    kept = []
    for name in names:
        begun = {piece for piece, priority in enumerate(of(1000, name, [])) if priority == BEST}
        assert len(begun) == 8
        kept.append(len(begun & own(of(1000, name, names))) / len(begun))
    assert sum(kept) / len(kept) > 0.85, kept  # by chance it would be 0.05


def test_who_is_known_later_takes_pieces_and_gives_none() -> None:
    shares = Shares(1000, "a")
    before = own(shares.priorities())
    for others in (["b"], ["b", "c"], ["d", "e", "f"]):
        assert shares.add(others)
        after = own(shares.priorities())
        assert after < before
        before = after
    assert not shares.add(["a", "b", "f"])
    assert own(shares.priorities()) == before


def test_requests_in_flight_follow_the_peers_or_the_limit() -> None:
    assert [settings.request_queue(0, peers) for peers in (0, 1, 5, 10, 20, 40, 500)] == [64, 64, 13, 6, 3, 2, 2]
    # a bigger payload may have more of it in flight, to each and in all
    assert [settings.request_queue(0, 1, size * MB) for size in (1, 5, 10, 64, 128, 1000)] == [4, 4, 8, 8, 16, 64]
    assert [settings.request_queue(0, 20, size * MB) for size in (5, 8, 32, 1000)] == [3, 4, 8, 16]
    assert settings.request_queue(2 * MB, 1) == 24
    assert settings.request_queue(100 * MB, 100) == 12  # a limit says what the uplink carries


def test_a_seed_serves_few_of_many_at_once() -> None:
    assert [settings.seed_slots(peers) for peers in (0, 20, 40)] == [30] * 3
    assert [settings.seed_slots(peers) for peers in (41, 100, 800)] == [10] * 3


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
        shared = [host.engine._torrents[info_hash].shares for host in fetching]  # forgotten at the end
        for host in fetching:
            status = host.wait_complete(info_hash)
            assert Path(str(status.payload_path)).read_bytes() == payload.read_bytes()
        assert all(shares and len(shares.names) >= 2 for shares in shared), shared
        sent = publisher.engine.status(info_hash).uploaded
    assert sent < 2.0 * payload.stat().st_size  # with curl it would be 4


def test_who_has_enough_peers_dials_no_more_until_bytes_stay_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ENOUGH_PEERS", 2)
    monkeypatch.setattr(engine, "_DIAL_AGAIN", 1.5)
    payload = make_payload(tmp_path / "app.tar", 4 * MB)
    torrent = make_torrent(payload, piece_length=16 * 1024)
    with hosts(tmp_path, "publisher", "one", "two") as (publisher, one, two):
        publisher.engine.set_limits(upload=1 * MB, download=0)
        info_hash = publisher.seed(torrent, payload).info_hash

        def now(host: Host) -> tuple[int, int]:
            found = host.engine._session.get_settings()
            return found["connection_speed"], found["unchoke_slots_limit"]

        def dialled_at_once(host: Host) -> int:
            return int(host.engine._session.get_settings()["torrent_connect_boost"])

        one.fetch(torrent, publisher)
        assert (dialled_at_once(publisher), dialled_at_once(one)) == (settings.SEED_BOOST, settings.FETCH_BOOST)
        wait_for(lambda: now(one) == (settings.CONNECTION_SPEED, settings.UNCHOKE_SLOTS))  # one peer is not enough
        two.fetch(torrent, publisher, one)
        wait_for(lambda: now(two) == (0, settings.UNCHOKE_SLOTS))
        publisher.engine.pause(info_hash)
        wait_for(lambda: now(two)[0] == settings.CONNECTION_SPEED)  # nothing comes from them
        publisher.engine.resume(info_hash)
        publisher.engine.connect(info_hash, [one.endpoint, two.endpoint])
        for host in (one, two):
            host.wait_complete(info_hash)
            wait_for(partial(lambda host: now(host) == (settings.CONNECTION_SPEED, settings.seed_slots(3)), host))
            assert dialled_at_once(host) == settings.SEED_BOOST
