"""The documents of an end point: what they hold, and what is refused. docs/endpoint.md is the reference.

A reader ignores keys that it does not know, so that a publisher may add some; what changes the meaning of a known one
counts ``format`` up. Times are UTC, sizes bytes.
"""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from shoal.endpoint.errors import DocumentError

_S = TypeVar("_S", bound=Struct)

FORMAT = 1
MAX_DOCUMENT = 1 << 20  # bytes of a channel or manifest; real ones have a few hundred, long notes some thousand
MAX_TORRENT = 10 << 20  # bytes; what libtorrent loads by default
# bytes of signed metadata, by role; targets has some 370 for each version
MAX_METADATA = {"root": 64 << 10, "timestamp": 16 << 10, "snapshot": 64 << 10, "targets": 4 << 20}
MAX_HISTORY = 500  # publications that a channel remembers

APP_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
CHANNEL_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
# The same as of a release's name: a file name and an argument, with nothing in it to quote.
VERSION_PATTERN = r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._+~-]{0,127}"
FILE_NAME_PATTERN = r"(?!\.{1,2}$)[^/\x00-\x1f\x7f]{1,255}"

App = Annotated[str, Meta(pattern=f"^{APP_PATTERN}$")]
ChannelName = Annotated[str, Meta(pattern=f"^{CHANNEL_PATTERN}$")]
Version = Annotated[str, Meta(pattern=f"^{VERSION_PATTERN}$")]
Count = Annotated[int, Meta(ge=0)]
Sequence = Annotated[int, Meta(ge=1, le=2**53)]
Percent = Annotated[int, Meta(ge=0, le=100)]
Time = Annotated[datetime, Meta(tz=True)]
Text = Annotated[str, Meta(max_length=16384)]


class Archive(Struct, frozen=True):
    """The bytes of a release."""

    name: Annotated[str, Meta(pattern=f"^{FILE_NAME_PATTERN}$")]
    size: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(Struct, frozen=True):
    """``manifests/VERSION.json``: a version, which never changes. The same keys as `release_publish` writes."""

    app: App
    version: Version
    archive: Archive
    unpacked_bytes: Count
    entries: Count
    info_hash: Annotated[str, Meta(pattern="^[0-9a-f]{40}$")]
    piece_length: Count
    published_by: Text
    published_at: Time
    irreversible: bool = False
    notes: Text = ""
    format: int = FORMAT


class Step(Struct, frozen=True):
    """From this time on, this share of the fleet."""

    at: Time
    percent: Percent


class Halt(Struct, frozen=True):
    """Nobody begins to upgrade while this is there."""

    who: Text
    at: Time
    reason: Text = ""


class Revocation(Struct, frozen=True):
    """A version that nobody is to activate."""

    version: Version
    who: Text
    at: Time
    reason: Text = ""


class Publication(Struct, frozen=True):
    """One line of a channel's history."""

    sequence: Sequence
    version: Version
    who: Text
    at: Time


class Channel(Struct, frozen=True):
    """``channels/NAME.json``: the version that hosts on this channel should run, and how fast."""

    app: App
    channel: ChannelName
    sequence: Sequence
    version: Version
    rollout: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=100)]
    history: Annotated[tuple[Publication, ...], Meta(max_length=MAX_HISTORY)]
    halt: Halt | None = None
    revoked: tuple[Revocation, ...] = ()
    no_way_back_before: Count = 0  # a sequence; who was on it or later never goes to what was published before it
    format: int = FORMAT

    def percent(self, now: datetime) -> int:
        """The share of the fleet that may upgrade now, 0 to 100."""
        return max((step.percent for step in self.rollout if step.at <= now), default=0)

    def is_revoked(self, version: str) -> bool:
        """Whether ``version`` is not to be activated."""
        return any(one.version == version for one in self.revoked)


def channel_path(name: str) -> str:
    """The target path of channel ``name``."""
    return f"channels/{check_name('channel', name, CHANNEL_PATTERN)}.json"


def manifest_path(version: str) -> str:
    """The target path of the manifest of ``version``."""
    return f"manifests/{check_name('version', version, VERSION_PATTERN)}.json"


def torrent_path(version: str) -> str:
    """The target path of the torrent of ``version``."""
    return f"torrents/{check_name('version', version, VERSION_PATTERN)}.torrent"


def check_name(what: str, name: str, pattern: str) -> str:
    """``name`` itself if it matches. Raises DocumentError."""
    if not re.fullmatch(pattern, name):
        words = {
            CHANNEL_PATTERN: "a small letter or digit, then up to 63 of a-z 0-9 . _ -",
            VERSION_PATTERN: "a letter or digit, then up to 127 of A-Z a-z 0-9 . _ + ~ -, without '..'",
        }.get(pattern, "a letter or digit, then up to 63 of A-Z a-z 0-9 . _ -")
        raise DocumentError(f"{what} {name!r} cannot be used", hint=f"use {words}", code="bad_request")
    return name


def decode_channel(data: bytes, app: str, name: str) -> Channel:
    """A channel from its bytes. Raises DocumentError, also if it is about something else."""
    where = channel_path(name)
    found = _decode(data, Channel, where)
    _expect(where, (("app", app, found.app), ("channel", name, found.channel)))
    steps = [(step.at, step.percent) for step in found.rollout]
    if any(later[0] <= earlier[0] or later[1] <= earlier[1] for earlier, later in pairwise(steps)):
        raise DocumentError(f"{where}: rollout does not grow from step to step")
    if found.no_way_back_before > found.sequence:
        raise DocumentError(f"{where}: no_way_back_before {found.no_way_back_before} is a sequence that is yet to come")
    return found


def decode_manifest(data: bytes, app: str, version: str) -> Manifest:
    """A manifest from its bytes. Raises DocumentError, also if it is about something else."""
    where = manifest_path(version)
    found = _decode(data, Manifest, where)
    _expect(where, (("app", app, found.app), ("version", version, found.version)))
    return found


def read_manifest(data: bytes) -> Manifest:
    """A manifest from its bytes, whatever it is about. Raises DocumentError."""
    return _decode(data, Manifest, "manifest.json")


def encode(document: Struct) -> bytes:
    """A document as it is signed and served: the same document has the same bytes."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


class _Head(Struct, frozen=True):
    format: int


def _decode(data: bytes, kind: type[_S], where: str) -> _S:
    if len(data) > MAX_DOCUMENT:
        raise DocumentError(f"{where} has {len(data)} bytes, more than the {MAX_DOCUMENT} that it may have")
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.format != FORMAT:
            newer = head.format > FORMAT
            raise DocumentError(
                f"{where} has format {head.format}, this shoal knows {FORMAT}",
                hint="update shoal on this host" if newer else "",
            )
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # ValidationError is a DecodeError
        raise DocumentError(f"{where} is wrong: {error}") from None


def _expect(where: str, names: tuple[tuple[str, str, str], ...]) -> None:
    for what, wanted, found in names:
        if wanted != found:
            raise DocumentError(f"{where} is about {what} {found}, not {wanted}")
