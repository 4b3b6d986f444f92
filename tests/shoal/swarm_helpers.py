"""Payloads, torrents and engines for the swarm's tests: real sessions on loopback, ports chosen by the kernel."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import libtorrent as lt

from shoal.swarm import AddTorrent, Engine, EngineSettings, Event, EventKind, State, TorrentStatus

DEADLINE = 120.0
SEES_NAMES = 2_000_000
"""A download limit, bytes/s, for tests that ask whom a payload came from: without one it is here within 10 ms, which a
busy machine may let pass before the host looks who its peers are."""


def make_payload(path: Path, size: int, seed: int = 1) -> Path:
    """A file of ``size`` bytes that no compression helps with, the same for the same ``seed``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def make_torrent(
    payload: Path,
    *,
    piece_length: int = 32 * 1024,
    kind: str = "v1",
    trackers: tuple[str, ...] = (),
    web_seeds: tuple[str, ...] = (),
    private: bool = False,
) -> bytes:
    """The .torrent of a file or folder; ``kind`` is v1, v2 or hybrid."""
    flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}[kind]
    if hasattr(lt, "list_files"):
        creator = lt.create_torrent(lt.list_files(str(payload)), piece_length, flags)
    else:  # libtorrent 2.0
        storage = lt.file_storage()
        lt.add_files(storage, str(payload))
        creator = lt.create_torrent(storage, piece_length, flags)
    for url in trackers:
        creator.add_tracker(url)
    for url in web_seeds:
        creator.add_url_seed(url)
    creator.set_priv(private)
    lt.set_piece_hashes(creator, str(payload.parent))
    return bytes(lt.bencode(creator.generate()))


class Recorder:
    """Keeps the events of an engine and waits for some."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, kind: EventKind) -> list[Event]:
        return [event for event in self.events if event.kind is kind]

    def wait(self, wanted: Callable[[Event], bool], timeout: float = DEADLINE) -> Event:
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for event in self.events:
                    if wanted(event):
                        return event
                assert self._changed.wait(deadline - time.monotonic()), f"not within {timeout} s: {self.events[-20:]}"

    def wait_for(self, kind: EventKind, timeout: float = DEADLINE) -> Event:
        return self.wait(lambda event: event.kind is kind, timeout)


class Host:
    """An engine with the folders of its own host, and its events."""

    def __init__(self, root: Path, name: str, **options: Any) -> None:
        self.root = root / name
        self.name = name
        self.settings = EngineSettings(
            state_dir=self.root / "state",
            store_dir=self.root / "store",
            listen=("127.0.0.1:0",),
            agent_name=name,
        )
        self.settings = replace(self.settings, **options)
        self.events = Recorder()
        self.engine = Engine(self.settings, self.events)

    def start(self) -> Host:
        self.engine.start()
        return self

    def restart(self, **options: Any) -> None:
        """Stop cleanly and start a new engine on the same folders."""
        self.engine.stop()
        self.begin_again(**options)

    def begin_again(self, **options: Any) -> None:
        self.settings = replace(self.settings, **options)
        self.events = Recorder()
        self.engine = Engine(self.settings, self.events)
        self.engine.start()

    @property
    def endpoint(self) -> tuple[str, int]:
        return ("127.0.0.1", self.engine.listen_ports[0])

    def seed(self, torrent: bytes, payload: Path) -> TorrentStatus:
        """Seed ``payload`` in place and wait until it is served."""
        status, _ = self.engine.add(AddTorrent(torrent=torrent, data_path=payload))
        return self.wait_complete(status.info_hash)

    def fetch(self, torrent: bytes | str, *peers: Host, **options: Any) -> str:
        """Add ``torrent`` (bytes or a magnet) with ``peers``; its info hash."""
        what: dict[str, Any] = {"torrent": torrent} if isinstance(torrent, bytes) else {"magnet": torrent}
        request = AddTorrent(**what, peers=tuple(peer.endpoint for peer in peers), **options)
        return self.engine.add(request)[0].info_hash

    def wait_until(
        self, info_hash: str, wanted: Callable[[TorrentStatus], object], timeout: float = DEADLINE
    ) -> TorrentStatus:
        deadline = time.monotonic() + timeout
        while True:
            status = self.engine.status(info_hash)
            if wanted(status):
                return status
            assert time.monotonic() < deadline, f"not within {timeout} s: {status}"
            time.sleep(0.01)

    def wait_complete(self, info_hash: str, timeout: float = DEADLINE) -> TorrentStatus:
        return self.wait_until(info_hash, lambda status: status.state is State.COMPLETE, timeout)

    def react_late(self, alert: type, until: Callable[[Any], object]) -> None:
        """Look at the first alert of that kind, and all after it, once ``until`` holds for the torrent's status by
        libtorrent: what a busy machine may do, and on loopback all may be over until then."""
        react = self.engine._reactions[alert]

        def late(torrent: Any, told: Any) -> None:
            self.engine._reactions[alert] = react
            wait_for(lambda: until(torrent.handle.status()))
            react(torrent, told)

        self.engine._reactions[alert] = late


@contextmanager
def hosts(root: Path, *names: str, **options: Any) -> Iterator[list[Host]]:
    """Started hosts, all stopped at the end."""
    all_hosts = [Host(root, name, **options) for name in names]
    try:
        yield [host.start() for host in all_hosts]
    finally:
        for host in all_hosts:
            host.engine.stop(5)


def content(path: Path) -> dict[str, bytes]:
    """Every file of a payload, by its relative name."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def wait_for(condition: Callable[[], object], timeout: float = DEADLINE) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.02)


def sum_uploaded(info_hash: str, *senders: Host) -> int:
    return sum(host.engine.status(info_hash).uploaded for host in senders)
