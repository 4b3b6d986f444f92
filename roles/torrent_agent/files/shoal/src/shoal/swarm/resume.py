"""The state folder: what the engine knows again after it was stopped or killed.

::

    STATE_DIR/dirty                       there while an engine runs, and after one that was not stopped cleanly; locked
                                          by the running one, so that no second engine uses the folder
    STATE_DIR/torrents/INFO_HASH.json     our record (`Record`): there as long as the torrent is known
    STATE_DIR/torrents/INFO_HASH.torrent  its metainfo; a magnet's once it is known
    STATE_DIR/torrents/INFO_HASH.resume   libtorrent's resume data: which pieces are here
    STATE_DIR/quarantine/                 files of `torrents/` that could not be read, moved out of the way
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shoal.swarm.errors import SwarmError

FORMAT = 1


class Record(msgspec.Struct, kw_only=True, forbid_unknown_fields=False):
    """Our own record of a torrent. libtorrent's resume data is not asked for any of this: a kill leaves it stale."""

    format: int = FORMAT
    info_hash: str
    magnet: str | None = None
    data_path: str | None = None
    trackers: list[list[str]] = []  # tiers beside the torrent's own
    peers: list[tuple[str, int]] = []  # given by hand: no tracker would remind us of them
    web_seeds: list[str] = []
    upload_limit: int = 0
    download_limit: int = 0
    paused: bool = False
    added_at: float = 0.0
    completed_at: float | None = None
    download_seconds: float = 0.0
    uploaded: int = 0
    from_peers: dict[str, int] = {}
    from_web_seeds: int = 0
    redundant: int = 0  # came twice
    failed: int = 0  # did not match its hash
    found: int = 0  # was on disk without having been fetched
    refetched: int = 0
    app: str = ""  # the label; empty: none was given
    version: str = ""
    pinned: bool = False
    wanted_at: float = 0.0  # when it was asked for last
    done: int = 0  # bytes on disk, those of unfinished pieces included
    files: list[tuple[int, int]] | None = None
    """Size and mtime (ns) of each file as it was when its complete content was safely on disk; None until then."""

    @property
    def received(self) -> int:
        return sum(self.from_peers.values()) + self.from_web_seeds


@dataclass
class Saved:
    """One torrent as the folder has it."""

    record: Record
    torrent: bytes | None
    resume: bytes | None


@dataclass(frozen=True)
class Quarantined:
    """A file of the folder that could not be used, and why."""

    path: Path
    reason: str


def write_atomically(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace ``path``: it has the old or the new content at any moment; with ``sync`` after a power cut, too."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stamp(paths: list[Path | None], *, sync: bool = False) -> list[tuple[int, int]] | None:
    """Size and mtime of each file, ``(0, 0)`` for a None; None if a file is missing.

    :param sync: make the content safe on disk first, so that the stamp cannot outlive what it vouches for
    """
    stamps: list[tuple[int, int]] = []
    for path in paths:
        if path is None:
            stamps.append((0, 0))
            continue
        try:
            if sync:
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            found = path.stat()
        except OSError:
            return None
        stamps.append((found.st_size, found.st_mtime_ns))
    return stamps


class StateFolder:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._torrents = root / "torrents"
        self._mark = root / "dirty"
        self._lock: int | None = None

    def open(self) -> bool:
        """Take the folder; True if the engine before this one was stopped cleanly.

        :raises SwarmError: another engine uses it, or it cannot be written
        """
        try:
            self._torrents.mkdir(parents=True, exist_ok=True)
            clean = not self._mark.exists()
            descriptor = os.open(self._mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SwarmError(f"the state folder {self._root} cannot be used: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 20).decode(errors="replace")
            os.close(descriptor)
            raise SwarmError(
                f"the state folder {self._root} is in use by process {owner or '?'}: "
                "stop that one, or give this agent a state_dir of its own"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        os.fsync(descriptor)
        sync_folder(self._root)
        self._lock = descriptor
        return clean

    def close(self, *, clean: bool) -> None:
        """Let the folder go; ``clean``: all that a next engine has to trust was saved."""
        if self._lock is None:
            return
        if clean:
            self._mark.unlink(missing_ok=True)
            sync_folder(self._root)
        os.close(self._lock)
        self._lock = None

    def load(self) -> Iterator[Saved | Quarantined]:
        """Every torrent of the folder; what cannot be read is moved to the quarantine and named."""
        for path in sorted(self._torrents.glob("*.new")):
            path.unlink()  # a write that was cut off; its target is whole
        records: list[Record] = []
        for path in sorted(self._torrents.glob("*.json")):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Record)
                if record.info_hash != path.stem:
                    raise ValueError(f"it is about {record.info_hash}")
                if record.format != FORMAT:
                    raise ValueError(f"its format is {record.format}, this agent knows {FORMAT}")
            except (OSError, ValueError) as error:
                yield self.quarantine(path, str(error))
                continue
            records.append(record)
        for record in sorted(records, key=lambda record: record.added_at):  # older ones come first, also to space
            files = self.torrent_file(record.info_hash), self.resume_file(record.info_hash)
            yield Saved(record, *map(self._read, files))

    def quarantine(self, path: Path, reason: str) -> Quarantined:
        target = self._root / "quarantine" / f"{path.name}.{time.time_ns()}"
        target.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.replace(target)
        return Quarantined(target, reason)

    def torrent_file(self, info_hash: str) -> Path:
        return self._torrents / f"{info_hash}.torrent"

    def resume_file(self, info_hash: str) -> Path:
        return self._torrents / f"{info_hash}.resume"

    def record_file(self, info_hash: str) -> Path:
        return self._torrents / f"{info_hash}.json"

    def forget(self, info_hash: str) -> None:
        # the record first: without it the others are nobody's
        for path in (self.record_file(info_hash), self.torrent_file(info_hash), self.resume_file(info_hash)):
            path.unlink(missing_ok=True)

    @staticmethod
    def _read(path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
