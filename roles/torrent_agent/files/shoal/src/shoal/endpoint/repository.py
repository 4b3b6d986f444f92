"""The signed files of one application's end point, as a publisher reads and writes them.

``metadata/`` and ``targets/`` in one folder, by the TUF specification with consistent snapshots: every file but
timestamp.json has its version or its SHA-256 in its name and never changes, and timestamp.json is replaced last. So a
reader sees the state before or the state after, whatever happens in between.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from shoal.endpoint import documents, folder
from shoal.endpoint.errors import DocumentError, EndpointError, SigningKeyError
from shoal.endpoint.keys import Keyring

ROLES = ("root", "targets", "snapshot", "timestamp")
OPERATOR_ROLES = ("root", "targets")
LIFETIME = {
    # root and targets are signed by people, who forget; the other two by a timer, every hour
    "root": timedelta(days=365),
    "targets": timedelta(days=365),
    "snapshot": timedelta(hours=24),
    "timestamp": timedelta(hours=24),
}
# Ours, in every signed file: whose it is (keys may serve several applications), and when it was signed.
APP_FIELD = "x-shoal-app"
SIGNED_AT_FIELD = "x-shoal-signed-at"
# Readers ask for the files of a state for as long as its timestamp lives.
PRUNE_AGE = 2 * LIFETIME["timestamp"].total_seconds()


def now() -> datetime:
    """The time, UTC, in whole seconds as the files have it."""
    return datetime.now(timezone.utc).replace(microsecond=0)


@dataclass
class Write:
    """One file that is to be written; they are written in order."""

    path: Path
    data: bytes
    modified: int | None = None  # the file's time, seconds since 1970; None: now


@dataclass
class Repository:
    """What is in an end point's folder, checked against its root."""

    folder: Path
    app: str
    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]
    unsigned: tuple[str, ...] = ()  # roles that the newest root does not vouch for: a rotation was cut short
    writes: list[Write] = field(default_factory=list)
    touched: bool = False  # whether targets are others than were signed
    _read: bytes = b""  # timestamp.json as it was read
    _served: set[Path] = field(default_factory=set)  # the files that it leads to

    # -- reading -------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path) -> Repository:
        """The end point in the folder ``path``. Raises EndpointError."""
        metadata = path / "metadata"
        try:
            data = (metadata / "timestamp.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise EndpointError(
                f"there is no end point in {path}", hint=f"make it: shoal endpoint init {path}", code="no_endpoint"
            ) from None
        root, before = _roots(metadata)
        timestamp: Metadata[Timestamp] = _parse(data, metadata / "timestamp.json")
        snapshot_meta = timestamp.signed.snapshot_meta
        snapshot: Metadata[Snapshot] = _load(metadata, "snapshot", snapshot_meta)
        targets: Metadata[Targets] = _load(metadata, "targets", snapshot.signed.meta["targets.json"])
        found = cls(
            path,
            str(root.signed.unrecognized_fields.get(APP_FIELD, "")),
            root,
            targets,
            snapshot,
            timestamp,
            _read=data,
        )
        unsigned = []
        for role in ROLES[1:]:
            signed: Metadata[Any] = getattr(found, role)
            if _vouched(root.signed, role, signed):
                continue
            if before is None or not _vouched(before.signed, role, signed):
                raise _damaged(metadata, f"its {role} is not signed by the keys that root names")
            unsigned.append(role)
        found.unsigned = tuple(unsigned)
        found._served = found._files()
        return found

    @classmethod
    def new(cls, path: Path, app: str, root: Root) -> Repository:
        """An end point that is still to be written, without any channel."""
        return cls(
            path,
            app,
            Metadata(root),
            Metadata(Targets()),
            Metadata(Snapshot()),
            Metadata(Timestamp()),
        )

    def target(self, path: str) -> bytes | None:
        """The bytes of a target, None if there is none. Raises EndpointError if they are not what was signed."""
        info = self.targets.signed.targets.get(path)
        if info is None:
            return None
        file = self._target_file(info)
        for write in self.writes:
            if write.path == file:
                return write.data
        try:
            data = file.read_bytes()
            info.verify_length_and_hashes(data)
        except (FileNotFoundError, LengthOrHashMismatchError) as error:
            raise _damaged(file, str(error)) from None
        return data

    def channel(self, name: str) -> documents.Channel | None:
        """Channel ``name``, None if there is none."""
        data = self.target(documents.channel_path(name))
        return None if data is None else documents.decode_channel(data, self.app, name)

    def manifest(self, version: str) -> documents.Manifest | None:
        """The manifest of ``version``, None if it is not published."""
        data = self.target(documents.manifest_path(version))
        return None if data is None else documents.decode_manifest(data, self.app, version)

    def channels(self) -> list[documents.Channel]:
        """All channels, by name."""
        found = [self.channel(name) for name in self._names("channels", ".json")]
        return [channel for channel in found if channel is not None]

    def manifests(self) -> list[documents.Manifest]:
        """All manifests, oldest first."""
        found = [self.manifest(version) for version in self._names("manifests", ".json")]
        return sorted(
            (one for one in found if one is not None), key=lambda one: (one.published_at.timestamp(), one.version)
        )

    def _names(self, kind: str, suffix: str) -> list[str]:
        prefix = f"{kind}/"
        return sorted(
            path[len(prefix) : -len(suffix)]
            for path in self.targets.signed.targets
            if path.startswith(prefix) and path.endswith(suffix)
        )

    def _target_file(self, info: TargetFile) -> Path:
        kind, _slash, name = info.path.rpartition("/")
        return self.folder / "targets" / kind / f"{info.hashes['sha256']}.{name}"

    # -- signing -------------------------------------------------------------------------------------------------

    def put(self, contents: dict[str, bytes]) -> None:
        """Add or replace targets, by path; `sign_targets` comes after it."""
        for path, data in sorted(contents.items()):
            limit = documents.MAX_TORRENT if path.startswith("torrents/") else documents.MAX_DOCUMENT
            _check_length(path, data, limit, "give fewer words, or take another channel")
            info = TargetFile.from_data(path, data, ["sha256"])
            self.targets.signed.targets[path] = info
            self.writes.append(Write(self._target_file(info), data))
            self.touched = True

    def drop(self, paths: Iterable[str]) -> None:
        """Take targets away, by path; `sign_targets` comes after it. Their files go when no reader asks for them."""
        for path in paths:
            del self.targets.signed.targets[path]
            self.touched = True

    def sign_targets(self, keyring: Keyring, at: datetime, roots: Iterable[Root] = ()) -> None:
        """Sign targets anew, and what depends on it. ``roots``: all that must vouch for it (default: the newest)."""
        self._sign(self.targets, keyring, at, roots)
        self.sign_snapshot(keyring, at, roots)

    def sign_snapshot(self, keyring: Keyring, at: datetime, roots: Iterable[Root] = ()) -> None:
        """Sign snapshot and timestamp anew."""
        self.snapshot.signed.meta = {"targets.json": _meta(self.targets)}
        self._sign(self.snapshot, keyring, at, roots)
        self.sign_timestamp(keyring, at, roots)

    def sign_timestamp(self, keyring: Keyring, at: datetime, roots: Iterable[Root] = ()) -> None:
        """Sign timestamp anew, which makes all of it valid."""
        self.timestamp.signed.snapshot_meta = _meta(self.snapshot)
        self._sign(self.timestamp, keyring, at, roots)

    def sign_root(self, root: Root, keyring: Keyring, at: datetime) -> None:
        """Sign ``root`` as the one after the present one (or as the first) and make it the present one."""
        roots = [root]
        if self.root.signatures:
            roots.append(self.root.signed)
            root.version = self.root.signed.version + 1
        self.root = Metadata(root)
        self._stamp(root, at)
        _add_signatures(self.root, keyring, roots)
        self.writes.append(Write(self.folder / "metadata" / f"{root.version}.root.json", self.root.to_bytes()))

    def _sign(self, metadata: Metadata[Any], keyring: Keyring, at: datetime, roots: Iterable[Root]) -> None:
        signed: Signed = metadata.signed
        # Seconds since 1970, so that numbers also grow when the folder came back from an old backup.
        signed.version = max(signed.version + 1, int(at.timestamp()))
        self._stamp(signed, at)
        _add_signatures(metadata, keyring, list(roots) or [self.root.signed])
        data = metadata.to_bytes()
        limit = documents.MAX_METADATA[signed.type]
        _check_length(f"{signed.type}.json", data, limit, "take old versions away: shoal endpoint withdraw")
        path = self.folder / "metadata" / f"{signed.version}.{signed.type}.json"
        if signed.type == "timestamp":
            # A web server's ETag is made of time and size (nginx, Apache), and two timestamps of one second have the
            # same size: a reader would take the second for the first. Versions are never the same.
            self.writes.append(Write(path.with_name("timestamp.json"), data, signed.version))
        else:
            self.writes.append(Write(path, data))

    def _stamp(self, signed: Signed, at: datetime) -> None:
        signed.expires = at + LIFETIME[signed.type]
        signed.unrecognized_fields = {APP_FIELD: self.app, SIGNED_AT_FIELD: at.strftime("%Y-%m-%dT%H:%M:%SZ")}

    # -- writing -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write what was signed, in that order, and clear away what no reader asks for any more."""
        path = self.folder / "metadata" / "timestamp.json"
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            found = b""
        if found != self._read:
            raise EndpointError(
                f"{self.folder} was changed by another publisher meanwhile, one that does not see this one's lease",
                hint="let only one host write to it; then try again",
                code="locked",
            )
        files = self._files()
        for old in self._served - files:
            with suppress(OSError):  # gone, or another user's
                os.utime(old)  # readers still ask for it: only now it begins to be old
        for write in self.writes:
            folder.write_whole(write.path, write.data, modified=write.modified)
            if write.path == path:
                self._read = write.data
        self.writes.clear()
        self._served = files
        self._prune(files)

    def _files(self) -> set[Path]:
        """What readers ask for, beside roots and timestamp.json."""
        metadata = self.folder / "metadata"
        names = {metadata / f"{one.signed.version}.{one.signed.type}.json" for one in (self.targets, self.snapshot)}
        return names | {self._target_file(info) for info in self.targets.signed.targets.values()}

    def _prune(self, keep: set[Path]) -> None:
        metadata = self.folder / "metadata"
        folder.prune(metadata, {metadata / "timestamp.json", *metadata.glob("*.root.json"), *keep}, PRUNE_AGE)
        for kind in ("channels", "manifests", "torrents"):
            if (self.folder / "targets" / kind).is_dir():
                folder.prune(self.folder / "targets" / kind, keep, PRUNE_AGE)


