"""Work that goes on when the one who asked for it is gone.

A switch runs in a process with a session of its own and writes JSON lines to operations/ID.jsonl; whoever wants to
know follows that file. A killed connection or Ctrl-C ends the follower, not the work.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

import msgspec

from shoal.release.errors import ReleaseError
from shoal.release.events import Emit, Event, Result
from shoal.release.layout import Layout
from shoal.release.lock import Lock, holder_of
from shoal.release.request import Request

POLL = 0.05  # seconds between two looks at the file
KEPT = 50  # operations whose files are kept
LINES_READ = 1 << 20  # bytes read at once


def start(layout: Layout, lock: Lock, operation: str, request: Request, work: Callable[[Emit], Result]) -> int:
    """Run ``work`` in a session of its own, holding ``lock`` until its end; the number of its process.

    ``work`` gets a function that writes an event and returns the result, which is written as the last line.
    """
    path = layout.operations / f"{operation}.jsonl"
    for old in sorted(layout.operations.glob("*.jsonl"))[:-KEPT]:
        old.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    pid = os.fork()
    if not pid:
        _work(fd, lock, operation, request, work)
    os.close(fd)
    lock.close()
    return pid


def _work(fd: int, lock: Lock, operation: str, request: Request, work: Callable[[Emit], Result]) -> NoReturn:
    """The child: never returns, so that nothing of the parent's is done twice."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for number, source in ((0, null), (1, fd), (2, fd)):
            os.dup2(source, number)
        lock.keep_only()
        lock.describe({"operation": operation, "pid": os.getpid()})

        def emit(event: Event) -> None:
            os.write(1, json.dumps({"time": round(time.time(), 3), **event}).encode() + b"\n")

        emit({"event": "operation", "operation": operation, "request": msgspec.to_builtins(request)})
        try:
            result = work(emit)
        except ReleaseError as error:
            result = {"ok": False, "changed": False, "outcome": "failed", "error": error.as_dict()}
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            code = "io_error" if isinstance(error, OSError) else "internal"
            result = {"ok": False, "changed": False, "outcome": "failed", "error": {"code": code, "message": message}}
        emit({"event": "result", "operation": operation, **result})
        os.fsync(1)
    finally:
        os._exit(0)


def follow(layout: Layout, operation: str, emit: Emit, pid: int | None = None) -> Result:
    """Hand on the events of ``operation`` and return its result. Raises ReleaseError if it died without one.

    ``pid``: its process, if that is a child of this one.
    """
    path = layout.operations / f"{operation}.jsonl"
    with path.open("rb") as file:
        for event in _lines(file, lambda: _alive(layout, operation, pid)):
            if event.get("event") == "result":
                _wait_for_end(layout, operation, pid)
                return event
            if event.get("event") != "operation":
                emit(event)
    raise ReleaseError(
        f"operation {operation} was killed before its end",
        hint=f"run: shoal release recover --root {layout.root}",
        code="died",
    )


def request_of(layout: Layout, operation: str) -> Request | None:
    """What the running ``operation`` was asked to do; None if it ended before it said so."""
    path = layout.operations / f"{operation}.jsonl"
    while True:
        alive = _alive(layout, operation, None)
        with suppress(FileNotFoundError), path.open("rb") as file:
            line = file.readline()
            if line.endswith(b"\n"):
                return msgspec.convert(msgspec.json.decode(line)["request"], Request)
        if not alive:
            return None
        time.sleep(POLL)


def _lines(file: Any, alive: Callable[[], bool]) -> Iterator[Event]:
    """Whole lines of JSON as they come, until what writes them is gone and all is read."""
    rest = b""
    going = True
    while going:
        going = alive()  # before reading: what it wrote last is read once more after its end
        while data := file.read(LINES_READ):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                with suppress(ValueError):  # a stray line of a library on stderr
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield event
        if going:
            time.sleep(POLL)


def _alive(layout: Layout, operation: str, pid: int | None) -> bool:
    if pid is None:
        holder = holder_of(layout.lock)
        return holder is not None and holder.get("operation", operation) == operation
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


def _wait_for_end(layout: Layout, operation: str, pid: int | None) -> None:
    """The result is there, the lock is free a moment later: whoever asks next shall find it so."""
    deadline = time.monotonic() + 5
    while _alive(layout, operation, pid) and time.monotonic() < deadline:
        time.sleep(0.005)
