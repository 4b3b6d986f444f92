"""The agent's configuration: one YAML file, read into typed values; everything wrong with it is told at once."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
import stat
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import yaml

from shoal.agent.addresses import parse_endpoint, parse_ip
from shoal.agent.errors import ConfigError
from shoal.endpoint import documents, schedule
from shoal.swarm import EngineSettings, Reserve, SeedingPolicy, WebSeedPolicy

MAX_CONFIG_BYTES = 64 * 1024  # a real one has a few hundred bytes: more is the wrong file
MAX_PROBLEMS = 20  # told at once; a file with more of them is another program's
MAX_RATE = 2**31 - 1  # libtorrent keeps rate limits in a 32-bit int
DAY_MINUTES = 24 * 60
MAX_SECONDS = 10**9  # some 30 years: for ever is said otherwise
MIN_INTERVAL = 1.0  # seconds between polls of an end point; less is a mistake, or an attack
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


class Duration(float):
    """Seconds; in YAML a number or text such as ``7d``, ``12h``, ``30m``, ``90s``."""


class FileMode(int):
    """Permission bits; in YAML quoted octal text such as ``"0660"``."""


class ListenAddress(str):
    """``ADDRESS:PORT`` with an IP address."""


class IpAddress(str):
    """An IPv4 or IPv6 address."""


class Network(str):
    """An address or a network such as ``10.0.0.0/8``, in its normal form."""


class AppName(str):
    """An application's name, as its end point says it."""


class ChannelName(str):
    """A channel of an end point."""


class EndpointUrl(str):
    """Where an end point is served: ``https://HOST/PATH/``."""


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


class App(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An application whose known end point is watched."""

    name: AppName
    endpoints: Annotated[tuple[EndpointUrl, ...], msgspec.Meta(min_length=1, max_length=16)]  # mirrors, in this order
    root: Path  # the pinned root.json
    channel: ChannelName = ChannelName("stable")
    auto: Literal["off", "fetch"] = "fetch"
    interval: Duration = Duration(schedule.INTERVAL)
    ca_file: Path | None = None  # None: the system's


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
    apps: Annotated[tuple[App, ...], msgspec.Meta(max_length=100)] = ()
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
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_yaml(path)
        _build(Config, tree, source=str(path))
    if overrides:
        _build(Config, overrides, source="the command line")
    return _build(Config, {**tree, **(overrides or {})}, source=str(path or "the command line"))


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9._:-]", "-", socket.gethostname()) or "agent"


# --- YAML -----------------------------------------------------------------------------------------------------


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, where YAML libraries silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _value in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} is there twice; keep one", problem_mark=key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        tree = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}: not valid YAML{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; expected a mapping of keys to values") from None
    if tree is None:
        raise ConfigError(f"{path}: empty; write {{}} to take every default")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: found {_found(tree)}, expected a mapping of keys to values, such as `name: host1`")
    return tree


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            if os.geteuid() == 0:
                _require_trusted(path, info)
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: more than {MAX_CONFIG_BYTES} bytes; this is not an agent's configuration")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _require_trusted(path: Path, info: os.stat_result) -> None:
    """What root obeys only root may have written."""
    others = info.st_mode & stat.S_IWOTH or (info.st_mode & stat.S_IWGRP and info.st_gid != 0)
    if stat.S_ISREG(info.st_mode) and (info.st_uid != 0 or others):
        raise ConfigError(
            f"{path}: others than root can write it (owner {info.st_uid}, mode {stat.S_IMODE(info.st_mode):04o}) "
            f"and this agent runs as root; chown root:root and chmod 0644 it, or run the agent as another user"
        )


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
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?([smhd])", re.ASCII)
_WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00", re.ASCII)
_PERCENT = re.compile(r"(\d{1,2}(?:\.\d{1,3})?) ?%", re.ASCII)
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?([A-Za-z]*)", re.ASCII)
_URL = re.compile(r"https?://[!-~]{1,2000}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._:-]{0,64}", re.ASCII)


def _parse_size(value: object) -> int:
    """Bytes: a whole number, or text with a unit."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)) and match[2].lower() in _UNITS:
        return int(float(match[1]) * _UNITS[match[2].lower()])
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"found {_found(value)}, expected bytes: a whole number or text such as 10GB")


