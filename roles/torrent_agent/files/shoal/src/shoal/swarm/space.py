"""One ledger for everything that is going to fill the store's file system: who may go on, and who waits.

Pure but for `measure`. The rule: what all downloads that run still need, and all imports under way, fits into what is
free beyond the reserve. Downloads that run already come before those that wait, older ones before newer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shoal.swarm.types import Hold, Reserve

_START_SHARE = 100
"""To start, a hundredth more than it needs must fit: for the file system's own blocks, and so that one that is nearly
full does not have downloads start and stop all the time."""


@dataclass(frozen=True)
class Space:
    """A file system, in bytes."""

    total: int
    free: int  # for users that are not root
    min_free: int  # of it, what is to be left

    @property
    def available(self) -> int:
        """What may be used; negative where less is free than should be."""
        return self.free - self.min_free


@dataclass(frozen=True)
class Want:
    """A download: ``need`` bytes are still to come."""

    info_hash: str
    need: int
    running: bool
    added_at: float


def measure(folder: Path, reserve: Reserve) -> Space:
    """The file system that holds ``folder``. OSError."""
    found = os.statvfs(folder)
    total = found.f_blocks * found.f_frsize
    return Space(total, found.f_bavail * found.f_frsize, reserve.of(total))


def share_out(wants: Iterable[Want], space: Space, reserved: int = 0) -> tuple[dict[str, Hold], int]:
    """Who must wait, and why; and how many bytes are reserved then.

    :param reserved: already, by imports
    """
    held: dict[str, Hold] = {}
    for want in sorted(wants, key=lambda want: (not want.running, want.added_at)):
        asked = want.need if want.running else want.need + want.need // _START_SHARE
        if reserved + asked > space.available:
            held[want.info_hash] = refusal(want.need, reserved, space)
        else:
            reserved += want.need
    return held, reserved


def refusal(need: int, reserved: int, space: Space) -> Hold:
    """Why ``need`` bytes do not fit, with the sum."""
    text = (
        f"waiting for space: {size(need)} still needed + {size(reserved)} reserved for others, "
        f"but {size(space.free)} free - {size(space.min_free)} min_free leave {size(space.available)}"
    )
    return Hold("space", text, need, reserved, space.free, space.min_free)


def allocated(paths: Iterable[Path | None]) -> int:
    """Bytes on disk that the files at ``paths`` have, holes left out."""
    found = 0
    for path in paths:
        try:
            info = path.stat() if path else None
        except OSError:
            continue
        if info:
            found += min(info.st_size, info.st_blocks * 512)
    return found


def size(count: float) -> str:
    """For people: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
