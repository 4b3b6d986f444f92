"""The store's file system is never filled: one ledger for all downloads and imports."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from agent_helpers import ask

from shoal.agent.errors import AnswerError
from shoal.swarm import Hold, Reserve
from shoal.swarm.space import Space, Want, allocated, share_out

MB = 1_000_000

# --- the rule ---

LEDGER = {
    # wants (name, need, running) from the oldest to the newest; imports; free; min_free -> who waits, what is reserved
    "all fit": ([("a", 40, True), ("b", 20, False)], 0, 100, 30, "", 60),
    "the sum counts, not each": ([("a", 30, True), ("b", 30, True), ("c", 30, False)], 0, 100, 20, "c", 60),
    "imports count": ([("a", 50, False)], 30, 100, 30, "a", 30),
    "who runs comes before who waits": ([("a", 60, False), ("b", 60, True)], 0, 100, 0, "a", 60),
    "of those that run, the newest waits": ([("a", 40, True), ("b", 40, True)], 0, 60, 0, "b", 40),
    "a smaller one goes past": ([("a", 90, False), ("b", 10, False)], 0, 50, 0, "a", 10),
    "what runs may go on to the last byte": ([("a", 100, True)], 0, 100, 0, "", 100),
    "to start, a hundredth more must fit": ([("a", 100, False)], 0, 100, 0, "a", 0),
    "and does": ([("a", 100, False)], 0, 101, 0, "", 100),
    "less free than should be": ([("a", 1, True)], 0, 100, 200, "a", 0),
}


@pytest.mark.parametrize(("wants", "imports", "free", "min_free", "waiting", "reserved"), LEDGER.values(), ids=LEDGER)
def test_who_may_go_on_and_who_waits(wants, imports, free, min_free, waiting, reserved):
    entries = [Want(name, need, running, age) for age, (name, need, running) in enumerate(wants)]
    held, sum_reserved = share_out(entries, Space(1000, free, min_free), imports)
    assert ("".join(held), sum_reserved) == (waiting, reserved)


def test_the_sum_is_told():
    held, _ = share_out([Want("a", 30 * MB, True, 0), Want("b", 50 * MB, False, 1)], Space(100 * MB, 80 * MB, 10 * MB))
    assert held["b"] == Hold(
        "space",
        "waiting for space: 50.0 MB still needed + 30.0 MB reserved for others, "
        "but 80.0 MB free - 10.0 MB min_free leave 70.0 MB",
        *(50 * MB, 30 * MB, 80 * MB, 10 * MB),
    )


def test_a_reserve_is_bytes_or_a_share():
    assert [Reserve(5).of(1000), Reserve(percent=2.5).of(1000), Reserve().of(1000)] == [5, 25, 0]


def test_holes_take_no_space(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10 * MB)
        file.write(b"x" * 4096)
    assert 0 < allocated([tmp_path / "sparse", None, tmp_path / "absent"]) < MB


# --- a small file system ---


@pytest.fixture
def small_disk(tmp_path):
    """``small_disk(megabytes)``: a file system of its own."""
    mounted: list[Path] = []

    def make(size: int) -> Path:
        path = tmp_path / "disk"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size * MB}", "shoal-test", path]
        if not shutil.which("mount") or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("needs the right to mount a file system")
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def publisher(agent_factory, make_payload, make_torrent):
    """Seeds three archives of 20 MB, slowly."""
    agent = agent_factory("publisher", limits={"upload": "6MB"})
    agent.torrents = []
    for name in ("one.tar", "two.tar", "three.tar"):
        payload = make_payload(name, 20 * MB)
        torrent = make_torrent(payload, piece_size=256 * 1024)
        agent.seed(payload, torrent)
        agent.torrents.append(torrent.read_bytes())
    return agent


def kinds(agent, info_hash):
    events = agent.client.events()["events"]
    return [event["kind"] for event in events if event["info_hash"] == info_hash]


def test_of_three_downloads_the_third_waits_until_there_is_room(agent_factory, publisher, small_disk, wait_until):
    disk = small_disk(70)
    host = agent_factory(
        "host1", store_dir=str(disk / "store"), storage={"min_free": "20MB"}, limits={"download": "200kB"}
    )
    one, two, three = (
        host.client.add(torrent=torrent, peers=[publisher.peer])["torrent"] for torrent in publisher.torrents
    )
    assert (one["held"], two["held"]) == (None, None)
    assert three["held"]["reason"] == "space"
    assert (three["held"]["needed"], three["held"]["min_free"]) == (20 * MB, 20 * MB)
    assert re.search(r"20\.0 MB still needed \+ (40\.0|3\d\.\d) MB reserved for others", three["held"]["message"])
    storage = host.client.agent()["storage"]
    assert storage["waiting"] == 1
    assert 30 * MB < storage["reserved"] <= 40 * MB

    # Somebody else writes while they run: the newer waits, before what is to stay free is touched.
    other = disk / "other"
    other.write_bytes(bytes(25 * MB))
    wait_until(lambda: host.client.torrent(two["info_hash"])["held"], what="the second waits too")
    host.client.set_limits(download_limit=0)
    assert host.await_end(one["info_hash"])["state"] == "complete"
    assert shutil.disk_usage(disk).free >= 20 * MB, "what is to stay free is free"
    waiting = host.client.torrent(two["info_hash"])
    assert (waiting["state"], waiting["paused"]) == ("downloading", False)
    assert 0 <= waiting["done"] < 20 * MB
    (disk / "log").write_bytes(bytes(MB))  # the application beside it goes on

    shown = subprocess.run(
        [sys.executable, "-m", "shoal", "status", "--socket", host.socket], capture_output=True, text=True, check=True
    )
    assert "waiting for space" in " ".join(shown.stdout.split())

    # Room again: both go on by themselves, and nothing is fetched twice.
    other.unlink()
    assert host.await_end(two["info_hash"])["state"] == "complete"
    assert host.client.torrent(three["info_hash"])["held"], "it would take what is to stay free"
    assert host.client.remove(one["info_hash"], data=True)
    assert host.await_end(three["info_hash"])["downloaded"] == 20 * MB
    assert host.client.torrent(two["info_hash"])["downloaded"] == 20 * MB
    assert kinds(host, three["info_hash"])[:2] == ["added", "held"]
    assert "released" in kinds(host, three["info_hash"])
    assert "error" not in kinds(host, two["info_hash"]) + kinds(host, three["info_hash"])


def test_a_restart_keeps_the_order(agent_factory, publisher, small_disk):
    disk = small_disk(70)
    host = agent_factory(
        "host1", store_dir=str(disk / "store"), storage={"min_free": "20MB"}, limits={"download": "1MB"}
    )
    hashes = [
        host.client.add(torrent=torrent, peers=[publisher.peer])["torrent"]["info_hash"]
        for torrent in reversed(publisher.torrents)
    ]
    assert host.stop() == 0
    host.start()
    assert [bool(host.client.torrent(info_hash)["held"]) for info_hash in hashes] == [False, False, True]


def test_what_does_not_fit_is_refused_where_that_is_configured(
    agent_factory, publisher, small_disk, make_payload, make_torrent
):
    disk = small_disk(50)
    host = agent_factory("host1", store_dir=str(disk / "store"), storage={"min_free": "10%", "when_full": "refuse"})
    one, two, three = publisher.torrents
    first = host.client.add(torrent=one)["torrent"]
    host.client.add(torrent=two)
    for dry_run in (True, False):
        with pytest.raises(AnswerError, match=r"no space: 20\.0 MB still needed \+ 40\.0 MB reserved") as refused:
            host.client.add(torrent=three, dry_run=dry_run)
        assert (refused.value.status, refused.value.code) == (507, "no_space")
    assert len(host.client.torrents()) == 2

    # An import is in the same ledger.
    payload = make_payload("mine.tar", 10 * MB)
    mine = host.client.add(torrent=make_torrent(payload).read_bytes(), paused=True)["torrent"]["info_hash"]
    answer = ask(host.socket, "PUT", f"/v1/torrents/{mine}/files/0", payload.read_bytes())
    assert (answer.status, answer.error["code"]) == (507, "no_space")
    assert "10.0 MB still needed + 40.0 MB reserved for others" in answer.error["message"]
    host.client.change(first["info_hash"], paused=True)  # and gives its place up
    assert ask(host.socket, "PUT", f"/v1/torrents/{mine}/files/0", payload.read_bytes()).status == 200
