"""Where everything of an application lies on a host, and the records kept about it.

::

    ROOT/releases/VERSION   one folder a release, complete from the moment it is there
    ROOT/shared/            what outlives releases (uploads, logs); linked into each release
    ROOT/current            symbolic link to the active release
    ROOT/.shoal/            ours, mode 0700: locks, records, journal, log, staging
"""

from __future__ import annotations

import json
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from shoal.common.durable import sync_dir
from shoal.release import files
from shoal.release.errors import ReleaseError
from shoal.release.request import Request

_S = TypeVar("_S", bound=Struct)

LOG_LIMIT = 1 << 20  # bytes; then the older half of the revision log goes


class Pointer(Struct, frozen=True):
    """A release as `current` names it: ``target`` is the link's text, ``version`` what people call it."""

    version: str
    target: str


class Record(Struct, frozen=True):
    """What is known of a staged release."""

    version: str
    sha256: str
    info_hash: str | None
    size: int
    format: str
    unpacked_bytes: int
    entries: int
    irreversible: bool
    staged_at: float
    who: str = ""


class State(Struct, frozen=True):
    """What the last finished switch left behind."""

    operation: str = ""  # the switch that wrote this
    current: Pointer | None = None
    previous: Pointer | None = None
    activated_at: float = 0.0
    left: dict[str, float] = {}  # when releases that are here still were `current` last
    floor: str | None = None  # the irreversible release behind which there is no way back
    behind: list[str] = []  # versions that were here before it
    request: Request | None = None  # how the current release was activated: what a person's `--previous` repeats


