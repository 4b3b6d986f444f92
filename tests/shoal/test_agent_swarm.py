"""Agents fetch from one another: real processes, real transfers, peers given by hand."""

from __future__ import annotations


def test_a_file_travels_from_one_agent_to_the_next(agent_factory, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 3_000_000)
    torrent = make_torrent(payload)
    publisher, host1, host2 = agent_factory("publisher"), agent_factory("host1"), agent_factory("host2")

    seeded = publisher.seed(payload, torrent)
    assert (seeded["in_store"], seeded["payload_path"]) == (False, str(payload))

    fetched = host1.fetch(torrent, publisher)
    assert fetched["from_peers"] == {"publisher": 3_000_000}
    assert fetched["done"] == fetched["size"] == 3_000_000
    copy = host1.state_dir / "store" / fetched["info_hash"] / "shop-1.0.tar"
    assert fetched["payload_path"] == str(copy)
    assert copy.read_bytes() == payload.read_bytes()

    publisher.stop()  # host1 seeds it on
    assert host2.fetch(torrent, host1)["from_peers"] == {"host1": 3_000_000}
