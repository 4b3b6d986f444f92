"""What the package's tests share: real agents on loopback, payloads, torrents, waiting without sleeps.

Room-specific helpers are in ``<room>_helpers.py`` beside this file.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torf
import yaml

from shoal.agent.client import Client
from shoal.release import health

START_SECONDS = 90.0
STOP_SECONDS = 60.0


def pytest_configure() -> None:
    """Let the processes of tests hear Ctrl-C and hangups: what a script runs in the background, or nohup, ignores them,
    and hands that on.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest, so that no worker is busy with one when all others are done."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true nothing is skipped: a skip there would hide that something was not tried."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and with CI=true nothing may be: {report.longrepr}"
    return report


def _wait_until(predicate: Callable[[], Any], timeout: float = 60.0, what: str = "") -> Any:
    """The first true value of ``predicate``; fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.02
    while not (found := predicate()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what or getattr(predicate, '__name__', predicate)}")
        time.sleep(pause)
        pause = min(0.1, pause * 1.2)  # looks cost what is waited for its time, too
    return found


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """``wait_until(predicate, timeout=60, what="")``: its first true value, or the test fails."""
    return _wait_until


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not depend on it: it takes most of their time."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


@pytest.fixture
def patient_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health checks may have short time limits: on a busy machine, too, each attempt is given its time."""
    monkeypatch.setattr(health, "ATTEMPT_LEAST", health.ATTEMPT_LIMIT)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder with a short path: unix sockets have at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="shoal-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make_payload(tmp_path: Path) -> Callable[..., Path]:
    """``make_payload("shop.tar", 3_000_000)``: a file of so many random bytes (same name, same bytes).
    ``make_payload("site", {"a/b": 10, "c": 0})``: a directory of such files. ``into``: default tmp_path/payload.
    """

    def make(name: str = "payload.bin", content: int | dict[str, int] = 3_000_000, into: Path | None = None) -> Path:
        top = (into or tmp_path / "payload") / name
        files = {top: content} if isinstance(content, int) else {top / file: size for file, size in content.items()}
        for path, size in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(random.Random(f"{path.relative_to(top.parent)}").randbytes(size))
        return top

    return make


@pytest.fixture
def make_torrent(tmp_path: Path) -> Callable[..., Path]:
    """``make_torrent(payload, piece_size=32768, trackers=..., webseeds=...)``: the path of a .torrent, made by torf."""

    def make(payload: Path, piece_size: int = 32 * 1024, **options: Any) -> Path:
        torrent = torf.Torrent(payload, piece_size=piece_size, **options)
        torrent.creation_date = None
        torrent.generate()
        path = tmp_path / f"{payload.name}.torrent"
        torrent.write(path, overwrite=True)
        return path

    return make


class Agent:
    """A real agent, ``python -m shoal agent``, in a process of its own."""

    def __init__(self, name: str, folder: Path, state_dir: Path, config: dict[str, Any]) -> None:
        self.name = name
        self.socket = folder / f"{name}.sock"
        self.state_dir = state_dir
        self.log_path = state_dir.with_suffix(".log")
        self.config_path = state_dir.with_suffix(".yml")
        self.config = {
            "name": name,
            "socket": str(self.socket),
            "state_dir": str(state_dir),
            "listen": ["127.0.0.1:0"],
            "log": {"level": "debug"},
            **config,
        }
        self.client = Client(self.socket)
        self.process: subprocess.Popen[bytes] | None = None
        self._notify_path = folder / f"{name}.notify"

    def start(self, *, ready: bool = True, env: dict[str, str] | None = None) -> Agent:
        """Start the process; with ``ready``, return once it says READY=1. May be called again after stop or kill."""
        self.state_dir.parent.mkdir(parents=True, exist_ok=True)
        self.config_path.write_text(yaml.safe_dump(self.config))
        self.config_path.chmod(0o600)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            self._notify_path.unlink(missing_ok=True)
            notified.bind(str(self._notify_path))
            with self.log_path.open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "shoal", "agent", "--config", str(self.config_path)],
                    env={
                        **os.environ,
                        "NOTIFY_SOCKET": str(self._notify_path),
                        "SSL_CERT_FILE": os.devnull,  # nobody needs the machine's, and to read them takes a while
                        **(env or {}),
                    },
                    stdout=log,
                    stderr=log,
                )
            if ready:
                self._await_ready(notified)
        return self

    def _await_ready(self, notified: socket.socket) -> None:
        deadline = time.monotonic() + START_SECONDS
        notified.settimeout(0.1)
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in notified.recv(4096):
                    return
            except TimeoutError:
                if self.process is None or self.process.poll() is not None:
                    break
        pytest.fail(f"agent {self.name} is not ready: {self.log}")

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def ports(self) -> list[int]:
        found: list[int] = self.client.agent()["listen"]
        return found

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def peer(self) -> str:
        """As ``peers`` take it."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def seed(self, payload: Path, torrent: Path, **fields: Any) -> dict[str, Any]:
        """Seed ``payload`` where it is; the status once it is checked."""
        status = self.client.add(torrent=torrent.read_bytes(), data_path=payload, **fields)["torrent"]
        return self.await_end(status["info_hash"])

    def fetch(self, torrent: Path, *from_agents: Agent, **fields: Any) -> dict[str, Any]:
        """Fetch from ``from_agents``; the status once complete."""
        peers = [agent.peer for agent in from_agents]
        status = self.client.add(torrent=torrent.read_bytes(), peers=peers, **fields)["torrent"]
        return self.await_end(status["info_hash"])

    def await_end(self, info_hash: str, timeout: float = 120.0) -> dict[str, Any]:
        """The status once it is complete; the test fails on an error and when time is over."""
        deadline = time.monotonic() + timeout
        while True:
            status = self.client.torrent(info_hash, wait=min(10, timeout))
            if status["state"] == "complete":
                return status
            if status["state"] == "error" or time.monotonic() > deadline:
                pytest.fail(f"agent {self.name}: {status}")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL."""
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"agent {self.name} did not stop within {STOP_SECONDS:g} s: {self.log}")


AgentFactory = Callable[..., Agent]


@pytest.fixture
def agent_factory(short_dir: Path, tmp_path: Path) -> Iterator[AgentFactory]:
    """``agent_factory(name="agent1", start=True, **config)``: a running Agent; all are stopped at the end,
    and none may have logged a traceback."""
    agents: list[Agent] = []

    def make(name: str = "", *, start: bool = True, **config: Any) -> Agent:
        name = name or f"agent{len(agents) + 1}"
        agent = Agent(name, short_dir, tmp_path / "agents" / name, config)
        agents.append(agent)
        return agent.start() if start else agent

    yield make
    try:
        for agent in agents:
            if agent.running:
                agent.stop()
    finally:
        for agent in agents:
            if agent.running:
                agent.kill()
    for agent in agents:
        assert "Traceback" not in agent.log, agent.log
