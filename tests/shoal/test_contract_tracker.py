"""The module tracker_info and real trackers: ours, and chihaya as it is deployed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from chihaya_helpers import chihaya, program, running
from ports import free_port
from swarm_helpers import SEES_NAMES
from tracker_helpers import announce_query, talk, tracker_process

REPOSITORY = Path(__file__).resolve().parents[2]
SEEDER = b"-XX0001-seederseeder"
LEECHER = b"-XX0001-leecherleech"
HASH = "0a" * 20


@pytest.fixture
def collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This checkout, importable as the collection."""
    (tmp_path / "ansible_collections" / "shoal").mkdir(parents=True)
    (tmp_path / "ansible_collections" / "shoal" / "deploy").symlink_to(REPOSITORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "ansible_collections"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def tracker_info(collection: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """The module, called as Ansible calls it; returns the fact ``tracker``."""
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


# What the role chihaya renders, read by chihaya itself


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and ::1, and its key."""
    certificate, key = folder / "tracker.pem", folder / "tracker.key"
    names = "subjectAltName=IP:127.0.0.1,IP:::1"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tracker"]
    subprocess.run([*request, "-addext", names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


@pytest.mark.parametrize("version", ["main", "v2.0.0-rc.2"])
def test_what_the_role_renders_runs_and_is_healthy_at_every_listener(
    tmp_path: Path, collection: None, tracker_info: Callable[..., dict[str, Any]], version: str
) -> None:
    from ansible_collections.shoal.deploy.plugins.plugin_utils._chihaya import make_plan

    generation = yaml.safe_load((REPOSITORY / f"roles/chihaya/files/generations/{version}.yml").read_text())
    port, internal, https = (free_port() for _ in range(3))
    certificate, key = own_certificate(tmp_path)
    settings: dict[str, Any] = {"http": {"addr": f":{port}"}, "udp": {"addr": f":{port}"}}
    settings[generation["meaning"]["internal"][0]] = f"127.0.0.1:{internal}"
    if "https" in generation["meaning"]["listeners"]:
        settings["http"] |= {"https_addr": f":{https}", "tls_cert_path": str(certificate), "tls_key_path": str(key)}
    plan = make_plan(settings, generation, {"network": "host", "ipv6": has_ipv6(), "private_key": "a-key"})
    assert plan["problems"] == []

    config = tmp_path / "chihaya.yaml"
    config.write_text(plan["config"])
    command = [str(config) if word == generation["config_path"] else word for word in generation["command"]]
    with running([program(version), *command], port, tmp_path / "chihaya.log"):
        told = {url: tracker_info(url, ca_path=str(certificate)) for url in plan["probes"]}
    assert {url: tracker["error"] for url, tracker in told.items()} == dict.fromkeys(told)
    assert {tracker["interval"] for tracker in told.values()} == {60}
    protocols = {tracker["protocol"] for tracker in told.values()}
    assert protocols == ({"http", "https", "udp"} if version == "main" else {"http", "udp"})
    assert len(told) == len(protocols) * (2 if has_ipv6() else 1)


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
        fetched = late.fetch(torrent, download_limit=SEES_NAMES)
        assert fetched["from_peers"].keys() <= {"host1", "host2", "host3", "host4"}


@pytest.mark.slow
def test_chihaya_killed_mid_transfer_is_not_missed_and_found_again(
    tmp_path, await_count, agent_factory, make_payload, make_torrent, wait_until
):
    interval = 15  # seconds; agents do not announce more often
    payload = make_payload("shop-1.0.tar", 3_000_000)
    with chihaya(tmp_path, announce_interval=f"{interval}s") as tracker:
        torrent = make_torrent(payload, trackers=[[tracker.url]])
        publisher, host = agent_factory("publisher"), agent_factory("host")
        info_hash = publisher.seed(payload, torrent, upload_limit=300_000)["info_hash"]
        host.client.add(torrent=torrent.read_bytes())
        wait_until(lambda: host.client.torrent(info_hash)["done"] > 100_000, 60, "the transfer begins")
        tracker.kill()
        assert host.client.torrent(info_hash)["state"] != "complete"
        publisher.client.change(info_hash, upload_limit=0)
        host.await_end(info_hash)

        tracker.start()  # its memory is lost
        await_count(tracker.url, 0, 0, info_hash)
        await_count(tracker.url, 2, 0, info_hash, 2 * interval)
