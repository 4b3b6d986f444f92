"""What the tests of the end point share: a publisher with its keys, and a web server that can lie in many ways."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from shoal.endpoint import documents, publisher
from shoal.endpoint.client import Client
from shoal.endpoint.request import Request

NOW = datetime.now(timezone.utc).replace(microsecond=0)
HOUR = timedelta(hours=1)


def manifest_of(app: str, version: str, **other: Any) -> documents.Manifest:
    """A manifest of made-up bytes, the same ones for the same name."""
    digest = hashlib.sha256(f"{app} {version}".encode()).hexdigest()
    fields: dict[str, Any] = {
        "app": app,
        "version": version,
        "archive": documents.Archive(name=f"{app}-{version}.tar.zst", size=1000, sha256=digest),
        "unpacked_bytes": 3000,
        "entries": 3,
        "info_hash": digest[:40],
        "piece_length": 16384,
        "published_by": "alice",
        "published_at": NOW,
    }
    return documents.Manifest(**{**fields, **other})


class Publisher:
    """One application's end point in ``home/ep``, with its keys beside it."""

    def __init__(self, home: Path, app: str = "shop", at: datetime = NOW, **init: Any) -> None:
        self.app = app
        self.folder = home / "ep"
        self.keys = [str(home / "operator"), str(home / "publisher")]
        request = Request(
            folder=str(self.folder),
            app=app,
            operator_keys=self.keys[0],
            publisher_keys=self.keys[1],
            who="alice",
            **init,
        )
        publisher.init(request, check=False, at=at)
        self.root = (self.folder / "metadata" / "1.root.json").read_bytes()

    def request(self, **fields: Any) -> Request:
        return Request(**{"folder": str(self.folder), "keys": self.keys, "who": "alice", "channel": "stable", **fields})

    def publish(
        self, version: str, *, at: datetime | None = None, check: bool = False, manifest: Any = None, **fields: Any
    ) -> dict[str, Any]:
        manifest = manifest or manifest_of(self.app, version)
        torrent = f"torrent of {self.app} {version}".encode()
        return publisher.publish(self.request(version=version, **fields), manifest, torrent, check=check, at=at)

    def do(self, verb: str, *, at: datetime | None = None, check: bool = False, **fields: Any) -> dict[str, Any]:
        return getattr(publisher, verb)(self.request(**fields), check=check, at=at)

    def file(self, pattern: str) -> Path:
        """The newest of the files like this one, by the number in its name."""
        return max((self.folder / "metadata").glob(pattern), key=lambda path: int(path.name.partition(".")[0]))

    def files(self) -> dict[str, bytes]:
        """Everything that is served."""
        return snapshot_of(self.folder)

    def client(self, folder: Path, url: str | None = None, **options: Any) -> Client:
        urls = [url or self.folder.as_uri()]
        return Client(self.app, options.pop("urls", urls), options.pop("root", self.root), folder, **options)


def snapshot_of(folder: Path) -> dict[str, bytes]:
    """All files below ``folder``, without locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


class Server:
    """Serves a folder on loopback. ``lie[path]`` changes the answer to a path: bytes, or a function on the handler."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lie: dict[str, bytes | Callable[[Any], None]] = {}
        self.asked: list[tuple[str, int]] = []
        self.stopping = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                lie = server.lie.get(path)
                with contextlib.suppress(ConnectionError):
                    if callable(lie):
                        server.asked.append((path, 0))
                        lie(self)
                        self.close_connection = True
                        return None
                    file = server.folder / path
                    if lie is None and not file.is_file():
                        return self.answer(404, b"not found")
                    data = lie if lie is not None else file.read_bytes()
                    etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
                    if self.headers.get("If-None-Match") == etag:
                        return self.answer(304, b"", etag)
                    self.answer(200, data, etag)
                return None

            def answer(self, status: int, data: bytes, etag: str = "") -> None:
                server.asked.append((self.path.lstrip("/"), status))
                self.send_response(status)
                if etag:
                    self.send_header("ETag", etag)
                if status != 304:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    # -- lies ------------------------------------------------------------------------------------------------------

    def drip(self, handler: Any) -> None:
        """A byte now and then, for ever: every single read is in time."""
        handler.send_response(200)
        handler.send_header("Content-Length", "10000")
        handler.end_headers()
        while not self.stopping.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    def drip_headers(self, handler: Any) -> None:
        """The same, and not even the header ends."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.stopping.wait(0.05):
            handler.wfile.write(b"a")
            handler.wfile.flush()

    def silent(self, handler: Any) -> None:
        """Takes the request and says nothing."""
        self.stopping.wait()

    def endless(self, handler: Any) -> None:
        """As many bytes as anybody takes."""
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        while not self.stopping.is_set():
            handler.wfile.write(b" " * 65536)

    @staticmethod
    def cut(data: bytes) -> Callable[[Any], None]:
        """Announces all of ``data``, sends half of it and hangs up."""

        def lie(handler: Any) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[: len(data) // 2])

        return lie

    @staticmethod
    def status(code: int, **headers: str) -> Callable[[Any], None]:
        """An HTTP status without a body."""

        def lie(handler: Any) -> None:
            handler.send_response(code)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        return lie


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Server]:
    """A `Server` of ``folder`` for the time of a test."""
    server = Server(folder)
    try:
        yield server
    finally:
        server.close()
