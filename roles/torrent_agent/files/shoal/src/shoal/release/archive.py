"""Reading a whole archive: verified, measured, and unpacked if there is somewhere to unpack it."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shoal.release.compression import FRAMES, Decompressed, Source
from shoal.release.errors import ArchiveError, SpaceError
from shoal.release.members import CHUNK, DATA_ERRORS, Member, tar_members, zip_members, zip_total
from shoal.release.payload import Payload
from shoal.release.request import ArchiveSpec, Limits
from shoal.release.tree import Entry, Tree

ENTRY_LIMIT = 1_000_000  # where no manifest says how many
SPACE_CHECK = 64 << 20  # bytes written between two looks at the free space

_MAGIC = {
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}


@dataclass(frozen=True)
class Contents:
    """What an archive turned out to be."""

    format: str  # tar, tar.gz, tar.bz2, tar.xz, tar.zst or zip
    size: int  # bytes of the archive
    sha256: str
    info_hash: str | None  # of the torrent it was checked against
    unpacked_bytes: int  # of all files
    entries: int  # files, folders and links


@dataclass(frozen=True)
class Ownership:
    """Whose the unpacked files are and what their modes lack. None: as the running user's files are."""

    uid: int | None = None
    gid: int | None = None
    umask: int = 0o022

    def give(self, path: Path | int, mode: int) -> None:
        """Make a file or folder theirs, with what the umask leaves of ``mode``. A path must be no link."""
        self.chown(path)
        os.chmod(path, mode & 0o777 & ~self.umask)  # noqa: PTH101 - may be a descriptor

    def chown(self, path: Path | int, *, link: bool = False) -> None:
        """Make ``path`` theirs; ``link``: the link itself."""
        if self.uid is not None or self.gid is not None:
            uid = -1 if self.uid is None else self.uid
            gid = -1 if self.gid is None else self.gid
            os.chown(path, uid, gid, follow_symlinks=not link)


def inspect(spec: ArchiveSpec, limits: Limits, strip_components: int = 0) -> Contents:
    """Read all of the archive, applying every rule that unpacking applies, and unpack nothing.

    Raises ReleaseError: ArchiveError names the member.
    """
    with Payload(spec) as payload:
        return _read_through(payload, limits, strip_components, None, _scratch_dir(payload.path.parent))


def unpack(
    spec: ArchiveSpec,
    limits: Limits,
    strip_components: int,
    into: Path,
    ownership: Ownership,
    on_read: Callable[[int], None] = lambda _: None,
) -> Contents:
    """Unpack the archive below ``into``, an empty folder of ours with mode 0700.

    ``on_read`` is told how many bytes of the archive were read. What was unpacked counts only if this returns: on
    ReleaseError or OSError the caller removes the folder.
    """
    with Payload(spec, on_read) as payload:
        need = limits.unpacked_bytes if limits.unpacked_bytes is not None else payload.size
        check_space(into, need, limits)
        writer = _Writer(into, ownership)
        contents = _read_through(payload, limits, strip_components, writer, into)
        writer.finish()
        return contents


def check_space(where: Path, need: int, limits: Limits) -> None:
    """Refuse to begin what cannot end: ``need`` bytes, the entries and the reserve must fit. Raises SpaceError."""
    found = os.statvfs(where)
    entries = limits.entries or 0
    # Each entry takes up to a block more than its bytes.
    wanted = need + entries * found.f_frsize + limits.reserve_bytes
    free = found.f_bavail * found.f_frsize
    if free < wanted:
        raise SpaceError(
            f"the file system of {where} has {free} bytes free, {wanted} are needed "
            f"({need} to unpack, {limits.reserve_bytes} to stay free)",
            hint="remove old releases (keep_releases) or other files",
        )
    if found.f_files and found.f_favail < entries:  # f_files 0: made on demand, as on btrfs
        raise SpaceError(
            f"the file system of {where} has {found.f_favail} inodes free, the release has {entries} entries"
        )


