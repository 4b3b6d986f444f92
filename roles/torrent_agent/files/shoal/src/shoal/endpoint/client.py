"""The reader: what an end point says about a channel, believed only if all of it is signed, whole, new and ours.

A poll works in a scratch folder. What it read becomes the trusted state in ``folder`` only when all of it was
believed, so that a refused answer leaves nothing behind. Only a chain of roots is kept before that, as the
specification has it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater, UpdaterConfig

from shoal.endpoint import documents
from shoal.endpoint.documents import Channel, Manifest
from shoal.endpoint.errors import DocumentError, EndpointError, Reason, RefusedError
from shoal.endpoint.fetcher import KEPT, FolderFetcher, IncompleteError, KeptFetcher, read_etags, shown
from shoal.endpoint.folder import write_whole
from shoal.endpoint.repository import APP_FIELD, signed_at

POLL_SECONDS = 60.0  # for one mirror, all files together; a first poll brings a torrent, 4 MB at most in practice
MAX_ROOTS = 64  # rotations in one poll: a host that slept for years
LOCK, ETAGS, STATE = ".lock", "etags.json", "state.json"
SCRATCH = ".poll-"


@dataclass(frozen=True)
class View:
    """What the end point says about one channel now, all of it believed."""

    app: str
    channel: str
    sequence: int
    version: str
    manifest: Manifest
    torrent: bytes
    document: Channel  # the channel itself: history, rollout, halt, revoked
    expires: datetime  # when this stops being believable: the earliest of all four roles
    signed_at: datetime  # of the timestamp
    url: str  # the mirror
    changed: bool  # whether anything is new since the last poll
    requests: int  # of this poll, refused mirrors included
    received: int  # bytes of answers, headers included
    refused: tuple[RefusedError, ...] = field(default=())  # mirrors that were asked first, in vain

    @property
    def halted(self) -> bool:
        """Whether nobody is to begin to upgrade."""
        return self.document.halt is not None

    @property
    def revoked(self) -> bool:
        """Whether the channel's own version is not to be activated."""
        return self.document.is_revoked(self.version)

    def percent(self, now: datetime | None = None) -> int:
        """The share of the fleet that may upgrade now, 0 to 100."""
        return self.document.percent(now or datetime.now(timezone.utc))


def app_of(root: bytes) -> str:
    """Whose pinned root this is. Raises EndpointError (``bad_root``)."""
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(root)
    except DeserializationError as error:
        raise _bad_root(f"the pinned root cannot be read: {error}") from None
    if not isinstance(metadata.signed, Root):
        raise _bad_root(f"the pinned root is {metadata.signed.type} and not root")
    return str(metadata.signed.unrecognized_fields.get(APP_FIELD, ""))


def _bad_root(found: str) -> EndpointError:
    hint = "copy metadata/1.root.json of the application from the publisher, by a way that you trust"
    return EndpointError(found, hint=hint, code="bad_root")


