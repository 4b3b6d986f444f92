"""The request: what `shoal release VERB --json` reads on stdin, validated (docs/release.md is the reference).

Sizes in bytes, durations in seconds.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from shoal.common.texts import is_usable
from shoal.release.errors import RequestError

_S = TypeVar("_S", bound=Struct)

PROTOCOL = 1

# A version is a file name, an argument and a word in logs: no separators, no leading dot or dash, nothing to quote.
VERSION_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~-]{0,127}")

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0, le=7 * 86400)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Command = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]


class ArchiveSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The archive to read and what its bytes must be."""

    path: str
    size: Count | None = None
    sha256: Sha256 | None = None
    torrent: str | None = None  # path of the .torrent whose pieces the archive must match
    below: str | None = None  # a folder above it: no symbolic link below that is followed


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """How much may be unpacked. None: no figure is known; then only free space and the reserve limit it."""

    unpacked_bytes: Count | None = None
    entries: Count | None = None
    reserve_bytes: Count = 128 << 20  # stays free on the file system, whatever is unpacked


class VersionProof(Struct, frozen=True, forbid_unknown_fields=True):
    """Where an answer tells its version: exactly one of these."""

    json: str | None = None  # dotted path of a key in a JSON body: "build.version"
    header: str | None = None
    body: bool = False  # the version stands somewhere in the body, as a word of its own


class HealthCheck(Struct, frozen=True, forbid_unknown_fields=True):
    """One check: exactly one of ``url``, ``tcp`` and ``command``."""

    url: str | None = None
    tcp: str | None = None  # "host:port"
    command: Command | None = None
    status: Annotated[int, Meta(ge=100, le=599)] = 200
    contains: str | None = None
    version: VersionProof | None = None
    timeout: Seconds = 30.0  # healthy within this time
    interval: Annotated[float, Meta(ge=0.05, le=3600)] = 1.0
    soak: Seconds = 0.0  # and then healthy without a break for so long

    @property
    def label(self) -> str:
        """What people call this check: its URL, address or command."""
        return self.url or self.tcp or " ".join(self.command or [])


class Hooks(Struct, frozen=True, forbid_unknown_fields=True):
    """Commands run around the switch."""

    pre_activate: Command | None = None
    post_activate: Command | None = None
    post_rollback: Command | None = None


class SwitchSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How a release becomes the active one."""

    restart: str | Command | None = None  # a systemd unit's name, or a command
    restart_timeout: Seconds = 60.0
    health: list[HealthCheck] = []
    proof: Annotated[str, Meta(pattern="^(auto|process|version|none)$")] = "auto"
    hooks: Hooks = Hooks()
    hook_timeout: Seconds = 300.0
    run_as: str | None = None
    script: Command | None = None
    script_timeout: Seconds = 900.0


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a verb is told."""

    root: str
    protocol: int = PROTOCOL
    app: str = ""
    version: str | None = None
    previous: bool = False
    archive: ArchiveSpec | None = None
    limits: Limits = Limits()
    strip_components: Annotated[int, Meta(ge=0, le=64)] = 0
    owner: str | None = None
    group: str | None = None
    umask: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] = "022"
    shared: list[str] = []
    switch: SwitchSpec = SwitchSpec()
    keep_releases: Annotated[int, Meta(ge=1)] = 5
    irreversible: bool = False
    who: str = ""
    lock_timeout: Seconds = 0.0

    def means_the_same(self, other: Request) -> bool:
        """Whether both ask for the same work, whoever asks and however long they would wait."""
        return msgspec.structs.replace(self, who="", lock_timeout=0) == msgspec.structs.replace(
            other, who="", lock_timeout=0
        )


class InspectRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What ``inspect`` is told: an archive and nothing about an application."""

    archive: ArchiveSpec
    protocol: int = PROTOCOL
    limits: Limits = Limits()
    strip_components: Annotated[int, Meta(ge=0, le=64)] = 0


def check_version(version: str) -> str:
    """``version`` itself if it can be a release's name."""
    if not VERSION_PATTERN.fullmatch(version) or ".." in version:
        raise RequestError(
            f"version {version!r} cannot be a release's name",
            hint="use up to 128 of A-Z a-z 0-9 . _ + ~ -, starting with a letter or digit, without '..'",
        )
    return version


def parse(document: object) -> Request:
    """A checked request from decoded JSON. Raises RequestError, naming the key."""
    _check_protocol(document)
    request = _convert(document, Request)
    if not request.root.startswith("/") or Path(request.root).resolve() == Path("/"):
        raise RequestError(f"root must be an absolute path other than /, found {request.root!r}")
    if request.version is not None:
        check_version(request.version)
    for name in request.shared:
        _check_shared(name)
    for check in request.switch.health:
        _check_health(check)
    _check_switch(request.switch)
    return request


