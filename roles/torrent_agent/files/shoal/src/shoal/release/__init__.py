"""Releases on a host: verify and unpack, switch, prove healthy, go back. No libtorrent here.

`verbs` is the face of this room: one function a verb of ``shoal release``.
"""

from shoal.release.errors import ReleaseError
from shoal.release.request import PROTOCOL, parse, parse_inspect

__all__ = ["PROTOCOL", "ReleaseError", "parse", "parse_inspect"]