def _parse_duration(value: object) -> Duration:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return Duration(float(match[1]) * _SECONDS[match[2]])
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_SECONDS:
        return Duration(value)
    raise ValueError(f"found {_found(value)}, expected seconds, or text such as 90s, 30m, 12h, 7d")


def _parse_min_free(value: object) -> MinFree:
    if not isinstance(value, str) or not _PERCENT.fullmatch(value):
        try:
            _parse_size(value)
        except ValueError:
            expected = 'bytes such as 10GB, or a share of the file system below 100 such as "5%"'
            raise ValueError(f"found {_found(value)}, expected {expected}") from None
    return MinFree(str(value).replace(" ", ""))


def _parse_rate(value: object) -> ByteRate:
    try:
        rate = _parse_size(value)
    except ValueError:
        expected = "bytes per second: a whole number or text such as 2MB or 500KiB; 0 is no limit"
        raise ValueError(f"found {_found(value)}, expected {expected}") from None
    if rate > MAX_RATE:
        raise ValueError(f"found {_found(value)}, expected at most {MAX_RATE} bytes per second; 0 is no limit")
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
        raise ValueError(f"found {_found(value)}, expected days such as mon-fri, or sat,sun, or daily") from None
    return Days(value)


def _parse_time(value: object) -> TimeOfDay:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError(f'found {_found(value)}, expected a time in quotes, "00:00" to "24:00"')
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
        raise ValueError(f"found {_found(value)}, expected {expected}") from None
    return TimeZone(value)


def _parse_mode(value: object) -> FileMode:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value, re.ASCII):
        raise ValueError(f'found {_found(value)}, expected quoted octal permission bits such as "0660"')
    return FileMode(int(value, 8))


def _parse_path(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(f"found {_found(value)}, expected an absolute path")
    return Path(value)


def _parse_listen(value: object) -> ListenAddress:
    if not isinstance(value, str):
        raise ValueError(f"found {_found(value)}, expected ADDRESS:PORT in quotes")
    host, _port = parse_endpoint(value)
    parse_ip(host)
    return ListenAddress(value)


def _parse_ip_address(value: object) -> IpAddress:
    if not isinstance(value, str):
        raise ValueError(f"found {_found(value)}, expected an IPv4 or IPv6 address")
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
        raise ValueError(f"found {_found(value)}, expected an address or a network such as 10.0.0.0/8{hint}") from None
    return Network(network)


def _parse_app(value: object) -> AppName:
    if not isinstance(value, str) or not re.fullmatch(documents.APP_PATTERN, value):
        raise ValueError(f"found {_found(value)}, expected up to 64 of A-Z a-z 0-9 . _ -, first a letter or digit")
    return AppName(value)


def _parse_channel(value: object) -> ChannelName:
    if not isinstance(value, str) or not re.fullmatch(documents.CHANNEL_PATTERN, value):
        raise ValueError(f"found {_found(value)}, expected up to 64 of a-z 0-9 . _ -, first a letter or digit")
    return ChannelName(value)


def _parse_url(value: object) -> EndpointUrl:
    if not isinstance(value, str) or not _URL.fullmatch(value):
        raise ValueError(f"found {_found(value)}, expected a URL such as https://publisher.example.com/shop/")
    return EndpointUrl(value)


def _parse_name(value: object) -> AgentName:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"found {_found(value)}, expected text of at most 64 letters, digits, dots, colons, - and _")
    return AgentName(value)


_PARSERS: dict[type, Callable[[object], object]] = {
    ByteRate: _parse_rate,
    MinFree: _parse_min_free,
    Duration: _parse_duration,
    Days: _parse_days,
    TimeOfDay: _parse_time,
    TimeZone: _parse_time_zone,
    FileMode: _parse_mode,
    Path: _parse_path,
    ListenAddress: _parse_listen,
    IpAddress: _parse_ip_address,
    Network: _parse_network,
    AppName: _parse_app,
    ChannelName: _parse_channel,
    EndpointUrl: _parse_url,
    AgentName: _parse_name,
}


def _parse(kind: type, value: object) -> object:
    return _PARSERS[kind](value)


# --- building -------------------------------------------------------------------------------------------------


def _build(kind: type[Config], tree: Mapping[str, Any], source: str) -> Config:
    problems: list[str] = []
    _check(kind, tree, "", problems)
    if not problems:
        config = msgspec.convert(dict(tree), kind, dec_hook=_parse)
        problems = list(_contradictions(config))
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise ConfigError(f"{source}: " + "\n  ".join([*problems[:MAX_PROBLEMS], *more]))
    return config


def _contradictions(config: Config) -> Iterator[str]:
    """What is wrong though each value is right by itself."""
    if len(os.fsencode(config.socket)) > MAX_SOCKET_PATH:
        yield f"socket: found '{config.socket}', expected at most {MAX_SOCKET_PATH} bytes (unix(7))"
    names = [app.name for app in config.apps]
    for number, app in enumerate(config.apps):
        if app.name in names[:number]:
            yield f"apps[{number}].name: found {app.name} twice, expected each application once"
        if app.interval < MIN_INTERVAL:
            yield f"apps[{number}].interval: found {app.interval:g}, expected at least {MIN_INTERVAL:g} seconds"
    for number, span in enumerate(config.limits.schedule):
        if span.start % DAY_MINUTES == span.end % DAY_MINUTES and (span.start, span.end) != (0, DAY_MINUTES):
            yield f'limits.schedule[{number}]: found {span}, expected two times; a whole day is "00:00" to "24:00"'


def _check(kind: type[msgspec.Struct], tree: object, where: str, problems: list[str]) -> None:
    """Try key after key, so that one run tells all that is wrong. ``where``: the keys that lead to ``tree``."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if not isinstance(tree, Mapping):
        problems.append(f"{where}: found {_found(tree)}, expected a mapping with keys of: {', '.join(fields)}")
        return
    prefix = f"{where}." if where else ""
    for key, value in tree.items():
        if key in fields:
            _check_value(fields[key].type, value, f"{prefix}{key}", problems)
        else:
            problems.append(f"{prefix}{key}: unknown key{_nearest(key, list(fields))}")
    for key, field in fields.items():
        if field.required and key not in tree:
            problems.append(f"{prefix}{key}: missing")


def _check_value(wanted: Any, value: object, where: str, problems: list[str]) -> None:
    if _is_struct(wanted):
        _check(wanted, value, where, problems)
        return
    element = get_args(get_args(wanted)[0])[:1] if get_origin(wanted) is Annotated else ()
    if element and _is_struct(element[0]) and isinstance(value, list):
        before = len(problems)
        for number, item in enumerate(value):
            _check(element[0], item, f"{where}[{number}]", problems)
        if len(problems) > before:
            return
    try:
        msgspec.convert(value, wanted, dec_hook=_parse)
    except msgspec.ValidationError as error:
        problems.append(f"{where}{_explain(error, value, wanted)}")


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


# msgspec's words for types, and ours
_WORDS = {"bool": "true or false", "float": "a number", "int": "a whole number", "array": "a list"}


def _explain(error: msgspec.ValidationError, value: object, wanted: object) -> str:
    """``[1]: found …, expected …``, from what a parser above said or from msgspec's ``Expected `int`, got `str```."""
    text, _at, where = str(error).partition(" - at `$")
    if error.__cause__ is None:
        if get_origin(wanted) is Literal:
            expected = "one of " + ", ".join(map(str, get_args(wanted)))
        else:
            expected = re.sub(r"Expected `(\w+)`", lambda match: _WORDS[match[1]], text.split(", got")[0])
        text = f"found {_found(value)}, expected {expected}"
    return f"{where.rstrip('`')}: {text}"


def _nearest(key: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(key), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(sorted(known))}"


def _found(value: object) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
