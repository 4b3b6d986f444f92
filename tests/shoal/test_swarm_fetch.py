"""An archive travels: from a seed to hosts, and between hosts, with no tracker."""

from __future__ import annotations

import time
from pathlib import Path

import libtorrent as lt
import pytest
from swarm_helpers import SEES_NAMES, Host, content, hosts, make_payload, make_torrent, sum_uploaded, wait_for

from shoal.swarm import AddTorrent, BadTorrent, ConflictingData, EventKind, State, SwarmError, UnknownTorrent
from shoal.swarm.resume import write_atomically

SIZE = 3_000_000


def make_folder(root: Path) -> Path:
    folder = root / "shop-1.0"
    make_payload(folder / "bin" / "shop", 300_001, seed=1)
    make_payload(folder / "lib" / "big.jar", 700_000, seed=2)
    make_payload(folder / "lib" / "empty", 0)
    make_payload(folder / "README", 10, seed=3)
    return folder


def test_a_file_reaches_every_host_and_the_books_balance(tmp_path: Path) -> None:
    payload = make_payload(tmp_path / "shop-1.0.tar", SIZE)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "publisher", "host1", "host2") as (publisher, host1, host2):
        publisher.seed(torrent, payload)
        info_hash = host1.fetch(torrent, publisher, download_limit=SEES_NAMES)
        host2.fetch(torrent, publisher, host1, download_limit=SEES_NAMES)
        for host in (host1, host2):
            status = host.wait_complete(info_hash)
            assert status.payload_path == host.settings.store_dir / info_hash / "shop-1.0.tar"
            assert content(status.payload_path) == content(payload)
            assert status.done == status.size == status.downloaded == SIZE
            assert sum(status.from_peers.values()) == SIZE
            assert set(status.from_peers) <= {"publisher", "host1", "host2"}
            assert (status.from_web_seeds, status.rehashed, status.refetched) == (0, 0, 0)
        arrived = 2 * SIZE + sum(host.engine.status(info_hash).wasted for host in (host1, host2))
        assert arrived < 2.2 * SIZE, "hardly a block was asked for twice"
        wait_for(lambda: sum_uploaded(info_hash, publisher, host1, host2) >= arrived)
        assert sum_uploaded(info_hash, publisher, host1, host2) == pytest.approx(arrived, rel=0.01)
        kinds = [event.kind for event in host1.events.events]
        assert kinds[0] is EventKind.ADDED
        assert kinds.count(EventKind.COMPLETE) == 1


