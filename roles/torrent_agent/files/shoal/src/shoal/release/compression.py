"""Streams of compressed frames: strict where the standard library is lenient.

The libraries' own file objects ignore what follows the last frame (bz2, xz) or do not notice that the last frame is
cut short (zstandard); a release must be all of its archive or nothing.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import zstandard

from shoal.release.errors import ArchiveError

INPUT = 64 << 10  # bytes fed at once
OUTPUT = 256 << 10  # bytes asked for at once
# zstandard offers no limit on the output of one call. A block of a few bytes may stand for 128 KiB (RFC 8878,
# section 3.1.1.2.4), so 2 KiB of input make at most 64 MiB; feeding so little costs no measurable speed.
ZSTD_INPUT = 2 << 10
ZSTD_WINDOW = 128 << 20  # bytes of memory; what `zstd --ultra` and `--long=27` need at most
XZ_MEMORY = 256 << 20  # bytes; `xz -9` needs 65 MiB


class Source(Protocol):
    """Anything with ``read``."""

    def read(self, count: int, /) -> bytes:
        """Up to ``count`` bytes; empty at the end."""


class _Zlib:
    """One gzip member (RFC 1952)."""

    hungry = True  # what it does not use it gives back

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        out = self._inner.decompress(data, OUTPUT)
        return out, self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof


class _Bounded:
    """One bz2 or xz stream: the decompressor keeps the input that it has not used yet."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        out = self._inner.decompress(data, OUTPUT)
        return out, self._inner.unused_data if self._inner.eof else b""

    @property
    def hungry(self) -> bool:
        return bool(self._inner.needs_input)

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)


class _Zstd:
    """One zstd frame (RFC 8878)."""

    hungry = True

    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        decompress, parts, size, fed = self._inner.decompress, [], 0, 0
        while fed < len(data) and size < OUTPUT and not self._inner.eof:
            parts.append(decompress(data[fed : fed + ZSTD_INPUT]))
            size += len(parts[-1])
            fed += ZSTD_INPUT
        rest = data[fed:]
        return b"".join(parts), self._inner.unused_data + rest if self._inner.eof else rest

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)


FRAMES: dict[str, Callable[[], _Zlib | _Bounded | _Zstd]] = {
    "gz": _Zlib,
    "bz2": lambda: _Bounded(bz2.BZ2Decompressor()),
    "xz": lambda: _Bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)),
    "zst": _Zstd,
}
_ERRORS = (zlib.error, OSError, ValueError, lzma.LZMAError, EOFError, zstandard.ZstdError)


class Decompressed:
    """Reads ``source``, a sequence of whole frames of ``kind`` (a key of FRAMES), as one stream."""

    def __init__(self, source: Source, kind: str) -> None:
        self._source = source
        self._kind = kind
        self._frame = FRAMES[kind]()
        self._input = b""
        self._output = b""
        self._fed = False  # whether the present frame has had any input

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes; empty after the last whole frame. Raises ArchiveError for anything else."""
        while not self._output:
            if not self._step():
                return b""
        taken, self._output = self._output[:count], self._output[count:]
        return taken

    def _step(self) -> bool:
        if self._frame.eof:
            self._frame, self._fed = FRAMES[self._kind](), False
        ended = False
        if not self._input and self._frame.hungry:
            self._input = self._source.read(INPUT)
            ended = not self._input
        if not self._fed:
            self._skip_padding()
            if not self._input:
                return not ended
        try:
            self._output, self._input = self._frame.feed(self._input)
        except _ERRORS as error:
            raise ArchiveError(f"the {self._kind} stream is damaged or followed by something else: {error}") from None
        self._fed = True
        if ended and not self._output and not self._frame.eof:
            raise ArchiveError(f"the archive is cut short: its last {self._kind} frame is not complete")
        return True

    def _skip_padding(self) -> None:
        # Zeros may follow: padding between xz streams (its specification, 2.2), tape blocks after gzip members.
        if self._kind in ("gz", "xz"):
            self._input = self._input.lstrip(b"\0")