class Client:
    """Reads one application's end point. One at a time per ``folder``; an instance may poll again and again."""

    def __init__(
        self,
        app: str,
        urls: Sequence[str],
        root: bytes,
        folder: Path,
        *,
        seconds: float = POLL_SECONDS,
        cafile: Path | None = None,
        kept: tuple[Path, str] | None = None,
    ) -> None:
        """``urls``: the end point and its mirrors, tried in order. ``root``: the bytes of the pinned root.

        ``folder`` holds what was believed last. ``seconds``: how long one mirror may take. ``kept``: instead of any
        URL, another reader's ``folder``: one above it, and the way down from there, on which no link is followed.
        Raises EndpointError if the pinned root is of no use.
        """
        documents.check_name("app", app, documents.APP_PATTERN)
        if kept is not None:
            urls = [KEPT]
        if not urls:
            raise EndpointError(f"{app} has no end point to read", code="bad_request")
        self.app = app
        self.folder = folder
        self._urls = [url if url.endswith("/") else f"{url}/" for url in urls]
        self._root = root
        self._seconds = seconds
        self._cafile = cafile
        self._kept = kept
        owner = app_of(root)
        if owner != app:
            raise _bad_root(f"the pinned root is that of {owner or 'nobody'}, not of {app}")

    def read(self, channel: str) -> View:
        """Poll. Call it from a thread without a running event loop.

        Raises RefusedError if no mirror is believed: the first refusal by one that answered, with all attempts.
        OSError: the folder cannot be written.
        """
        documents.check_name("channel", channel, documents.CHANNEL_PATTERN)
        attempts: list[RefusedError] = []
        requests = received = 0
        with self._alone():
            for url in self._urls:
                poll = _Poll(self, url)
                try:
                    view = poll.run(channel)
                except RefusedError as error:
                    error.url = shown(url)
                    attempts.append(error)
                else:
                    return replace(
                        view,
                        requests=view.requests + requests,
                        received=view.received + received,
                        refused=tuple(attempts),
                    )
                finally:
                    requests += poll.fetcher.requests
                    received += poll.fetcher.received
                    poll.close()
        answered = [one for one in attempts if one.reason is not Reason.UNREACHABLE]
        refused = (answered or attempts)[0]
        refused.attempts = tuple(attempts)
        raise refused

    def fetcher(self, url: str, etags: dict[str, list[str]]) -> Any:
        """How files of the mirror at ``url`` are had, for one poll."""
        if self._kept is not None:
            return KeptFetcher(*self._kept)
        if url.startswith("file:///"):
            return FolderFetcher()
        from shoal.endpoint.http import HttpFetcher  # only who reads from elsewhere pays for its library

        return HttpFetcher(self._seconds, etags, self.folder, self._cafile)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One poll at a time, and nothing left of one that was killed."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EndpointError(f"{self.folder} cannot be used: {error.strerror}", code="io_error") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            for left in self.folder.glob(f"{SCRATCH}*"):
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            os.close(fd)


class _Updater(Updater):
    """With limits of ours. python-tuf's own hold only where no length is signed: who has but the publisher's keys could
    sign one of many gigabytes, and have every host of a fleet hold them in memory."""

    def _download_metadata(self, rolename: str, length: int, version: int | None = None) -> bytes:
        data: bytes = super()._download_metadata(rolename, min(length, documents.MAX_METADATA[rolename]), version)
        return data


