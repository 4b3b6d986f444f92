"""Who may run and listen where: one agent a state folder, one agent a socket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from shoal.agent.errors import StartError

BACKLOG = 128


@contextlib.contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path``, with our process id in it, or raise StartError that names the holder's.

    The kernel drops the lock with the process, however it ends. The file stays: to remove it would race.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    except OSError as error:
        raise StartError(f"{what}: cannot open its lock {path}: {error.strerror}") from error
    with open(fd, "r+", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - a descriptor
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read(20).strip() or "unknown"
            raise StartError(f"{what} is in use by another agent, process {holder} (lock {path})") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def listen_at(path: Path, mode: int) -> Iterator[socket.socket]:
    """A listening unix socket at ``path`` with permissions ``mode``; removed again at the end.

    A dead socket in its place is replaced, a live one never (StartError). Nobody can connect before the
    permissions are right: the file is made closed to all, given its mode, and only then listens.
    """
    with hold_lock(path.with_name(path.name + ".lock"), f"socket {path}"):
        _clear(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with sock:
            umask = os.umask(0o777)
            try:
                sock.bind(str(path))
            except OSError as error:
                raise StartError(f"cannot listen at {path}: {error.strerror}") from error
            finally:
                os.umask(umask)
            made = path.lstat()
            try:
                path.chmod(mode)
                sock.listen(BACKLOG)
                yield sock
            finally:
                with contextlib.suppress(FileNotFoundError):
                    if path.lstat().st_ino == made.st_ino:
                        path.unlink()


def _clear(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StartError(f"cannot listen at {path}: something that is not a socket is there; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                raise StartError(f"cannot tell whether {path} is alive: {error.strerror or error}") from error
        else:
            raise StartError(f"cannot listen at {path}: another process answers there")
    path.unlink(missing_ok=True)
