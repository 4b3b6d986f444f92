"""What is fetched and verified is not fetched again: not after a stop, not after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swarm_helpers import Host, content, hosts, make_payload, make_torrent, wait_for

from shoal.swarm import AddTorrent, EventKind, State, SwarmError, TorrentStatus

SIZE = 8_000_000


def test_a_clean_stop_costs_nothing(tmp_path: Path) -> None:
    payload = make_payload(tmp_path / "shop.tar", SIZE)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, payload)
        info_hash = host1.fetch(torrent, publisher, download_limit=4_000_000)
        host1.wait_until(info_hash, lambda s: s.progress >= 0.5)
        host1.restart()
        resumed = host1.wait_until(info_hash, lambda s: s.state is not State.CHECKING)
        assert resumed.downloaded > 0.5 * SIZE
        status = host1.wait_complete(info_hash)
        assert (status.rehashed, status.refetched, status.downloaded) == (0, 0, SIZE)
        assert status.from_peers == {"publisher": SIZE}
        assert status.download_seconds > SIZE / 4_000_000 / 2
        assert status.payload_path is not None
        assert content(status.payload_path) == content(payload)

        host1.restart()
        assert host1.wait_complete(info_hash).completed_at == status.completed_at
        assert not host1.events.of(EventKind.COMPLETE), "it was complete before"


def test_a_torrent_that_is_removed_before_it_is_written_down_was_added_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torrent = make_torrent(make_payload(tmp_path / "shop.tar", 100_000))
    with hosts(tmp_path, "host1") as (host1,), ThreadPoolExecutor(2) as threads:
        slow_disk = threading.Event()
        monkeypatch.setattr(os, "fsync", lambda _fd: slow_disk.wait(60))
        adding = threads.submit(host1.engine.add, AddTorrent(torrent=torrent))
        wait_for(host1.engine.statuses)
        removing = threads.submit(host1.engine.remove, host1.engine.statuses()[0].info_hash, data=True)
        wait_for(lambda: not host1.engine.statuses())
        slow_disk.set()
        removing.result(60)
        status, newly = adding.result(60)
        assert (status.name, newly) == ("shop.tar", True)
        host1.restart()
        assert host1.engine.statuses() == []


CHILD = """
import json, sys, time
from pathlib import Path
from shoal.swarm import AddTorrent, Engine, EngineSettings
root, torrent, interval, ports = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
saves = []
engine = Engine(EngineSettings(state_dir=root / "state", store_dir=root / "store", listen=("127.0.0.1:0",),
                               agent_name="host1", resume_interval=interval),
                lambda event: saves.append(event) if event.kind.value == "resume_saved" else None)
engine.start()
peers = tuple(("127.0.0.1", int(port)) for port in ports)
request = AddTorrent(torrent=torrent.read_bytes(), peers=peers, download_limit=4_000_000)
info_hash = engine.add(request)[0].info_hash
record = root / "state" / "torrents" / f"{info_hash}.json"
while engine.status(info_hash).progress < 0.6:
    time.sleep(0.02)
engine.set_torrent_limits(info_hash, 0, 1000)  # the rest is not to come before the kill, however slow the disk
saves.clear()
while True:
    time.sleep(0.02)
    noted = bool(json.loads(record.read_bytes())["from_peers"])
    print(json.dumps([engine.status(info_hash).done, noted, len(saves)]), flush=True)
