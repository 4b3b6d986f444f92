"""Staging: an archive becomes a complete release beside the running one; nothing is switched."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shoal.common.durable import sync_dir
from shoal.release import archive, files, metainfo
from shoal.release.errors import ReleaseError, RequestError, SpaceError
from shoal.release.events import Emit
from shoal.release.layout import Layout, Record
from shoal.release.lock import Lock
from shoal.release.ownership import resolve
from shoal.release.payload import Payload
from shoal.release.request import ArchiveSpec, Request

PROGRESS_INTERVAL = 1.0  # seconds


def wanted(request: Request) -> tuple[str, ArchiveSpec]:
    """The version and archive that ``request`` asks to stage. Raises RequestError."""
    if request.version is None or request.archive is None:
        raise RequestError("stage needs version and archive")
    if request.archive.sha256 is None and request.archive.torrent is None:
        raise RequestError(
            "stage needs archive.sha256 or archive.torrent: without either no byte can be verified",
            hint="give the manifest's SHA-256",
        )
    return request.version, request.archive


def already_staged(layout: Layout, version: str, spec: ArchiveSpec) -> Record | None:
    """The record of ``version`` if it is staged with the bytes of ``spec``.

    Raises ReleaseError if it is there with other bytes: a version's bytes never change.
    """
    record = layout.record(version)
    if record is None:
        if layout.release(version).is_symlink() or layout.release(version).exists():
            raise ReleaseError(
                f"{layout.release(version)} is there already, but was not staged by shoal",
                hint="move it away, or publish under another version",
                code="conflict",
            )
        return None
    if not _same_bytes(record, spec):
        raise ReleaseError(
            f"{version} is staged already with other bytes (SHA-256 {record.sha256})",
            hint="a version's bytes never change: publish them as a new version",
            code="conflict",
        )
    return record


def _same_bytes(record: Record, spec: ArchiveSpec) -> bool:
    if spec.sha256 is not None:
        return spec.sha256 == record.sha256
    if spec.torrent is not None and metainfo.read(Path(spec.torrent)).info_hash == record.info_hash:
        return True
    with Payload(spec) as payload:  # the same archive in another torrent
        return payload.finish() == record.sha256


def predict(request: Request, layout: Layout, spec: ArchiveSpec) -> list[str]:
    """What can be said without reading the archive: warnings. Raises the errors that staging would raise at once."""
    resolve(request)
    if not Path(spec.path).exists():
        return [f"{spec.path} is not there yet; whether it can be staged shows when it is"]
    with Payload(spec) as payload:
        need = payload.size if request.limits.unpacked_bytes is None else request.limits.unpacked_bytes
    existing = next(place for place in (layout.root, *layout.root.parents) if place.exists())
    archive.check_space(existing, need, request.limits)
    return []


def stage(request: Request, layout: Layout, emit: Emit) -> tuple[Record, bool]:
    """Unpack the archive of ``request`` as a release; its record and whether it was not there before.

    Raises ReleaseError; then nothing is left of it.
    """
    version, spec = wanted(request)
    ownership = resolve(request)
    holder = {"verb": "stage", "version": version, "who": request.who}
    with Lock.acquire(layout.stage_lock, holder, request.lock_timeout):
        _clean(layout)
        record = already_staged(layout, version, spec)
        if record is not None:
            return record, False
        folder = Path(tempfile.mkdtemp(prefix=f"{version}.", dir=layout.staging))
        try:
            contents = archive.unpack(
                spec, request.limits, request.strip_components, folder, ownership, _progress(spec, emit)
            )
            emit({"event": "step", "step": "sync", "state": "start", "about": "put the release on the disk"})
            ownership.give(folder, 0o777)
            files.sync_tree(folder)
            record = Record(
                version=version,
                sha256=contents.sha256,
                info_hash=contents.info_hash,
                size=contents.size,
                format=contents.format,
                unpacked_bytes=contents.unpacked_bytes,
                entries=contents.entries,
                irreversible=request.irreversible,
                staged_at=time.time(),
                who=request.who,
            )
            layout.write_record(record)
            folder.rename(layout.release(version))
            sync_dir(layout.releases)
            sync_dir(layout.staging)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SpaceError(f"no space left while unpacking {version}: {error}") from None
            raise
        finally:
            files.remove_tree(folder)  # renamed away if all went well
    return record, True


def _clean(layout: Layout) -> None:
    """Remove what dead runs left; whoever holds the stage lock is the only live one."""
    for folder in layout.staging.iterdir():
        files.remove_tree(folder)
    for record in layout.records.glob("*.json"):
        if not layout.release(record.stem).is_dir():
            record.unlink()


def _progress(spec: ArchiveSpec, emit: Emit) -> Callable[[int], None]:
    total = Path(spec.path).stat().st_size if Path(spec.path).exists() else 0
    told = 0.0

    def on_read(count: int) -> None:
        nonlocal told
        if time.monotonic() - told >= PROGRESS_INTERVAL:
            told = time.monotonic()
            emit({"event": "progress", "phase": "unpack", "bytes": count, "total": total})

    return on_read
