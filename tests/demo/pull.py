"""The demo's second part: hosts that bring themselves up to date from a known end point.

The end point is a folder of signed files, served by the small web server of Python's own library: in a fleet that is
nginx or a CDN. Each host follows it by a file in its agent's ``apps_dir``. Without systemd, and with nobody here who is
root, the privileged side is a child of the agent.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fleet import HERE, HOSTS, PUBLISHER, DemoError, Fleet

CHANNEL = "stable"
INTERVAL = 2.0  # seconds between two looks of a host at the end point, a quarter more or less; a minute in a fleet
SETTLE_SECONDS = 120.0
HEALTH_SECONDS = 10.0  # all hosts switch at once here, on two cores
DONE = ("up_to_date", "failed")  # states of an application in which a host has nothing more to do


@dataclass
class Arrival:
    """What came of one publication on one host; seconds since it was published."""

    seen: float | None = None  # the host knows of it
    settled: float | None = None  # it is on it, healthy, or back
    fetched_in: float = 0.0
    outcome: str = ""


class EndPoint:
    """The end point of the shop: its folder, its keys, and the web server."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.home = fleet.home / "hosts" / PUBLISHER
        self.folder = self.home / "endpoint" / "shop"
        self.url = ""

    @contextlib.contextmanager
    def served(self, version: str) -> Iterator[None]:
        """Make the end point, with `version` in its channel, and serve it."""
        operator, publisher = self.home / "operator-keys", self.home / "publisher-keys" / "shop"
        self._shoal("init", "--app", "shop", "--operator-keys", str(operator), "--publisher-keys", str(publisher))
        published = self.home / "published" / "shop" / version
        self._shoal("publish", CHANNEL, "--from", str(published), "--keys", str(operator), str(publisher))
        handler = functools.partial(_Quiet, directory=str(self.folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}/"
            thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()

    def _shoal(self, verb: str, *words: str) -> None:
        command = ["endpoint", verb, str(self.folder), *words]
        log = self.fleet.home / "logs" / "endpoint.log"
        if self.fleet.shoal("endpoint", *command).wait():
            raise DemoError(f"shoal {' '.join(command)} failed: see {log}, which ends\n{log.read_text()[-2000:]}")

    def have_hosts_follow(self) -> None:
        """Give each host its file, and have its agent read it."""
        for host in HOSTS:
            folder = self.fleet.apps_dir(host)
            root = self.folder / "metadata" / "1.root.json"
            for name, text in {"shop.root.json": root.read_text(), "shop.yml": json.dumps(self._file(host))}.items():
                (folder / name).write_text(text)
                (folder / name).chmod(0o644)  # what others could write is not believed
            self.fleet.reload(host)

    def _file(self, host: str) -> dict[str, Any]:
        """What `shoal.deploy.install` makes of the settings in group_vars, where they have `pull`."""
        root, port = self.fleet.root(host), self.fleet.ports[host]
        return {
            "endpoint": {"urls": [self.url], "channel": CHANNEL, "interval": INTERVAL},
            "policy": {"clock": "any"},  # a container's clock is kept by nobody that it knows of
            "release": {
                "root": str(root),
                "switch": {
                    "restart": [sys.executable, str(HERE / "restart_shop.py"), str(root), str(port)],
                    "health": [
                        {
                            "url": f"http://127.0.0.1:{port}/health",
                            "version": {"json": "version"},
                            "timeout": HEALTH_SECONDS,
                        }
                    ],
                },
                "keep_releases": 2,
            },
        }

    @property
    def published_at(self) -> float:
        """When the last publication became visible, Unix time."""
        return (self.folder / "metadata" / "timestamp.json").stat().st_mtime

    @contextlib.contextmanager
    def watched(self, sequence: int) -> Iterator[dict[str, Arrival]]:
        """What becomes of the publication `sequence`, which is made within; at the end every host has settled."""
        moments: dict[tuple[str, str], float] = {}
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.2):
                for host in HOSTS:
                    app = self.state(host)
                    if app and (app["sequence"] or 0) >= sequence:
                        moments.setdefault((host, "seen"), time.time())
                        if app["state"] in DONE:
                            moments.setdefault((host, "settled"), time.time())

        arrivals: dict[str, Arrival] = {}
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield arrivals
            deadline = time.monotonic() + SETTLE_SECONDS
            while any((host, "settled") not in moments for host in HOSTS):
                if time.monotonic() > deadline:
                    raise DemoError(f"hosts do not settle: {[self.state(host) for host in HOSTS]}")
                time.sleep(0.1)
        finally:
            stop.set()
            watcher.join()
        for host in HOSTS:
            app = self.state(host)
            assert app is not None
            arrivals[host] = Arrival(
                seen=moments[host, "seen"] - self.published_at,
                settled=moments[host, "settled"] - self.published_at,
                fetched_in=self.fleet.agent(host).torrent(app["info_hash"])["download_seconds"],
                outcome=(app["outcome"] or {}).get("outcome", ""),
            )

    def state(self, host: str) -> dict[str, Any] | None:
        """How the host's agent sees the shop; None as long as it does not follow it."""
        found = [app for app in self.fleet.agent(host).apps() if app["app"] == "shop"]
        return found[0] if found else None

    def wait_for_polls(self, count: int) -> None:
        """Wait until each host has looked `count` times more."""
        goals = {host: (self.state(host) or {"polls": 0})["polls"] + count for host in HOSTS}
        deadline = time.monotonic() + SETTLE_SECONDS
        while any((self.state(host) or {"polls": 0})["polls"] < goal for host, goal in goals.items()):
            if time.monotonic() > deadline:
                raise DemoError(f"hosts do not look: {[self.state(host) for host in HOSTS]}")
            time.sleep(0.1)

    def tries(self, host: str, version: str) -> int:
        """How often the host switched to `version`."""
        log = self.fleet.root(host) / ".shoal" / "log.jsonl"
        return sum(json.loads(line)["to"] == version for line in log.read_text().splitlines())


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass
