"""What a publisher does with an end point: one function per verb of `shoal endpoint`.

Each changes a `Repository` in memory, signs, and writes at the end; with ``check`` it does not write. Done already is
no change. Results are as of `shoal release`: ``outcome``, ``changed``, ``diff``, ``endpoint``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Role, Root

from shoal.endpoint import documents, keys
from shoal.endpoint.documents import Channel, Halt, Manifest, Publication, Revocation, Step
from shoal.endpoint.errors import EndpointError, RequestError
from shoal.endpoint.folder import Lease, make_dirs
from shoal.endpoint.repository import (
    LIFETIME,
    OPERATOR_ROLES,
    ROLES,
    Repository,
    copy_root,
    now,
    signed_at,
)
from shoal.endpoint.request import PROTOCOL, Request

Result = dict[str, Any]

FRESH = timedelta(minutes=30)  # `refresh` leaves a younger timestamp alone; a timer runs it every hour
RENEW = timedelta(days=90)  # `refresh` renews root and targets that live shorter than this, if their keys are there
WARN = timedelta(days=30)

# What makes a version: the rest of a manifest is about the act of publishing it.
_BYTES = ("archive", "unpacked_bytes", "entries", "info_hash", "irreversible")


# -- verbs ---------------------------------------------------------------------------------------------------------


def init(request: Request, *, check: bool, at: datetime | None = None) -> Result:
    """A new end point without channels, and its keys where there are none yet."""
    at = at or now()
    path = Path(request.folder)
    operator, publisher = Path(request.operator_keys), Path(request.publisher_keys)
    if not request.app or not request.operator_keys or not request.publisher_keys:
        raise RequestError("init needs app, operator_keys and publisher_keys")
    documents.check_name("app", request.app, documents.APP_PATTERN)
    for keys_folder in (operator, publisher):
        if keys_folder.resolve().is_relative_to(path.resolve()):
            raise RequestError(f"{keys_folder} is inside {path}, which a web server serves: keep keys elsewhere")
    if not 1 <= request.root_threshold <= request.root_keys:
        raise RequestError(
            f"root_threshold {request.root_threshold} is not between 1 and root_keys {request.root_keys}"
        )
    if (path / "metadata" / "timestamp.json").exists():
        there = Repository.open(path)
        if there.app != request.app:
            raise EndpointError(f"{path} is the end point of {there.app}, not of {request.app}", code="conflict")
        return _result(there, changed=False, outcome="already_there")
    if check:
        return {"protocol": PROTOCOL, "ok": True, "changed": True, "outcome": "initialised"}
    make_dirs(path)
    with Lease(path, request.who, request.lock_timeout):
        root = Root(consistent_snapshot=True)
        keyring: keys.Keyring = {}
        for role in ROLES:
            home = operator if role in OPERATOR_ROLES else publisher
            count = request.root_keys if role == "root" else 1
            for number in range(1, count + 1):
                # A key that is there already is used: the operator may have one pair for all applications.
                file = home / (f"{role}-{number}.pem" if count > 1 else f"{role}.pem")
                secret = request.passphrase if role in OPERATOR_ROLES else None
                signer = keys.load(file, secret) if file.exists() else keys.generate(file, secret)
                root.add_key(signer.public_key, role)
                keyring[signer.public_key.keyid] = signer
        root.roles["root"].threshold = request.root_threshold
        made = Repository.new(path, request.app, root)
        made.sign_root(root, keyring, at)
        made.sign_targets(keyring, at)
        made.save()
    return _result(made, changed=True, outcome="initialised")


def publish(
    request: Request, manifest: Manifest | None, torrent: bytes | None, *, check: bool, at: datetime | None = None
) -> Result:
    """Put a version into a channel as its next sequence.

    ``manifest`` and ``torrent`` are those of a published folder; without them the version must be here already.
    """

    def change(repository: Repository, at: datetime) -> str:
        version = request.version or (manifest.version if manifest else "")
        if not version:
            raise RequestError("publish needs a published folder, or a version that is at the end point already")
        if manifest is not None and manifest.version != version:
            raise EndpointError(f"the published folder is of {manifest.version}, not of {version}", code="conflict")
        contents: dict[str, bytes] = {}
        known = repository.manifest(version)
        if manifest is not None and torrent is not None:
            _check_same(repository, known, manifest)
            if known is None:
                contents[documents.manifest_path(version)] = documents.encode(manifest)
                contents[documents.torrent_path(version)] = torrent
        described = known or manifest
        if described is None:
            raise EndpointError(
                f"{version} is not at the end point {repository.folder}",
                hint="give the folder that release_publish made, with --from",
                code="not_published",
            )
        return _bring(repository, _named(request.channel), described, request, at, contents)

    return _change(request, change, check, at)


def promote(request: Request, *, check: bool, at: datetime | None = None) -> Result:
    """Put the version of one channel into another, without new bytes."""

    def change(repository: Repository, at: datetime) -> str:
        source = _channel(repository, request.source)
        if request.version and request.version != source.version:
            raise EndpointError(
                f"{source.channel} is at {source.version}, not at {request.version}",
                hint="look what was published since, then promote what you mean",
                code="conflict",
            )
        manifest = repository.manifest(source.version)
        if manifest is None or request.channel == request.source:
            raise RequestError(f"{request.source} cannot be promoted to {request.channel}")
        return _bring(repository, _named(request.channel), manifest, request, at, {})

    return _change(request, change, check, at)


def percent(request: Request, *, check: bool, at: datetime | None = None) -> Result:
    """Plan anew which share of the fleet may upgrade when."""

    def change(repository: Repository, at: datetime) -> str:
        channel = _channel(repository, request.channel)
        steps = parse_rollout(request.rollout, at)
        reached = channel.percent(at)
        if max((step.percent for step in steps if step.at <= at), default=0) < reached:
            raise EndpointError(
                f"{channel.channel} has reached {reached} %, and hosts do not go back by a smaller share",
                hint=f"stop it with: shoal endpoint halt {repository.folder} {channel.channel}",
                code="conflict",
            )
        same = [step for step in steps if step.at > at] == [step for step in channel.rollout if step.at > at]
        if same and steps[0].percent == reached:
            return ""
        _put(repository, msgspec.structs.replace(channel, rollout=tuple(steps)))
        return "planned"

    return _change(request, change, check, at)


def halt(request: Request, *, check: bool, at: datetime | None = None) -> Result:
    """Let no host begin to upgrade on a channel."""

    def change(repository: Repository, at: datetime) -> str:
        channel = _channel(repository, request.channel)
        if channel.halt is not None:
            return ""
        stop = Halt(who=request.who, at=at, reason=request.reason)
        _put(repository, msgspec.structs.replace(channel, halt=stop))
        return "halted"

    return _change(request, change, check, at)


def resume(request: Request, *, check: bool, at: datetime | None = None) -> Result:
    """Take a halt back."""

    def change(repository: Repository, _at: datetime) -> str:
        channel = _channel(repository, request.channel)
        if channel.halt is None:
            return ""
        _put(repository, msgspec.structs.replace(channel, halt=None))
        return "resumed"

    return _change(request, change, check, at)


def revoke(request: Request, *, check: bool, at: datetime | None = None) -> Result:
    """Say on every channel that a version is not to be activated."""

    def change(repository: Repository, at: datetime) -> str:
        if not request.version or repository.manifest(request.version) is None:
            raise EndpointError(f"{request.version or 'no version'} is not at the end point", code="not_published")
        note = Revocation(version=request.version, who=request.who, at=at, reason=request.reason)
        todo = [channel for channel in repository.channels() if not channel.is_revoked(request.version)]
        for channel in todo:
            _put(repository, msgspec.structs.replace(channel, revoked=(*channel.revoked, note)))
        return "revoked" if todo else ""

    return _change(request, change, check, at)


def withdraw(request: Request, *, check: bool, at: datetime | None = None) -> Result:
    """Take versions off the end point that no channel is at. Their bytes may not come back as others, so neither do
    they."""

    def change(repository: Repository, _at: datetime) -> str:
        if not request.versions:
            raise RequestError("withdraw needs versions")
        named = {channel.version: channel.channel for channel in repository.channels()}
        for version in request.versions:
            if version in named:
                raise EndpointError(
                    f"{named[version]} is at {version}: it is not withdrawn",
                    hint="publish another version there first; to stop one, revoke it or halt the channel",
                    code="in_use",
                )
            if repository.manifest(version) is None and not _was_published(repository, version):
                raise EndpointError(f"{version} is not at the end point", code="not_published")
        gone = [version for version in dict.fromkeys(request.versions) if repository.manifest(version)]
        for version in gone:
            repository.drop([documents.manifest_path(version), documents.torrent_path(version)])
        return "withdrawn" if gone else ""

    return _change(request, change, check, at)


def refresh(request: Request, *, check: bool, at: datetime | None = None) -> Result:
    """Sign anew what will expire, with the keys that are there; a timer does it every hour."""
    at = at or now()
    keyring = _keyring(request)
    with _leased(request, check):
        repository = Repository.open(Path(request.folder))
        before = describe(repository, at)
        done = _refresh(repository, keyring, at, request.force)
        return _finish(repository, before, done, at, check)


def rotate(request: Request, *, check: bool, at: datetime | None = None) -> Result:
    """Replace a role's keys by new ones. The old ones are not needed, but root's: those sign the new root."""
    at = at or now()
    role = request.role
    if role not in ROLES or not request.new_keys:
        raise RequestError(f"rotate needs a role ({', '.join(ROLES)}) and new_keys, the folder for the new keys")
    home = Path(request.new_keys)
    if home.resolve().is_relative_to(Path(request.folder).resolve()):
        raise RequestError(f"{home} is inside {request.folder}, which a web server serves: keep keys elsewhere")
    keyring = _keyring(request)
    with _leased(request, check):
        repository = Repository.open(Path(request.folder))
        before = describe(repository, at)
        old, rule = repository.root.signed, repository.root.signed.roles[role]
        root = copy_root(old)
        root.roles[role] = Role([], rule.threshold)
        # In check mode the new keys are only made up, so that a missing old one is told all the same.
        fresh = [_new_key(home, role, request, check) for _keyid in rule.keyids]
        for signer in fresh:
            root.add_key(signer.public_key, role)
        used = {keyid for one in root.roles.values() for keyid in one.keyids}
        root.keys = {keyid: key for keyid, key in root.keys.items() if keyid in used}
        keyring |= {signer.public_key.keyid: signer for signer in fresh}
        _rotate(repository, role, old, root, keyring, at)
        return _finish(repository, before, "rotated", at, check)


def list_(request: Request, *, at: datetime | None = None) -> Result:
    """What is at the end point; changes nothing."""
    return _result(Repository.open(Path(request.folder)), changed=False, outcome="", at=at)


# -- changing a channel --------------------------------------------------------------------------------------------


def _change(
    request: Request, change: Callable[[Repository, datetime], str], check: bool, at: datetime | None
) -> Result:
    """Open, change, sign and write. ``change`` says what it did, nothing if there was nothing to do."""
    at = at or now()
    keyring = _keyring(request)
    with _leased(request, check):
        repository = Repository.open(Path(request.folder))
        before = describe(repository, at)
        done = change(repository, at)
        if repository.touched:
            repository.sign_targets(keyring, at)
        elif repository.unsigned:
            _refresh(repository, keyring, at, force=False)  # what was done before was cut short
        return _finish(repository, before, done, at, check)


def _finish(repository: Repository, before: Result, done: str, at: datetime, check: bool) -> Result:
    changed = bool(repository.writes)
    if changed and not check:
        repository.save()
    after = describe(repository, at)
    return {
        "protocol": PROTOCOL,
        "ok": True,
        "changed": changed,
        "outcome": done or ("refreshed" if changed else "unchanged"),
        "diff": {"before": before if changed else {}, "after": after if changed else {}},
        "endpoint": after,
    }


def _bring(
    repository: Repository,
    name: str,
    manifest: Manifest,
    request: Request,
    at: datetime,
    contents: dict[str, bytes],
) -> str:
    """Make ``manifest``'s version the one of channel ``name``, as its next sequence."""
    version = manifest.version
    channel = repository.channel(name)
    revoked = {one.version: one for other in repository.channels() for one in other.revoked}
    if version in revoked:
        raise EndpointError(
            f"{version} was revoked by {revoked[version].who}: {revoked[version].reason or 'no reason given'}",
            hint="publish the repaired bytes as another version",
            code="revoked",
        )
    if channel is not None and channel.version == version and not request.again:
        return ""
    history = channel.history if channel else ()
    last = max((one.sequence for one in history if one.version == version), default=0)
    if last and channel is not None:
        if last < channel.no_way_back_before:
            raise EndpointError(
                f"there is no way back to {version}: what came after it (sequence {channel.no_way_back_before}) "
                "is irreversible",
                hint="publish a repaired version",
                code="no_way_back",
            )
        if not request.again:
            raise EndpointError(
                f"{version} was sequence {last} of {name}, which is at {channel.version} (sequence {channel.sequence})",
                hint="to bring hosts back to it, publish it as a new sequence: --again",
                code="conflict",
            )
    sequence = _next_sequence(channel, request.sequence)
    entry = Publication(sequence=sequence, version=version, who=request.who, at=at)
    floor = channel.no_way_back_before if channel else 0
    made = Channel(
        app=repository.app,
        channel=name,
        sequence=sequence,
        version=version,
        rollout=tuple(parse_rollout(request.rollout or ["100"], at)),
        history=(*history, entry)[-documents.MAX_HISTORY :],
        halt=None,
        revoked=tuple(revoked.values()),
        no_way_back_before=sequence if manifest.irreversible else floor,
    )
    repository.put(contents)
    _put(repository, made)
    return "published" if contents else "promoted" if request.source else "published"


