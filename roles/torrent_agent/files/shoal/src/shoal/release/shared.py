"""Links from a release to what it shares with all others: uploads, logs, local settings."""

from __future__ import annotations

from pathlib import Path

from shoal.release.archive import Ownership
from shoal.release.errors import ReleaseError
from shoal.release.layout import Layout

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
    for name in map(_clean, names):
        kept = layout.shared / name
        if not kept.exists() and not kept.is_symlink():
            _make_folders(kept, layout.shared, ownership)
        place = release / name
        wanted = "../" * (2 + name.count("/")) + f"shared/{name}"
        if place.is_symlink():
            if str(place.readlink()) == wanted:
                continue
            place.unlink()
        elif place.exists():
            for placeholder in place.iterdir():
                placeholder.unlink()
            place.rmdir()
        _make_folders(place.parent, release, ownership)
        place.symlink_to(wanted)


def _clean(name: str) -> str:
    return name.rstrip("/")


def _make_folders(path: Path, top: Path, ownership: Ownership) -> None:
    if path == top or path.is_dir():
        return
    _make_folders(path.parent, top, ownership)
    path.mkdir()
    ownership.give(path, 0o777)
