"""The agent's configuration: one YAML file, read into typed values; everything wrong with it is told at once."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from shoal.agent.addresses import parse_endpoint, parse_ip
from shoal.agent.errors import ConfigError
from shoal.common.settings import Duration, SettingsError, build, found, parse_duration, parse_path, read_yaml
from shoal.swarm import EngineSettings, Reserve, SeedingPolicy, WebSeedPolicy

MAX_RATE = 2**31 - 1  # libtorrent keeps rate limits in a 32-bit int
DAY_MINUTES = 24 * 60
MAX_SOCKET_PATH = 107  # sun_path of Linux, less its closing NUL (unix(7))


class ByteRate(int):
    """Bytes per second; in YAML a whole number or text such as ``2MB`` or ``500KiB``. 0: no limit."""


class MinFree(str):
    """What stays free: bytes as for ``ByteRate``, or a share such as ``5%``."""

    @property
    def reserve(self) -> Reserve:
        if self.endswith("%"):
            return Reserve(percent=float(self[:-1]))
        return Reserve(bytes=_parse_size(str(self)))


class FileMode(int):
    """Permission bits; in YAML quoted octal text such as ``"0660"``."""


class ListenAddress(str):
    """``ADDRESS:PORT`` with an IP address."""


class IpAddress(str):
    """An IPv4 or IPv6 address."""


class Network(str):
    """An address or a network such as ``10.0.0.0/8``, in its normal form."""


class AgentName(str):
    """How this agent calls itself to its peers: an inventory's host name fits."""


class Days(str):
    """Days of the week: ``mon-fri``, ``sat,sun``, ``daily``."""

    @property
    def numbers(self) -> frozenset[int]:
        """As datetime.weekday has them, 0 for Monday."""
        return _days(str(self))


class TimeOfDay(int):
    """Minutes after midnight; in YAML quoted: ``"18:00"``, at most ``"24:00"``."""


class TimeZone(str):
    """A name of the tz database, as in /usr/share/zoneinfo."""


class Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Other limits on some days from a time on to another, which may be of the next day."""

    start: TimeOfDay = msgspec.field(name="from")
    end: TimeOfDay = msgspec.field(name="to")
    days: Days = Days("daily")
    upload: ByteRate | None = None  # None: as without the span
    download: ByteRate | None = None

    def __str__(self) -> str:
        start, end = (f"{time // 60:02}:{time % 60:02}" for time in (self.start, self.end))
        return f"{self.days} {start}-{end}"


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For the whole agent; 0: no limit."""

    upload: ByteRate = ByteRate(0)
    download: ByteRate = ByteRate(0)
    schedule: Annotated[tuple[Span, ...], msgspec.Meta(max_length=50)] = ()  # the first that holds counts
    time_zone: TimeZone = TimeZone("UTC")


class Discovery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ways to find peers beside trackers and hand-given ones; all off on a fleet's own network."""

    dht: bool = False
    lsd: bool = False
    upnp: bool = False
    natpmp: bool = False


class WebSeeds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a stalled torrent may turn to its web seeds."""

    stall_after: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 20
    jitter: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 20
    max_connections: Annotated[int, msgspec.Meta(ge=0, le=64)] = 2


class Storage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How full the store's file system may get, and what becomes of downloads that do not fit."""

    min_free: MinFree = MinFree("2%")
    when_full: Literal["wait", "refuse"] = "wait"


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which payloads of the store are removed; 0: none."""

    keep: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    min_age: Duration = Duration(7 * 86400)


class Seeding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When to stop seeding what was fetched; 0: never for this reason."""

    ratio: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0
    time: Duration = Duration(0)


class PeerRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may be a peer: addresses of these networks only; empty: everybody."""

    allow: Annotated[tuple[Network, ...], msgspec.Meta(max_length=1000)] = ()


class Upgrade(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who switches versions: a unit of its own, asked through a socket, or a child of the agent."""

    by: Literal["socket", "child"] = "socket"
    socket_dir: Path = Path("/run/shoal-upgrade")


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where metrics are served beside the API; null: nowhere."""

    listen: ListenAddress | None = None


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file; docs/agent.md describes every key."""

    name: AgentName = AgentName("")  # empty: the host's name
    socket: Path = Path("/run/shoal/agent.sock")
    socket_mode: FileMode = FileMode(0o660)
    state_dir: Path = Path("/var/lib/shoal")
    store_dir: Path | None = None  # None: state_dir/store
    listen: Annotated[tuple[ListenAddress, ...], msgspec.Meta(min_length=1, max_length=16)] = (
        ListenAddress("0.0.0.0:6891"),
        ListenAddress("[::]:6891"),
    )
    announce_ip: IpAddress | None = None
    limits: Limits = Limits()
    discovery: Discovery = Discovery()
    web_seeds: WebSeeds = WebSeeds()
    peers: PeerRules = PeerRules()
    seeding: Seeding = Seeding()
    storage: Storage = Storage()
    retention: Retention = Retention()
    apps_dir: Path = Path("/etc/shoal/apps.d")  # one file for each application that this host follows by itself
    upgrade: Upgrade = Upgrade()
    metrics: Metrics = Metrics()
    resume_interval: Annotated[float, msgspec.Meta(ge=1, le=86400)] = 30
    log: Log = Log()

    @property
    def agent_name(self) -> str:
        """The name that is told to peers."""
        return str(self.name) or _host_name()

    def engine_settings(self) -> EngineSettings:
        """The same values as the engine takes them."""
        return EngineSettings(
            state_dir=self.state_dir,
            store_dir=self.store_dir or self.state_dir / "store",
            listen=tuple(str(address) for address in self.listen),
            agent_name=self.agent_name,
            upload_limit=int(self.limits.upload),
            download_limit=int(self.limits.download),
            dht=self.discovery.dht,
            lsd=self.discovery.lsd,
            upnp=self.discovery.upnp,
            natpmp=self.discovery.natpmp,
            announce_ip=str(self.announce_ip or ""),
            resume_interval=self.resume_interval,
            allowed_peers=tuple(str(network) for network in self.peers.allow),
            seeding=SeedingPolicy(self.seeding.ratio, float(self.seeding.time)),
            min_free=self.storage.min_free.reserve,
            refuse_when_full=self.storage.when_full == "refuse",
            web_seed=WebSeedPolicy(
                stall_after=self.web_seeds.stall_after,
                jitter=self.web_seeds.jitter,
                max_connections=self.web_seeds.max_connections,
            ),
        )


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read ``path`` (None: only defaults), lay ``overrides`` (top-level keys, from the command line) over it.

    Raises ConfigError that names the file and, for each problem, the key, what was found and what was expected.
    """
    try:
        tree: dict[str, Any] = {}
        if path is not None:
            tree = read_yaml(path)
            _build(tree, source=str(path))
        if overrides:
            _build(overrides, source="the command line")
        return _build({**tree, **(overrides or {})}, source=str(path or "the command line"))
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def _build(tree: Mapping[str, Any], source: str) -> Config:
    return build(Config, tree, source, _PARSERS, _contradictions)


def _contradictions(config: Config) -> Iterator[str]:
    """What is wrong though each value is right by itself."""
    if len(os.fsencode(config.socket)) > MAX_SOCKET_PATH:
        yield f"socket: found '{config.socket}', expected at most {MAX_SOCKET_PATH} bytes (unix(7))"
    for number, span in enumerate(config.limits.schedule):
        if span.start % DAY_MINUTES == span.end % DAY_MINUTES and (span.start, span.end) != (0, DAY_MINUTES):
            yield f'limits.schedule[{number}]: found {span}, expected two times; a whole day is "00:00" to "24:00"'


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9._:-]", "-", socket.gethostname()) or "agent"


# --- values ---------------------------------------------------------------------------------------------------

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00", re.ASCII)
_PERCENT = re.compile(r"(\d{1,2}(?:\.\d{1,3})?) ?%", re.ASCII)
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?([A-Za-z]*)", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._:-]{0,64}", re.ASCII)


def _parse_size(value: object) -> int:
    """Bytes: a whole number, or text with a unit."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)) and match[2].lower() in _UNITS:
        return int(float(match[1]) * _UNITS[match[2].lower()])
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"found {found(value)}, expected bytes: a whole number or text such as 10GB")


