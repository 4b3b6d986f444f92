# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Talk to the agent of this host: HTTP and JSON over its unix socket, API version 1 (docs/agent.md).

Needs the standard library only. Sizes are in bytes, rates in bytes per second, durations in seconds. Private to this
collection.
"""

from __future__ import annotations

import base64
import errno
import functools
import http.client
import json
import os
import socket
import time
from typing import IO, Any, Callable
from urllib.parse import urlencode

API_VERSION = 1
DEFAULT_SOCKET = "/run/shoal/agent.sock"

MAX_WAIT = 60  # the agent's own limit for one long-poll
MAX_ABSENCE = 60  # an agent that is restarted is back within this time
_BLOCK = 1024 * 1024

AGENT_ARGUMENTS = {"socket": {"type": "path", "default": DEFAULT_SOCKET}}


class AgentError(Exception):
    """The agent did not do what it was asked for; the text says what was asked, where, why and what to do."""


class AgentUnreachableError(AgentError):
    """Nobody answers at the socket; perhaps later, since agents restart."""


class AgentRefusalError(AgentError):
    """The agent answered with an error."""

    def __init__(self, text: str, status: int, code: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


class AgentClient:
    """The agent at `path`; one connection for each request.

    `timeout` is for the agent's answer, beside the time that a request is to wait. Every method raises AgentError.
    """

    def __init__(self, path: str, timeout: float = 60) -> None:
        self.path = path
        self.timeout = timeout

    def agent(self) -> dict[str, Any]:
        """Version, name, listening ports, limits, rates and totals."""
        return self._request("GET", "/agent")["agent"]

    def torrents(self) -> list[dict[str, Any]]:
        """The status of every torrent."""
        return self._request("GET", "/torrents")["torrents"]

    def torrent(self, info_hash: str, wait: float = 0, progress: float | None = None) -> dict[str, Any] | None:
        """The status of one torrent, None if the agent has none of that info hash.

        With `wait` the answer comes when the torrent is complete, in error or, while it downloads, has at least
        `progress` (0 to 1), at the latest after `wait` seconds (60 at most).
        """
        query = {}  # type: dict[str, Any]
        if wait > 0:
            query["wait"] = min(wait, MAX_WAIT)
            if progress is not None:
                query["progress"] = progress
        try:
            return self._request("GET", "/torrents/" + info_hash, query=query)["torrent"]
        except AgentRefusalError as error:
            if error.code == "not_found":
                return None
            raise

    def add(
        self, torrent: bytes | None = None, magnet: str | None = None, dry_run: bool = False, **fields: Any
    ) -> tuple[bool, dict[str, Any] | None]:
        """Add a torrent by the bytes of its file or a magnet link: whether that changed anything, and its status.

        `fields` are data_path, trackers, peers, web_seeds, upload_limit, download_limit, paused and label (app and
        version). One that is known gets the label, trackers, peers and web seeds that it lacks. With `dry_run` nothing
        is done; the status of an unknown torrent is None then.
        """
        body = {key: value for key, value in fields.items() if value is not None}
        if torrent is not None:
            body["torrent"] = base64.b64encode(torrent).decode("ascii")
        if magnet is not None:
            body["magnet"] = magnet
        answer = self._request("POST", "/torrents", query={"dry_run": "true"} if dry_run else {}, body=body)
        return answer["changed"], answer["torrent"]

    def change(self, info_hash: str, dry_run: bool = False, **fields: Any) -> tuple[bool, dict[str, Any]]:
        """Set paused, upload_limit, download_limit or add peers, trackers, web_seeds: whether that changed anything,
        and the status."""
        body = {key: value for key, value in fields.items() if value is not None}
        query = {"dry_run": "true"} if dry_run else {}
        answer = self._request("PATCH", "/torrents/" + info_hash, query=query, body=body)
        return answer["changed"], answer["torrent"]

    def recheck(self, info_hash: str) -> dict[str, Any]:
        """Have the data on disk hashed again; the status as that begins."""
        return self._request("POST", "/torrents/%s/recheck" % info_hash)["torrent"]

    def remove(self, info_hash: str, data: bool = False, dry_run: bool = False) -> bool:
        """Have the torrent forgotten, with `data` its payload in the agent's store too; whether it was known."""
        query = {key: "true" for key, wanted in (("data", data), ("dry_run", dry_run)) if wanted}
        return self._request("DELETE", "/torrents/" + info_hash, query=query)["changed"]

    def metainfo(self, info_hash: str) -> bytes:
        """The .torrent file; an AgentRefusalError with code ``conflict`` while only a magnet link is known."""
        return self._exchange("GET", "/torrents/%s/metainfo" % info_hash)

    def put_file(self, info_hash: str, index: int, file: IO[bytes], size: int) -> None:
        """Hand file number `index` of the payload over to the agent's store."""
        self._exchange(
            "PUT",
            "/torrents/%s/files/%d" % (info_hash, index),
            body=file,
            headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
        )

    def wait(
        self,
        info_hash: str,
        reached: Callable[[dict[str, Any]], bool],
        patience: Callable[[], tuple[float, float | None]],
    ) -> dict[str, Any]:
        """The first status of a torrent for which `reached` is true. The agent may be restarted meanwhile.

        `patience` tells, before each look but the first, how many seconds may pass until the next one, and the
        progress that is worth one earlier.
        """
        seconds = 0.0
        progress = None
        while True:
            status = self.patiently(functools.partial(self.torrent, info_hash, wait=seconds, progress=progress))
            if status is None:
                raise AgentError(
                    "the torrent %s was removed from the agent at %s while this waited for it. Who removed it?"
                    % (info_hash, self.path)
                )
            if reached(status):
                return status
            seconds, progress = patience()
            seconds = min(max(seconds, 0.1), MAX_WAIT)

    def patiently(self, ask: Callable[[], Any]) -> Any:
        """What `ask` returns. An agent that is being restarted is waited for."""
        absent_since = None
        while True:
            try:
                return ask()
            except AgentUnreachableError:
                now = time.monotonic()
                absent_since = absent_since or now
                if now - absent_since > MAX_ABSENCE:
                    raise
            time.sleep(1)

    def _request(self, method: str, path: str, query: Any = None, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode("utf-8")
        headers = {} if body is None else {"Content-Type": "application/json"}
        answer = self._exchange(method, path, query, data, headers)
        try:
            return json.loads(answer)
        except ValueError:
            raise AgentError(self._stranger("%r" % answer[:80])) from None

    def _exchange(self, method: str, path: str, query: Any = None, body: Any = None, headers: Any = None) -> bytes:
        wait = query.get("wait", 0) if query else 0
        url = "/v%d%s" % (API_VERSION, path) + ("?" + urlencode(query) if query else "")
        connection = _UnixConnection(self.path, self.timeout + wait)
        try:
            try:
                connection.connect()
                connection.request(method, url, body=body, headers=headers or {})
            except (BrokenPipeError, ConnectionResetError):
                # Refused before all was sent: why is in the answer, if there is one
                if connection.sock is None:
                    raise
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error, "%s %s" % (method, url)) from None
        finally:
            connection.close()
        self._check_version(response.getheader("Shoal-Api"), data)
        if response.status >= 400:
            raise self._refusal(method, path, response.status, data)
        return data

    def _check_version(self, version: str | None, data: bytes) -> None:
        if version is None or not version.isdigit():
            raise AgentError(self._stranger("%r" % data[:80]))
        if int(version) != API_VERSION:
            side = (
                "the collection shoal.deploy on the controller"
                if int(version) > API_VERSION
                else "the agent on this host (role shoal.deploy.torrent_agent)"
            )
            raise AgentError(
                "the agent at %s speaks version %s of its API and this module version %d. Update %s."
                % (self.path, version, API_VERSION, side)
            )

    def _stranger(self, said: str) -> str:
        return (
            "what answers at %s is not a shoal agent: it said %s. Give the agent's socket (its config names it) in "
            "the option socket." % (self.path, said)
        )

    def _refusal(self, method: str, path: str, status: int, data: bytes) -> AgentRefusalError:
        try:
            error = json.loads(data)["error"]
            code, text, hint = error["code"], error["message"], error.get("hint")
        except (ValueError, KeyError, TypeError):
            code, text, hint = "internal", "%r" % data[:200], None
        return AgentRefusalError(
            "the agent at %s refused (%s %s: %d %s): %s%s"
            % (self.path, method, path, status, code, text, "; " + hint if hint else ""),
            status,
            code,
        )

    def _unreachable(self, error: Exception, asked: str) -> AgentUnreachableError:
        number = getattr(error, "errno", None)
        if number == errno.ENOENT:
            found = "there is no such socket"
            next_step = (
                "Start the agent or install it (role shoal.deploy.torrent_agent), or name its "
                "socket in the option socket."
            )
        elif number == errno.ECONNREFUSED:
            found = "nobody listens at the socket"
            next_step = "The agent has stopped: start it, and see its log for why."
        elif number in (errno.EACCES, errno.EPERM):
            found = "permission denied for user id %d" % os.geteuid()
            next_step = "Use become: true, or a user of the group that the socket belongs to."
        elif isinstance(error, socket.timeout):
            found = "no answer to %s in %.0f s" % (asked, self.timeout)
            next_step = "Look into the agent's log; is the disk or the host overloaded?"
        elif number is None and "too long" in str(error):
            found = str(error)
            next_step = "A socket's path has 107 bytes at most: set a shorter one in the agent's config."
        else:
            found = "%s" % (getattr(error, "strerror", None) or error or type(error).__name__)
            next_step = "Did the agent stop meanwhile? Look into its log."
        return AgentUnreachableError("cannot talk to the agent at %s: %s. %s" % (self.path, found, next_step))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout, blocksize=_BLOCK)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock
