# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put a payload where the user wants it: a private copy, checked against the metainfo, whole or not at all.

The agent's store belongs to the agent, which speaks to the network, and this code often runs as root. So nothing there
is trusted: no link is followed, nothing but regular files is read, and what was checked is the copy itself, which
nobody else can write to. Private to this collection.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from typing import IO, Any, Callable, Iterator

from ._metainfo import Metainfo, TorrentFile

FICLONE = 0x40049409  # linux/fs.h: make a file share another's blocks until one of them is written to (reflink)
BLOCK = 1024 * 1024
V2_BLOCK = 16 * 1024  # leaves of BEP 52's trees


class PayloadError(Exception):
    """What was being done, to which file, what was found."""


class WrongContentError(PayloadError):
    """The bytes are not those that the torrent or the checksum tell."""


def matches(path: str, metainfo: Metainfo, sha256: str | None = None) -> bool:
    """Whether the payload is at `path` already, every byte of it; reads it all, if the sizes are right."""
    try:
        with _Source(path, metainfo) as source:
            if any(source.size(file) != file.length for file in metainfo.files if not file.pad):
                return False
            verify(metainfo, source.blocks, sha256)
    except (WrongContentError, OSError):
        return False
    return True


def check_sizes(path: str, metainfo: Metainfo) -> None:
    """Refuse a payload that lacks a file, or has one of another size than the torrent. Raises PayloadError."""
    try:
        with _Source(path, metainfo) as source:
            for file in metainfo.files:
                if not file.pad and source.size(file) != file.length:
                    raise WrongContentError(
                        "%s has %d bytes, and %d by the torrent %s"
                        % (os.path.join(path, *file.path), source.size(file), file.length, metainfo.info_hash)
                    )
    except OSError as error:
        raise _unreadable(path, error) from None


@contextmanager
def opened(path: str, metainfo: Metainfo, file: TorrentFile) -> Iterator[IO[bytes]]:
    """One file of the payload at `path`, to read. Raises PayloadError."""
    try:
        with _Source(path, metainfo) as source, source.open(file) as handle, os.fdopen(os.dup(handle), "rb") as content:
            yield content
    except OSError as error:
        raise _unreadable(path, error) from None


def check_dest(dest: str, metainfo: Metainfo) -> None:
    """Refuse a `dest` that put() would have to destroy something for that is not the payload's. Raises PayloadError."""
    parent = os.path.dirname(dest) or "."
    if not os.path.isdir(parent):
        raise PayloadError("cannot put the payload at %s: there is no directory %s. Create it first." % (dest, parent))
    try:
        mode = os.lstat(dest).st_mode
    except FileNotFoundError:
        return
    if metainfo.is_file:
        if stat.S_ISDIR(mode):
            raise PayloadError("cannot put the file %s at %s: that is a directory." % (metainfo.name, dest))
        return
    if not stat.S_ISDIR(mode):
        raise PayloadError(
            "cannot put the directory %s at %s: that is there and not a directory. Remove it or choose another dest."
            % (metainfo.name, dest)
        )
    known = {"/".join(file.path) for file in metainfo.files}
    for directory, _directories, names in os.walk(dest):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.relpath(path, dest) not in known:
                raise PayloadError(
                    "cannot put the directory %s at %s: it would replace what is there, and %s is not the torrent's. "
                    "Remove it or choose another dest." % (metainfo.name, dest, path)
                )


def put(
    source_path: str,
    dest: str,
    metainfo: Metainfo,
    sha256: str | None = None,
    prepare: Callable[[str], Any] = lambda _path: None,
) -> None:
    """Make `dest` a copy of the payload at `source_path`, checked, on disk, and renamed into place when it is whole.

    `prepare` is called with the path of every file and directory of the copy before anybody can see it at `dest`.
    A file or directory that `dest` replaces hands down its mode and owner. Raises PayloadError.
    """
    check_dest(dest, metainfo)
    parent = os.path.dirname(dest) or "."
    temporary = None
    try:
        temporary = tempfile.mkdtemp(prefix=".%s." % os.path.basename(dest)[:200], dir=parent)
        copy = os.path.join(temporary, "payload")
        with _Source(source_path, metainfo) as source:
            verify(metainfo, lambda file: _copied(source, file, os.path.join(copy, *file.path)), sha256)
        # From the inside out: a directory may be made unreadable for us
        for path in sorted(_paths(copy, metainfo), key=len, reverse=True):
            _inherit(path, dest if path == copy else None)
            prepare(path)
            if os.path.isdir(path):
                _sync(path)
        _replace(copy, dest, os.path.join(temporary, "before"))
        _sync(parent)
    except OSError as error:
        raise PayloadError("cannot put the payload at %s: %s" % (dest, _words(error))) from None
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def check_sha256(path: str, metainfo: Metainfo, sha256: str) -> None:
    """Check the SHA-256 of a payload that is a file, where it lies. Raises PayloadError."""
    digest = hashlib.sha256()
    try:
        with _Source(path, metainfo) as source:
            for block in source.blocks(metainfo.files[0]):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from None
    _check_sha256(metainfo, digest.hexdigest(), sha256)


