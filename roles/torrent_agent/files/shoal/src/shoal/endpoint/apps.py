"""The applications that a host follows by itself: one file each, ``APP.yml`` (docs/upgrade.md is the reference).

Both sides of a pull read it: the agent, which polls and fetches, and the privileged one, which decides and switches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from shoal.common.settings import (
    Duration,
    SettingsError,
    build,
    found,
    parse_duration,
    parse_path,
    read_trusted,
    read_yaml,
    require_trusted,
)
from shoal.endpoint import documents, schedule
from shoal.endpoint.errors import EndpointError
from shoal.endpoint.policy import Auto, Pin, Policy, Window

SUFFIX = ".yml"
MAX_APPS = 100
MIN_INTERVAL = 1.0  # seconds between polls; less is a mistake, or an attack
_URL = re.compile(r"https?://[!-~]{1,2000}", re.ASCII)


class Url(str):
    """``https://HOST/PATH/``."""


class ChannelName(str):
    """A channel of an end point."""


class EndpointKeys(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the application's end point is, and what is believed of it."""

    urls: Annotated[tuple[Url, ...], Meta(min_length=1, max_length=16)]  # the end point and mirrors, in this order
    channel: ChannelName = ChannelName("stable")
    trusted_root: Path | None = None  # None: APP.root.json beside the file
    ca_file: Path | None = None  # None: the system's
    interval: Duration = Duration(schedule.INTERVAL)


class PolicyKeys(Struct, frozen=True, forbid_unknown_fields=True):
    """What this host may do by itself."""

    auto: Auto = "activate"
    windows: Annotated[tuple[Window, ...], Meta(max_length=50)] = ()
    hold: bool = False
    pin: Pin | None = None
    clock: Literal["synchronised", "any"] = "synchronised"


class Keys(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    endpoint: EndpointKeys
    policy: PolicyKeys = PolicyKeys()
    release: dict[str, Any] | None = None  # as of a request of `shoal release`; the room `upgrade` reads it
    report_url: Url | None = None


class App(Struct, frozen=True):
    """An application and what its file says."""

    name: str
    path: Path
    keys: Keys

    @property
    def policy(self) -> Policy:
        """As `decide` takes it."""
        keys = self.keys.policy
        return Policy(auto=keys.auto, windows=keys.windows, hold=keys.hold, pin=keys.pin)

    @property
    def channel(self) -> str:
        """The channel's name."""
        return str(self.keys.endpoint.channel)

    def read_root(self) -> bytes:
        """The pinned root. Raises EndpointError."""
        path = self.keys.endpoint.trusted_root or self.path.with_suffix(".root.json")
        try:
            return read_trusted(path)
        except SettingsError as error:
            raise EndpointError(
                f"the pinned root of {self.name} cannot be used: {error}",
                hint="copy metadata/1.root.json of its end point there, by a way that you trust",
                code="bad_root",
            ) from None


def names(folder: Path) -> list[str]:
    """The applications that have a file in ``folder``; none where that is not there. Raises EndpointError."""
    try:
        found = sorted(
            path.stem for path in folder.iterdir() if path.suffix == SUFFIX and not path.name.startswith(".")
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EndpointError(f"{folder} cannot be read: {error.strerror}", code="bad_config") from None
    if len(found) > MAX_APPS:
        raise EndpointError(f"{folder} has {len(found)} applications, more than {MAX_APPS}", code="bad_config")
    return found


def load(folder: Path, name: str, file: Path | None = None) -> App:
    """What the file of application ``name`` says (``file``: another one, before it is placed).

    Raises EndpointError (``bad_config``) that names the file and, for each problem, the key and what was expected.
    """
    documents.check_name("app", name, documents.APP_PATTERN)
    path = file or folder / f"{name}{SUFFIX}"
    try:
        if file is None:
            require_trusted(folder, folder.stat())
        keys = build(Keys, read_yaml(path), str(path), _PARSERS, _contradictions)
    except OSError as error:
        raise EndpointError(f"{folder} cannot be read: {error.strerror}", code="bad_config") from None
    except SettingsError as error:
        raise EndpointError(str(error), hint="see docs/upgrade.md", code="bad_config") from None
    return App(name, folder / f"{name}{SUFFIX}", keys)


def _contradictions(keys: Keys) -> Iterator[str]:
    if keys.endpoint.interval < MIN_INTERVAL:
        yield f"endpoint.interval: found {keys.endpoint.interval:g}, expected at least {MIN_INTERVAL:g} seconds"
    if keys.policy.auto in ("stage", "activate") and keys.release is None:
        yield f"release: missing, and policy.auto is {keys.policy.auto}: at least release.root is needed"


def _parse_url(value: object) -> Url:
    try:
        parts = urlsplit(value) if isinstance(value, str) and _URL.fullmatch(value) else None
        usable = parts is not None and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port above 65535, half a bracket
        usable = False
    if not usable:
        raise ValueError(f"found {found(value)}, expected a URL such as https://publisher.example.com/shop/")
    return Url(value)


def _parse_channel(value: object) -> ChannelName:
    if not isinstance(value, str) or not re.fullmatch(documents.CHANNEL_PATTERN, value):
        raise ValueError(f"found {found(value)}, expected up to 64 of a-z 0-9 . _ -, first a letter or digit")
    return ChannelName(value)


_PARSERS = {Url: _parse_url, ChannelName: _parse_channel, Duration: parse_duration, Path: parse_path}
