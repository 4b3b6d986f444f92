"""Files that clients hand over to the store, because the agent may not read them where they are."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

PARTS = ".import"  # in the store, so that a finished file only has to be renamed
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class IncomingFile:
    """A file that appears at ``store / relative`` whole (``commit``) or not at all.

    No symbolic link is followed below ``store``: every folder on the way is opened from the one before it, so
    that nothing planted there can lead the agent's writes elsewhere. OSError where one is found.

    ``write`` and ``sync`` may run in a thread that outlives the request: the file object then is closed, and
    refuses, rather than a descriptor that means another file by now.
    """

    def __init__(self, store: Path, relative: Path) -> None:
        if relative.is_absolute() or ".." in relative.parts or not relative.name:
            raise ValueError(f"{relative} is not a file below {store}")
        self.size = 0
        self._name = relative.name
        self._part = secrets.token_hex(8)
        with contextlib.ExitStack() as opened:
            top = _open_folder(store)
            opened.callback(os.close, top)
            self._parts = _open_inner(top, PARTS)
            opened.callback(os.close, self._parts)
            self._folder = os.dup(top)
            opened.callback(lambda: os.close(self._folder))
            for name in relative.parts[:-1]:
                outer, self._folder = self._folder, _open_inner(self._folder, name)
                os.close(outer)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = open(os.open(self._part, flags, 0o644, dir_fd=self._parts), "wb")  # noqa: PTH123, SIM115
            opened.callback(self._discard)
            self._opened = opened.pop_all()

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        self._file.write(data)
        self.size += len(data)

    def sync(self) -> None:
        """Let all of it reach the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def commit(self) -> None:
        """Let it appear under its name."""
        os.rename(self._part, self._name, src_dir_fd=self._parts, dst_dir_fd=self._folder)

    def close(self) -> None:
        """Let go of it; what was not committed vanishes."""
        self._opened.close()

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was told of by write or sync
            self._file.close()
        with contextlib.suppress(FileNotFoundError):  # it is gone once committed
            os.unlink(self._part, dir_fd=self._parts)


def remove_leftovers(store: Path) -> None:
    """Delete what a killed agent had received by half."""
    with contextlib.suppress(FileNotFoundError):
        for path in (store / PARTS).iterdir():
            path.unlink()


def _open_folder(path: Path) -> int:
    path.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # the store itself may be behind a link


def _open_inner(outer: int, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=outer)
    return os.open(name, _DIRECTORY, dir_fd=outer)
