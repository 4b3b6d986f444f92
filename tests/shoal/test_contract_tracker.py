"""The module tracker_info and real trackers: ours, and chihaya as it is deployed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
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
        with patch_module_args({"url": url, **params}), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert result["changed"] is False, result
        tracker: dict[str, Any] = result["tracker"]
        return tracker

    return call


def free_port() -> int:
    """A port that nobody has, over TCP and UDP, at this moment."""
    while True:
        with closing(socket.socket()) as tcp, closing(socket.socket(type=socket.SOCK_DGRAM)) as udp:
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def listens(port: int) -> bool:
    with closing(socket.socket()) as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def chihaya(folder: Path, **changes: Any) -> Iterator[tuple[int, Path]]:
    """The real chihaya v2.0.0-rc.2 on loopback; yields its port, HTTP and UDP, and its log."""
    built = subprocess.run([REPOSITORY / "tests/chihaya.sh"], check=True, stdout=subprocess.PIPE, text=True)
    port = free_port()
    config = {
        "announce_interval": "60s",
        "prometheus_addr": f"127.0.0.1:{free_port()}",
        "max_numwant": 200,
        "default_numwant": 50,
        "max_scrape_infohashes": 50,
        "http": {"addr": f":{port}", "read_timeout": "5s", "write_timeout": "5s"},
        "udp": {"addr": f":{port}", "max_clock_skew": "10s"},
        "storage": {"name": "memory", "config": {"gc_interval": "1m", "peer_lifetime": "3m", "shard_count": 16}},
        **changes,
    }
    (folder / "chihaya.yaml").write_text(yaml.safe_dump({"chihaya": config}))
    command = [built.stdout.strip(), "--config", folder / "chihaya.yaml"]
    log = folder / "chihaya.log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as process,
    ):
        try:
            deadline = time.monotonic() + 20
            while not listens(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield port, log
        finally:
            process.terminate()


def announce(url: str, peer_id: bytes, port: int, left: int, info_hash: str = HASH) -> None:
    """Be a peer. The answer is not looked at: chihaya's keys come in any order, which a strict decoder refuses."""
    query = announce_query(bytes.fromhex(info_hash), peer_id, port=port, left=left, uploaded=0, downloaded=0)
    assert b"interval" in talk(url, f"GET /announce?{query} HTTP/1.1\r\nHost: tracker\r\n\r\n".encode())


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
    with chihaya(tmp_path) as (port, _log):
        told = tracker_info(url.format(port))
    assert told["error"] is None
    assert told["healthy"] is True
    assert told["interval"] == 60
    assert told["min_interval"] == (60 if url.startswith("http") else None)


@pytest.mark.parametrize("url", ADDRESSES[:2])
def test_a_swarm_is_counted_and_sampled_without_ourselves(
    tmp_path: Path, tracker_info: Callable[..., dict[str, Any]], url: str
) -> None:
    with chihaya(tmp_path) as (port, _log):
        http = f"http://127.0.0.1:{port}/announce"
        announce(http, SEEDER, 6001, 0)
        announce(http, LEECHER, 6002, 1)
        for _twice in range(2):
            [torrent] = tracker_info(url.format(port), info_hashes=[HASH.upper()], peers=5)["torrents"]
            assert torrent.pop("downloads") in (None, 0)
            assert sorted(peer["port"] for peer in torrent.pop("peers")) == [6001, 6002]
            assert torrent == {"info_hash": HASH, "known": True, "seeders": 1, "leechers": 1}


def test_more_info_hashes_than_one_scrape_takes(tmp_path: Path, tracker_info: Callable[..., dict[str, Any]]) -> None:
    hashes = [f"{number:040x}" for number in range(60)]
    with chihaya(tmp_path, max_scrape_infohashes=10) as (port, _log):
        http = f"http://127.0.0.1:{port}/announce"
        announce(http, SEEDER, 6001, 0, hashes[24])
        torrents = tracker_info(http, info_hashes=hashes, probe=False)["torrents"]
    assert [torrent["info_hash"] for torrent in torrents] == hashes
    assert [torrent["seeders"] for torrent in torrents] == [int(number == 24) for number in range(60)]


@pytest.mark.parametrize("url", ADDRESSES[:2])
def test_a_refusal_is_told_in_the_trackers_own_words(
    tmp_path: Path, tracker_info: Callable[..., dict[str, Any]], url: str
) -> None:
    approval = {"name": "client approval", "config": {"whitelist": ["TR4040"]}}
    with chihaya(tmp_path, prehooks=[approval]) as (port, _log):
        refused = tracker_info(url.format(port))
        admitted = tracker_info(url.format(port), client="-TR4040-")
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