def test_what_came_before_we_looked_was_fetched_not_found(tmp_path: Path) -> None:
    """On a busy machine blocks come before the agent has seen that the check ended: of nothing, or of an import."""
    payload = make_payload(tmp_path / "shop-1.0.tar", SIZE)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, payload)
        host1.react_late(lt.torrent_checked_alert, lambda status: status.total_done > SIZE / 2)
        info_hash = host1.fetch(torrent, publisher, download_limit=SEES_NAMES)
        status = host1.wait_complete(info_hash)
        assert status.from_peers == {"publisher": SIZE}
        assert (status.downloaded, status.rehashed, status.refetched) == (SIZE, 0, 0)

        assert status.payload_path is not None
        with status.payload_path.open("r+b") as file:
            file.seek(SIZE // 2)
            file.write(bytes(SIZE // 2))
        host1.engine.set_torrent_limits(info_hash, 0, SEES_NAMES // 2)
        host1.react_late(lt.torrent_checked_alert, lambda status: status.total_done > SIZE * 3 / 4)
        host1.engine.recheck(info_hash)
        again = host1.wait_until(info_hash, lambda s: s.state is State.COMPLETE and s.refetched)
        assert content(status.payload_path) == content(payload)
        assert again.downloaded == SIZE + again.refetched
        pieces = 2 * again.piece_length  # whole ones were lost, and a block was on its way
        assert again.refetched == pytest.approx(SIZE / 2, abs=pieces)


@pytest.mark.parametrize("kind", ["v1", "v2", "hybrid"])
def test_a_folder_travels_in_every_version_of_the_protocol(tmp_path: Path, kind: str) -> None:
    folder = make_folder(tmp_path)
    torrent = make_torrent(folder, kind=kind)
    hashes = lt.load_torrent_buffer(torrent).info_hashes
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, folder)
        info_hash = host1.fetch(torrent, publisher, download_limit=SEES_NAMES)
        status = host1.wait_complete(info_hash)
    assert status.payload_path is not None
    assert content(status.payload_path) == content(folder)
    assert status.size == status.done == 1_000_011
    assert status.downloaded == pytest.approx(1_000_011, rel=0.01)
    assert status.from_peers == {"publisher": status.downloaded}
    assert (status.files, status.progress, status.pieces_done) == (4, 1.0, status.pieces)
    assert info_hash == (str(hashes.v2)[:40] if kind == "v2" else str(hashes.v1))
    assert status.info_hash_v2 == (None if kind == "v1" else str(hashes.v2))


@pytest.mark.parametrize("kind", ["v1", "v2", "hybrid"])
def test_a_magnet_is_enough_and_is_kept_over_a_restart(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_to_a_slow_disk(path: Path, data: bytes, *, sync: bool = True) -> None:
        time.sleep(0.3)
        write_atomically(path, data, sync=sync)

    monkeypatch.setattr("shoal.swarm.engine.write_atomically", write_to_a_slow_disk)
    payload = make_payload(tmp_path / "shop.tar", 1_000_000)
    torrent = make_torrent(payload, kind=kind)
    magnet = lt.make_magnet_uri(lt.load_torrent_buffer(torrent))
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, payload)
        info_hash = host1.fetch(magnet, publisher)
        status = host1.wait_complete(info_hash)
        assert host1.events.of(EventKind.METADATA)
        assert status.payload_path is not None
        assert content(status.payload_path) == content(payload)
        learnt = host1.engine.metainfo(info_hash)
        assert learnt is not None
        assert lt.bdecode(learnt)[b"info"] == lt.bdecode(torrent)[b"info"]

        host1.restart()
        again = host1.wait_complete(info_hash)
        assert (again.downloaded, again.rehashed, again.name) == (status.downloaded, 0, "shop.tar")


def test_a_peer_that_is_not_there_yet_is_dialled_again(tmp_path: Path) -> None:
    payload = make_payload(tmp_path / "shop.tar", 500_000)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, payload)
        there = publisher.endpoint
        publisher.engine.stop()
        info_hash = host1.engine.add(AddTorrent(torrent=torrent, peers=(there,)))[0].info_hash
        host1.events.wait_for(EventKind.PEER_ERROR)
        assert host1.engine.status(info_hash).state is State.DOWNLOADING
        publisher.begin_again(listen=(f"127.0.0.1:{there[1]}",))
        host1.wait_complete(info_hash)


def test_wrong_data_in_the_store_is_repaired(tmp_path: Path) -> None:
    """Of an import with two bad pieces, two pieces are fetched."""
    payload = make_payload(tmp_path / "shop.tar", 1_000_000)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, payload)
        info_hash = host1.fetch(torrent, paused=True)
        damaged = bytearray(payload.read_bytes())
        damaged[0] ^= 1
        damaged[500_000] ^= 1
        imported = host1.engine.store_path(info_hash) / "shop.tar"
        imported.write_bytes(damaged)
        host1.engine.recheck(info_hash)
        checked = host1.wait_until(info_hash, lambda s: s.state is State.DOWNLOADING and s.rehashed)
        assert checked.paused
        assert (checked.pieces_done, checked.rehashed) == (checked.pieces - 2, 1_000_000)
        host1.engine.connect(info_hash, [publisher.endpoint])
        host1.engine.resume(info_hash)
        status = host1.wait_complete(info_hash)
        assert status.downloaded == 2 * status.piece_length
        assert imported.read_bytes() == payload.read_bytes()


def test_an_import_moves_no_byte(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    torrent = make_torrent(folder)
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        info_hash = publisher.fetch(torrent, paused=True)
        publisher.wait_until(info_hash, lambda s: s.state is State.DOWNLOADING)
        for file in publisher.engine.files(info_hash):
            target = publisher.engine.store_path(info_hash) / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(folder.parent.joinpath(file.path).read_bytes())
        publisher.engine.recheck(info_hash)
        publisher.engine.resume(info_hash)  # at once: the check goes on and nothing is paused after it
        status = publisher.wait_complete(info_hash)
        assert (status.downloaded, status.paused, status.in_store) == (0, False, True)
        info_hash = host1.fetch(torrent, publisher, download_limit=SEES_NAMES)
        assert host1.wait_complete(info_hash).from_peers == {"publisher": 1_000_011}


def test_a_paused_torrent_waits_and_goes_on(tmp_path: Path) -> None:
    payload = make_payload(tmp_path / "shop.tar", 1_000_000)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, payload)
        info_hash = host1.fetch(torrent, publisher, paused=True, download_limit=SEES_NAMES)
        host1.wait_until(info_hash, lambda s: s.state is State.DOWNLOADING)
        host1.restart()
        waiting = host1.wait_until(info_hash, lambda s: s.state is State.DOWNLOADING)
        assert (waiting.paused, waiting.done, waiting.stalled_for) == (True, 0, 0.0)
        host1.engine.resume(info_hash)  # the peers given by hand are remembered
        assert host1.wait_complete(info_hash).from_peers == {"publisher": 1_000_000}
        host1.engine.pause(info_hash)
        assert host1.engine.status(info_hash).state is State.COMPLETE
        host1.engine.resume(info_hash)


def test_a_known_torrent_gets_what_it_lacks(tmp_path: Path) -> None:
    payload = make_payload(tmp_path / "shop.tar", 100_000)
    torrent = make_torrent(payload, trackers=("http://127.0.0.1:9/announce",))
    with hosts(tmp_path, "host1") as (host1,):
        first = AddTorrent(torrent=torrent)
        assert host1.engine.describe(first) is None
        status, new = host1.engine.add(first)
        assert new
        more = AddTorrent(
            magnet=lt.make_magnet_uri(lt.load_torrent_buffer(torrent)),
            trackers=(("http://127.0.0.1:10/announce",),),
            web_seeds=("http://127.0.0.1:11/shop.tar",),
        )
        assert host1.engine.describe(more) is not None
        assert host1.engine.describe(more).web_seeds == ()  # type: ignore[union-attr]
        status, new = host1.engine.add(more)
        assert not new
        host1.restart()
        status = host1.engine.status(status.info_hash)
        urls = ["http://127.0.0.1:9/announce", "http://127.0.0.1:10/announce"]
        assert [(tracker.url, tracker.tier) for tracker in status.trackers] == [(urls[0], 0), (urls[1], 1)]
        assert status.web_seeds == ("http://127.0.0.1:11/shop.tar",)
        wait_for(lambda: host1.engine.status(status.info_hash).trackers[0].message)
        event = host1.events.wait(lambda e: e.kind is EventKind.TRACKER_ERROR and e.what == urls[0])
        assert event.message == "Connection refused"
        with pytest.raises(ConflictingData, match="in the agent's store"):
            host1.engine.add(AddTorrent(torrent=torrent, data_path=payload))


@pytest.mark.parametrize("data", [True, False])
def test_removed_with_or_without_its_data(tmp_path: Path, data: bool) -> None:
    folder = make_folder(tmp_path)
    torrent = make_torrent(folder)
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, folder)
        info_hash = host1.fetch(torrent, publisher)
        host1.wait_complete(info_hash)
        host1.engine.remove(info_hash, data=data)
        assert host1.engine.store_path(info_hash).exists() is not data
        with pytest.raises(UnknownTorrent, match=info_hash):
            host1.engine.status(info_hash)
        host1.events.wait_for(EventKind.REMOVED)
        assert not list((host1.settings.state_dir / "torrents").iterdir())
        # and it can come back; what was kept is not fetched again
        host1.fetch(torrent, publisher)
        assert host1.wait_complete(info_hash).downloaded == (1_000_011 if data else 0)

        publisher.engine.remove(info_hash, data=True)  # in place: the user's, whatever was asked
        assert content(folder) == content(make_folder(tmp_path / "again"))