def _next_sequence(channel: Channel | None, wanted: int) -> int:
    last = channel.sequence if channel else 0
    if wanted and wanted <= last:
        raise EndpointError(f"sequence {wanted} is not above {last}, and a sequence only grows", code="conflict")
    return wanted or last + 1


def _check_same(repository: Repository, known: Manifest | None, manifest: Manifest) -> None:
    if manifest.app != repository.app:
        raise EndpointError(
            f"{repository.folder} is the end point of {repository.app}, the manifest is about {manifest.app}",
            code="conflict",
        )
    if known is None:
        if _was_published(repository, manifest.version):
            raise EndpointError(
                f"{manifest.version} was published here and withdrawn",
                hint="what is published never changes: publish these bytes as another version",
                code="conflict",
            )
        return
    other = [name for name in _BYTES if getattr(known, name) != getattr(manifest, name)]
    if other:
        raise EndpointError(
            f"{known.version} was published at {known.published_at:%Y-%m-%d %H:%M} by {known.published_by} with other "
            f"bytes (what differs: {', '.join(other)})",
            hint="what is published never changes: publish these bytes as another version",
            code="conflict",
        )


def _was_published(repository: Repository, version: str) -> bool:
    return any(one.version == version for channel in repository.channels() for one in channel.history)


def _put(repository: Repository, channel: Channel) -> None:
    repository.put({documents.channel_path(channel.channel): documents.encode(channel)})


