"""The module tracker_info and real trackers: ours, and chihaya as it is deployed."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from chihaya_helpers import chihaya, free_port
from tracker_helpers import announce_query, talk, tracker_process

REPOSITORY = Path(__file__).resolve().parents[2]
SEEDER = b"-XX0001-seederseeder"
LEECHER = b"-XX0001-leecherleech"
HASH = "0a" * 20


@pytest.fixture
def tracker_info(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """The module, called as Ansible calls it; returns the fact ``tracker``."""
    (tmp_path / "ansible_collections" / "shoal").mkdir(parents=True)
    (tmp_path / "ansible_collections" / "shoal" / "deploy").symlink_to(REPOSITORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "ansible_collections"]:
        monkeypatch.delitem(sys.modules, name)
    from ansible_collections.shoal.deploy.plugins.modules import tracker_info as module

    def call(url: str, **params: Any) -> dict[str, Any]:
        # Time enough for a busy machine.
        with patch_module_args({"url": url, "timeout": 60, **params}), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert result["changed"] is False, result
        tracker: dict[str, Any] = result["tracker"]
        return tracker

    return call


def announce(url: str, peer_id: bytes, port: int, left: int, info_hash: str = HASH) -> None:
    """Be a peer. The answer is not decoded: chihaya's keys come in any order, which a strict decoder refuses."""
    query = announce_query(bytes.fromhex(info_hash), peer_id, port=port, left=left, uploaded=0, downloaded=0)
    assert b"interval" in talk(url, f"GET /announce?{query} HTTP/1.1\r\nHost: tracker\r\n\r\n".encode())


@pytest.fixture
def await_count(
    tracker_info: Callable[..., dict[str, Any]], wait_until: Callable[..., Any]
) -> Callable[[str, int, int, str, float], None]:
    """Wait for so many seeders and leechers: chihaya answers an announce first, and counts then."""

    def wait(url: str, seeders: int, leechers: int, info_hash: str = HASH, timeout: float = 30) -> None:
        def counted() -> bool:
            [swarm] = tracker_info(url, info_hashes=[info_hash], probe=False)["torrents"]
            return (swarm["seeders"], swarm["leechers"]) == (seeders, leechers)

        wait_until(counted, timeout, f"{seeders} seeders and {leechers} leechers at {url}")

    return wait


def has_ipv6() -> bool:
    with closing(socket.socket(socket.AF_INET6)) as sock:
        return sock.connect_ex(("::1", 9)) != 101  # ENETUNREACH


