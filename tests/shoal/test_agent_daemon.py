"""The agent as a service: it tells its manager how it is, stops cleanly, and never shares its state or its socket."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from agent_helpers import UnixConnection
from conftest import STOP_SECONDS

from shoal.agent import daemon
from shoal.agent.errors import StartError
from shoal.agent.memory import Trimmer
from shoal.agent.notify import notify, watchdog_interval
from shoal.agent.sockets import listen_at
from shoal.swarm import Engine, EngineSettings


@pytest.fixture
def manager(short_dir):
    """A service manager's end of the notify protocol."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(short_dir / "notify"))
        sock.settimeout(STOP_SECONDS)
        yield sock


def heard(manager, wanted):
    """All lines up to the first that starts with ``wanted``."""
    lines: list[str] = []
    while not any(line.startswith(wanted) for line in lines):
        lines += manager.recv(4096).decode().split("\n")
    return lines


def listener(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


# --- systemd ---


def test_the_service_manager_hears_of_start_life_and_stop(agent_factory, manager, make_payload, make_torrent):
    agent = agent_factory(start=False)
    env = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000"}
    agent.start(ready=False, env=env)
    heard(manager, "READY=1")
    assert agent.client.agent()["pid"] == agent.pid
    payload = make_payload("shop.tar", 100_000)
    with ThreadPoolExecutor(1) as other:
        seeding = other.submit(agent.seed, payload, make_torrent(payload))
        while not seeding.done():  # ten lines that nobody reads would hold the agent up
            heard(manager, "STATUS=")
    seeding.result()
    heard(manager, "STATUS=1 torrents, 0 fetching")
    started = time.monotonic()
    for _ in range(5):
        heard(manager, "WATCHDOG=1")
    assert time.monotonic() - started < 20, "a sign of life each 0.1 s, and not each 10 s"
    agent.process.terminate()
    heard(manager, "STOPPING=1")
    assert agent.process.wait(STOP_SECONDS) == 0


def test_no_sign_of_life_once_the_engine_has_died(manager, tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    engine = Engine(EngineSettings(tmp_path / "state", tmp_path / "store", ("127.0.0.1:0",)), lambda _: None)
    engine.start()

    async def pulse_until(line):
        pulse = asyncio.create_task(daemon._pulse(engine))
        seen = await asyncio.to_thread(heard, manager, line)
        pulse.cancel()
        return seen

    assert asyncio.run(pulse_until("WATCHDOG=1"))
    engine.stop()
    while select.select([manager], [], [], 0)[0]:
        manager.recv(4096)
    assert "WATCHDOG=1" not in asyncio.run(pulse_until("STATUS=0 torrents"))


def test_the_watchdog_is_asked_for_by_the_environment(monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert watchdog_interval() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_interval() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_interval() is None
    monkeypatch.delenv("WATCHDOG_PID")
    for nothing in ("0", "soon", ""):
        monkeypatch.setenv("WATCHDOG_USEC", nothing)
        assert watchdog_interval() is None


def test_notify_speaks_to_abstract_sockets_and_survives_their_end(monkeypatch):
    name = f"shoal-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        notify("READY=1", "STATUS=fine")
        assert manager.recv(100) == b"READY=1\nSTATUS=fine"
    notify("READY=1")


# --- stop ---


def test_a_stop_is_clean_and_ends_waits(agent_factory, make_payload, make_torrent, wait_until):
    agent = agent_factory()
    torrent = make_torrent(make_payload("shop.tar", 100_000))
    info_hash = agent.client.add(torrent=torrent.read_bytes())["torrent"]["info_hash"]
    wait_until(lambda: agent.client.torrent(info_hash)["state"] == "downloading")
    last = agent.client.events()["last"]
    waits = [UnixConnection(agent.socket), UnixConnection(agent.socket)]
    waits[0].request("GET", f"/v1/torrents/{info_hash}?wait=60")
    waits[1].request("GET", f"/v1/events?after={last}&wait=60")
    agent.client.agent()  # was sent after them: they are under way
    started = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - started < 45, "the waits were for 60 s"
    torrent_answer, events_answer = (json.loads(wait.getresponse().read()) for wait in waits)
    assert torrent_answer["torrent"]["state"] == "downloading"
    assert events_answer["last"] >= last
    assert not agent.socket.exists()
    assert "agent stopped" in agent.log


def test_logs_are_json_lines(agent_factory, make_payload, make_torrent):
    agent = agent_factory()
    payload = make_payload("shop.tar", 100_000)
    info_hash = agent.seed(payload, make_torrent(payload))["info_hash"]
    agent.stop()
    lines = [json.loads(line) for line in agent.log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    told = {line.get("event"): line for line in lines}
    assert told["complete"]["info_hash"] == info_hash
    assert told["complete"]["level"] == "info"
    assert "progress" not in told


def test_logs_for_people_keep_what_strangers_say_on_one_line(agent_factory, make_payload, make_torrent, wait_until):
    agent = agent_factory(log={"level": "info", "format": "text"})
    answer = b"HTTP/1.0 200 OK\r\n\r\nd14:failure reason9:a\nb\x1b[31mce"

    with socket.create_server(("127.0.0.1", 0)) as tracker:

        def serve():
            connection, _ = tracker.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{tracker.getsockname()[1]}/announce"
        torrent = make_torrent(make_payload("shop.tar", 100_000), trackers=[url])
        agent.client.add(torrent=torrent.read_bytes())
        thread.join(STOP_SECONDS)
    wait_until(lambda: "torrent tracker_error" in agent.log)
    line = next(line for line in agent.log.splitlines() if "tracker_error" in line)
    assert "a�b�[31mc" in line
    assert "\x1b" not in agent.log


# --- one agent a state folder, one a socket ---


def test_a_second_agent_on_the_same_state_is_refused(agent_factory):
    first = agent_factory("first")
    second = agent_factory("second", start=False, state_dir=str(first.state_dir)).start(ready=False)
    assert second.process.wait(STOP_SECONDS) == 1
    assert f"state_dir {first.state_dir} is in use by another agent, process {first.pid}" in second.log
    assert first.client.agent()["name"] == "first"
    first.kill()
    second.start()  # the lock goes with the process, however it ends
    assert second.client.agent()["name"] == "second"


def test_a_second_agent_at_the_same_socket_is_refused(agent_factory):
    first = agent_factory("first")
    second = agent_factory("second", start=False, socket=str(first.socket)).start(ready=False)
    assert second.process.wait(STOP_SECONDS) == 1
    assert f"socket {first.socket} is in use by another agent, process {first.pid}" in second.log
    assert first.client.agent()["name"] == "first"


def test_a_socket_that_somebody_else_listens_at_is_left_alone(agent_factory):
    agent = agent_factory(start=False)
    with listener(agent.socket) as other:
        agent.start(ready=False)
        assert agent.process.wait(STOP_SECONDS) == 1
        assert f"cannot listen at {agent.socket}: another process answers there" in agent.log
        assert agent.socket.exists()
        assert other.accept()  # the probe was all that came
    agent.start()  # nobody listens any more: a stale socket is replaced
    assert agent.client.agent()["torrents"] == 0


def test_a_file_in_the_sockets_place_is_left_alone(agent_factory):
    agent = agent_factory(start=False)
    agent.socket.write_text("precious")
    agent.start(ready=False)
    assert agent.process.wait(STOP_SECONDS) == 1
    assert "something that is not a socket is there" in agent.log
    assert agent.socket.read_text() == "precious"


def test_the_socket_has_the_mode_that_was_told(agent_factory):
    for mode in ("0660", "0600", "0666"):
        agent = agent_factory(socket_mode=mode)
        assert stat.S_IMODE(agent.socket.stat().st_mode) == int(mode, 8)


def test_nobody_gets_in_before_the_mode_is_right(short_dir, monkeypatch):
    path = short_dir / "agent.sock"
    before = []
    chmod = Path.chmod

    def watched_chmod(self, mode, **options):
        before.append(stat.S_IMODE(self.stat().st_mode))
        with socket.socket(socket.AF_UNIX) as early, pytest.raises((ConnectionRefusedError, PermissionError)):
            early.connect(str(self))
        chmod(self, mode, **options)

    monkeypatch.setattr(Path, "chmod", watched_chmod)
    umask = os.umask(0)
    try:
        with listen_at(path, 0o660):
            assert before == [0]
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            with pytest.raises(StartError, match=f"process {os.getpid()}"), listen_at(path, 0o660):
                pass
    finally:
        assert os.umask(umask) == 0, "the umask is as it was"
    assert not path.exists()


def test_a_taken_port_and_an_impossible_folder_are_named(agent_factory, tmp_path):
    first = agent_factory()
    second = agent_factory(start=False, listen=[first.peer]).start(ready=False)
    assert second.process.wait(STOP_SECONDS) == 1
    assert first.peer in second.log
    assert "in use" in second.log
    (tmp_path / "file").touch()
    third = agent_factory(start=False, state_dir=str(tmp_path / "file" / "state")).start(ready=False)
    assert third.process.wait(STOP_SECONDS) == 1
    assert f"cannot make the folder {tmp_path / 'file' / 'state'}: Not a directory" in third.log
    fourth = agent_factory(start=False, store_dir=str(tmp_path / "file")).start(ready=False)
    assert fourth.process.wait(STOP_SECONDS) == 1
    assert str(tmp_path / "file") in fourth.log


# --- memory ---


def test_memory_is_given_back_once_after_each_burst():
    trimmer = Trimmer()
    calls = []
    for moved in (0, 0, 100, 300, 300, 300, 300, 400, 400):
        calls.append(trimmer.due(moved))
        if calls[-1]:
            trimmer.trim()
    assert calls == [False, False, False, False, True, False, False, False, True]
