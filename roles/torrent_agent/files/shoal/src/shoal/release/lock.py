"""One lock per application, taken with flock(2): the kernel frees it when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.release.errors import LockedError

if TYPE_CHECKING:
    from typing_extensions import Self

POLL = 0.02  # seconds between two tries
PATIENCE = 0.2  # seconds: `holder_of` holds a lock for a moment to see whether it is free; that is not a holder


class Lock:
    """A held lock; close it, or let the process end, to free it. A forked child holds it on."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._holder: dict[str, Any] = {}

    @classmethod
    def acquire(cls, path: Path, holder: dict[str, Any], timeout: float = 0.0) -> Lock:
        """Take the lock, waiting up to ``timeout`` seconds. Raises LockedError, naming the holder."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + max(timeout, PATIENCE)
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(fd)
                    raise _locked(path) from None
                time.sleep(POLL)
        lock = cls(path, fd)
        lock.describe(holder)
        return lock

    def describe(self, holder: dict[str, Any]) -> None:
        """Tell others who holds the lock."""
        self._holder = {"pid": os.getpid(), "since": time.time(), **self._holder, **holder}
        text = json.dumps(self._holder).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    def keep_only(self) -> None:
        """Close every file of this process but this lock and the standard ones."""
        os.closerange(3, self._fd)
        os.closerange(self._fd + 1, os.sysconf("SC_OPEN_MAX"))

    def close(self) -> None:
        """Free the lock, unless a forked child holds it too."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def holder_of(path: Path) -> dict[str, Any] | None:
    """Who holds the lock now, None if nobody; {} if the holder has not said yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            found = json.loads(os.pread(fd, 1 << 16, 0))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
    finally:
        os.close(fd)
    return None


def _locked(path: Path) -> LockedError:
    holder = holder_of(path) or {}
    what = " ".join(str(holder[key]) for key in ("verb", "version") if holder.get(key)) or "another operation"
    since = f" for {time.time() - holder['since']:.0f} s" if "since" in holder else ""
    who = f" by {holder['who']}" if holder.get("who") else ""
    return LockedError(
        f"{path.parent.parent} is locked{since}: {what}{who} is running (process {holder.get('pid', 'unknown')})",
        hint="wait for it and try again, or give a longer lock_timeout",
    )
