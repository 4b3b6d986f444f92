"""BitTorrent clients of other projects, each with all it writes below a folder of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from ports import free_port

STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Client:
    """How one client is started: ``words(home, torrent, data, port)`` is its command line, which makes it take the
    payload in the folder ``data`` for the torrent's, check it, fetch what is missing there and seed on."""

    program: str
    package: str  # Debian's
    words: Callable[[Path, Path, Path, int], Sequence[str | Path]]


def require_command(name: str, debian_package: str) -> None:
    """Skip the test where the command is not installed (which fails it with CI=true, see conftest)."""
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed: apt-get install {debian_package}")


def aria2(home: Path, torrent: Path, data: Path, port: int) -> Sequence[str | Path]:
    return [
        "aria2c",
        "--no-conf",
        f"--dir={data}",
        f"--listen-port={port}",
        "--check-integrity",
        "--seed-ratio=0",  # seed for ever
        "--enable-dht=false",
        "--enable-peer-exchange=false",
        "--disable-ipv6",
        "--file-allocation=none",
        "--summary-interval=0",
        torrent,
    ]


def transmission(home: Path, torrent: Path, data: Path, port: int) -> Sequence[str | Path]:
    settings = {"bind-address-ipv4": "127.0.0.1", "dht-enabled": False, "lpd-enabled": False, "utp-enabled": False}
    (home / "settings.json").write_text(json.dumps(settings))
    words = ["transmission-cli", "--config-dir", home, "--download-dir", data, "--port", str(port), "--no-portmap"]
    return [*words, "--verify", torrent]


def qbittorrent(home: Path, torrent: Path, data: Path, port: int) -> Sequence[str | Path]:
    config = home / "qBittorrent" / "config" / "qBittorrent.conf"
    config.parent.mkdir(parents=True)
    config.write_text(
        "[LegalNotice]\nAccepted=true\n"
        "[Preferences]\nWebUI\\Address=127.0.0.1\nWebUI\\Port=0\nConnection\\ResolvePeerCountries=false\n"
        "[BitTorrent]\n"
        f"Session\\Port={port}\n"
        "Session\\InterfaceAddress=127.0.0.1\n"
        "Session\\DHTEnabled=false\nSession\\LSDEnabled=false\nSession\\PeXEnabled=false\n"
        "[Network]\nPortForwardingEnabled=false\n"
    )
    return ["qbittorrent-nox", f"--profile={home}", f"--save-path={data}", "--skip-dialog=true", torrent]


CLIENTS = {
    client.program: client
    for client in (
        Client("aria2c", "aria2", aria2),
        Client("transmission-cli", "transmission-cli", transmission),
        Client("qbittorrent-nox", "qbittorrent-nox", qbittorrent),
    )
}


@contextmanager
def running(client: Client, home: Path, torrent: Path, data: Path) -> Iterator[int]:
    """The client at work; its port on 127.0.0.1. At the end it and all that it started are gone."""
    home.mkdir(parents=True)
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    log = home / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(client.words(home, torrent, data, port)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    try:
        yield port
    except BaseException:
        print(f"--- {client.program} said:\n{log.read_text(errors='replace')[-4000:]}")
        raise
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
