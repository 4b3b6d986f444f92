"""What can go wrong in this room; every error says what was being done, to what, and what was found."""

from __future__ import annotations


class SwarmError(Exception):
    """Root of this room's errors."""


class UnknownTorrent(SwarmError):  # noqa: N818 - reads as what it is
    """No torrent with this info hash is here."""


class BadTorrent(SwarmError):  # noqa: N818
    """What was given is no usable .torrent or magnet."""


class NoSpace(SwarmError):  # noqa: N818
    """It does not fit onto the store's file system; the message has the sum."""


class ConflictingData(SwarmError):  # noqa: N818
    """The torrent is known already, with its payload elsewhere."""
