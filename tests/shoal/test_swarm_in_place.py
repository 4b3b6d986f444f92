"""A payload seeded where it lies is the user's: checked first, served, never written to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from swarm_helpers import Host, content, hosts, make_payload, make_torrent

from shoal.swarm import AddTorrent, EventKind, State


def snapshot(path: Path) -> dict[str, tuple[int, int, int]]:
    """What any write would change, of each file and folder below ``path`` (its own folder included)."""
    return {
        str(entry): (entry.lstat().st_ino, entry.lstat().st_size, entry.lstat().st_mtime_ns)
        for entry in [path, *path.rglob("*")]
        if entry.exists()
    }


def make_shop(root: Path) -> Path:
    folder = root / "theirs" / "shop"
    make_payload(folder / "a", 100_000, seed=1)
    make_payload(folder / "b", 200_000, seed=2)
    make_payload(folder / "empty", 0)
    return folder


def damage(path: Path, how: str) -> Path:
    """Make the payload differ from its torrent; the file that is wrong."""
    wrong = path / "b"
    if how == "content":
        data = bytearray(wrong.read_bytes())
        data[150_000] ^= 1
        wrong.write_bytes(data)
    elif how == "short":
        os.truncate(wrong, 150_000)
    elif how == "missing":
        wrong.unlink()
        (path / "empty").unlink()
    elif how == "gone":
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    return wrong


SAYS = {
    "content": "does not match the torrent's hashes",
    "short": "has 150000 bytes where the torrent says 200000",
    "missing": "No such file or directory",
    "gone": "No such file or directory",
}


def test_a_payload_under_another_name_is_served_in_place(tmp_path: Path) -> None:
    folder = make_shop(tmp_path)
    torrent = make_torrent(folder)
    renamed = folder.rename(folder.with_name("build-42"))
    single = make_payload(tmp_path / "theirs" / "shop.tar", 100_000)
    single_torrent = make_torrent(single)
    single = single.rename(single.with_name("out.tar"))
    before = snapshot(tmp_path / "theirs")
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        for metainfo, payload, name in ((torrent, renamed, "shop"), (single_torrent, single, "shop.tar")):
            status = publisher.seed(metainfo, payload)
            assert (status.payload_path, status.in_store, status.downloaded) == (payload, False, 0)
            fetched = host1.wait_complete(host1.fetch(metainfo, publisher))
            assert fetched.payload_path is not None
            assert fetched.payload_path.name == name
            assert content(fetched.payload_path) == content(payload)
        publisher.restart()
        for status in publisher.engine.statuses():
            assert publisher.wait_complete(status.info_hash).rehashed == 0
    assert snapshot(tmp_path / "theirs") == before


@pytest.mark.parametrize("how", ["content", "short", "missing", "gone"])
def test_wrong_data_is_an_error_and_stays_as_it_is(tmp_path: Path, how: str) -> None:
    folder = make_shop(tmp_path)
    torrent = make_torrent(folder)
    with hosts(tmp_path, "publisher", "host1") as (publisher, host1):
        publisher.seed(torrent, folder)
        theirs = make_shop(tmp_path / "elsewhere")
        wrong = damage(theirs, how)
        before = snapshot(theirs)
        # a seed that could repair it is at hand
        request = AddTorrent(torrent=torrent, data_path=theirs, peers=(publisher.endpoint,))
        info_hash = host1.engine.add(request)[0].info_hash
        event = host1.events.wait_for(EventKind.ERROR)
        assert (event.what, event.info_hash) == (str(wrong), info_hash)
        assert SAYS[how] in event.message
        for _ in range(2):
            status = host1.wait_until(info_hash, lambda s: s.state is State.ERROR)
            assert status.error is not None
            assert (status.error.what, status.error.message) == (event.what, event.message)
            host1.restart()
        host1.wait_until(info_hash, lambda s: s.state is State.ERROR)
        host1.engine.resume(info_hash)  # tried again: still wrong
        host1.events.wait(lambda e: e.kind is EventKind.STATE and e.state is State.CHECKING)
        status = host1.wait_until(info_hash, lambda s: s.state is State.ERROR)
        assert snapshot(theirs) == before
        assert (status.downloaded, status.peers) == (0, 0)
        # put right by the user, it is seeded on demand
        make_shop(tmp_path / "elsewhere")
        host1.engine.recheck(info_hash)
        host1.wait_complete(info_hash)


def test_a_payload_changed_while_the_agent_was_away_is_noticed(tmp_path: Path) -> None:
    folder = make_shop(tmp_path)
    torrent = make_torrent(folder)
    host = Host(tmp_path, "publisher").start()
    try:
        info_hash = host.seed(torrent, folder).info_hash
        host.engine.stop()
        wrong = damage(folder, "content")
        before = snapshot(folder)
        host.begin_again()
        assert host.events.wait_for(EventKind.ERROR).what == str(wrong)
        assert host.engine.status(info_hash).rehashed == 300_000
        assert snapshot(folder) == before
    finally:
        host.engine.stop()
