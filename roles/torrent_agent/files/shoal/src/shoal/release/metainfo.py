"""A small, bounded reader of .torrent files: just what it takes to check a payload (BEP 3).

Not the agent's libtorrent: this runs as root on a file that an unprivileged daemon stored.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.release.errors import ReleaseError

MAX_FILE = 16 << 20  # bytes; the collection's own torrents have at most 4 MB
MAX_PIECE = 128 << 20  # bytes; a piece is held in memory while it is checked
MAX_DEPTH = 32  # file trees of BEP 52 nest by folder
MAX_DIGITS = 20


class MetainfoError(ReleaseError):
    """The .torrent file is damaged or describes what cannot be released."""

    code = "bad_torrent"


@dataclass(frozen=True)
class Metainfo:
    """What a single-file v1 or hybrid torrent says about its payload."""

    name: str
    length: int  # bytes
    piece_length: int  # bytes
    pieces: bytes  # the SHA-1 of each piece, 20 bytes each, one after another
    info_hash: str  # SHA-1 of the info dictionary, hex

    def piece_hash(self, index: int) -> bytes:
        """The SHA-1 of piece ``index``."""
        return self.pieces[20 * index : 20 * index + 20]


def read(path: Path) -> Metainfo:
    """The metainfo in the file ``path``. Raises MetainfoError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MetainfoError(f"cannot open the torrent {path}: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        data = file.read(MAX_FILE + 1) or b""
    if len(data) > MAX_FILE:
        raise MetainfoError(f"the torrent {path} has more than {MAX_FILE} bytes")
    try:
        return parse(data)
    except MetainfoError as error:
        raise MetainfoError(f"the torrent {path}: {error}", hint=error.hint) from None


def parse(data: bytes) -> Metainfo:
    """The metainfo in ``data``. Raises MetainfoError."""
    reader = _Reader(data)
    top = reader.value()
    if reader.at != len(data):
        raise MetainfoError(f"{len(data) - reader.at} bytes follow its end")
    info = top.get(b"info") if isinstance(top, dict) else None
    if not isinstance(info, dict) or reader.info_span is None:
        raise MetainfoError("it has no info dictionary")
    if b"files" in info:
        raise MetainfoError(
            "its payload is a directory, a release is unpacked from one archive file",
            hint="make the torrent of an archive (tar, tar.zst, zip, ...), not of a folder",
        )
    if b"pieces" not in info and b"meta version" in info:
        raise MetainfoError("it is v2 only, without SHA-1 pieces", hint="make a v1 or hybrid torrent")
    name, length = info.get(b"name"), info.get(b"length")
    piece_length, pieces = info.get(b"piece length"), info.get(b"pieces")
    if not isinstance(name, bytes) or not isinstance(length, int) or length < 0:
        raise MetainfoError("name or length is missing or wrong")
    if not isinstance(piece_length, int) or not 0 < piece_length <= MAX_PIECE:
        raise MetainfoError(f"piece length {piece_length!r} is not between 1 and {MAX_PIECE}")
    if not isinstance(pieces, bytes) or len(pieces) != 20 * -(-length // piece_length):
        raise MetainfoError(f"pieces does not hold one SHA-1 for each {piece_length} of its {length} bytes")
    start, end = reader.info_span
    info_hash = hashlib.sha1(data[start:end], usedforsecurity=False).hexdigest()
    return Metainfo(name.decode("utf-8", "replace"), length, piece_length, pieces, info_hash)


class _Reader:
    """Bencoding, strictly where it matters: lengths, depth and integers are bounded."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.info_span: tuple[int, int] | None = None  # where the top level's "info" value lies

    def value(self, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise MetainfoError(f"it nests deeper than {MAX_DEPTH}")
        kind = self.data[self.at : self.at + 1]
        if kind.isdigit():
            return self._string()
        self.at += 1
        if kind == b"i":
            return self._number(b"e")
        if kind == b"l":
            return self._list(depth)
        if kind == b"d":
            return self._dict(depth)
        raise MetainfoError(f"it is not bencoded at byte {self.at - 1}")

    def _number(self, end: bytes) -> int:
        stop = self.data.find(end, self.at, self.at + MAX_DIGITS + 2)
        digits = self.data[self.at : stop]
        if stop < 0 or not digits.removeprefix(b"-").isdigit():
            raise MetainfoError(f"it has a broken number at byte {self.at}")
        self.at = stop + 1
        return int(digits)

    def _string(self) -> bytes:
        length = self._number(b":")
        if length > len(self.data) - self.at:
            raise MetainfoError(f"it ends within a string at byte {self.at}")
        self.at += length
        return self.data[self.at - length : self.at]

    def _list(self, depth: int) -> list[Any]:
        items = []
        while self.data[self.at : self.at + 1] != b"e":
            items.append(self.value(depth + 1))
        self.at += 1
        return items

    def _dict(self, depth: int) -> dict[bytes, Any]:
        items: dict[bytes, Any] = {}
        while self.data[self.at : self.at + 1] != b"e":
            if not self.data[self.at : self.at + 1].isdigit():
                raise MetainfoError(f"it has a key that is not a string at byte {self.at}")
            key = self._string()
            if key in items:
                raise MetainfoError(f"it has the key {key!r} twice")
            start = self.at
            items[key] = self.value(depth + 1)
            if depth == 0 and key == b"info":
                self.info_span = (start, self.at)
        self.at += 1
        return items
