"""The part of an application's file that says how it is released (docs/upgrade.md is the reference)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shoal.endpoint.apps import App
from shoal.endpoint.documents import Manifest
from shoal.release.errors import RequestError
from shoal.release.request import ArchiveSpec, Limits, Request, parse
from shoal.upgrade.errors import UpgradeError

OURS = ("app", "version", "previous", "archive", "irreversible", "who", "protocol", "lock_timeout")
"""Keys of a request that nobody fixes for an application: they follow from what the end point says."""


def request_of(app: App) -> Request:
    """What each request for ``app`` says. Raises UpgradeError, naming file and key."""
    keys = app.keys.release or {}
    where = f"{app.path}: release"
    fixed = [key for key in OURS if key in keys]
    if fixed:
        raise _wrong(f"{where}.{fixed[0]}: cannot be fixed for an application: it follows from what is published")
    if "root" not in keys:
        raise _wrong(f"{where}.root: missing; expected the application's folder, as in /srv/shop")
    try:
        return parse({**keys, "app": app.name})
    except RequestError as error:
        raise _wrong(f"{where}: {error}{f' ({error.hint})' if error.hint else ''}") from None


def _wrong(message: str) -> UpgradeError:
    return UpgradeError(message, code="bad_config", hint="see docs/upgrade.md")


def stage_request(base: Request, manifest: Manifest, payload: Path, below: Path, torrent: Path, who: str) -> Request:
    """The request to stage what ``manifest`` describes; the figures are the signed ones, or lower ones of the file."""
    archive = ArchiveSpec(
        path=str(payload),
        size=manifest.archive.size,
        sha256=manifest.archive.sha256,
        torrent=str(torrent),
        below=str(below),
    )
    limits = Limits(
        unpacked_bytes=_least(manifest.unpacked_bytes, base.limits.unpacked_bytes),
        entries=_least(manifest.entries, base.limits.entries),
        reserve_bytes=base.limits.reserve_bytes,
    )
    changes: dict[str, Any] = {"archive": archive, "limits": limits, "irreversible": manifest.irreversible}
    return msgspec.structs.replace(base, version=manifest.version, who=who, **changes)


def activate_request(base: Request, version: str, who: str) -> Request:
    """The request to activate ``version``."""
    return msgspec.structs.replace(base, version=version, who=who)


def _least(signed: int, own: int | None) -> int:
    return signed if own is None else min(signed, own)