def copy_root(root: Root) -> Root:
    """A root to change; `Repository.sign_root` takes it."""
    return copy.deepcopy(root)


def signed_at(signed: Signed) -> datetime:
    """When a file was signed; long ago if it does not say."""
    try:
        text = str(signed.unrecognized_fields.get(SIGNED_AT_FIELD))
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return datetime.fromtimestamp(0, timezone.utc)


def _add_signatures(metadata: Metadata[Any], keyring: Keyring, roots: list[Root]) -> None:
    """Sign with every key that any of ``roots`` names; each of them must get as many as it wants."""
    role = metadata.signed.type
    metadata.signatures.clear()
    wanted = [keyid for root in roots for keyid in root.roles[role].keyids]
    for keyid in dict.fromkeys(wanted):
        if keyid in keyring:
            metadata.sign(keyring[keyid], append=True)
    for root in roots:
        rule = root.roles[role]
        here = [keyid for keyid in rule.keyids if keyid in keyring]
        if len(here) < rule.threshold:
            missing = ", ".join(keyid[:8] for keyid in rule.keyids if keyid not in keyring)
            whose = "operator's" if role in OPERATOR_ROLES else "publisher's"
            raise SigningKeyError(
                f"{role} needs {rule.threshold} signature(s) and {len(here)} of its keys are here; missing: {missing}",
                hint=f"give the {whose} keys with --keys; if one is lost, see docs/endpoint.md",
            )


def _check_length(name: str, data: bytes, limit: int, hint: str) -> None:
    """Refuse what no reader would take. Raises DocumentError."""
    if len(data) > limit:
        raise DocumentError(f"{name} would have {len(data)} bytes, and hosts take {limit}", hint=hint, code="too_big")


def _meta(metadata: Metadata[Any]) -> MetaFile:
    data = metadata.to_bytes()
    return MetaFile(metadata.signed.version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def _vouched(root: Root, role: str, metadata: Metadata[Any]) -> bool:
    return root.get_verification_result(role, metadata.signed_bytes, metadata.signatures).verified


def _roots(metadata: Path) -> tuple[Metadata[Root], Metadata[Root] | None]:
    """The newest root, and the one before it."""
    versions = sorted(
        int(match[1]) for path in metadata.iterdir() if (match := re.fullmatch(r"([1-9][0-9]*)\.root\.json", path.name))
    )
    if not versions:
        raise _damaged(metadata, "there is no root in it")
    chain: list[Metadata[Root]] = []
    for version in versions[-2:]:
        path = metadata / f"{version}.root.json"
        root: Metadata[Root] = _parse(path.read_bytes(), path)
        vouching = [root.signed, *(one.signed for one in chain)]
        if not all(_vouched(one, "root", root) for one in vouching):
            raise _damaged(path, "it is not signed by the keys that it or the root before it names")
        chain.append(root)
    return chain[-1], chain[-2] if len(chain) > 1 else None


def _load(metadata: Path, role: str, meta: MetaFile) -> Metadata[Any]:
    path = metadata / f"{meta.version}.{role}.json"
    try:
        data = path.read_bytes()
        meta.verify_length_and_hashes(data)
    except (FileNotFoundError, LengthOrHashMismatchError) as error:
        raise _damaged(path, str(error)) from None
    return _parse(data, path)


def _parse(data: bytes, path: Path) -> Metadata[Any]:
    try:
        return Metadata.from_bytes(data)
    except DeserializationError as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, found: str) -> EndpointError:
    return DocumentError(
        f"{path} was changed by other hands: {found}",
        hint="bring the end point's folder back from its backup, then publish what is newer again",
        code="damaged",
    )