def paths(location: str, metainfo: Metainfo) -> list[str]:
    """The payload at `location` and all that is in it, directories before what they hold."""
    return sorted(_paths(location, metainfo))


def verify(metainfo: Metainfo, blocks_of: Callable[[TorrentFile], Iterator[bytes]], sha256: str | None = None) -> None:
    """Check the bytes that `blocks_of` gives for every file against the torrent, and a file's against `sha256` too.

    Raises WrongContentError for the first piece or file that is wrong.
    """
    whole = hashlib.sha256()

    def counted(file: TorrentFile) -> Iterator[bytes]:
        length = 0
        for block in blocks_of(file):
            length += len(block)
            if sha256:
                whole.update(block)
            yield block
        if length != file.length:
            raise WrongContentError("%s has %d bytes and should have %d" % (_name(metainfo, file), length, file.length))

    if metainfo.piece_hashes:
        _verify_v1(metainfo, counted)
    else:
        for file in metainfo.files:
            if _merkle_root(counted(file), file.length) != file.pieces_root:
                raise WrongContentError("%s is not what the torrent tells (SHA-256)" % _name(metainfo, file))
    if sha256:
        _check_sha256(metainfo, whole.hexdigest(), sha256)


def _check_sha256(metainfo: Metainfo, found: str, expected: str) -> None:
    if found != expected:
        raise WrongContentError("%s has the SHA-256 %s, expected is %s" % (metainfo.name, found, expected))


def _verify_v1(metainfo: Metainfo, blocks_of: Callable[[TorrentFile], Iterator[bytes]]) -> None:
    """Pieces run on over the borders of files (BEP 3); padding between them is zeros (BEP 47)."""
    length = metainfo.piece_length
    piece = hashlib.sha1()
    filled = index = 0

    def check(file: TorrentFile) -> None:
        if piece.digest() != metainfo.piece_hashes[20 * index : 20 * index + 20]:
            raise WrongContentError(
                "piece %d of %d, in %s, is not what the torrent tells (SHA-1)"
                % (index + 1, metainfo.pieces, _name(metainfo, file))
            )

    for file in metainfo.files:
        for block in _zeros(file.length) if file.pad else blocks_of(file):
            view = memoryview(block)
            while view:
                part = view[: length - filled]
                piece.update(part)
                filled += len(part)
                view = view[len(part) :]
                if filled == length:
                    check(file)
                    piece = hashlib.sha1()
                    filled = 0
                    index += 1
    if filled:
        check(metainfo.files[-1])


def _merkle_root(blocks: Iterator[bytes], length: int) -> bytes:
    """The root of a file's tree of SHA-256 over blocks of 16 KiB (BEP 52); empty for an empty file."""
    leaves = []
    rest = bytearray()
    for block in blocks:
        rest += block
        while len(rest) >= V2_BLOCK:
            leaves.append(hashlib.sha256(rest[:V2_BLOCK]).digest())
            del rest[:V2_BLOCK]
    if rest:
        leaves.append(hashlib.sha256(rest).digest())
    if not length:
        return b""
    nothing = bytes(32)  # what leaves that are missing to a power of two count as
    while len(leaves) & (len(leaves) - 1):
        leaves.append(nothing)
    while len(leaves) > 1:
        leaves = [hashlib.sha256(leaves[at] + leaves[at + 1]).digest() for at in range(0, len(leaves), 2)]
    return leaves[0]


