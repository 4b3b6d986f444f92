"""Files of an end point: written whole, readable for the web server, on the disk when a function returns."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.common.durable import sync_dir
from shoal.endpoint.errors import EndpointError

if TYPE_CHECKING:
    from typing_extensions import Self

LOCK = ".lock"
POLL = 0.02  # seconds between two tries for the lease


def write_whole(path: Path, data: bytes, mode: int = 0o644, modified: int | None = None) -> None:
    """Replace the file ``path`` by ``data``, whole or not at all. ``modified``: its time, seconds since 1970."""
    make_dirs(path.parent)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)  # whatever the umask: another user serves it
        file.write(data)
        file.flush()
        if modified is not None:
            os.utime(fd, (modified, modified))
        os.fsync(fd)
    temporary.replace(path)
    sync_dir(path.parent)


def make_dirs(path: Path) -> None:
    """The folder ``path`` and those above it that are not there, readable for the web server."""
    if path.is_dir():
        return
    make_dirs(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
    sync_dir(path.parent)


class Lease:
    """The right to write to an end point's folder. The kernel ends it when its holder dies, however it dies."""

    def __init__(self, folder: Path, who: str, timeout: float = 0.0) -> None:
        """Take it, waiting up to ``timeout`` seconds. Raises EndpointError (``locked``) that names the holder."""
        path = folder / LOCK
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = _holder(self._fd)
                    os.close(self._fd)
                    raise EndpointError(
                        f"another publisher works on {folder}{holder}",
                        hint="wait for it and try again, or give a longer --lock-timeout",
                        code="locked",
                    ) from None
                time.sleep(POLL)
        text = json.dumps({"pid": os.getpid(), "who": who, "since": round(time.time())}).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    def close(self) -> None:
        """Give it back."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _holder(fd: int) -> str:
    try:
        found = json.loads(os.pread(fd, 4096, 0))
        return f": {found['who']}, process {found['pid']}, for {time.time() - found['since']:.0f} s"
    except (ValueError, KeyError, TypeError):
        return ""  # it has not said yet


def prune(folder: Path, keep: set[Path], age: float) -> None:
    """Delete the files in ``folder`` that are not in ``keep`` and were written or touched over ``age`` seconds ago.

    Readers that began before the last change still ask for the files of the state before, hence the age.
    """
    before = time.time() - age
    for path in folder.iterdir():
        if path not in keep and path.is_file() and path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