class _Poll:
    """One try with one mirror."""

    def __init__(self, client: Client, url: str) -> None:
        self.client = client
        self.url = url
        self.folder = client.folder
        self.scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=client.folder))
        self.etags = read_etags(self.folder / ETAGS)
        self.fetcher: Any = client.fetcher(url, dict(self.etags))
        self._new: dict[Path, Path] = {}  # where it is to be: where it is now
        self._announced = 0  # bytes of the target that is being fetched

    def close(self) -> None:
        self.fetcher.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def run(self, channel: str) -> View:
        self._prepare()
        try:
            try:
                view = self._read(channel)
            finally:
                self._keep_roots()
        except (exceptions.RepositoryError, exceptions.DownloadError, DocumentError) as error:
            raise self._refusal(error) from error
        self._commit(view)
        return view

    # -- reading -------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """The trusted files, by hard links: python-tuf replaces files and never writes into one."""
        (self.scratch / "root_history").mkdir()
        for path in [*self.folder.glob("*.json"), *self.folder.glob("root_history/*.root.json")]:
            if path.name not in (ETAGS, STATE) and not path.is_symlink():
                os.link(path, self.scratch / path.relative_to(self.folder))

    def _read(self, channel: str) -> View:
        updater = _Updater(
            str(self.scratch),
            f"{self.url}metadata/",
            target_base_url=f"{self.url}targets/",
            fetcher=self.fetcher,
            config=UpdaterConfig(max_root_rotations=MAX_ROOTS),
            bootstrap=self.client._root,
        )
        updater.refresh()
        signed = {role: self._signed(role) for role in ("root", "targets", "snapshot", "timestamp")}
        for role, one in signed.items():
            found = one.unrecognized_fields.get(APP_FIELD)
            if found != self.client.app:
                raise RefusedError(Reason.OTHER_APP, f"{role} is properly signed, and belongs to {found}")
        state = self._state()
        data = self._target(updater, documents.channel_path(channel), documents.MAX_DOCUMENT)
        if data is None:
            raise RefusedError(Reason.NO_CHANNEL, f"there is no channel {channel} at this end point")
        document = documents.decode_channel(data, self.client.app, channel)
        floor = state.get("sequences", {}).get(channel, 0)
        if document.sequence < floor:
            raise RefusedError(
                Reason.OLDER,
                f"{channel} is at sequence {document.sequence}, and was at {floor} already",
                hint="the publisher must publish anew, with --sequence above that",
            )
        manifest = self._target(updater, documents.manifest_path(document.version), documents.MAX_DOCUMENT)
        torrent = self._target(updater, documents.torrent_path(document.version), documents.MAX_TORRENT)
        if manifest is None or torrent is None:
            raise DocumentError(f"{channel} is at {document.version}, which has no manifest or torrent")
        return View(
            app=self.client.app,
            channel=channel,
            sequence=document.sequence,
            version=document.version,
            manifest=documents.decode_manifest(manifest, self.client.app, document.version),
            torrent=torrent,
            document=document,
            expires=min(one.expires for one in signed.values()),
            signed_at=signed_at(signed["timestamp"]),
            url=shown(self.url),
            changed=not self._is_trusted(self.scratch / "timestamp.json"),
            requests=self.fetcher.requests,
            received=self.fetcher.received,
        )

    def _signed(self, role: str) -> Any:
        metadata: Metadata[Any] = Metadata.from_bytes((self.scratch / f"{role}.json").read_bytes())
        return metadata.signed

    def _target(self, updater: Updater, path: str, limit: int) -> bytes | None:
        info = updater.get_targetinfo(path)
        if info is None:
            return None
        if info.length > limit:
            raise RefusedError(Reason.OVERSIZED, f"{path} is signed as {info.length} bytes, and {limit} are allowed")
        name = _cache_name(info)
        kept = self.folder / "targets" / name
        if updater.find_cached_target(info, str(kept)) is None:
            made = self.scratch / name
            self._announced = info.length
            updater.download_target(info, str(made))
            self._new[kept] = made
            return made.read_bytes()
        self._new[kept] = kept
        return kept.read_bytes()

    def _state(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / STATE).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    # -- believing -----------------------------------------------------------------------------------------------

    def _is_trusted(self, path: Path) -> bool:
        """Whether a file of the scratch folder is the trusted one still."""
        try:
            return path.samefile(self.folder / path.relative_to(self.scratch))
        except FileNotFoundError:
            return False

    def _keep_roots(self) -> None:
        """Roots that the pinned root leads to; they count also when what follows them is refused."""
        kept = self.folder / "root_history"
        kept.mkdir(exist_ok=True)
        made = (self.scratch / "root_history").glob("*.root.json")
        for path in sorted(made, key=lambda path: int(path.name.partition(".")[0])):
            data = path.read_bytes()
            with suppress(FileNotFoundError):
                if (kept / path.name).read_bytes() == data:
                    continue
            root: Metadata[Root] = Metadata.from_bytes(data)
            if root.signed.unrecognized_fields.get(APP_FIELD) != self.client.app:
                break
            write_whole(kept / path.name, data, 0o600)

    def _commit(self, view: View) -> None:
        """Make what was read the trusted state; a kill in between costs a download, and no trust."""
        targets = self.folder / "targets"
        targets.mkdir(exist_ok=True)
        for there, made in self._new.items():
            if made != there:
                write_whole(there, made.read_bytes(), 0o600)
        for role in ("targets", "snapshot", "timestamp"):
            made = self.scratch / f"{role}.json"
            if not self._is_trusted(made):
                write_whole(self.folder / made.name, made.read_bytes(), 0o600)
        state = self._state()
        wanted = {"sequences": {**state.get("sequences", {}), view.channel: view.sequence}}
        if state != wanted:
            write_whole(self.folder / STATE, json.dumps(wanted).encode(), 0o600)
        etags = {url: tag for url, tag in self.fetcher.etags.items() if url.endswith("/timestamp.json")}
        if etags != self.etags:
            write_whole(self.folder / ETAGS, json.dumps(etags).encode(), 0o600)
        for path in targets.iterdir():
            if path not in self._new:
                path.unlink()

    # -- refusing ------------------------------------------------------------------------------------------------

    def _what(self) -> str:
        return str(self.fetcher.last_url).removeprefix(self.url) or "the trusted state"

    def _refusal(self, error: Exception) -> RefusedError:
        """The error with its own reason. What python-tuf does not tell apart is told by the file that came last."""
        what = self._what()
        if isinstance(error, DocumentError):
            return RefusedError(Reason.NONSENSE, str(error), hint=error.hint)
        if isinstance(error, exceptions.DownloadError):
            return _download_refusal(what, error)
        if isinstance(error, exceptions.ExpiredMetadataError):
            return RefusedError(
                Reason.EXPIRED,
                f"{error}: what it says may be long outdated",
                hint="on the publisher: shoal endpoint refresh; is its timer running, and is this host's clock right?",
            )
        if isinstance(error, exceptions.UnsignedMetadataError):
            return self._signature_refusal(what, error)
        if isinstance(error, DeserializationError):
            return RefusedError(Reason.NONSENSE, f"{what} is no metadata: {error}")
        if isinstance(error, exceptions.BadVersionNumberError):
            if what.endswith("targets.json"):
                return RefusedError(Reason.MIX_AND_MATCH, f"{what}: {error}")
            return RefusedError(Reason.OLDER, f"{what} is from before what was seen already: {error}")
        if isinstance(error, exceptions.LengthOrHashMismatchError):
            return self._bytes_refusal(what, error)
        return RefusedError(Reason.NONSENSE, f"{what}: {error}")

    def _signature_refusal(self, what: str, error: Exception) -> RefusedError:
        try:
            metadata: Metadata[Any] = Metadata.from_bytes(self.fetcher.last)
        except DeserializationError:
            return RefusedError(Reason.WRONGLY_SIGNED, f"{what}: {error}")
        other = metadata.signed.unrecognized_fields.get(APP_FIELD)
        if other not in (self.client.app, None):
            return RefusedError(
                Reason.OTHER_APP,
                f"{what} is signed by others, and says that it belongs to {other}",
                hint=f"is this the end point of {self.client.app}?",
            )
        role = metadata.signed.type
        roots: list[Root] = [Metadata.from_bytes((self.scratch / "root.json").read_bytes()).signed]
        if isinstance(metadata.signed, Root):
            roots.append(metadata.signed)
        results = [root.get_verification_result(role, metadata.signed_bytes, metadata.signatures) for root in roots]
        if all(result.signed for result in results):
            return RefusedError(Reason.THRESHOLD, f"{what} has too few signatures: {error}")
        return RefusedError(
            Reason.WRONGLY_SIGNED,
            f"{what} is not signed by the keys that may: {error}",
            hint="if the end point was made anew, give hosts its new root; else somebody forges it",
        )

    def _bytes_refusal(self, what: str, error: Exception) -> RefusedError:
        """Too few bytes, a file of another state, or changed bytes."""
        announced = self._announced
        if what.startswith("metadata/"):
            version, _dot, name = what.removeprefix("metadata/").partition(".")
            announced = self._signed("timestamp").snapshot_meta.length or 0
            if name == "targets.json":
                announced = self._signed("snapshot").meta[name].length or 0
            with suppress(DeserializationError):
                found: Metadata[Any] = Metadata.from_bytes(self.fetcher.last)
                if str(found.signed.version) != version:
                    return RefusedError(Reason.MIX_AND_MATCH, f"{what} holds version {found.signed.version}: {error}")
        if len(self.fetcher.last) < announced:
            return RefusedError(Reason.TRUNCATED, f"{what} is cut short: {error}")
        return RefusedError(Reason.CHANGED, f"{what} has other bytes than were signed: {error}")


def _download_refusal(what: str, error: exceptions.DownloadError) -> RefusedError:
    if isinstance(error, exceptions.DownloadLengthMismatchError):
        return RefusedError(Reason.OVERSIZED, f"{what} is too big: {error}")
    if isinstance(error, exceptions.SlowRetrievalError):
        return RefusedError(Reason.SLOW, f"{what}: {error}")
    if isinstance(error, IncompleteError):
        return RefusedError(Reason.TRUNCATED, f"{what}: {error}")
    return RefusedError(Reason.UNREACHABLE, f"{what}: {error}")


def _cache_name(info: TargetFile) -> str:
    return f"{info.hashes['sha256']}.{info.path.rpartition('/')[2]}"
