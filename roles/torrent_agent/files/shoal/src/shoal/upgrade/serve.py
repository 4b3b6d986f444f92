"""The socket of one application's privileged side: whoever connects may ask for exactly one thing.

Each piece of work is a process of its own, `shoal upgrade run`, one at a time; who asks meanwhile follows it. Nothing
that a client does or leaves undone holds the others up: there are few connections, each has little time to ask, and
who does not read is dropped.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from contextlib import suppress
from typing import Any

from shoal.upgrade import PROTOCOL

LISTEN_FD = 3  # sd_listen_fds(3)
MAX_CLIENTS = 16  # one agent asks, and now and then a person
MAX_REQUEST = 4096  # bytes
REQUEST_SECONDS = 5.0
LAST_SECONDS = 5.0  # to take what was written before it was hung up on
MAX_BUFFERED = 1 << 20  # bytes that a follower has not read yet
MAX_LINE = 1 << 20  # bytes of one JSON line
PAUSE = 1.0  # seconds between two pieces of work: asking without end must not cost a core


def listening_socket() -> socket.socket | None:
    """The socket that systemd handed over; None if it did not."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    os.set_inheritable(LISTEN_FD, False)
    return socket.socket(fileno=LISTEN_FD)


def serve(app: str, arguments: list[str], idle: float) -> int:
    """Serve until nobody asked for ``idle`` seconds; ``arguments``: of the runs. The exit status."""
    sock = listening_socket()
    if sock is None:
        print("shoal upgrade serve: no socket was handed over; start it by its socket unit", file=sys.stderr)
        return 2
    asyncio.run(_Server(app, arguments, idle).run(sock))
    return 0


class _Server:
    def __init__(self, app: str, arguments: list[str], idle: float) -> None:
        self._app = app
        self._command = [sys.executable, "-m", "shoal", "upgrade", "run", app, "--json", *arguments]
        self._idle = idle
        self._clients = 0
        self._followers: set[asyncio.StreamWriter] = set()
        self._wanted = asyncio.Event()

    async def run(self, sock: socket.socket) -> None:
        # Not start_unix_server: from Python 3.13 on that removes the socket's file in the end, and it is systemd's.
        server = await asyncio.start_server(self._serve_client, sock=sock, limit=MAX_REQUEST)
        async with server:
            while True:
                try:
                    await asyncio.wait_for(self._wanted.wait(), self._idle)
                except asyncio.TimeoutError:
                    if self._clients == 0:
                        return
                    continue
                self._wanted.clear()
                await self._work()
                await asyncio.sleep(PAUSE)

    # -- clients -------------------------------------------------------------------------------------------------

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._clients >= MAX_CLIENTS:
            self._tell(writer, _refusal("limit", f"{MAX_CLIENTS} others are connected", "try again in a moment"))
            _hang_up(writer)
            return
        self._clients += 1
        try:
            problem = await self._read(reader)
            if problem is not None:
                self._tell(writer, problem)
                return
            self._followers.add(writer)
            self._wanted.set()
            # Until the end of the work it waits for, or until it goes away; what it still says is thrown away.
            with suppress(ConnectionError):
                while writer in self._followers and await reader.read(MAX_REQUEST):
                    pass
        finally:
            self._followers.discard(writer)
            self._clients -= 1
            _hang_up(writer)

    async def _read(self, reader: asyncio.StreamReader) -> dict[str, Any] | None:
        """What is wrong with the request; None if it is right."""
        try:
            line = await asyncio.wait_for(reader.readuntil(b"\n"), REQUEST_SECONDS)
            request = json.loads(line)
        except asyncio.TimeoutError:
            return _refusal("slow", f"no request came within {REQUEST_SECONDS:g} s")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            return _refusal("bad_request", f"the request is no line of at most {MAX_REQUEST} bytes")
        except (ValueError, RecursionError):
            return _refusal("bad_request", "the request is not JSON")
        if not isinstance(request, dict) or set(request) != {"protocol", "app"}:
            return _refusal("bad_request", "the request must be an object with the keys protocol and app")
        if request["protocol"] != PROTOCOL:
            message = f"the request speaks protocol {request['protocol']!r}, this shoal speaks {PROTOCOL}"
            return _refusal("unsupported_protocol", message, "restart whichever side was not, after an update")
        if request["app"] != self._app:
            return _refusal("other_app", f"this is the socket of {self._app}")
        return None

    def _tell(self, writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
        writer.write(json.dumps(event).encode() + b"\n")

    # -- work ----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """One run; its lines go to all who follow, its end ends them all."""
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, limit=MAX_LINE
        )
        assert process.stdout is not None
        last = b""
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than MAX_LINE: nobody needs it
                continue
            if not line:
                break
            last = line
            self._hand_on(line)
        status = await process.wait()
        if b'"event": "result"' not in last:
            message = f"the run ended with status {status}, and without a result"
            self._hand_on(
                json.dumps(_refusal("died", message, "see its journal; it is ended by the next run")).encode() + b"\n"
            )
        done, self._followers = self._followers, set()
        for writer in done:
            _hang_up(writer)

    def _hand_on(self, line: bytes) -> None:
        for writer in list(self._followers):
            if writer.transport.get_write_buffer_size() > MAX_BUFFERED:
                self._followers.discard(writer)
                writer.transport.abort()
            else:
                writer.write(line)


def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close it; a client that never takes the rest must not keep its place for ever."""
    writer.close()
    asyncio.get_running_loop().call_later(LAST_SECONDS, writer.transport.abort)


def _refusal(code: str, message: str, hint: str = "") -> dict[str, Any]:
    error = {"code": code, "message": message, "hint": hint}
    begun = {"event": "result", "protocol": PROTOCOL, "ok": False, "changed": False}
    return {**begun, "outcome": "refused", "reason": code, "message": message, "error": error}