def _named(name: str) -> str:
    if not name:
        raise RequestError("the channel is missing", hint="give its name, as in: stable")
    return documents.check_name("channel", name, documents.CHANNEL_PATTERN)


def _channel(repository: Repository, name: str) -> Channel:
    found = repository.channel(_named(name))
    if found is None:
        names = ", ".join(one.channel for one in repository.channels()) or "none"
        raise EndpointError(f"{repository.folder} has no channel {name}; it has: {names}", code="no_channel")
    return found


_AFTER = re.compile(r"\+(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_rollout(words: list[str], at: datetime) -> list[Step]:
    """Steps from words such as ``10``, ``50@+2h``, ``100@2026-11-23T08:00:00Z``. Raises RequestError."""
    steps: list[Step] = []
    for word in words:
        share, _at, when = word.partition("@")
        if not re.fullmatch(r"\d{1,3}", share) or int(share) > 100:
            raise RequestError(f"rollout {word!r}: expected a whole percentage, and when it begins, as in 10 or 50@+2h")
        step = Step(at=_when(word, when, at), percent=int(share))
        if steps and (step.at <= steps[-1].at or step.percent <= steps[-1].percent):
            raise RequestError(f"rollout {word!r}: later and more than the step before it, please")
        steps.append(step)
    if not steps:
        raise RequestError("the rollout has no steps", hint="give percentages, as in: 10 50@+2h 100@+1d")
    return steps


def _when(word: str, when: str, at: datetime) -> datetime:
    if not when:
        return at
    if match := _AFTER.fullmatch(when):
        return at + timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        return datetime.strptime(when, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        raise RequestError(
            f"rollout {word!r}: {when!r} is no time", hint="write +90m, +2h, +1d, or UTC as in 2026-11-23T08:00:00Z"
        ) from None


# -- signing anew --------------------------------------------------------------------------------------------------


def _refresh(repository: Repository, keyring: keys.Keyring, at: datetime, force: bool) -> str:
    def can(role: str) -> bool:
        rule = repository.root.signed.roles[role]
        return sum(keyid in keyring for keyid in rule.keyids) >= rule.threshold

    if can("root") and repository.root.signed.expires - at < RENEW:
        repository.sign_root(copy_root(repository.root.signed), keyring, at)
    targets, snapshot, timestamp = repository.targets.signed, repository.snapshot.signed, repository.timestamp.signed
    broken = repository.unsigned
    if "targets" in broken or (can("targets") and targets.expires - at < RENEW):
        repository.sign_targets(keyring, at)
    elif force or "snapshot" in broken or snapshot.expires - at < LIFETIME["snapshot"] / 2:
        # Not at each run: readers would fetch it again every time.
        repository.sign_snapshot(keyring, at)
    elif "timestamp" in broken or at - signed_at(timestamp) >= FRESH:
        repository.sign_timestamp(keyring, at)
    return "refreshed" if repository.writes else ""


def _rotate(repository: Repository, role: str, old: Root, new: Root, keyring: keys.Keyring, at: datetime) -> None:
    """Sign so that no reader, with the old root or the new one, meets a file that it cannot believe.

    With the old keys at hand, the role's files first get signatures of old and new keys; then comes the new root.
    Without them (lost) the new root comes first, and a reader may meet the old files for the moment between two writes.
    """
    sign = {
        "targets": repository.sign_targets,
        "snapshot": repository.sign_snapshot,
        "timestamp": repository.sign_timestamp,
    }.get(role)
    if sign is None:
        repository.sign_root(new, keyring, at)
        return
    rule = old.roles[role]
    if sum(keyid in keyring for keyid in rule.keyids) >= rule.threshold:
        sign(keyring, at, [old, new])
        repository.sign_root(new, keyring, at)
    else:
        repository.sign_root(new, keyring, at)
        sign(keyring, at)


def _new_key(home: Path, role: str, request: Request, check: bool) -> CryptoSigner:
    if check:
        return CryptoSigner.generate_ed25519()
    secret = request.passphrase if role in OPERATOR_ROLES else None
    return keys.generate_in(home, role, secret)


def _keyring(request: Request) -> keys.Keyring:
    return keys.load_all([Path(path) for path in request.keys], request.pems, request.passphrase)


def _leased(request: Request, check: bool) -> ExitStack:
    """The lease, if there is an end point to hold it for; a dry run writes nothing, not even that."""
    stack = ExitStack()
    if not check and Path(request.folder).is_dir():
        stack.enter_context(Lease(Path(request.folder), request.who, request.lock_timeout))
    return stack


# -- results -------------------------------------------------------------------------------------------------------


def _result(repository: Repository, *, changed: bool, outcome: str, at: datetime | None = None) -> Result:
    return {
        "protocol": PROTOCOL,
        "ok": True,
        "changed": changed,
        **({"outcome": outcome} if outcome else {}),
        "endpoint": describe(repository, at or now()),
    }


def describe(repository: Repository, at: datetime) -> Result:
    """The `endpoint` object of a result: what is there now."""
    signed: dict[str, Metadata[Any]] = {role: getattr(repository, role) for role in ROLES}
    channels = [{**msgspec.to_builtins(channel), "percent": channel.percent(at)} for channel in repository.channels()]
    for channel in channels:
        del channel["history"]
    return {
        "app": repository.app,
        "folder": str(repository.folder),
        "signed": {
            role: {
                "version": metadata.signed.version,
                "signed_at": _text(signed_at(metadata.signed)),
                "expires": _text(metadata.signed.expires),
                "keys": list(repository.root.signed.roles[role].keyids),
                "threshold": repository.root.signed.roles[role].threshold,
            }
            for role, metadata in signed.items()
        },
        "root": {
            "file": str(repository.folder / "metadata" / f"{repository.root.signed.version}.root.json"),
            "sha256": hashlib.sha256(repository.root.to_bytes()).hexdigest(),
        },
        "channels": channels,
        "versions": [
            {
                "version": manifest.version,
                "size": manifest.archive.size,
                "sha256": manifest.archive.sha256,
                "info_hash": manifest.info_hash,
                "irreversible": manifest.irreversible,
                "published_by": manifest.published_by,
                "published_at": _text(manifest.published_at),
            }
            for manifest in repository.manifests()
        ],
        "warnings": _warnings(repository, at),
    }


def _warnings(repository: Repository, at: datetime) -> list[str]:
    found = []
    for role in ROLES:
        left = getattr(repository, role).signed.expires - at
        limit = WARN if role in OPERATOR_ROLES else LIFETIME[role] / 4
        if left <= timedelta(0):
            found.append(f"{role} has expired: hosts believe nothing of this end point until it is signed anew")
        elif left < limit:
            found.append(f"{role} expires in {left.total_seconds() / 3600:.0f} h: run `shoal endpoint refresh`")
    found += [f"{role} is not signed by its present key: run `shoal endpoint refresh`" for role in repository.unsigned]
    return found


def _text(time: datetime) -> str:
    return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
