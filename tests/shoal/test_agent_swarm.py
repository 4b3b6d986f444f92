"""Agents fetch from one another: real processes, real transfers, peers given by hand."""

from __future__ import annotations

import pytest
import torf
from swarm_helpers import SEES_NAMES

from shoal.agent.errors import AnswerError


def test_a_file_travels_from_one_agent_to_the_next(agent_factory, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 3_000_000)
    torrent = make_torrent(payload)
    publisher, host1, host2 = agent_factory("publisher"), agent_factory("host1"), agent_factory("host2")

    seeded = publisher.seed(payload, torrent)
    assert (seeded["in_store"], seeded["payload_path"]) == (False, str(payload))

    fetched = host1.fetch(torrent, publisher, download_limit=SEES_NAMES)
    assert fetched["from_peers"] == {"publisher": 3_000_000}
    assert fetched["done"] == fetched["size"] == 3_000_000
    copy = host1.state_dir / "store" / fetched["info_hash"] / "shop-1.0.tar"
    assert fetched["payload_path"] == str(copy)
    assert copy.read_bytes() == payload.read_bytes()

    publisher.stop()  # host1 seeds it on
    fetched = host2.fetch(torrent, host1, download_limit=SEES_NAMES)
    assert fetched["from_peers"] == {"host1": 3_000_000}


def test_a_directory_travels(agent_factory, make_payload, make_torrent):
    contents = {"index.html": 5_000, "static/app.js": 400_000, "static/empty": 0}
    payload = make_payload("site", contents)
    torrent = make_torrent(payload)
    publisher, host = agent_factory("publisher"), agent_factory("host")
    publisher.seed(payload, torrent)
    status = host.fetch(torrent, publisher)
    assert status["files"] == 3
    copy = host.state_dir / "store" / status["info_hash"] / "site"
    assert {name: (copy / name).read_bytes() for name in contents} == {
        name: (payload / name).read_bytes() for name in contents
    }


def test_a_magnet_brings_the_metainfo_too(agent_factory, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 500_000)
    torrent = make_torrent(payload)
    publisher, host = agent_factory("publisher"), agent_factory("host")
    info_hash = publisher.seed(payload, torrent)["info_hash"]

    added = host.client.add(magnet=f"magnet:?xt=urn:btih:{info_hash}&dn=shop")["torrent"]
    assert (added["state"], added["size"], added["payload_path"]) == ("metadata", 0, None)
    with pytest.raises(AnswerError, match="is not known yet") as refused:
        host.client.metainfo(info_hash)
    assert refused.value.status == 409
    # what a magnet lacks is added to it too
    assert host.client.change(info_hash, trackers=[["http://127.0.0.1:1/announce"]])["changed"] is True
    host.client.change(info_hash, peers=[publisher.peer])
    status = host.await_end(info_hash)
    assert (status["name"], status["done"]) == ("shop-1.0.tar", 500_000)
    assert [tracker["url"] for tracker in status["trackers"]] == ["http://127.0.0.1:1/announce"]
    assert torf.Torrent.read_stream(host.client.metainfo(info_hash)).infohash == info_hash


def test_a_restart_keeps_everything(agent_factory, make_payload, make_torrent):
    fetched, seeded = make_payload("fetched.tar", 500_000), make_payload("seeded.tar", 600_000)
    publisher, host = agent_factory("publisher"), agent_factory("host")
    publisher.seed(fetched, make_torrent(fetched))
    one = host.fetch(make_torrent(fetched), publisher)["info_hash"]
    two = host.seed(seeded, make_torrent(seeded))["info_hash"]
    host.client.change(two, paused=True, upload_limit=7000)
    kept = ("info_hash", "state", "paused", "done", "downloaded", "from_peers", "added_at", "upload_limit", "in_store")
    before = [{key: status[key] for key in kept} for status in host.client.torrents()]

    assert host.stop() == 0
    host.start()
    assert host.await_end(one)["rehashed"] == 0, "after a clean stop nothing is read again"
    host.await_end(two)
    assert sorted(before, key=str) == sorted(
        ({key: status[key] for key in kept} for status in host.client.torrents()), key=str
    )


def test_a_killed_agent_goes_on_where_it_was(agent_factory, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 3_000_000)
    torrent = make_torrent(payload)
    publisher, host = agent_factory("publisher", limits={"upload": "400kB"}), agent_factory("host")
    publisher.seed(payload, torrent)
    info_hash = host.client.add(torrent=torrent.read_bytes(), peers=[publisher.peer])["torrent"]["info_hash"]
    at_kill = host.client.torrent(info_hash, wait=60, progress=0.2)
    assert at_kill["state"] == "downloading"
    host.kill()
    assert host.socket.exists()

    publisher.client.set_limits(upload_limit=0)
    host.start()
    status = host.await_end(info_hash)
    assert status["done"] == 3_000_000
    assert status["rehashed"] > 0, "what an unclean end left is looked at before it is trusted"
    assert status["downloaded"] <= 3_000_000 + 2 * status["piece_length"]
    copy = host.state_dir / "store" / info_hash / "shop-1.0.tar"
    assert copy.read_bytes() == payload.read_bytes()
