"""Links from a release to what it shares with all others: uploads, logs, local settings."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from shoal.release.archive import Ownership
from shoal.release.errors import ReleaseError
from shoal.release.layout import Layout

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# Files that only keep an otherwise empty folder in version control.
_PLACEHOLDERS = {".gitkeep", ".keep", ".gitignore"}


def check(release: Path, names: list[str]) -> None:
    """Refuse shared paths for which the release brings contents of its own. Raises ReleaseError."""
    for name in names:
        place = release / name.rstrip("/")
        for parent in [parent for parent in place.parents if parent.is_relative_to(release) and parent != release]:
            if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
                raise ReleaseError(f"shared path {name!r} cannot be linked: {parent} is not a directory")
        if place.is_symlink() or not place.exists():
            continue
        if not place.is_dir() or any(entry.name not in _PLACEHOLDERS for entry in place.iterdir()):
            raise ReleaseError(
                f"shared path {name!r} has contents in the release: {place}",
                hint=f"leave {name} out of the archive, or out of shared",
                code="shared_conflict",
            )


def link(layout: Layout, release: Path, names: list[str], ownership: Ownership) -> None:
    """Link each of ``names`` in ``release`` to shared/NAME, which is made (as a folder) if it is not there.

    Idempotent. The links are relative, so that the tree can be moved or seen in a container.
    """
    check(release, names)
    for name in names:
        parts = name.rstrip("/").split("/")
        kept = layout.shared.joinpath(*parts)
        if not kept.exists() and not kept.is_symlink():
            os.close(_open_folder(layout.shared, parts, ownership))
        parent = _open_folder(release, parts[:-1], ownership)
        try:
            _link(parent, parts[-1], "../" * (1 + len(parts)) + "/".join(["shared", *parts]))
        finally:
            os.close(parent)


def _link(parent: int, name: str, wanted: str) -> None:
    """Make ``name`` in the folder ``parent`` a link to ``wanted``, in the place of an empty folder or another link."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        os.symlink(wanted, name, dir_fd=parent)
        return
    if stat.S_ISLNK(found.st_mode):
        if os.readlink(name, dir_fd=parent) == wanted:
            return
        os.unlink(name, dir_fd=parent)
    else:
        folder = os.open(name, _FOLDER, dir_fd=parent)
        try:
            for placeholder in _PLACEHOLDERS.intersection(os.listdir(folder)):  # noqa: PTH208 - a descriptor
                os.unlink(placeholder, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=parent)
    os.symlink(wanted, name, dir_fd=parent)


def _open_folder(top: Path, parts: list[str], ownership: Ownership) -> int:
    """Open the folder ``parts`` below ``top``, making what is missing.

    Step by step and through no link: the release may belong to a user that could change it while root is at work.
    """
    here = os.open(top, _FOLDER & ~os.O_NOFOLLOW)  # shared/ itself may be a link to another file system
    for part in parts:
        above = here
        try:
            try:
                here = os.open(part, _FOLDER, dir_fd=above)
            except FileNotFoundError:
                os.mkdir(part, 0o700, dir_fd=above)
                here = os.open(part, _FOLDER, dir_fd=above)
                ownership.give(here, 0o777)
        finally:
            os.close(above)
    return here
