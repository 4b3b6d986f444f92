"""The command line's side of the agent's API: HTTP over the unix socket, standard library only.

Small on purpose: ``shoal status`` loads neither libtorrent nor a web framework.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

from shoal.agent.errors import AnswerError, UnreachableError

API_VERSION = 1
MAX_TORRENT_BYTES = 16 * 1024 * 1024  # a .torrent of 4 MB is already a very big one (see torrent_create)
DEFAULT_SOCKET = Path("/run/shoal/agent.sock")

Json = dict[str, Any]


def default_socket() -> Path:
    """$SHOAL_SOCKET, or where an installed agent listens."""
    return Path(os.environ.get("SHOAL_SOCKET") or DEFAULT_SOCKET)


class Client:
    """One request, one connection. Raises UnreachableError, and AnswerError where the agent refuses.

    ``timeout``: seconds that the agent may take to answer, beside the time a wait was asked for.
    """

    def __init__(self, path: Path, timeout: float = 60) -> None:
        self.path = path
        self.timeout = timeout

    def agent(self) -> Json:
        """What docs/agent.md calls ``agent``: version, listening ports, limits, totals."""
        return self._object("GET", "/agent", "agent")

    def set_limits(self, **limits: int) -> Json:
        """``upload_limit``, ``download_limit`` in bytes per second; the agent as it is then."""
        return self._object("PATCH", "/agent", "agent", body=limits)

    def torrents(self) -> list[Json]:
        """The status of every torrent."""
        found: list[Json] = self.request("GET", "/torrents")["torrents"]
        return found

    def torrent(self, info_hash: str, *, wait: float = 0, progress: float | None = None) -> Json:
        """One torrent's status; with ``wait``, once complete, in error, checked, at ``progress``, or time over."""
        query = {"wait": wait} if progress is None else {"wait": wait, "progress": progress}
        return self._object("GET", f"/torrents/{info_hash}", "torrent", query=query if wait else {}, wait=wait)

    def add(
        self,
        *,
        torrent: bytes | None = None,
        magnet: str | None = None,
        data_path: Path | None = None,
        dry_run: bool = False,
        **rest: object,
    ) -> Json:
        """Add by .torrent bytes or magnet; ``{"changed": bool, "torrent": status}``. ``rest``: as in the API."""
        body = {
            "torrent": None if torrent is None else base64.b64encode(torrent).decode("ascii"),
            "magnet": magnet,
            "data_path": None if data_path is None else str(data_path),
            **rest,
        }
        return self.request("POST", "/torrents", query={"dry_run": "true"} if dry_run else {}, body=body)

    def change(self, info_hash: str, *, dry_run: bool = False, **fields: object) -> Json:
        """Change paused, limits, or add peers, trackers, web_seeds; ``{"changed": bool, "torrent": status}``."""
        query = {"dry_run": "true"} if dry_run else {}
        return self.request("PATCH", f"/torrents/{info_hash}", query=query, body=fields)

    def recheck(self, info_hash: str) -> Json:
        """Hash the data on disk again; the status as that starts."""
        return self._object("POST", f"/torrents/{info_hash}/recheck", "torrent")

    def remove(self, info_hash: str, *, data: bool = False, dry_run: bool = False) -> bool:
        """Forget the torrent, with ``data`` its payload in the store too; whether it was known."""
        query = {key: "true" for key, wanted in (("data", data), ("dry_run", dry_run)) if wanted}
        return bool(self.request("DELETE", f"/torrents/{info_hash}", query=query)["changed"])

    def metainfo(self, info_hash: str) -> bytes:
        """The .torrent file."""
        return self._exchange("GET", f"/torrents/{info_hash}/metainfo", {}, None, {}, self.timeout)

    def peers(self, info_hash: str) -> list[Json]:
        """The connected peers."""
        found: list[Json] = self.request("GET", f"/torrents/{info_hash}/peers")["peers"]
        return found

    def put_file(self, info_hash: str, index: int, file: IO[bytes], size: int) -> Json:
        """Hand the payload's file number ``index`` (``size`` bytes) over to the agent's store."""
        head = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        return _parse(self._exchange("PUT", f"/torrents/{info_hash}/files/{index}", {}, file, head, self.timeout))

    def events(self, after: int | None = None, *, wait: float = 0) -> Json:
        """``{"events": [...], "last": number}``: what happened after event number ``after``."""
        query = {key: value for key, value in (("after", after), ("wait", wait)) if value is not None}
        return self.request("GET", "/events", query=query, wait=wait)

    def metrics(self) -> str:
        """In Prometheus' text format."""
        return self._exchange("GET", "/metrics", {}, None, {}, self.timeout).decode()

    def apps(self) -> list[Json]:
        """The applications that are followed."""
        found: list[Json] = self.request("GET", "/apps")["apps"]
        return found

    def app(self, name: str) -> Json:
        """One of them."""
        return self._object("GET", f"/apps/{quote(name, safe='')}", "app")

    def poll_app(self, name: str) -> Json:
        """Have its end point asked now; the state before that."""
        return self._object("POST", f"/apps/{quote(name, safe='')}/poll", "app")

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        wait: float = 0,
    ) -> Json:
        """One exchange of JSON; ``path`` is what follows /v1."""
        data = None if body is None else json.dumps(body).encode()
        head = {} if body is None else {"Content-Type": "application/json"}
        return _parse(self._exchange(method, path, query or {}, data, head, self.timeout + wait))

    def _object(
        self,
        method: str,
        path: str,
        key: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        wait: float = 0,
    ) -> Json:
        found: Json = self.request(method, path, query=query, body=body, wait=wait)[key]
        return found

    def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, object],
        body: bytes | IO[bytes] | None,
        head: Mapping[str, str],
        timeout: float,
    ) -> bytes:
        url = f"/v{API_VERSION}{path}" + (f"?{urlencode(query)}" if query else "")
        connection = _UnixConnection(self.path, timeout)
        try:
            # refused before all of the body was sent: the answer says why
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, url, body=body, headers=dict(head))
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(_why(self.path, error)) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(response.status, data)
        return data


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _parse(data: bytes) -> Json:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise UnreachableError(f"what answers at the socket is no agent: it said {data[:80]!r}")
    return answer


def _refusal(status: int, data: bytes) -> AnswerError:
    try:
        error = json.loads(data)["error"]
        return AnswerError(status, error["code"], error["message"], error.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return AnswerError(status, "internal", f"the agent answered {status}: {data[:200]!r}")


def _why(path: Path, error: Exception) -> str:
    hint: Sequence[str]
    if isinstance(error, FileNotFoundError):
        hint = ("no such socket", "is the agent running, with this --socket (or SHOAL_SOCKET)?")
    elif isinstance(error, ConnectionRefusedError):
        hint = ("nobody listens", "the agent is not running; start it")
    elif isinstance(error, PermissionError):
        hint = ("permission denied", "use sudo, or be in the group that owns the socket")
    elif isinstance(error, TimeoutError):
        hint = ("no answer in time", "the agent hangs or the machine is overloaded; see its log")
    else:
        hint = (str(error) or type(error).__name__, "see the agent's log")
    return f"no answer from the agent at {path}: {hint[0]}; {hint[1]}"
