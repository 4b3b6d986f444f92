"""Which members may be unpacked, and where: the rules for a release's tree.

Rules are checked on names alone, before anything is written, the same for unpacking on a host and for `inspect` at
the publisher. A refused archive is refused whole, with the member named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from shoal.release.errors import ArchiveError
from shoal.release.members import Member

NAME_LIMIT = 255  # bytes of one component: NAME_MAX of the usual file systems
PATH_LIMIT = 2048  # bytes of a whole name: half of PATH_MAX, the other half is for where the release lies
DEPTH_LIMIT = 100  # folders in one another; the standard library's own walks recurse
LINK_HOPS = 40  # as the kernel: more links in a row are a loop
SET_ID = 0o6000

# Control characters; and lone surrogates, which stand for bytes that are not UTF-8.
_BAD_CHARACTERS = re.compile("[\0-\x1f\x7f\ud800-\udfff]")

Path = tuple[str, ...]
"""The components of a name below the release's folder."""


@dataclass(frozen=True)
class Entry:
    """One inode to make."""

    path: Path
    kind: str  # file, directory, symlink, hardlink
    member: Member
    target: Path = ()  # of a hard link


@dataclass
class Tree:
    """The tree as it grows, member by member."""

    strip_components: int = 0
    entry_limit: int = 1_000_000
    kinds: dict[Path, str] = field(default_factory=dict)
    links: dict[Path, str] = field(default_factory=dict)

    def admit(self, member: Member) -> Entry | None:
        """What to make of ``member``; None: nothing (the root itself, a folder that was stripped away).

        Raises ArchiveError.
        """
        if member.kind not in ("file", "directory", "symlink", "hardlink"):
            raise _refused(member, f"is a {member.kind}, which is never unpacked")
        if member.mode > 0 and member.mode & SET_ID:
            raise _refused(member, f"is setuid or setgid (mode {member.mode:04o})")
        path = self._place(member, member.name, "name")
        if not path:
            return None
        self._make_parents(member, path)
        known = self.kinds.get(path)
        if known is not None and known != member.kind:
            raise _refused(member, f"is a {member.kind}, but the archive has a {known} of this name already")
        target = self._link_target(member)
        if member.kind == "symlink":
            self._check_symlink(member)
            self.links[path] = member.link
        self._count(member, path, member.kind)
        return Entry(path, member.kind, member, target)

    def check_links(self) -> None:
        """Refuse a symbolic link that leads out of the tree, by way of other links too; for when all are known."""
        for path in self.links:
            self._follow(path)

    def _place(self, member: Member, name: str, what: str) -> Path:
        """``name`` as components below the release, or () for nothing."""
        if _BAD_CHARACTERS.search(name):
            raise _refused(member, f"has a {what} with control characters or bytes that are not UTF-8")
        if not name:
            raise _refused(member, f"has an empty {what}")
        if name.startswith("/"):
            raise _refused(member, f"has an absolute {what}" + (f": {name!r}" if what != "name" else ""))
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise _refused(member, f"has a {what} with '..'" + (f": {name!r}" if what != "name" else ""))
        if len(name.encode()) > PATH_LIMIT or any(len(part.encode()) > NAME_LIMIT for part in parts):
            raise _refused(
                member, f"has a {what} that is too long (over {NAME_LIMIT} bytes a part, {PATH_LIMIT} in all)"
            )
        if len(parts) > DEPTH_LIMIT:
            raise _refused(member, f"has a {what} that nests deeper than {DEPTH_LIMIT} folders")
        stripped = parts[self.strip_components :]
        if parts and not stripped and (member.kind != "directory" or what != "name"):
            raise _refused(member, f"would be lost by strip_components: {self.strip_components}")
        return stripped

    def _make_parents(self, member: Member, path: Path) -> None:
        for depth in range(1, len(path)):
            parent = path[:depth]
            kind = self.kinds.get(parent)
            if kind is None:
                self._count(member, parent, "directory")
            elif kind != "directory":
                raise _refused(member, f"would be written through {'/'.join(parent)!r}, which is a {kind}")

    def _count(self, member: Member, path: Path, kind: str) -> None:
        self.kinds[path] = kind
        if len(self.kinds) > self.entry_limit:
            raise ArchiveError(f"the archive has more than {self.entry_limit} entries; {member.name!r} is one more")

    def _link_target(self, member: Member) -> Path:
        if member.kind != "hardlink":
            return ()
        target = self._place(member, member.link, "link target")
        if self.kinds.get(target) not in ("file", "hardlink"):
            raise _refused(member, f"is a hard link to {member.link!r}, which is no file of the archive before it")
        return target

    def _check_symlink(self, member: Member) -> None:
        if _BAD_CHARACTERS.search(member.link) or not member.link or len(member.link.encode()) > PATH_LIMIT:
            raise _refused(member, f"is a symbolic link with an unusable target: {member.link[:100]!r}")
        if member.link.startswith("/"):
            raise _refused(
                member, f"is a symbolic link to the absolute {member.link!r}", "link within the release, or use shared"
            )

    def _follow(self, start: Path) -> None:
        """Walk the link at ``start`` as the kernel would. A target that does not exist is fine, as long as it is in."""
        place = list(start[:-1])
        rest = self.links[start].split("/")[::-1]
        hops = 0
        while rest:
            part = rest.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not place:
                    raise ArchiveError(
                        f"member {'/'.join(start)!r} is a symbolic link out of the tree: {self.links[start]!r}",
                        hint="link within the release, or use shared",
                    )
                place.pop()
                continue
            place.append(part)
            link = self.links.get(tuple(place))
            if link is not None:
                hops += 1
                if hops > LINK_HOPS:
                    raise ArchiveError(f"member {'/'.join(start)!r} is a symbolic link in a loop")
                place.pop()
                rest.extend(link.split("/")[::-1])


def _refused(member: Member, what: str, hint: str = "") -> ArchiveError:
    return ArchiveError(f"member {member.name!r} {what}", hint=hint or "make the archive without it")
