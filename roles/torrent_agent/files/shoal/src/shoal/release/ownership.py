"""Whose the files of a release are to be: names of the request as numbers of this host."""

from __future__ import annotations

import grp
import os
import pwd

from shoal.release.archive import Ownership
from shoal.release.errors import ReleaseError
from shoal.release.request import Request


def resolve(request: Request) -> Ownership:
    """The owner, group and umask of ``request``. Raises ReleaseError if they do not exist or cannot be given."""
    uid = None if request.owner is None else _uid(request.owner)
    gid = None if request.group is None else _gid(request.group)
    if os.geteuid() != 0:
        if uid is not None and uid != os.geteuid():
            raise ReleaseError(f"only root can give files to {request.owner!r}", hint="run as root, or leave owner out")
        if gid is not None and gid not in {os.getegid(), *os.getgroups()}:
            raise ReleaseError(
                f"{request.group!r} is no group of the user that runs this", hint="run as root, or leave group out"
            )
    return Ownership(uid, gid, int(request.umask, 8))


def _uid(name: str) -> int:
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ReleaseError(f"there is no user {name!r} on this host", hint="create it, or correct owner") from None


def _gid(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ReleaseError(f"there is no group {name!r} on this host", hint="create it, or correct group") from None
