"""The real chihaya, built from its Go module, on loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 60.0  # seconds


@dataclass
class Chihaya:
    """A tracker that can be killed and started again; its log goes on."""

    command: list[str | Path]
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/announce"

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=output)
        deadline = time.monotonic() + DEADLINE
        while not _listens(self.port):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def _listens(port: int) -> bool:
    with closing(socket.socket()) as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def program(version: str) -> str:
    """The path of chihaya of that version, which is built where it is not there."""
    script = REPOSITORY / "tests/chihaya.sh"
    return subprocess.run([script, version], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@contextmanager
def running(command: list[str | Path], port: int, log: Path) -> Iterator[Chihaya]:
    """Chihaya with a configuration of the test's own, which listens on the TCP port."""
    tracker = Chihaya(command, port, log)
    try:
        tracker.start()
        yield tracker
    finally:
        tracker.kill()


@contextmanager
def chihaya(folder: Path, **changes: Any) -> Iterator[Chihaya]:
    """Chihaya v2.0.0-rc.2 on a free port, HTTP and UDP. ``changes``: settings of its own file."""
    port = free_port()
    # Peers that announce within its first second are dated 1970, so its first collection would forget them.
    memory = {"gc_interval": "1h", "peer_lifetime": "3m", "shard_count": 16}
    config = {
        "announce_interval": "60s",
        "prometheus_addr": f"127.0.0.1:{free_port()}",
        "max_numwant": 200,
        "default_numwant": 50,
        "max_scrape_infohashes": 50,
        "http": {"addr": f":{port}", "read_timeout": "5s", "write_timeout": "5s"},
        "udp": {"addr": f":{port}", "max_clock_skew": "10s"},
        "storage": {"name": "memory", "config": memory},
        **changes,
    }
    (folder / "chihaya.yaml").write_text(yaml.safe_dump({"chihaya": config}))
    command = [program("v2.0.0-rc.2"), "--config", folder / "chihaya.yaml"]
    with running(command, port, folder / "chihaya.log") as tracker:
        yield tracker