def _read_through(
    payload: Payload, limits: Limits, strip_components: int, writer: _Writer | None, scratch: Path | None
) -> Contents:
    head, source = _peek(payload)
    kind = _format(head, payload.path)
    entry_limit = ENTRY_LIMIT if limits.entries is None else limits.entries
    tree = Tree(strip_components, entry_limit)
    budget = _Budget(limits, writer.into if writer else None)
    with _members(kind, source, payload, entry_limit, budget, scratch) as members:
        for member in members:
            budget.announce(member)
            entry = tree.admit(member)
            if entry is not None:
                _take(entry, writer, budget)
    tree.check_links()
    if not tree.kinds:
        raise ArchiveError(f"the archive {payload.path} has nothing in it to unpack")
    sha256 = payload.finish()
    info_hash = payload.metainfo.info_hash if payload.metainfo else None
    return Contents(kind, payload.size, sha256, info_hash, budget.used, len(tree.kinds))


@contextmanager
def _members(
    kind: str, source: Source, payload: Payload, entry_limit: int, budget: _Budget, scratch: Path | None
) -> Iterator[Iterator[Member]]:
    if kind == "zip":
        # The directory of a zip file is at its end, and reading it means seeking: in a copy that nobody else can
        # reach, since what was verified must be what is unpacked.
        with tempfile.TemporaryFile(dir=scratch) as copy:
            while block := source.read(CHUNK):
                copy.write(block)
            payload.finish()
            budget.announce_total(zip_total(copy))
            yield zip_members(copy, entry_limit)
    else:
        compression = kind.partition(".")[2]
        yield tar_members(Decompressed(source, compression) if compression else source, entry_limit)


def _take(entry: Entry, writer: _Writer | None, budget: _Budget) -> None:
    """Read the data of one member to its end, counting, and write it if there is a writer."""
    blocks = _blocks(entry.member, budget)
    if writer is not None:
        writer.write(entry, blocks)
    for _block in blocks:  # what nobody wanted is read all the same: it may be damaged or lie about its size
        pass


def _blocks(member: Member, budget: _Budget) -> Iterator[bytes]:
    if member.kind != "file":
        return
    left = member.size
    for block in _data(member):
        left -= len(block)
        if left < 0:
            raise ArchiveError(f"member {member.name!r} has more than the {member.size} bytes that it says")
        budget.use(len(block), member)
        yield block
    if left:
        raise ArchiveError(f"member {member.name!r} has {left} bytes fewer than the {member.size} that it says")


