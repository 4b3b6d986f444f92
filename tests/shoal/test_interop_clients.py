"""Clients of other projects fetch from our agent, and our agent from them.

Each test is a swarm of two on loopback with our own tracker. The agent is given the other's address as well:
transmission takes no address on loopback from a tracker, yet talks to who calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from interop_helpers import CLIENTS, Client, require_command, running
from tracker_helpers import tracker_process

from shoal.swarm.settings import BLOCK

pytestmark = pytest.mark.slow

SIZE = 5_000_000
DEADLINE = 150.0  # transmission thinks over whom to ask and whom to serve only every 10 s


@pytest.fixture(params=CLIENTS.values(), ids=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    require_command(request.param.program, request.param.package)
    return request.param


@pytest.fixture
def payload(make_payload) -> Path:
    return make_payload("archive.bin", SIZE)


@pytest.fixture
def torrent(payload: Path, make_torrent) -> Iterator[Path]:
    with tracker_process() as tracker:
        yield make_torrent(payload, trackers=[tracker.url])


def test_a_client_fetches_from_our_agent(
    client: Client, agent_factory, payload: Path, torrent: Path, tmp_path: Path, wait_until
) -> None:
    agent = agent_factory()
    info_hash = agent.seed(payload, torrent)["info_hash"]
    fetched = tmp_path / "theirs" / payload.name
    with running(client, tmp_path / "home", torrent, fetched.parent) as port:
        agent.client.change(info_hash, peers=[f"127.0.0.1:{port}"])
        wait_until(lambda: same(fetched, payload), DEADLINE, f"{client.program} has fetched everything")
        # libtorrent counts a block when it hears that the kernel took it, which is too late if who got it hung up
        given = SIZE - BLOCK
        wait_until(lambda: agent.client.torrent(info_hash)["uploaded"] >= given, what="the agent counts what it gave")


def test_our_agent_fetches_from_a_client(
    client: Client, agent_factory, payload: Path, torrent: Path, tmp_path: Path
) -> None:
    agent = agent_factory()
    theirs = tmp_path / "theirs" / payload.name
    theirs.parent.mkdir()
    payload.rename(theirs)
    with running(client, tmp_path / "home", torrent, theirs.parent) as port:
        added = agent.client.add(torrent=torrent.read_bytes(), peers=[f"127.0.0.1:{port}"])["torrent"]
        fetched = agent.await_end(added["info_hash"], DEADLINE)
    assert same(Path(fetched["payload_path"]), theirs)
    # All of it came from this one peer, and nothing in vain but a block of the second of two connections that met
    assert fetched["from_peers"] == {"127.0.0.1": SIZE}
    assert fetched["wasted"] <= fetched["piece_length"]


def same(one: Path, other: Path) -> bool:
    return one.is_file() and one.read_bytes() == other.read_bytes()
