"""What the tests of a pull share: a publisher with real archives, an application that is followed, and its service."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torf
import yaml
from endpoint_helpers import Publisher, manifest_of
from release_helpers import App, Service

from shoal.endpoint import documents, publisher
from shoal.upgrade import steps

Result = dict[str, Any]


@dataclass
class Published:
    """A version at the end point."""

    version: str
    archive: Path
    torrent: Path
    manifest: documents.Manifest


@dataclass
class Shop:
    """An application, its end point in ``base/ep``, and one host that follows it, all in one folder."""

    base: Path
    releases: App
    publisher: Publisher
    release: Result = field(default_factory=dict)  # the section of the application's file
    keys: Result = field(default_factory=dict)  # what else the file says
    interval: int = 1
    urls: list[str] = field(default_factory=lambda: ["http://127.0.0.1:9/"])

    @property
    def places(self) -> steps.Places:
        agent = self.base / "agents" / "host1"
        return steps.Places(self.base / "apps.d", agent / "upgrade", agent, agent / "store", "host1")

    @property
    def file(self) -> Path:
        return self.places.apps / "shop.yml"

    def follow(self, **policy: Any) -> None:
        """Write the application's file, and its root beside it."""
        self.places.apps.mkdir(exist_ok=True)
        document = {
            "endpoint": {"urls": self.urls, "interval": self.interval},
            "policy": {"auto": "activate", "clock": "any", **policy},
            "release": {"root": str(self.releases.root), **self.release},
            **self.keys,
        }
        self.file.write_text(yaml.safe_dump(document))
        self.file.chmod(0o644)
        self.file.with_suffix(".root.json").write_bytes(self.publisher.root)

    def build(self, version: str, files: dict[str, bytes | str] | None = None, **other: Any) -> Published:
        """Archive, torrent and manifest."""
        archive = self.releases.archive(version, files)
        data = archive.read_bytes()
        torrent = torf.Torrent(archive, piece_size=16384, source="shop", private=True)
        torrent.creation_date = None
        torrent.generate()
        path = archive.with_suffix(".torrent")
        torrent.write(path, overwrite=True)
        described = documents.Archive(archive.name, len(data), hashlib.sha256(data).hexdigest())
        figures = {"unpacked_bytes": 1 << 20, "entries": 100, "piece_length": 16384, **other}
        manifest = manifest_of("shop", version, archive=described, info_hash=torrent.infohash, **figures)
        return Published(version, archive, path, manifest)

    def publish(
        self,
        version: str,
        files: dict[str, bytes | str] | None = None,
        manifest: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Published:
        """Build it and put it into the channel."""
        one = self.build(version, files, **(manifest or {}))
        request = self.publisher.request(**fields)
        publisher.publish(request, one.manifest, one.torrent.read_bytes(), check=False)
        return one

    def relay(self, *published: Published) -> None:
        """What an agent does before it asks: it reads the end point, and has the payloads in its store."""
        kept = self.places.agent_state / "endpoints/shop/stable"
        self.publisher.client(kept).read("stable")
        for one in published:
            folder = self.places.store / one.manifest.info_hash
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one.archive, folder / one.archive.name)

    def relay_unread(self) -> None:
        """The same files without a look at them, as a taken-over agent could put there what it likes."""
        kept = self.places.agent_state / "endpoints/shop/stable"
        shutil.rmtree(kept, ignore_errors=True)
        (kept / "targets").mkdir(parents=True)
        (kept / "root_history").mkdir()
        metadata = self.publisher.folder / "metadata"
        for path in metadata.glob("*.root.json"):
            shutil.copy(path, kept / "root_history")
        shutil.copy(metadata / "timestamp.json", kept)
        for role in ("snapshot", "targets"):
            shutil.copy(self.publisher.file(f"*.{role}.json"), kept / f"{role}.json")
        for path in (self.publisher.folder / "targets").rglob("*"):
            if path.is_file():
                shutil.copy(path, kept / "targets")

    def payload(self, one: Published) -> Path:
        return self.places.store / one.manifest.info_hash / one.archive.name

    def run(self, **observe: Any) -> Result:
        """One run in this process."""
        events: list[Result] = []
        result = steps.run("shop", self.places, events.append, **observe)
        return {**json.loads(json.dumps(result)), "events": events}

    def arguments(self) -> list[str]:
        places = self.places
        return [
            *("--apps-dir", str(places.apps), "--state-dir", str(places.state), "--name", places.host),
            *("--agent-state-dir", str(places.agent_state), "--store-dir", str(places.store)),
        ]

    def ask(self, verb: str, *rest: Any) -> Result:
        """Another verb, in this process."""
        return json.loads(json.dumps(getattr(steps, verb)("shop", self.places, *rest)))

    def command(self, verb: str, *flags: str) -> Result:
        """By the real command."""
        process = subprocess.run(
            [sys.executable, "-m", "shoal", "upgrade", verb, "shop", "--json", *self.arguments(), *flags],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=dict(os.environ),
        )
        assert process.stdout, process.stderr
        *events, result = map(json.loads, process.stdout.splitlines())
        assert process.stderr == ""
        assert process.returncode == (0 if result["ok"] else 1)
        return {**result, "events": events}


# What holds a file `broken` fails: at once by the hook, so that no test waits; a check is tried for some time.
HOOK = ["sh", "-c", "test ! -e broken"]
HEALTH = {"command": ["test", "-e", "VERSION"], "timeout": 30}


def make_shop(base: Path, service: Service | None = None, **release: Any) -> Shop:
    """A shop with nothing published yet; with ``service``, that is what runs it."""
    checks: list[Result] = [HEALTH]
    switch: Result = {"health": checks, "hooks": {"post_activate": HOOK}}
    if service:
        checks[:] = [{"url": service.url(), "version": {"json": "version"}, "timeout": 60, "interval": 0.05}]
        switch["restart"] = service.restart
    shop = Shop(base, service.app if service else App(base), Publisher(base), {"switch": switch, **release})
    shop.follow()
    return shop


ACTIVATE = """
import os, sys
fd = int(sys.argv[1])
os.dup2(fd, 3, inheritable=True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "shoal", *sys.argv[2:]])
"""


class Unit:
    """`shoal upgrade serve`, started with a socket as systemd does."""

    def __init__(self, shop: Shop, path: Path, idle: float) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(64)
        words = ["upgrade", "serve", "shop", "--idle", str(idle), *shop.arguments()]
        fd = self._socket.fileno()
        self.process = subprocess.Popen([sys.executable, "-c", ACTIVATE, str(fd), *words], pass_fds=[fd])

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(120)
        client.connect(str(self.path))
        return client

    def ask(self, request: bytes = b'{"protocol": 1, "app": "shop"}\n') -> Result:
        """The last line of the answer."""
        with self.connect() as client:
            try:
                client.sendall(request)
                return self.answer(client)
            except ConnectionError:  # hung up on before it was said
                return {"reason": "limit"}

    def answer(self, client: socket.socket) -> Result:
        with client.makefile("rb") as file:
            lines = [json.loads(line) for line in file]
        assert lines, "hung up without a word"
        result: Result = lines[-1]
        assert result["event"] == "result"
        return result

    def close(self) -> None:
        self._socket.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)
