"""SIGHUP: another configuration takes its place while torrents run, or is refused and nothing changes."""

from __future__ import annotations

import json
import signal
import socket

import pytest
import yaml


@pytest.fixture
def reload(short_dir):
    """``reload(agent, text)``: write the file, send SIGHUP, return what the service manager heard until READY=1."""

    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(short_dir / "notify"))
    manager.settimeout(60)

    def heard() -> str:
        lines = ""
        while "READY=1" not in lines:
            lines += manager.recv(4096).decode() + "\n"
        return lines

    def reload(agent, **config):
        if not agent.running:
            agent.start(ready=False, env={"NOTIFY_SOCKET": manager.getsockname()})
            return heard()
        agent.config_path.write_text(yaml.safe_dump({**agent.config, **config}))
        agent.process.send_signal(signal.SIGHUP)
        return heard()

    with manager:
        yield reload


def test_a_limit_is_lifted_while_a_transfer_goes_on(agent_factory, reload, make_payload, make_torrent):
    publisher = agent_factory("publisher")
    payload = make_payload("shop.tar", 4_000_000)
    torrent = make_torrent(payload)
    publisher.seed(payload, torrent)
    host = agent_factory("host1", start=False, limits={"download": "100kB"})
    reload(host)
    info_hash = host.client.add(torrent=torrent.read_bytes(), peers=[publisher.peer])["torrent"]["info_hash"]
    status = host.client.torrent(info_hash, wait=60, progress=0.01)
    assert status["state"] == "downloading"

    told = reload(host, limits={"download": "100MB"}, name="host2", web_seeds={"stall_after": 5})
    assert told.index("RELOADING=1") < told.index("MONOTONIC_USEC=") < told.index("READY=1")
    done = host.await_end(info_hash)
    assert done["downloaded"] == 4_000_000, "nothing was fetched twice"
    agent = host.client.agent()
    assert (agent["download_limit"], agent["name"], agent["pid"]) == (100_000_000, "host2", host.pid)
    reloaded = next(line for line in map(json.loads, host.log.splitlines()) if "reloaded" in line["message"])
    assert reloaded["changed"] == ["name", "limits.download", "web_seeds.stall_after"]


def test_a_wrong_file_changes_nothing_and_is_told_of(agent_factory, reload):
    agent = agent_factory("host1", start=False, limits={"upload": "1MB"})
    reload(agent)
    loaded_at = agent.client.agent()["config"]["loaded_at"]
    reload(agent, limits={"upload": "fast", "download": "2MB"})
    found = agent.client.agent()
    assert (found["upload_limit"], found["download_limit"]) == (1_000_000, 0)
    assert found["config"]["loaded_at"] == loaded_at
    assert "limits.upload: found 'fast', expected bytes per second" in found["config"]["error"]
    assert "the old one stays in force" in agent.log
    assert "limits.upload: found 'fast'" in agent.log

    reload(agent, limits={"download": "2MB"})
    found = agent.client.agent()
    assert (found["upload_limit"], found["download_limit"], found["config"]["error"]) == (0, 2_000_000, None)


def test_what_only_a_restart_can_change_is_named(agent_factory, reload, tmp_path):
    agent = agent_factory("host1", start=False)
    reload(agent)
    ports = agent.ports
    moved = {"listen": ["127.0.0.1:0", "127.0.0.2:0"], "store_dir": str(tmp_path / "elsewhere")}
    reload(agent, **moved, limits={"upload": "1MB"})
    found = agent.client.agent()
    assert found["config"]["restart_needed"] == ["store_dir", "listen"]
    assert "in force only after a restart: store_dir, listen" in agent.log
    assert (found["upload_limit"], found["listen"]) == (1_000_000, ports), "the rest is in force"
    assert not found["store_dir"].startswith(moved["store_dir"])
    reload(agent)
    assert agent.client.agent()["config"]["restart_needed"] == []


def test_limits_set_by_hand_hold_until_a_reload(agent_factory, reload):
    agent = agent_factory("host1", start=False, limits={"upload": "1MB", "download": "2MB"})
    reload(agent)
    by_hand = agent.client.set_limits(upload_limit=3_000_000)
    assert (by_hand["upload_limit"], by_hand["download_limit"]) == (3_000_000, 2_000_000)
    reload(agent)
    assert agent.client.agent()["upload_limit"] == 1_000_000
