"""Small file operations that survive a power cut: what they wrote is on the disk when they return."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from pathlib import Path

from shoal.common.durable import sync_dir
from shoal.release.errors import ReleaseError

_libc = ctypes.CDLL(None, use_errno=True)


def sync_tree(path: Path) -> None:
    """Put everything below ``path`` on the disk.

    One syncfs(2) instead of an fsync per file: on ext4 each fsync is a journal commit, and a release of 30,000 small
    files would take minutes.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(fd)


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace the file ``path`` by ``data``, whole or not at all, on the disk when it returns."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    temporary.replace(path)
    sync_dir(path.parent)


def remove_file(path: Path) -> None:
    """Remove the file or link ``path`` if it is there, on the disk when it returns."""
    path.unlink(missing_ok=True)
    sync_dir(path.parent)


def point_link(link: Path, target: str, temporary: Path) -> None:
    """Make ``link`` a symbolic link with the text ``target`` in one atomic step.

    ``temporary`` (same file system) is where the new link is made before it is renamed over the old one, so that
    there is no moment without a link and nothing is left beside it after a kill.
    """
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    sync_dir(temporary.parent)
    temporary.replace(link)
    sync_dir(link.parent)


def remove_tree(path: Path) -> None:
    """Remove the directory ``path`` and all below it, whatever modes its folders have; absent is fine. OSError."""

    if path.is_symlink() or not path.exists():
        path.unlink(missing_ok=True)
        return
    if os.geteuid() != 0:
        # Root needs no permission; and were it to change modes here, the owner of the tree could put a link there.
        path.chmod(0o700)
        for folder, names, _files in os.walk(path):
            for name in names:
                below = Path(folder, name)
                if not below.is_symlink():
                    below.chmod(0o700)
    try:
        shutil.rmtree(path)
    except RecursionError:  # what ran from it may have made folders in one another without end
        raise OSError(errno.ENAMETOOLONG, "folders are nested too deeply to be deleted", str(path)) from None


def read_trusted(path: Path) -> bytes:
    """What a file of ours says, if nobody else could have written it: it may hold commands that get executed."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        _check_owner(path, os.fstat(fd))
        return file.read()


def check_trusted_dir(path: Path) -> None:
    """Refuse a folder whose contents somebody else could change: what is in it gets executed or believed."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ReleaseError(
            f"{path} is not a directory", hint="move it away; shoal makes the folder itself", code="not_trusted"
        )
    _check_owner(path, found)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o022:
        raise ReleaseError(
            f"{path} belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o}: "
            "others than its owner or root could change what is run from it",
            hint=f"run as its owner, or: chown root {path} && chmod go-w {path}",
            code="not_trusted",
        )