def test_a_failing_disk_is_an_error_in_libtorrents_words(tmp_path: Path) -> None:
    payload = make_payload(tmp_path / "shop.tar", 100_000)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, payload)
        info_hash = host1.fetch(torrent, publisher, paused=True)
        host1.wait_until(info_hash, lambda s: s.state is State.DOWNLOADING)
        blocked = host1.engine.store_path(info_hash) / "shop.tar"
        blocked.mkdir()
        host1.engine.resume(info_hash)
        event = host1.events.wait_for(EventKind.ERROR)
        assert (event.what, event.message) == (str(blocked), "Is a directory")
        status = host1.engine.status(info_hash)
        assert (status.state, status.error and status.error.what) == (State.ERROR, str(blocked))
        blocked.rmdir()
        host1.engine.resume(info_hash)
        host1.wait_complete(info_hash)


def test_a_seed_that_went_bad_is_found_out(tmp_path: Path) -> None:
    """A piece that does not match its hash is thrown away, told, and fetched from somebody else."""
    payload = make_payload(tmp_path / "shop.tar", 1_000_000)
    good = make_payload(tmp_path / "good" / "shop.tar", 1_000_000)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "publisher", "rotten", "host1") as (publisher, rotten, host1):
        publisher.seed(torrent, good)
        rotten.seed(torrent, payload)
        with payload.open("r+b") as file:
            file.seek(40_000)
            file.write(b"rot")
        info_hash = host1.fetch(torrent, rotten)
        failed = host1.events.wait_for(EventKind.HASH_FAILED)
        assert failed.piece == 1
        host1.engine.connect(info_hash, [publisher.endpoint])
        status = host1.wait_complete(info_hash)
        assert status.payload_path is not None
        assert content(status.payload_path) == content(good)
        assert status.wasted >= status.piece_length
        assert status.downloaded == sum(status.from_peers.values())
        assert status.downloaded >= 1_000_000 + status.piece_length


