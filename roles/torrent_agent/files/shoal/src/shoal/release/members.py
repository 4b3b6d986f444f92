"""What is in an archive: tar and zip read as a stream of members, strictly.

This says what an archive claims; `tree` decides what of it is allowed.
"""

from __future__ import annotations

import calendar
import copy
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

from shoal.release.compression import Source
from shoal.release.errors import ArchiveError

HEADER_LIMIT = 64 << 10  # bytes of one extension header (long names, PAX records); names end at 4 KiB anyway
PADDING_LIMIT = 16 << 20  # bytes of zeros after the end; the largest usual tape block has 1 MiB
CHUNK = 256 << 10


class Reader(Protocol):
    """The contents of one file."""

    def read(self, count: int, /) -> bytes:
        """Up to ``count`` bytes; empty at the end."""


@dataclass(frozen=True)
class Member:
    """One member as the archive states it."""

    name: str
    kind: str  # file, directory, symlink, hardlink, or the name of what is never unpacked
    mode: int  # permission bits, setuid and the like included; -1: not said
    size: int  # bytes of a file
    mtime: float  # Unix time
    link: str  # target of a link
    open: Callable[[], Reader]


def _nothing() -> Reader:
    return io.BytesIO()


# What reading a member's data may raise; bz2 raises OSError, without a number, for damaged data.
DATA_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    NotImplementedError,
)


# -- tar ---------------------------------------------------------------------------------------------------------