def parse_inspect(document: object) -> InspectRequest:
    """A checked request of ``inspect`` from decoded JSON. Raises RequestError, naming the key."""
    _check_protocol(document)
    if isinstance(document, dict):  # one format for all verbs: what is said about an application does not matter here
        known = InspectRequest.__struct_fields__
        document = {key: value for key, value in document.items() if key in known or key not in _FIELDS["$"]}
    return _convert(document, InspectRequest)


def _check_protocol(document: object) -> None:
    if not isinstance(document, dict):
        raise RequestError("the request must be a JSON object")
    if not is_usable(document):  # in YAML a key may also be a number, or `on`, which is true
        raise RequestError("the request has text with NUL or lone surrogates, which no path can have")
    protocol = document.get("protocol", PROTOCOL)
    if protocol == PROTOCOL:
        return
    newer = isinstance(protocol, int) and protocol > PROTOCOL
    raise RequestError(
        f"the request speaks protocol {protocol!r}, this shoal speaks {PROTOCOL}",
        hint="update shoal on this host" if newer else "update the collection on the controller",
        code="unsupported_protocol",
    )


def _check_shared(name: str) -> None:
    parts = name.rstrip("/").split("/")
    if not name or any(part in ("", ".", "..") or part.startswith("-") or "\0" in part for part in parts):
        raise RequestError(f"shared: {name!r} must be a path inside the release, as in 'var/uploads'")


def _check_health(check: HealthCheck) -> None:
    if sum(target is not None for target in (check.url, check.tcp, check.command)) != 1:
        raise RequestError("switch.health: each check needs exactly one of url, tcp, command")
    if check.url is not None and not re.match(r"https?://[^/\s]+", check.url):
        raise RequestError(f"switch.health: url {check.url!r} must start with http:// or https:// and name a host")
    if check.url is not None and not re.fullmatch("[!-~]+", check.url):
        raise RequestError(
            f"switch.health: url {check.url!r} must be of printable ASCII characters without spaces",
            hint="write others as %XX",
        )
    if check.tcp is not None and not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s]+):[0-9]{1,5}", check.tcp):
        raise RequestError(f"switch.health: tcp {check.tcp!r} must be host:port, an IPv6 address in brackets")
    _check_address(check.url or f"//{check.tcp or 'localhost'}")
    if check.version is None:
        return
    if check.url is None:
        raise RequestError("switch.health: version can only be read from an answer to a url")
    if sum(map(bool, (check.version.json, check.version.header, check.version.body))) != 1:
        raise RequestError("switch.health: version needs exactly one of json, header, body")


def _check_address(url: str) -> None:
    """Refuse now what nobody could connect to: while a switch waits for its health, that would be a fault of ours."""
    try:
        parts = urlsplit(url)
        usable = bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError as error:
        raise RequestError(f"switch.health: {url.lstrip('/')!r} names no address: {error}") from None
    if not usable:
        raise RequestError(f"switch.health: {url.lstrip('/')!r} names no host, or port 0")


def _check_switch(switch: SwitchSpec) -> None:
    beside = [name for name in Hooks.__struct_fields__ if getattr(switch.hooks, name)]
    if switch.restart is not None:
        beside.append("restart")
    if switch.script is not None and beside:
        raise RequestError(
            f"switch: script does the whole switch itself, but {', '.join(beside)} is given too",
            hint="leave one of them out",
        )


_FIELDS: dict[str, tuple[str, ...]] = {
    "$": Request.__struct_fields__,
    "archive": ArchiveSpec.__struct_fields__,
    "limits": Limits.__struct_fields__,
    "switch": SwitchSpec.__struct_fields__,
    "health": HealthCheck.__struct_fields__,
    "version": VersionProof.__struct_fields__,
    "hooks": Hooks.__struct_fields__,
}


def _convert(document: object, kind: type[_S]) -> _S:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None


def _explain(message: str) -> RequestError:
    """msgspec's words, with the nearest known key for an unknown one."""
    found = re.fullmatch(r"Object contains unknown field `(.*?)`(?: - at `(.*)`)?", message)
    if found is None:
        hint = "put it in quotes: YAML and JSON read 1.10 as the number 1.1" if "$.version" in message else ""
        return RequestError(f"the request is wrong: {message}", hint=hint)
    key, place = found[1], re.sub(r"\[[^]]*\]", "", found[2] or "$").rsplit(".", 1)[-1]
    known = _FIELDS.get(place, ())
    near = difflib.get_close_matches(key, known, 1)
    return RequestError(
        f"the request has the unknown key {key!r} in {found[2] or 'its top level'}",
        hint=f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}",
    )
