"""Peers that lie or talk nonsense: the agent refuses what they send, and fetches from the others."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from hostile_helpers import corrupting, peer, speaking

SIZE, PIECE = 2_000_000, 32 * 1024


@pytest.fixture
def payload(make_payload) -> Path:
    return make_payload("archive.bin", SIZE)


@pytest.fixture
def torrent(payload: Path, make_torrent) -> Path:
    return make_torrent(payload, piece_size=PIECE)


def hash_failures(agent) -> list[dict]:
    return [event for event in agent.client.events(0)["events"] if event["kind"] == "hash_failed"]


def test_corrupted_pieces_are_refused_and_fetched_from_an_honest_peer(
    agent_factory, payload: Path, torrent: Path, wait_until
) -> None:
    honest, victim = agent_factory("honest"), agent_factory("victim")
    info_hash = honest.seed(payload, torrent)["info_hash"]
    with peer("127.0.0.2", corrupting(bytes.fromhex(info_hash), payload.read_bytes(), PIECE)) as liar:
        victim.client.add(torrent=torrent.read_bytes(), peers=[liar.endpoint])
        failed = wait_until(lambda: hash_failures(victim), what="a hash failure is told")
        assert (failed[0]["info_hash"], 0 <= failed[0]["piece"] < -(-SIZE // PIECE)) == (info_hash, True)
        # It is soon hung up on, with not one of its pieces taken
        wait_until(lambda: not victim.client.peers(info_hash), what="the liar is thrown out")
        served = len(liar.served)
        status = victim.client.torrent(info_hash)
        assert (status["state"], status["pieces_done"], status["done"]) == ("downloading", 0, 0)

        victim.client.change(info_hash, peers=[honest.peer, liar.endpoint])
        status = victim.await_end(info_hash)
        assert len(liar.served) == served  # and not asked again
    assert Path(status["payload_path"]).read_bytes() == payload.read_bytes()
    assert status["wasted"] >= min(PIECE, SIZE - PIECE * failed[0]["piece"])  # the last piece is a short one
    assert sum(status["from_peers"].values()) == SIZE + status["wasted"]


NONSENSE = {
    "endless": b"\xff" * 100_000,  # a message of 4 GiB
    "have": b"\x00\x00\x00\x05\x04\xff\xff\xff\xff",  # has a piece far beyond the last one
    "bitfield": b"\x00\x00\x00\x01\x05",  # without a bit
    "piece": b"\x00\x00\x00\x09\x07\x00\x00\x00\x00\x00\x00\x00\x00" * 50,  # blocks nobody asked for, without a byte
    "request": b"\x00\x00\x00\x0d\x06" + b"\xff" * 12 + b"\x00\x00\x00\x0d\x06" + b"\xff" * 12,  # beyond everything
    "extension": b"\x00\x00\x13\x88\x14\x00d1:md" + b"d" * 4992,  # a handshake (BEP 10) that never ends
    "silent": b"",
}


def test_nonsense_stops_nothing(agent_factory, payload: Path, torrent: Path) -> None:
    honest, victim = agent_factory("honest"), agent_factory("victim")
    info_hash = honest.seed(payload, torrent)["info_hash"]
    with ExitStack() as stack:
        fools = {
            name: stack.enter_context(peer(f"127.0.0.{number}", speaking(bytes.fromhex(info_hash), words)))
            for number, (name, words) in enumerate(NONSENSE.items(), start=2)
        }
        victim.client.add(torrent=torrent.read_bytes(), peers=[fool.endpoint for fool in fools.values()])
        for name, fool in fools.items():
            assert fool.spoken.wait(60), name
        assert victim.client.torrent(info_hash)["done"] == 0
        victim.client.change(info_hash, peers=[honest.peer])
        status = victim.await_end(info_hash)
    assert Path(status["payload_path"]).read_bytes() == payload.read_bytes()
    assert sum(status["from_peers"].values()) == SIZE
    assert not {fool.server_address[0] for fool in fools.values()} & set(status["from_peers"])
