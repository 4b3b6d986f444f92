"""Real BitTorrent clients find each other through the tracker and through nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import libtorrent as lt
import pytest
import torf
from tracker_helpers import DEADLINE, announce_query, get, tracker_process


def session() -> lt.session:
    return lt.session(
        {
            "listen_interfaces": "127.0.0.1:0,[::1]:0",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "min_announce_interval": 1,
        }
    )


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.02)


def add(client: lt.session, torrent: bytes, folder: Path) -> lt.torrent_handle:
    params = lt.load_torrent_buffer(torrent)
    params.save_path = str(folder)
    return client.add_torrent(params)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0"])
def test_two_sessions_find_each_other_through_the_tracker(tmp_path: Path, listen: str) -> None:
    payload = tmp_path / "seed" / "archive.bin"
    payload.parent.mkdir()
    payload.write_bytes(bytes(range(256)) * 4096)
    with tracker_process("--interval", "2", "--min-interval", "1", "--lifetime", "60", listen=(listen,)) as tracker:
        torrent = torf.Torrent(path=payload, trackers=[tracker.url])
        torrent.generate()
        seeding, fetching = session(), session()
        # The one who fetches comes first: it must hear of the seed, or the seed of it, later
        fetch = add(fetching, torrent.dump(), tmp_path / "fetched")
        wait_until(lambda: any(entry["verified"] for entry in fetch.trackers()), "the first announce is answered")
        seed = add(seeding, torrent.dump(), payload.parent)
        wait_until(lambda: fetch.status().is_seeding, "everything is fetched")
        # libtorrent calls it complete before the last blocks are written
        fetched = tmp_path / "fetched" / "archive.bin"
        wait_until(lambda: fetched.read_bytes() == payload.read_bytes(), "all of it is on disk")
        assert seed.status().total_payload_upload >= payload.stat().st_size

        info_hash = bytes.fromhex(torrent.infohash)
        counts = {b"complete": 2, b"downloaded": 1, b"incomplete": 0}
        wait_until(lambda: scraped(tracker.url, info_hash) == counts, "the tracker counts two seeds, one made")
        fetch.scrape_tracker()
        wait_until(lambda: fetch.status().num_complete == 2, "libtorrent reads the same in a scrape")


def scraped(url: str, info_hash: bytes) -> dict[bytes, int]:
    _, answer = get(url, announce_query(info_hash), path="/scrape")
    return answer[b"files"][info_hash]
