"""The archive's bytes, each checked before anybody sees it.

The file is opened once and read once. What another process writes to it meanwhile either does not match and is
refused, or comes too late: what was verified is what is unpacked.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.release import metainfo
from shoal.release.errors import ArchiveError, ReleaseError
from shoal.release.request import ArchiveSpec

if TYPE_CHECKING:
    from typing_extensions import Self

BLOCK = 1 << 20  # bytes read at once where no torrent sets a piece length


class Payload:
    """A reader of the archive ``spec`` (``read`` as of a raw file), verified piece by piece.

    With a torrent, a byte is handed on only after its piece matched. With a SHA-256 alone that is known at the end:
    whoever uses the bytes must throw the result away unless `finish` returns.
    """

    def __init__(self, spec: ArchiveSpec, on_read: Callable[[int], None] = lambda _: None) -> None:
        self.path = Path(spec.path)
        self.metainfo = metainfo.read(Path(spec.torrent)) if spec.torrent else None
        self.sha256 = ""  # known after `finish`
        self._expected = spec.sha256
        self._on_read = on_read
        self._digest = hashlib.sha256()
        self._piece = memoryview(b"")
        self._index = 0
        self._taken = 0
        self._fd = _open_regular(self.path)
        self.size = os.fstat(self._fd).st_size
        try:
            self._check_size(spec.size, "the request")
            if self.metainfo is not None:
                self._check_size(self.metainfo.length, "the torrent")
        except ReleaseError:
            self.close()
            raise

    def _check_size(self, expected: int | None, source: str) -> None:
        if expected is not None and expected != self.size:
            raise ArchiveError(
                f"{self.path} has {self.size} bytes, {source} says {expected}",
                hint="fetch the archive again; was it still being written?",
                code="wrong_bytes",
            )

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, count: int) -> bytes:
        """Up to ``count`` verified bytes; empty at the end. Raises ArchiveError at a piece that does not match."""
        if not self._piece:
            self._piece = memoryview(self._next_piece())
        taken, self._piece = self._piece[:count], self._piece[count:]
        return bytes(taken)

    def finish(self) -> str:
        """Read what is left, check the whole and return its SHA-256. Raises ArchiveError."""
        while self.read(BLOCK):
            pass
        self.sha256 = self._digest.hexdigest()
        if self._expected is not None and self.sha256 != self._expected:
            raise ArchiveError(
                f"{self.path} has SHA-256 {self.sha256}, expected {self._expected}",
                hint="this is not the archive that was published; fetch it again",
                code="wrong_bytes",
            )
        return self.sha256

    def _next_piece(self) -> bytes:
        length = self.metainfo.piece_length if self.metainfo else BLOCK
        length = min(length, self.size - self._taken)
        parts = []
        while length > 0:
            part = os.read(self._fd, length)
            if not part:
                raise ArchiveError(f"{self.path} became shorter while it was read", code="wrong_bytes")
            parts.append(part)
            length -= len(part)
        piece = b"".join(parts)
        if not piece:
            return b""
        if self.metainfo is not None:
            found = hashlib.sha1(piece, usedforsecurity=False).digest()
            if found != self.metainfo.piece_hash(self._index):
                raise ArchiveError(
                    f"piece {self._index} of {self.path} (bytes {self._taken} to {self._taken + len(piece) - 1}) "
                    "does not match the torrent",
                    hint="the file on disk is damaged or was changed: let the agent recheck it",
                    code="wrong_bytes",
                )
        self._index += 1
        self._taken += len(piece)
        self._digest.update(piece)
        self._on_read(self._taken)
        return piece


def _open_regular(path: Path) -> int:
    """Open ``path`` only if it is a regular file: a FIFO would hang the reader, a link would lead it elsewhere."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        what = "it is a symbolic link" if path.is_symlink() else error.strerror
        raise ReleaseError(f"cannot open the archive {path}: {what}", code="no_archive") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ArchiveError(f"the archive {path} is not a regular file")
    return fd