ADDRESSES = [
    "http://127.0.0.1:{}/announce",
    "udp://127.0.0.1:{}",
    pytest.param("http://[::1]:{}/announce", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")),
    pytest.param("udp://[::1]:{}", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")),
]


@pytest.mark.parametrize("url", ADDRESSES)
def test_chihaya_is_proven_healthy(tmp_path: Path, tracker_info: Callable[..., dict[str, Any]], url: str) -> None:
    with chihaya(tmp_path) as tracker:
        told = tracker_info(url.format(tracker.port))
    assert told["error"] is None
    assert told["healthy"] is True
    assert told["interval"] == 60
    assert told["min_interval"] == (60 if url.startswith("http") else None)


@pytest.mark.parametrize("url", ADDRESSES[:2])
def test_a_swarm_is_counted_and_sampled_without_ourselves(
    tmp_path: Path, tracker_info: Callable[..., dict[str, Any]], await_count: Callable[..., None], url: str
) -> None:
    with chihaya(tmp_path) as tracker:
        announce(tracker.url, SEEDER, 6001, 0)
        announce(tracker.url, LEECHER, 6002, 1)
        await_count(tracker.url, 1, 1)
        for _twice in range(2):
            [torrent] = tracker_info(url.format(tracker.port), info_hashes=[HASH.upper()], peers=5)["torrents"]
            assert torrent.pop("downloads") in (None, 0)
            assert sorted(peer["port"] for peer in torrent.pop("peers")) == [6001, 6002]
            assert torrent == {"info_hash": HASH, "known": True, "seeders": 1, "leechers": 1}


def test_more_info_hashes_than_one_scrape_takes(
    tmp_path: Path, tracker_info: Callable[..., dict[str, Any]], await_count: Callable[..., None]
) -> None:
    hashes = [f"{number:040x}" for number in range(60)]
    with chihaya(tmp_path, max_scrape_infohashes=10) as tracker:
        announce(tracker.url, SEEDER, 6001, 0, hashes[24])
        await_count(tracker.url, 1, 0, hashes[24])
        torrents = tracker_info(tracker.url, info_hashes=hashes, probe=False)["torrents"]
    assert [torrent["info_hash"] for torrent in torrents] == hashes
    assert [torrent["seeders"] for torrent in torrents] == [int(number == 24) for number in range(60)]


@pytest.mark.parametrize("url", ADDRESSES[:2])
def test_a_refusal_is_told_in_the_trackers_own_words(
    tmp_path: Path, tracker_info: Callable[..., dict[str, Any]], url: str
) -> None:
    approval = {"name": "client approval", "config": {"whitelist": ["TR4040"]}}
    with chihaya(tmp_path, prehooks=[approval]) as tracker:
        refused = tracker_info(url.format(tracker.port))
        admitted = tracker_info(url.format(tracker.port), client="-TR4040-")
    assert (refused["healthy"], refused["refusal"]) == (False, "unapproved client")
    assert admitted["healthy"] is True


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/announce", "udp://127.0.0.1:{}"])
def test_nobody_there_is_an_answer_too(tracker_info: Callable[..., dict[str, Any]], url: str) -> None:
    told = tracker_info(url.format(free_port()), timeout=2)
    assert told["healthy"] is False
    assert "cannot be reached" in told["error"]


def test_our_own_tracker(tracker_info: Callable[..., dict[str, Any]]) -> None:
    with tracker_process("--interval", "60", "--min-interval", "30") as tracker:
        announce(tracker.url, SEEDER, 6001, 0)
        told = tracker_info(tracker.url, info_hashes=[HASH], peers=5)
    assert (told["error"], told["healthy"], told["interval"], told["min_interval"]) == (None, True, 60, 30)
    assert [peer["port"] for peer in told["torrents"][0]["peers"]] == [6001]
    assert (told["torrents"][0]["seeders"], told["torrents"][0]["leechers"]) == (1, 0)


# Agents, which know nothing of each other but the tracker


def test_a_fleet_meets_at_chihaya_and_outlives_its_publisher(
    tmp_path, await_count, agent_factory, make_payload, make_torrent
):
    payload = make_payload("shop-1.0.tar", 2_000_000)
    with chihaya(tmp_path) as tracker:
        torrent = make_torrent(payload, trackers=[[tracker.url]])
        publisher = agent_factory("publisher")
        info_hash = publisher.seed(payload, torrent)["info_hash"]
        hosts = [agent_factory(f"host{number}") for number in range(1, 5)]
        for host in hosts:
            host.client.add(torrent=torrent.read_bytes())
        for host in hosts:
            host.await_end(info_hash)
        await_count(tracker.url, 5, 0, info_hash)
        publisher.stop()
        await_count(tracker.url, 4, 0, info_hash)
        late = agent_factory("late")
        assert late.fetch(torrent)["from_peers"].keys() <= {"host1", "host2", "host3", "host4"}


def test_chihaya_killed_mid_transfer_is_not_missed_and_found_again(
    tmp_path, await_count, agent_factory, make_payload, make_torrent, wait_until
):
    interval = 15  # seconds; agents do not announce more often
    payload = make_payload("shop-1.0.tar", 3_000_000)
    with chihaya(tmp_path, announce_interval=f"{interval}s") as tracker:
        torrent = make_torrent(payload, trackers=[[tracker.url]])
        publisher, host = agent_factory("publisher", limits={"upload": "1MB"}), agent_factory("host")
        info_hash = publisher.seed(payload, torrent)["info_hash"]
        host.client.add(torrent=torrent.read_bytes())
        wait_until(lambda: host.client.torrent(info_hash)["done"] > 300_000, 30, "the transfer begins")
        tracker.kill()
        assert host.client.torrent(info_hash)["state"] != "complete"
        host.await_end(info_hash)

        tracker.start()  # its memory is lost
        await_count(tracker.url, 0, 0, info_hash)
        await_count(tracker.url, 2, 0, info_hash, 2 * interval)
