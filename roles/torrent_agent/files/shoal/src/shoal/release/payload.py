"""The archive's bytes, each checked before anybody sees it.

The file is opened once and read once. What another process writes to it meanwhile either does not match and is
refused, or comes too late: what was verified is what is unpacked.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.common.beneath import open_beneath
from shoal.release import metainfo
from shoal.release.errors import ArchiveError, ReleaseError
from shoal.release.request import ArchiveSpec

if TYPE_CHECKING:
    from typing_extensions import Self

BLOCK = 1 << 20  # bytes read and checked at once; larger where a torrent has larger pieces


class Payload:
    """A reader of the archive ``spec`` (``read`` as of a raw file), verified piece by piece.

    With a torrent, a byte is handed on only after its piece matched. With a SHA-256 alone that is known at the end:
    whoever uses the bytes must throw the result away unless `finish` returns.

    A thread reads and hashes one block ahead, while the one before it is unpacked.
    """

    def __init__(self, spec: ArchiveSpec, on_read: Callable[[int], None] = lambda _: None) -> None:
        self.path = Path(spec.path)
        self.metainfo = metainfo.read(Path(spec.torrent)) if spec.torrent else None
        self.sha256 = ""  # known after `finish`
        self._expected = spec.sha256
        self._on_read = on_read
        self._digest = hashlib.sha256()
        self._block = memoryview(b"")
        self._index = 0  # of the next piece
        self._read = 0  # bytes, by the thread
        self._taken = 0  # bytes, from the thread
        self._thread = ThreadPoolExecutor(1, "payload")
        self._ahead: Future[bytes] | None = None
        self._fd = _open_regular(self.path, Path(spec.below) if spec.below else None)
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
        self._thread.shutdown()
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, count: int) -> bytes:
        """Up to ``count`` verified bytes; empty at the end. Raises ArchiveError at a piece that does not match."""
        if not self._block:
            self._block = memoryview(self._take_block())
        taken, self._block = self._block[:count], self._block[count:]
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

    def _take_block(self) -> bytes:
        block = (self._ahead or self._thread.submit(self._next_block)).result()
        if block:
            self._ahead = self._thread.submit(self._next_block)
            self._taken += len(block)
            self._on_read(self._taken)
        return block

    def _next_block(self) -> bytes:
        """The next pieces, all checked; empty at the end."""
        piece_length = self.metainfo.piece_length if self.metainfo else BLOCK
        length = min(piece_length * max(1, BLOCK // piece_length), self.size - self._read)
        parts = []
        while length > 0:
            part = os.read(self._fd, length)
            if not part:
                raise ArchiveError(f"{self.path} became shorter while it was read", code="wrong_bytes")
            parts.append(part)
            length -= len(part)
        block = b"".join(parts)
        if self.metainfo is not None:
            view = memoryview(block)
            for start in range(0, len(block), piece_length):
                self._check_piece(self.metainfo, view[start : start + piece_length])
        self._read += len(block)
        self._digest.update(block)
        return block

    def _check_piece(self, expected: metainfo.Metainfo, piece: memoryview) -> None:
        if hashlib.sha1(piece, usedforsecurity=False).digest() != expected.piece_hash(self._index):
            first = self._index * expected.piece_length
            raise ArchiveError(
                f"piece {self._index} of {self.path} (bytes {first} to {first + len(piece) - 1}) "
                "does not match the torrent",
                hint="the file on disk is damaged or was changed: let the agent recheck it",
                code="wrong_bytes",
            )
        self._index += 1


def _open_regular(path: Path, below: Path | None) -> int:
    """Open ``path`` only if it is a regular file: a FIFO would hang the reader, a link would lead it elsewhere."""
    folder = path.parent if below is None else below
    try:
        return open_beneath(folder, path.relative_to(folder).as_posix())
    except ValueError:
        raise ReleaseError(f"the archive {path} is not below {folder}", code="no_archive") from None
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise ReleaseError(f"the archive {path} is not a regular file", code="no_archive") from None
        what = "it is a symbolic link" if path.is_symlink() else error.strerror
        raise ReleaseError(f"cannot open the archive {path}: {what}", code="no_archive") from None