class Layout:
    """The paths of one application and the small files in them; nothing here takes a lock."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.releases = self.root / "releases"
        self.shared = self.root / "shared"
        self.current = self.root / "current"
        self.home = self.root / ".shoal"
        self.lock = self.home / "lock"
        self.stage_lock = self.home / "stage.lock"
        self.state_file = self.home / "state.json"
        self.journal_file = self.home / "unproven.json"
        self.log_file = self.home / "log.jsonl"
        self.records = self.home / "releases"
        self.operations = self.home / "operations"
        self.staging = self.home / "staging"
        self.trash = self.home / "trash"

    def prepare(self) -> None:
        """Make what is missing and refuse folders that others could tamper with."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        for folder, mode in ((self.root, 0o755), (self.home, 0o700), (self.releases, 0o755), (self.shared, 0o755)):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                folder.chmod(mode)  # whatever the caller's umask is: the service must get in
        for folder in (self.operations, self.staging, self.trash, self.records):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.check_trust()

    def check_trust(self) -> None:
        """Refuse a layout that others could tamper with; what is not there yet is fine."""
        if os.geteuid() == 0 and self.root.exists():
            files.check_trusted_dir(self.root)  # who may write here could put another .shoal in its place
        if self.home.is_symlink() or self.home.exists():
            files.check_trusted_dir(self.home)
        if self.releases.is_symlink():
            raise ReleaseError(
                f"{self.releases} is a symbolic link; releases must be a directory of its own",
                hint=f"move the releases into {self.releases}, or use the real folder's parent as root",
                code="not_trusted",
            )

    # -- releases ------------------------------------------------------------------------------------------------

    def release(self, version: str) -> Path:
        """Where ``version`` lies or would lie."""
        return self.releases / version

    def record(self, version: str) -> Record | None:
        """The record of ``version`` if it is staged whole, else None."""
        if not self.release(version).is_dir() or self.release(version).is_symlink():
            return None
        return _read(self.records / f"{version}.json", Record)

    def staged(self) -> list[Record]:
        """The staged releases, oldest first."""
        names = [path.stem for path in self.records.glob("*.json")] if self.home.is_dir() else []
        found = [record for record in map(self.record, names) if record is not None]
        return sorted(found, key=lambda record: (record.staged_at, record.version))

    def strangers(self) -> list[str]:
        """Folders in releases/ that other tools made: adopted as they are, never pruned."""
        if not self.releases.is_dir():
            return []
        ours = {record.version for record in self.staged()}
        return sorted(path.name for path in self.releases.iterdir() if path.is_dir() and path.name not in ours)

    def write_record(self, record: Record) -> None:
        """Keep ``record``, on the disk when it returns."""
        files.write_whole(self.records / f"{record.version}.json", msgspec.json.encode(record))

    def discard(self, version: str) -> None:
        """Take ``version`` out of releases/ at once, then delete it; the trash is emptied by `clean` after a kill."""
        doomed = self.trash / f"{version}.{os.getpid()}"
        files.remove_tree(doomed)
        if self.release(version).is_dir():
            self.release(version).rename(doomed)
            sync_dir(self.releases)
        (self.records / f"{version}.json").unlink(missing_ok=True)
        files.remove_tree(doomed)

    def empty_trash(self) -> None:
        """Delete what a killed `discard` left; what cannot be (something is mounted in it) is in nobody's way."""
        for doomed in self.trash.iterdir():
            with suppress(OSError):
                files.remove_tree(doomed)

    # -- current -------------------------------------------------------------------------------------------------

    def pointer(self) -> Pointer | None:
        """What `current` points at, whoever made it; None: there is no `current`, or its release is gone."""
        try:
            found = self.current.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISLNK(found.st_mode):
            kind = "directory" if stat.S_ISDIR(found.st_mode) else "file"
            raise ReleaseError(
                f"{self.current} is a {kind}, not a symbolic link: it cannot be switched",
                hint=f"make it a release: mv {self.current} {self.releases}/NAME && ln -s releases/NAME {self.current}",
                code="current_not_a_link",
            )
        pointer = self.pointer_to(os.fspath(self.current.readlink()))
        return pointer if self.path_of(pointer).is_dir() else None

    def pointer_to(self, target: str) -> Pointer:
        """The pointer for the text of a link in ROOT."""
        return Pointer(version=Path(target).name, target=target)

    def path_of(self, pointer: Pointer) -> Path:
        """The folder that ``pointer`` means."""
        return self.root / pointer.target

    def point_current(self, pointer: Pointer | None) -> None:
        """Switch `current` over to ``pointer`` in one step; None removes it. Idempotent."""
        if pointer is None:
            files.remove_file(self.current)
        elif not (self.current.is_symlink() and os.fspath(self.current.readlink()) == pointer.target):
            files.point_link(self.current, pointer.target, self.home / "current.new")

    # -- state and log -------------------------------------------------------------------------------------------

    def state(self) -> State:
        """What the last finished switch left behind; empty before the first."""
        return _read(self.state_file, State) or State()

    def write_state(self, state: State) -> None:
        """Keep ``state``, on the disk when it returns."""
        files.write_whole(self.state_file, msgspec.json.encode(state))

    def previous(self) -> Pointer | None:
        """The release to go back to, if it is still there."""
        previous = self.state().previous
        return previous if previous is not None and self.path_of(previous).is_dir() else None

    def append_log(self, entry: dict[str, Any]) -> None:
        """Add a line to the revision log, once for each operation, on the disk when it returns."""
        lines = self.read_log(1)
        if lines and lines[0].get("operation") == entry.get("operation"):
            return
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_LIMIT:
            kept = self.log_file.read_bytes()[-LOG_LIMIT // 2 :].partition(b"\n")[2]
            files.write_whole(self.log_file, kept)
        fd = os.open(self.log_file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "rb+") as file:
            torn = file.seek(0, os.SEEK_END) > 0 and os.pread(fd, 1, file.tell() - 1) != b"\n"
            file.write((b"\n" if torn else b"") + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(fd)

    def read_log(self, count: int) -> list[dict[str, Any]]:
        """The last ``count`` revisions, newest first; a line torn by a power cut is left out."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - (256 << 10)))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in reversed(lines):
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
            if len(entries) == count:
                break
        return entries


def new_operation_id() -> str:
    """A name for an operation that sorts by time: ``20260301T142530-3f9a1c``."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + os.urandom(3).hex()


def _read(path: Path, kind: type[_S]) -> _S | None:
    try:
        return msgspec.json.decode(files.read_trusted(path), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ReleaseError(
            f"{path} cannot be read: {error}", hint="move it away if it is damaged", code="damaged_record"
        ) from None