"""


@pytest.mark.parametrize(
    ("interval", "saves"),
    [pytest.param(0.2, 1, id="right after a resume save"), pytest.param(600, 0, id="long after any resume save")],
)
def test_a_kill_costs_at_most_a_piece_of_each_peer(tmp_path: Path, interval: float, saves: int) -> None:
    """Killed at about 60 %: what was verified is read again, not fetched again."""
    payload = make_payload(tmp_path / "shop.tar", SIZE)
    torrent = make_torrent(payload)
    metainfo = tmp_path / "shop.torrent"
    metainfo.write_bytes(torrent)
    with hosts(tmp_path, "publisher", "host2") as seeds:
        for seed in seeds:
            seed.seed(torrent, payload)
        ports = [str(seed.endpoint[1]) for seed in seeds]
        arguments = [str(tmp_path / "host1"), str(metainfo), str(interval), *ports]
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ}
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                done, noted, saved = json.loads(line)
                if noted and saved >= saves:
                    break
            child.send_signal(signal.SIGKILL)
        assert 0.6 * SIZE <= done < SIZE
        assert (tmp_path / "host1" / "state" / "dirty").exists()

        host1 = Host(tmp_path, "host1").start()
        try:
            info_hash = next(iter(host1.engine.statuses())).info_hash
            checked = host1.wait_until(info_hash, lambda s: s.state is State.DOWNLOADING)
            assert done <= checked.rehashed <= SIZE, "what was there was read, and told"
            before = checked.downloaded
            host1.engine.set_torrent_limits(info_hash, 0, 0)
            status = host1.wait_complete(info_hash)
            fetched = status.downloaded - before
            assert fetched <= SIZE - done + len(seeds) * status.piece_length
            # told by name, all of it, though the last second's account died with the process
            assert set(status.from_peers) == {"publisher", "host2"}
            assert sum(status.from_peers.values()) == status.downloaded
            assert status.downloaded == SIZE + status.refetched
            assert status.payload_path is not None
            assert content(status.payload_path) == content(payload)
        finally:
            host1.engine.stop()
        assert not (tmp_path / "host1" / "state" / "dirty").exists()


def crash(host: Host) -> None:
    """End the engine as a kill does: the mark stays, nothing is saved."""
    host.engine.stop()
    (host.settings.state_dir / "dirty").touch()


def complete_host(tmp_path: Path, publisher: Host) -> tuple[Host, TorrentStatus, Path]:
    payload = make_payload(tmp_path / "shop.tar", 1_000_000)
    torrent = make_torrent(payload)
    publisher.seed(torrent, payload)
    host = Host(tmp_path, "host1").start()
    status = host.wait_complete(host.fetch(torrent, publisher))
    record = host.settings.state_dir / "torrents" / f"{status.info_hash}.json"
    wait_for(lambda: json.loads(record.read_bytes())["files"])
    assert status.payload_path is not None
    return host, status, status.payload_path


def test_after_a_crash_a_complete_torrent_is_trusted_by_its_files(tmp_path: Path) -> None:
    with hosts(tmp_path, "publisher") as (publisher,):
        host, status, path = complete_host(tmp_path, publisher)
        try:
            crash(host)
            host.begin_again()
            assert host.wait_complete(status.info_hash).rehashed == 0

            # whatever the resume data says: a crash may leave what was saved at half-way
            crash(host)
            (host.settings.state_dir / "torrents" / f"{status.info_hash}.resume").unlink()
            host.begin_again()
            again = host.wait_complete(status.info_hash)
            assert (again.rehashed, again.downloaded) == (0, status.downloaded)

            crash(host)
            damaged = bytearray(path.read_bytes())
            damaged[10] ^= 1
            path.write_bytes(damaged)
            host.begin_again()
            again = host.wait_complete(status.info_hash)
            assert again.rehashed == 1_000_000
            assert (again.downloaded, again.refetched) == (1_000_000 + again.piece_length, again.piece_length)
            assert content(path) == content(tmp_path / "shop.tar")
        finally:
            host.engine.stop()


@pytest.mark.parametrize("suffix", ["torrent", "json"])
@pytest.mark.parametrize("rubbish", [b"", b"rubbish", b"d1:ai1ee"], ids=["empty", "rubbish", "something else"])
def test_broken_state_is_set_aside_and_named(tmp_path: Path, suffix: str, rubbish: bytes) -> None:
    with hosts(tmp_path, "publisher") as (publisher,):
        host, status, path = complete_host(tmp_path, publisher)
        try:
            host.engine.stop()
            broken = host.settings.state_dir / "torrents" / f"{status.info_hash}.{suffix}"
            broken.write_bytes(rubbish)
            host.begin_again()
            event = host.events.wait(lambda e: e.kind is EventKind.ERROR and broken.name in e.what)
            assert "moved here" in event.message
            assert Path(event.what).read_bytes() == rubbish
            assert path.exists()
            assert host.engine.statuses() == []
            host.fetch(make_torrent(tmp_path / "shop.tar"), publisher)
            assert host.wait_complete(status.info_hash).downloaded == 0, "its data was still there"
        finally:
            host.engine.stop()


@pytest.mark.parametrize("rubbish", [b"", b"rubbish", b"d1:ai1ee"], ids=["empty", "rubbish", "something else"])
def test_broken_resume_data_costs_a_check(tmp_path: Path, rubbish: bytes) -> None:
    payload = make_payload(tmp_path / "shop.tar", 1_000_000)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, payload)
        info_hash = host1.fetch(torrent, publisher, download_limit=100_000)  # 10 s, of which it is stopped in the first
        host1.wait_until(info_hash, lambda s: s.progress > 0.1)
        host1.engine.stop()
        broken = host1.settings.state_dir / "torrents" / f"{info_hash}.resume"
        broken.write_bytes(rubbish)
        host1.begin_again()
        event = host1.events.wait(lambda e: e.kind is EventKind.ERROR and broken.name in e.what)
        assert Path(event.what).read_bytes() == rubbish
        checked = host1.wait_until(info_hash, lambda s: s.rehashed > 0 and s.state is not State.CHECKING)
        assert checked.progress > 0.1
        host1.engine.set_torrent_limits(info_hash, 0, 0)
        status = host1.wait_complete(info_hash)
        assert status.downloaded == 1_000_000 + status.refetched


def test_two_engines_cannot_share_a_state_folder(tmp_path: Path) -> None:
    with hosts(tmp_path, "host1") as (host1,):
        with pytest.raises(SwarmError, match=rf"in use by process {os.getpid()}"):
            Host(tmp_path, "host1").start()
        assert host1.engine.alive


def test_an_unwritable_state_is_told(tmp_path: Path) -> None:
    (tmp_path / "host1").write_text("a file where a folder should be")
    with pytest.raises(SwarmError, match="host1"):
        Host(tmp_path, "host1").start()


def test_a_torrent_lost_with_its_payload_is_fetched_again(tmp_path: Path) -> None:
    with hosts(tmp_path, "publisher") as (publisher,):
        host, status, path = complete_host(tmp_path, publisher)
        try:
            host.engine.stop()
            path.unlink()
            host.begin_again()
            host.wait_until(status.info_hash, lambda s: s.downloaded > status.downloaded)
            again = host.wait_complete(status.info_hash)
            assert (again.downloaded, again.refetched) == (2_000_000, 1_000_000)
            assert content(path) == content(tmp_path / "shop.tar")
        finally:
            host.engine.stop()