def _data(member: Member) -> Iterator[bytes]:
    try:
        reader = member.open()
        while block := reader.read(CHUNK):
            yield block
    except DATA_ERRORS as error:
        raise ArchiveError(f"member {member.name!r} is damaged: {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ArchiveError(f"member {member.name!r} is damaged: {error}") from None


class _Budget:
    """Counts unpacked bytes against the limit and the free space."""

    def __init__(self, limits: Limits, into: Path | None) -> None:
        self.used = 0
        self._limits = limits
        self._into = into
        self._next_check = SPACE_CHECK

    def announce(self, member: Member) -> None:
        """Refuse what ``member`` says it will take, before its first byte."""
        self._check(self.used + member.size, f"member {member.name!r} with {member.size} bytes")

    def announce_total(self, total: int) -> None:
        """Refuse what the whole archive says it will take, before its first byte."""
        self._check(total, f"the archive with {total} bytes in all")
        if self._into is not None:
            check_space(self._into, total, self._limits)

    def use(self, count: int, member: Member) -> None:
        """Count bytes that are about to be written."""
        self.used += count
        self._check(self.used, f"member {member.name!r}")
        if self._into is not None and self.used >= self._next_check:
            self._next_check = self.used + SPACE_CHECK
            found = os.statvfs(self._into)
            if found.f_bavail * found.f_frsize < self._limits.reserve_bytes:
                raise SpaceError(
                    f"unpacking member {member.name!r} leaves less than {self._limits.reserve_bytes} bytes free",
                    hint="remove old releases (keep_releases) or other files",
                )

    def _check(self, total: int, what: str) -> None:
        limit = self._limits.unpacked_bytes
        if limit is not None and total > limit:
            raise ArchiveError(
                f"{what} exceeds the limit of {limit} unpacked bytes",
                hint="the manifest promised less: was another archive published?",
            )


class _Writer:
    """Makes the tree. Names were checked: no component of a path is a link, and the folder is closed to others."""

    def __init__(self, into: Path, ownership: Ownership) -> None:
        self.into = into
        self._ownership = ownership
        self._folders: dict[Path, tuple[int, float | None]] = {}

    def write(self, entry: Entry, blocks: Iterator[bytes]) -> None:
        """Make one entry; a second file or link of the same name replaces the first, as tar does."""
        path = self.into.joinpath(*entry.path)
        self._make_folders(path.parent)
        if entry.kind == "directory":
            path.mkdir(mode=0o700, exist_ok=True)
            self._folders[path] = (_mode(entry.member, 0o777), entry.member.mtime)
            return
        path.unlink(missing_ok=True)
        if entry.kind == "symlink":
            path.symlink_to(entry.member.link)
            self._ownership.chown(path, link=True)
        elif entry.kind == "hardlink":
            path.hardlink_to(self.into.joinpath(*entry.target))
        else:
            self._write_file(path, entry.member, blocks)

    def finish(self) -> None:
        """Give folders their modes and times, innermost first: until now they had to stay writable."""
        for path in sorted(self._folders, key=lambda path: len(path.parts), reverse=True):
            mode, mtime = self._folders[path]
            self._ownership.give(path, mode | 0o700)
            _set_time(path, mtime)

    def _make_folders(self, path: Path) -> None:
        if path == self.into or path in self._folders:
            return
        self._make_folders(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        self._folders[path] = (0o777, None)

    def _write_file(self, path: Path, member: Member, blocks: Iterator[bytes]) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb", buffering=0) as file:
            for block in blocks:
                _write_all(file, block)
        self._ownership.give(path, _mode(member, 0o666) | 0o400)
        _set_time(path, member.mtime)


def _write_all(file: IO[bytes], block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]


def _mode(member: Member, default: int) -> int:
    return default if member.mode < 0 else member.mode


def _set_time(path: Path, mtime: float | None) -> None:
    if mtime is not None and 0 <= mtime < 1 << 33:  # what no clock shows is left as it is
        os.utime(path, (mtime, mtime))


class _Rewound:
    """``source`` with bytes that were read from it put back."""

    def __init__(self, head: bytes, source: Source) -> None:
        self._head = head
        self._source = source

    def read(self, count: int) -> bytes:
        if self._head:
            taken, self._head = self._head[:count], self._head[count:]
            return taken
        return self._source.read(count)


def _peek(payload: Payload) -> tuple[bytes, Source]:
    head = b""
    while len(head) < tarfile.BLOCKSIZE and (more := payload.read(tarfile.BLOCKSIZE - len(head))):
        head += more
    return head, _Rewound(head, payload)


def _format(head: bytes, path: Path) -> str:
    """The format by its first bytes; names lie."""
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind if kind == "zip" else f"tar.{kind}"
    if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:  # a skippable frame first (RFC 8878, 3.1.2)
        return "tar.zst"
    if len(head) == tarfile.BLOCKSIZE and not head.strip(b"\0"):
        return "tar"  # its end, at its beginning: it is empty
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        raise ArchiveError(
            f"{path} is not an archive that shoal knows",
            hint=f"use tar (plain, {', '.join(FRAMES)}) or zip",
        ) from None
    return "tar"


def _scratch_dir(beside: Path) -> Path | None:
    """Where a copy of a zip file has room for sure; the system's folder for temporary files if that is not ours."""
    return beside if os.access(beside, os.W_OK) else None


__all__ = ["Contents", "Ownership", "check_space", "inspect", "unpack"]