_TAR_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "FIFO",
    tarfile.GNUTYPE_SPARSE: "sparse file",
}
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def tar_members(stream: Source, entry_limit: int) -> Iterator[Member]:
    """The members of an uncompressed tar stream, in order; a member's data is there until the next is asked for.

    Raises ArchiveError for a stream that is not whole: tarfile itself takes a damaged header or a missing end for
    the end of the archive, and never looks at what follows it.
    """
    try:
        with tarfile.open(
            fileobj=cast("IO[bytes]", stream),
            mode="r|",
            bufsize=CHUNK,
            tarinfo=_strict_tarinfo(4 * entry_limit + 1000),
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            for info in archive:
                yield _tar_member(archive, info)
            _check_tar_end(archive.fileobj)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        raise ArchiveError(f"the tar archive is damaged: {error or type(error).__name__}") from None


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    kind = _TAR_KINDS.get(info.type, f"member of unknown type {info.type!r}")
    if getattr(info, "sparse", None) is not None:
        kind = "sparse file"

    def data() -> Reader:
        found = archive.extractfile(info)
        assert found is not None  # asked for files only
        return found

    return Member(
        name=info.name,
        kind=kind,
        mode=info.mode,
        size=info.size if kind == "file" else 0,
        mtime=float(info.mtime),
        link=info.linkname,
        open=data if kind == "file" else _nothing,
    )


def _check_tar_end(stream: Any) -> None:
    """tarfile has read a block of zeros; only more of them may follow (GNU tar fills up to 10 KiB)."""
    padding = 0
    while block := stream.read(CHUNK):
        padding += len(block)
        if padding > PADDING_LIMIT or block.strip(b"\0"):
            raise ArchiveError("something follows the end of the tar archive: is it two archives in one file?")


def _strict_tarinfo(header_limit: int) -> type[tarfile.TarInfo]:
    """A TarInfo that refuses what tarfile would pass over, and counts headers."""
    seen = 0

    class StrictTarInfo(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> StrictTarInfo:  # pylint: disable=undefined-variable
            nonlocal seen
            seen += 1
            if seen > header_limit:
                raise ArchiveError(f"the tar archive has more than {header_limit} headers")
            try:
                info = super().frombuf(buf, encoding, errors)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                raise
            except tarfile.HeaderError as error:
                what = "it is cut short" if len(buf) < tarfile.BLOCKSIZE else str(error)
                raise ArchiveError(f"the tar archive is damaged at header {seen}: {what}") from None
            if info.size < 0:
                raise ArchiveError(f"member {info.name!r} has a negative size")
            if info.type in _EXTENSIONS and info.size > HEADER_LIMIT:
                raise ArchiveError(f"member {info.name!r} has an extension header of {info.size} bytes")
            if info.type == tarfile.GNUTYPE_SPARSE:
                raise _sparse(info.name)
            return info

        # tarfile expands PAX sparse maps, of any size, while it reads the header: never let it begin.
        def _proc_gnusparse_00(self, next: tarfile.TarInfo, *_: Any) -> None:
            raise _sparse(next.name)

        _proc_gnusparse_01 = _proc_gnusparse_00
        _proc_gnusparse_10 = _proc_gnusparse_00

    return StrictTarInfo


def _sparse(name: str) -> ArchiveError:
    return ArchiveError(
        f"member {name!r} is a sparse file", hint="make the archive without --sparse; compression does the same"
    )


# -- zip ---------------------------------------------------------------------------------------------------------

_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ZIP_KINDS = {
    0: "file",
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}
LINK_LIMIT = 4096  # bytes: PATH_MAX


def zip_members(file: IO[bytes], entry_limit: int) -> Iterator[Member]:
    """The members of a zip file, in the order of its directory. Raises ArchiveError."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            if len(infos) > entry_limit:
                raise ArchiveError(f"the archive has more than {entry_limit} entries: {len(infos)}")
            _check_zip_ranges(infos, archive.start_dir)
            for info in infos:
                yield _zip_member(archive, info)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, zlib.error, RuntimeError) as error:
        raise ArchiveError(f"the zip archive is damaged: {error or type(error).__name__}") from None


def zip_total(file: IO[bytes]) -> int:
    """The unpacked bytes that a zip file promises."""
    try:
        with zipfile.ZipFile(file) as archive:
            return sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise ArchiveError(f"the zip archive is damaged: {error}") from None


def _check_zip_ranges(infos: list[zipfile.ZipInfo], directory: int) -> None:
    """Members whose data overlap are how a small file becomes petabytes (Fifield, A better zip bomb, 2019)."""
    end, last = 0, ""
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ArchiveError(f"members {last!r} and {info.orig_filename!r} overlap in the zip archive")
        # A local header has 30 bytes and the name; what else it has only makes the range longer.
        end, last = info.header_offset + 30 + len(info.orig_filename) + info.compress_size, info.orig_filename
    if end > directory:
        raise ArchiveError(f"member {last!r} overlaps the directory of the zip archive")


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    name = info.orig_filename  # `filename` is cut at a NUL
    if info.flag_bits & 0x1:
        raise ArchiveError(f"member {name!r} is encrypted", hint="make the archive without a password")
    if info.compress_type not in _ZIP_METHODS:
        raise ArchiveError(f"member {name!r} is compressed by the unknown method {info.compress_type}")
    mode = info.external_attr >> 16
    kind = "directory" if name.endswith("/") else _ZIP_KINDS.get(stat.S_IFMT(mode), f"member of unknown type {mode:o}")

    def data() -> Reader:
        # One byte more than it says: a member that has more than it says must be seen, not cut off.
        asked = copy.copy(info)
        asked.file_size += 1
        return archive.open(asked)

    link = ""
    if kind == "symlink":
        if info.file_size > LINK_LIMIT:
            raise ArchiveError(f"member {name!r} is a symbolic link with a target of {info.file_size} bytes")
        link = data().read(LINK_LIMIT + 1).decode("utf-8", "surrogateescape")
    return Member(
        name=name,
        kind=kind,
        mode=stat.S_IMODE(mode) if mode else -1,
        size=info.file_size if kind == "file" else 0,
        mtime=_zip_time(info),
        link=link,
        open=data if kind == "file" else _nothing,
    )


def _zip_time(info: zipfile.ZipInfo) -> float:
    """Local time without a zone; read as UTC so that every host gets the same. -1: none, some tools write zeros."""
    try:
        return float(calendar.timegm((*info.date_time, 0, 0, 0)))
    except ValueError:
        return -1.0
