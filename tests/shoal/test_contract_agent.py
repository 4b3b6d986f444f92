"""The modules' client and the daemon are two programs that share a protocol: here both are the real ones."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shoal.swarm import TorrentStatus

PLUGINS = Path(__file__).parents[2] / "plugins"


def load() -> ModuleType:
    """The module as it is on a host: no collection and no shoal around it."""
    path = PLUGINS / "module_utils" / "_agent_client.py"
    spec = importlib.util.spec_from_file_location("agent_client_of_the_modules", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


agent_client = load()


def client_of(agent: Any) -> Any:
    return agent_client.AgentClient(str(agent.socket))


def complete(status: dict[str, Any]) -> bool:
    assert status["state"] != "error", status
    return bool(status["state"] == "complete")


def patience() -> tuple[float, None]:
    return 30, None


@pytest.fixture
def shop(make_payload: Any, make_torrent: Any) -> tuple[Path, Path]:
    payload = make_payload("shop.tar", 2_000_000)
    return payload, make_torrent(payload)


def test_a_payload_goes_from_one_agent_to_another(agent_factory: Any, shop: tuple[Path, Path]) -> None:
    payload, torrent = shop
    seed_agent, host_agent = agent_factory("seed"), agent_factory("host")
    seed, host = client_of(seed_agent), client_of(host_agent)

    changed, status = seed.add(torrent=torrent.read_bytes(), data_path=str(payload))
    assert changed
    info_hash = status["info_hash"]
    seed.wait(info_hash, complete, patience)

    assert host.torrent(info_hash) is None
    assert host.add(torrent=torrent.read_bytes(), dry_run=True) == (True, None)
    assert host.torrents() == []
    peers = [f"127.0.0.1:{seed.agent()['listen'][0]}"]
    assert host.add(torrent=torrent.read_bytes(), peers=peers)[0]
    status = host.wait(info_hash, complete, patience)

    assert Path(status["payload_path"]).read_bytes() == payload.read_bytes()
    assert sum(status["from_peers"].values()) == payload.stat().st_size
    assert host.add(torrent=torrent.read_bytes(), peers=peers)[0] is False
    assert host.metainfo(info_hash) == torrent.read_bytes()
    assert [known["info_hash"] for known in host.torrents()] == [info_hash]


def test_a_status_has_what_the_engine_tells(agent_factory: Any, shop: tuple[Path, Path]) -> None:
    _payload, torrent = shop
    _changed, status = client_of(agent_factory()).add(torrent=torrent.read_bytes(), paused=True)
    assert set(status) == {field.name for field in fields(TorrentStatus)}


def test_limits_and_pause_are_changed_once(agent_factory: Any, shop: tuple[Path, Path]) -> None:
    _payload, torrent = shop
    client = client_of(agent_factory())
    info_hash = client.add(torrent=torrent.read_bytes(), upload_limit=1000)[1]["info_hash"]
    wanted = {"upload_limit": 2000, "paused": True}

    assert client.change(info_hash, dry_run=True, **wanted)[0] is True
    assert client.torrent(info_hash)["upload_limit"] == 1000
    changed, status = client.change(info_hash, **wanted)
    assert (changed, status["upload_limit"], status["paused"]) == (True, 2000, True)
    assert client.change(info_hash, **wanted)[0] is False


def test_a_payload_is_imported_into_the_store(agent_factory: Any, make_payload: Any, make_torrent: Any) -> None:
    payload = make_payload("site", {"index.html": 100, "media/film": 900_000, "media/empty": 0})
    torrent = make_torrent(payload)
    client = client_of(agent_factory())
    status = client.add(torrent=torrent.read_bytes(), paused=True)[1]
    info_hash = status["info_hash"]

    for index, name in enumerate(["index.html", "media/empty", "media/film"]):
        with (payload / name).open("rb") as file:
            client.put_file(info_hash, index, file, (payload / name).stat().st_size)
    client.recheck(info_hash)
    status = client.wait(info_hash, complete, patience)

    assert status["in_store"]
    assert Path(status["payload_path"], "media/film").read_bytes() == (payload / "media/film").read_bytes()
    with (payload / "media/film").open("rb") as file, pytest.raises(agent_client.AgentRefusalError, match="complete"):
        client.put_file(info_hash, 2, file, 900_000)


def test_removing_is_told_apart_from_nothing_to_remove(agent_factory: Any, shop: tuple[Path, Path]) -> None:
    _payload, torrent = shop
    client = client_of(agent_factory())
    info_hash = client.add(torrent=torrent.read_bytes(), paused=True)[1]["info_hash"]
    assert client.remove(info_hash, dry_run=True) is True
    assert client.torrent(info_hash)
    assert client.remove(info_hash, data=True) is True
    assert client.remove(info_hash) is False
    with pytest.raises(agent_client.AgentError, match="was removed from the agent"):
        client.wait(info_hash, complete, patience)


def test_a_refusal_says_what_the_agent_said(agent_factory: Any) -> None:
    client = client_of(agent_factory())
    with pytest.raises(agent_client.AgentRefusalError, match=r"refused \(POST /torrents: 400 bad_request\)"):
        client.add(torrent=b"no torrent")
    link = "magnet:?xt=urn:btih:" + "ab" * 20
    info_hash = client.add(magnet=link)[1]["info_hash"]
    with pytest.raises(agent_client.AgentRefusalError, match="not known yet") as refusal:
        client.metainfo(info_hash)
    assert refusal.value.code == "conflict"


def test_waiting_survives_a_restart_of_the_agent(agent_factory: Any, shop: tuple[Path, Path]) -> None:
    payload, torrent = shop
    seed, host = agent_factory("seed"), agent_factory("host")
    seed.seed(payload, torrent)
    client = client_of(host)
    info_hash = client.add(torrent=torrent.read_bytes())[1]["info_hash"]

    found: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: found.append(client.wait(info_hash, complete, patience)))
    waiting.start()
    host.kill()
    host.start()
    client.change(info_hash, peers=[seed.peer])
    waiting.join(60)
    assert [status["state"] for status in found] == ["complete"]


# --- when nobody is there, or somebody else -----------------------------------------------------------------


@contextlib.contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Somebody who answers once at a socket, with these bytes."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _address = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)


@pytest.mark.parametrize(
    ("version", "side"),
    [(2, "Update the collection shoal.deploy on the controller"), (0, "Update the agent on this host")],
)
def test_another_version_of_the_api_names_the_side_to_update(short_dir: Path, version: int, side: str) -> None:
    body = b'{"error": {"code": "unsupported_version", "message": "no"}}'
    head = b"HTTP/1.1 404 Not Found\r\nShoal-Api: %d\r\nContent-Length: %d\r\n\r\n" % (version, len(body))
    with answering(short_dir / "s", head + body), pytest.raises(agent_client.AgentError, match=side) as error:
        agent_client.AgentClient(str(short_dir / "s")).agent()
    assert f"speaks version {version} of its API and this module version 1" in str(error.value)


def test_somebody_else_at_the_socket_is_noticed(short_dir: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    with answering(short_dir / "s", answer), pytest.raises(agent_client.AgentError, match="is not a shoal agent"):
        agent_client.AgentClient(str(short_dir / "s")).agent()


def test_no_agent_at_all_says_what_to_do(short_dir: Path) -> None:
    with pytest.raises(agent_client.AgentUnreachableError, match=r"no such socket.*Start the agent or install it"):
        agent_client.AgentClient(str(short_dir / "s")).agent()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(short_dir / "s"))
    with pytest.raises(agent_client.AgentUnreachableError, match=r"nobody listens.*start it"):
        agent_client.AgentClient(str(short_dir / "s")).agent()
    with pytest.raises(agent_client.AgentUnreachableError, match=r"too long.*107 bytes"):
        agent_client.AgentClient(str(short_dir / ("s" * 120))).agent()


def test_who_may_not_talk_to_the_agent_is_told_so(agent_factory: Any) -> None:
    client = client_of(agent_factory())
    with as_nobody(Path(client.path)), pytest.raises(agent_client.AgentUnreachableError, match=r"permission.*become"):
        client.agent()


@contextlib.contextmanager
def as_nobody(path: Path) -> Iterator[None]:
    """Have no right to a socket: for root, by being somebody else for a while."""
    if os.geteuid() != 0:
        mode = path.stat().st_mode
        path.chmod(0)
        yield
        path.chmod(mode)
        return
    path.parent.chmod(0o711)
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