def test_rubbish_is_refused(tmp_path: Path) -> None:
    with hosts(tmp_path, "host1") as (host1,):
        for bad, words in (
            (AddTorrent(torrent=b"rubbish"), "cannot be read"),
            (AddTorrent(torrent=b"d4:infod4:name1:aee"), "cannot be read"),
            (AddTorrent(torrent=b"d" * (17 << 20)), "at most"),
            (AddTorrent(magnet="magnet:?xt=urn:btih:zz"), "cannot be read"),
            (AddTorrent(magnet="http://x/"), "cannot be read"),
            (AddTorrent(), "exactly one"),
            (AddTorrent(magnet="magnet:?xt=urn:btih:" + "a" * 40, data_path=tmp_path), "give the .torrent"),
        ):
            with pytest.raises(BadTorrent, match=words):
                host1.engine.add(bad)
        with pytest.raises(SwarmError, match=r"no\.such\.host\.invalid"):
            host1.engine.add(AddTorrent(magnet="magnet:?xt=urn:btih:" + "a" * 40, peers=(("no.such.host.invalid", 1),)))
        assert host1.engine.statuses() == []


def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    with hosts(tmp_path, "host1") as (host1,):
        port = host1.engine.listen_ports[0]
        host2 = Host(tmp_path, "host2", listen=(f"127.0.0.1:{port}",))
        with pytest.raises(SwarmError, match=rf"cannot listen at 127.0.0.1:{port}: .*[Aa]ddress already in use"):
            host2.start()
        # and the folder is free again
        Host(tmp_path, "host2").start().engine.stop()
