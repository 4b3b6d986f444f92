"""For the agent's tests: requests below the client, as another implementation might send them."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any, NamedTuple


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, str]:
        """The error, after a look at its format."""
        assert self.headers["Content-Type"].startswith("application/json")
        assert set(self.json) == {"error"}
        error: dict[str, str] = self.json["error"]
        assert set(error) == {"code", "message", "hint"}
        return error


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float = 30) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    path: Path, method: str, url: str, body: object = None, headers: dict[str, str] | None = None, timeout: float = 30
) -> Answer:
    """One exchange; ``body``: bytes as they are, anything else as JSON."""
    connection = UnixConnection(path, timeout)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method, url, body=data, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()
