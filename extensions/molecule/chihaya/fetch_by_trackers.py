"""Move a payload between two clients that know nothing of each other but trackers.

Takes announce tiers as JSON; prints the info hash. Fails when the payload has not arrived within a minute.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import libtorrent as lt

PAYLOAD = 1024 * 1024


def session(folder, metainfo):
    client = lt.session(
        {
            "listen_interfaces": "0.0.0.0:0",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "allow_multiple_connections_per_ip": True,
            "min_announce_interval": 5,
            "tracker_completion_timeout": 5,
            "tracker_receive_timeout": 5,
        }
    )
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(metainfo)
    params.save_path = folder
    return client, client.add_torrent(params)


def main(tiers):
    with tempfile.TemporaryDirectory() as seeding, tempfile.TemporaryDirectory() as fetching:
        payload = Path(seeding, "payload")
        payload.write_bytes(os.urandom(PAYLOAD))
        files = lt.file_storage()
        lt.add_files(files, str(payload))
        torrent = lt.create_torrent(files, 0, flags=lt.create_torrent.v1_only)
        for number, tier in enumerate(tiers):
            for url in tier:
                torrent.add_tracker(url, number)
        lt.set_piece_hashes(torrent, seeding)
        metainfo = torrent.generate()
        seeder, _seed = session(seeding, metainfo)
        fetcher, handle = session(fetching, metainfo)
        deadline = time.monotonic() + 60
        while not handle.status().is_seeding:
            if time.monotonic() > deadline:
                told = [(url["url"], url["message"], url["last_error"]["message"]) for url in handle.trackers()]
                raise SystemExit(f"nothing arrived: {told}")
            time.sleep(0.1)
        print(handle.info_hash())
        del seeder, fetcher


main(json.loads(sys.argv[1]))