def _zeros(length: int) -> Iterator[bytes]:
    for start in range(0, length, BLOCK):
        yield bytes(min(BLOCK, length - start))


class _Source:
    """The payload as it lies somewhere, read without following a link or opening what is no regular file."""

    def __init__(self, path: str, metainfo: Metainfo) -> None:
        self.path = path
        if any(file.link for file in metainfo.files):
            raise PayloadError("the torrent %s has symbolic links in it, which are not copied" % metainfo.name)
        self.root = None if metainfo.is_file else os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self

    def __exit__(self, *_error: object) -> None:
        if self.root is not None:
            os.close(self.root)

    @contextmanager
    def open(self, file: TorrentFile) -> Iterator[int]:
        """A descriptor of one file."""
        # Not blocking: a pipe put in a file's place would hold us for ever
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        if self.root is None:
            handle = os.open(self.path, flags)
        else:
            directory = os.dup(self.root)
            try:
                for part in file.path[:-1]:
                    inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                    os.close(directory)
                    directory = inner
                handle = os.open(file.path[-1], flags, dir_fd=directory)
            finally:
                os.close(directory)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", os.path.join(self.path, *file.path))
            yield handle
        finally:
            os.close(handle)

    def size(self, file: TorrentFile) -> int:
        with self.open(file) as handle:
            return os.fstat(handle).st_size

    def blocks(self, file: TorrentFile) -> Iterator[bytes]:
        with self.open(file) as handle:
            yield from _blocks(handle)


def _blocks(handle: int) -> Iterator[bytes]:
    while True:
        block = os.read(handle, BLOCK)
        if not block:
            return
        yield block


def _copied(source: _Source, file: TorrentFile, path: str) -> Iterator[bytes]:
    """Copy one file of the payload to `path`; gives the copy's bytes."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    copy = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with source.open(file) as original:
            if _reflink(original, copy):
                yield from _blocks(copy)
            else:
                for block in _blocks(original):
                    rest = memoryview(block)
                    while rest:
                        rest = rest[os.write(copy, rest) :]
                    yield block
        os.fsync(copy)
    finally:
        os.close(copy)


def _reflink(original: int, copy: int) -> bool:
    """Whether the file system could make the copy share the original's blocks, which costs neither time nor space."""
    try:
        fcntl.ioctl(copy, FICLONE, original)
    except OSError:  # other file system, or one that cannot: each has an error of its own for that
        return False
    return True


def _paths(location: str, metainfo: Metainfo) -> set[str]:
    found = {location}
    for file in metainfo.files:
        if not file.pad:
            for depth in range(1, len(file.path) + 1):
                found.add(os.path.join(location, *file.path[:depth]))
    return found


def _inherit(path: str, dest: str | None) -> None:
    """The mode that a new file has by the umask; mode and owner of what it replaces, if it replaces something."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, (0o777 if os.path.isdir(path) else 0o666) & ~umask)
    if dest is None or os.path.islink(dest) or not os.path.exists(dest):
        return
    before = os.stat(dest)
    try:
        os.chown(path, before.st_uid, before.st_gid)
    except PermissionError:
        return  # then it belongs to whoever runs this, as with any rename over a file
    os.chmod(path, stat.S_IMODE(before.st_mode))


def _replace(copy: str, dest: str, aside: str) -> None:
    if not os.path.isdir(copy) or not os.path.isdir(dest):
        os.rename(copy, dest)
        return
    # A directory that is not empty cannot be renamed over
    os.rename(dest, aside)
    try:
        os.rename(copy, dest)
    except OSError:
        os.rename(aside, dest)
        raise


def _sync(directory: str) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _name(metainfo: Metainfo, file: TorrentFile) -> str:
    return "/".join((metainfo.name, *file.path))


def _unreadable(path: str, error: OSError) -> PayloadError:
    return PayloadError("cannot read the payload %s: %s" % (path, _words(error, path)))


def _words(error: OSError, known: str | None = None) -> str:
    """The system's words, the file unless it is `known`, and what to do about it."""
    about = "%s: " % error.filename if error.filename and error.filename != known else ""
    if error.errno in (errno.EACCES, errno.EPERM):
        return "%s%s for user id %d. Use become: true." % (about, error.strerror, os.geteuid())
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "%s%s. It needs as much space as the payload has bytes." % (about, error.strerror)
    return about + str(error.strerror)