def _parse_min_free(value: object) -> MinFree:
    if not isinstance(value, str) or not _PERCENT.fullmatch(value):
        try:
            _parse_size(value)
        except ValueError:
            expected = 'bytes such as 10GB, or a share of the file system below 100 such as "5%"'
            raise ValueError(f"found {found(value)}, expected {expected}") from None
    return MinFree(str(value).replace(" ", ""))


def _parse_rate(value: object) -> ByteRate:
    try:
        rate = _parse_size(value)
    except ValueError:
        expected = "bytes per second: a whole number or text such as 2MB or 500KiB; 0 is no limit"
        raise ValueError(f"found {found(value)}, expected {expected}") from None
    if rate > MAX_RATE:
        raise ValueError(f"found {found(value)}, expected at most {MAX_RATE} bytes per second; 0 is no limit")
    return ByteRate(rate)


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _dash, last = part.strip().partition("-")
        begin, end = _WEEK.index(first), _WEEK.index(last or first)
        days.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(days)


def _parse_days(value: object) -> Days:
    try:
        _days(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"found {found(value)}, expected days such as mon-fri, or sat,sun, or daily") from None
    return Days(value)


def _parse_time(value: object) -> TimeOfDay:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError(f'found {found(value)}, expected a time in quotes, "00:00" to "24:00"')
    hours, minutes = map(int, value.split(":"))
    return TimeOfDay(hours * 60 + minutes)


def _parse_time_zone(value: object) -> TimeZone:
    try:
        if not isinstance(value, str) or not value:
            raise ValueError
        if value != "UTC":
            zoneinfo.ZoneInfo(value)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        expected = "a time zone that this host knows, such as Europe/Berlin (the system's package tzdata has them)"
        raise ValueError(f"found {found(value)}, expected {expected}") from None
    return TimeZone(value)


def _parse_mode(value: object) -> FileMode:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value, re.ASCII):
        raise ValueError(f'found {found(value)}, expected quoted octal permission bits such as "0660"')
    return FileMode(int(value, 8))


def _parse_listen(value: object) -> ListenAddress:
    if not isinstance(value, str):
        raise ValueError(f"found {found(value)}, expected ADDRESS:PORT in quotes")
    host, _port = parse_endpoint(value)
    parse_ip(host)
    return ListenAddress(value)


def _parse_ip_address(value: object) -> IpAddress:
    if not isinstance(value, str):
        raise ValueError(f"found {found(value)}, expected an IPv4 or IPv6 address")
    return IpAddress(parse_ip(value))


def _parse_network(value: object) -> Network:
    try:
        if not isinstance(value, str):
            raise ValueError
        network = ipaddress.ip_network(value)
        mapped = network.network_address.ipv4_mapped if network.version == 6 else None
        if mapped and network.prefixlen >= 96:
            network = ipaddress.ip_network((mapped, network.prefixlen - 96))
    except ValueError as error:
        hint = f" ({error})" if "host bits" in str(error) else ""
        raise ValueError(f"found {found(value)}, expected an address or a network such as 10.0.0.0/8{hint}") from None
    return Network(network)


def _parse_name(value: object) -> AgentName:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"found {found(value)}, expected text of at most 64 letters, digits, dots, colons, - and _")
    return AgentName(value)


_PARSERS: dict[type, Callable[[object], object]] = {
    ByteRate: _parse_rate,
    MinFree: _parse_min_free,
    Duration: parse_duration,
    Days: _parse_days,
    TimeOfDay: _parse_time,
    TimeZone: _parse_time_zone,
    FileMode: _parse_mode,
    Path: parse_path,
    ListenAddress: _parse_listen,
    IpAddress: _parse_ip_address,
    Network: _parse_network,
    AgentName: _parse_name,
}
