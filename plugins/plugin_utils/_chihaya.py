# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role chihaya does with its settings: refuse wrong ones, render the rest, and say what follows from them.

Chihaya itself ignores keys it does not know, takes 60 for 60 nanoseconds, and starts without a listener. So everything
is checked here, before anything is touched, against the description of one of its versions (a *generation*: the files
in the role's files/generations). A problem is one line: the key, what was found, what would be right.

Private to this collection.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

Settings = dict[str, Any]  # by dotted key: {"http.addr": ":6969"}

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:]*)):(\d{1,5})\Z")


def make_plan(settings: Any, generation: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the role needs to know.

    ``settings``: what the user wrote, nested as in chihaya's file. ``generation``: a file of files/generations.
    ``options``: ``network`` (host or published), ``ipv6`` (whether to probe over it), ``private_key`` (for UDP, where
    the user gave none).

    Returns a dict: ``problems`` (texts; the rest is empty when there are any), ``config`` (the file's text), ``digest``
    (of it, short), ``mounts`` (paths of the host that chihaya reads), ``ports`` (published, as docker and podman write
    them), ``tcp``, ``udp`` (port numbers that hosts of the fleet use), ``probes`` (announce URLs that must answer),
    ``announce`` (scheme, port and path of the URL for torrents, and the address if it listens on one), ``client`` (how
    a peer id begins that is admitted) and ``guarded`` (whether a stranger's info hash is refused).
    """
    generation, options = _plain(generation), _plain(options)
    checked = _Checked(generation)
    values = checked.read(_plain(settings))
    if not checked.problems:
        checked.problems += _contradictions(values, generation, options["network"])
    if checked.problems:
        return {"problems": checked.problems}
    return {"problems": [], **_consequences(values, generation, options)}


# Values

# A check returns what would be right, None for a value that is.
Check = Callable[[Any, Mapping[str, Any]], "str | None"]


def _check_bool(value: Any, _rule: Mapping[str, Any]) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _check_int(value: Any, rule: Mapping[str, Any]) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and rule["min"] <= value <= rule["max"]:
        return None
    return f"a whole number from {rule['min']} to {rule['max']}"


def _check_float(value: Any, _rule: Mapping[str, Any]) -> str | None:
    return None if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else "a number above 0"


def _check_probability(value: Any, rule: Mapping[str, Any]) -> str | None:
    return None if _check_float(value, rule) is None and value <= 1 else "a number above 0, at most 1"


def _check_string(value: Any, rule: Mapping[str, Any]) -> str | None:
    if not isinstance(value, str):
        return "a text"
    if rule.get("canonical") and value != (canonical := "-".join(part.capitalize() for part in value.split("-"))):
        return f"'{canonical}', since this version compares the header's name letter by letter with that form"
    return None


def _check_duration(value: Any, _rule: Mapping[str, Any]) -> str | None:
    if isinstance(value, str) and seconds(value):
        return None
    example = f"'{value}s'" if isinstance(value, int) and not isinstance(value, bool) else "'60s', '3m' or '1h30m'"
    return f"a text with a unit such as {example} (a bare number would be nanoseconds)"


def _check_listen(value: Any, rule: Mapping[str, Any]) -> str | None:
    if value == "" and not rule.get("required"):
        return None
    if isinstance(value, str) and parse_listen(value):
        return None
    empty = f" ({rule['required']})" if value == "" else ""
    return f"':PORT', 'ADDRESS:PORT' or '[ADDRESS]:PORT' with a port from 1 to 65535{empty}"


def _check_path(value: Any, _rule: Mapping[str, Any]) -> str | None:
    return None if isinstance(value, str) and re.match(r"(/[^:,\0\n]*)?\Z", value) else "an absolute path on the host"


def _check_url(value: Any, _rule: Mapping[str, Any]) -> str | None:
    good = isinstance(value, str) and (value == "" or re.match(r"https?://[^/\s]+", value))
    return None if good else "an http or https URL"


def _check_redis(value: Any, _rule: Mapping[str, Any]) -> str | None:
    if not isinstance(value, str) or not value.startswith(("redis://", "unix://")):
        return "a URL such as 'redis://127.0.0.1:6379/0'"
    return "a URL without a password: chihaya prints it to its log" if "@" in value else None


def _check_choice(value: Any, rule: Mapping[str, Any]) -> str | None:
    return None if value in rule["choices"] else " or ".join(f"'{choice}'" for choice in rule["choices"])


def _check_list(value: Any, good: str, expected: str) -> str | None:
    if isinstance(value, list) and all(isinstance(one, str) and re.fullmatch(good, one) for one in value):
        return None
    return expected


def _check_routes(value: Any, _rule: Mapping[str, Any]) -> str | None:
    return _check_list(value, r"/\S*", "a list of paths such as ['/announce']")


def _check_clients(value: Any, _rule: Mapping[str, Any]) -> str | None:
    return _check_list(value, r"[!-~]{6}", "a list of client ids of 6 characters, such as ['LT2110'] for -LT2110-")


def _check_hashes(value: Any, _rule: Mapping[str, Any]) -> str | None:
    return _check_list(value, r"[0-9a-fA-F]{40}", "a list of info hashes of 40 hexadecimal digits, in quotes")


def _check_posthooks(value: Any, _rule: Mapping[str, Any]) -> str | None:
    return None if value == [] else "an empty list: chihaya has no hooks for after an answer"


_CHECKS: dict[str, Check] = {
    "bool": _check_bool,
    "choice": _check_choice,
    "clients": _check_clients,
    "duration": _check_duration,
    "float": _check_float,
    "hashes": _check_hashes,
    "int": _check_int,
    "listen": _check_listen,
    "path": _check_path,
    "posthooks": _check_posthooks,
    "probability": _check_probability,
    "redis": _check_redis,
    "routes": _check_routes,
    "string": _check_string,
    "url": _check_url,
}


def seconds(duration: str) -> float | None:
    """Seconds of a duration as Go writes it, None for another text."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


class Listen(NamedTuple):
    """Where chihaya listens. An empty address is every address."""

    address: str
    port: int

    @property
    def everywhere(self) -> bool:
        return self.address in ("", "0.0.0.0", "::")

    @property
    def loopback(self) -> bool:
        return self.address == "localhost" or (not self.everywhere and ipaddress.ip_address(self.address).is_loopback)

    @property
    def host(self) -> str:
        """The address as URLs and engines write it."""
        return f"[{self.address}]" if ":" in self.address else self.address

    def overlaps(self, other: Listen) -> bool:
        if self.port != other.port:
            return False
        everywhere = self.everywhere or other.everywhere
        return everywhere or self.address == other.address or (self.loopback and other.loopback)


def parse_listen(text: str) -> Listen | None:
    """A listen address, None for another text. Names but localhost are none: they may change under chihaya's feet."""
    match = _LISTEN.match(text)
    if not match or not 1 <= int(match[3]) <= 65535:
        return None
    address = match[1] or match[2]
    if address not in ("", "localhost"):
        try:
            version = ipaddress.ip_address(address).version
        except ValueError:
            return None
        if (version == 6) != bool(match[1]):
            return None
    return Listen(address, int(match[3]))


# Settings


class _Checked:
    """Reads settings against a generation and gathers problems."""

    def __init__(self, generation: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self._generation = generation
        self._keys: Mapping[str, Mapping[str, Any]] = generation["keys"]

    def read(self, settings: Any) -> Settings:
        """The settings merged over the defaults, by dotted key."""
        given: Settings = {}
        if isinstance(settings, dict):
            self._flatten("", settings, given)
        else:
            self.problems.append(f"chihaya_config: found {_show(settings)}; expected a dictionary")
        values = {key: rule["default"] for key, rule in self._keys.items() if "default" in rule}
        for key, value in given.items():
            rule = self._keys[key]
            if "refused" in rule:
                self.problems.append(f"{key}: found a value; expected none: {rule['refused']}")
            elif rule["type"] == "hooks":
                values[key] = self._read_hooks(key, value)
            else:
                self._check(key, value, rule)
                values[key] = value
        if not self.problems:
            self._drop_what_the_storage_does_not_know(given, values)
        return values

    def _flatten(self, prefix: str, settings: Mapping[Any, Any], given: Settings) -> None:
        for name, value in settings.items():
            key = f"{prefix}{name}"
            if key in self._keys:
                given[key] = value
            elif any(known.startswith(key + ".") for known in self._keys):
                if isinstance(value, dict):
                    self._flatten(key + ".", value, given)
                else:
                    self.problems.append(f"{key}: found {_show(value)}; expected a dictionary of settings")
            else:
                self.problems.append(f"{key}: unknown to this version; {self._nearest(key)}")

    def _nearest(self, key: str) -> str:
        elsewhere = self._generation["elsewhere"]
        if key in elsewhere:
            return f"what it is called here: {elsewhere[key]}"
        last = key.rpartition(".")[2]
        # A key that is right but for its place, or for its spelling.
        named = [known for known in self._keys if known.rpartition(".")[2] == last]
        near = named or difflib.get_close_matches(key, list(self._keys), 1, 0.5)
        if not near:
            by_last = {known.rpartition(".")[2]: known for known in self._keys}
            near = [by_last[name] for name in difflib.get_close_matches(last, list(by_last), 1, 0.0)]
        return "the nearest known key is " + " or ".join(near)

    def _check(self, key: str, value: Any, rule: Mapping[str, Any]) -> None:
        expected = _CHECKS[rule["type"]](value, rule)
        if expected:
            found = "a value that is not shown" if rule.get("secret") else _show(value)
            self.problems.append(f"{key}: found {found}; expected {expected}")

    def _drop_what_the_storage_does_not_know(self, given: Settings, values: Settings) -> None:
        storage = values.get("storage.name")
        for key, rule in self._keys.items():
            if "only" in rule and storage not in rule["only"]:
                values.pop(key)
                if key in given:
                    self.problems.append(
                        f"{key}: unknown to the storage '{storage}'; it belongs to {' and '.join(rule['only'])}"
                    )

    def _read_hooks(self, key: str, hooks: Any) -> Any:
        options_key = self._generation["hook_options"]
        if not isinstance(hooks, list):
            self.problems.append(f"{key}: found {_show(hooks)}; expected a list")
            return []
        for number, hook in enumerate(hooks):
            self._read_hook(f"{key}[{number}]", hook, options_key)
        return hooks

    def _read_hook(self, place: str, hook: Any, options_key: str) -> None:
        known: Mapping[str, Mapping[str, Any]] = self._generation["hooks"]
        if not isinstance(hook, dict) or not {"name"} <= hook.keys() <= {"name", options_key}:
            self.problems.append(f"{place}: found {_show(hook)}; expected a dictionary of name and {options_key}")
            return
        if hook["name"] not in known:
            near = difflib.get_close_matches(str(hook["name"]), list(known), 1, 0.0)
            self.problems.append(f"{place}.name: found {_show(hook['name'])}; the nearest known one is '{near[0]}'")
            return
        options = hook.get(options_key)
        if not isinstance(options, dict):
            self.problems.append(f"{place}.{options_key}: found {_show(options)}; expected a dictionary")
            return
        rules = known[hook["name"]]
        for name, value in options.items():
            if name in rules:
                self._check(f"{place}.{options_key}.{name}", value, rules[name])
            else:
                near = difflib.get_close_matches(str(name), list(rules), 1, 0.0)
                self.problems.append(f"{place}.{options_key}.{name}: unknown; the nearest known key is {near[0]}")
        for name, rule in rules.items():
            if "required" in rule and not options.get(name):
                self.problems.append(f"{place}.{options_key}.{name}: found nothing; expected it: {rule['required']}")
        lists = {"whitelist", "blacklist"}
        if set(rules) == lists >= set(options) and len([name for name in lists if options.get(name)]) != 1:
            self.problems.append(f"{place}.{options_key}: found both lists or none; expected whitelist or blacklist")


# Rules about several keys at once


def _contradictions(values: Settings, generation: Mapping[str, Any], network: str) -> list[str]:
    problems: list[str] = []
    meaning = generation["meaning"]
    for rule in (_intervals, _numwants, _routes, _tls, _whitelist):
        problems += rule(values, meaning)
    problems += _listeners(values, meaning, network)
    problems += _increased_interval(values, generation)
    return problems


def _intervals(values: Settings, meaning: Mapping[str, Any]) -> Iterator[str]:
    announce = _seconds_of(values, meaning["announce"])
    minimum = meaning.get("min_announce")
    if minimum and _seconds_of(values, minimum) > announce:
        yield (
            f"{minimum}: found {values[minimum]}, longer than {meaning['announce']} ({values[meaning['announce']]}); "
            "expected at most that"
        )
    if "lifetime" in meaning:
        key = meaning["lifetime"]
        if _seconds_of(values, key) <= announce:
            yield (
                f"{key}: found {values[key]}, so that peers are forgotten before they announce again; expected more "
                f"than {meaning['announce']} ({values[meaning['announce']]}), three times as much is usual"
            )
    if "reap_ratio" in meaning:
        key = meaning["reap_ratio"]
        lifetime = values[key] * _seconds_of(values, minimum)
        if lifetime <= announce:
            yield (
                f"{key}: found {values[key]:g} x {minimum} {values[minimum]} = {lifetime:g} s, so that peers are "
                f"forgotten before they announce again; expected more than {meaning['announce']} "
                f"({values[meaning['announce']]}), that is a {key} above {announce / _seconds_of(values, minimum):g}"
            )


def _increased_interval(values: Settings, generation: Mapping[str, Any]) -> Iterator[str]:
    meaning = generation["meaning"]
    for number, hook in enumerate(values.get("prehooks", ())):
        if hook["name"] == "interval variation":
            options = hook[generation["hook_options"]]
            longest = _seconds_of(values, meaning["announce"]) + options["max_increase_delta"]
            if _seconds_of(values, meaning["lifetime"]) <= longest:
                yield (
                    f"prehooks[{number}].{generation['hook_options']}.max_increase_delta: found "
                    f"{options['max_increase_delta']}, so that intervals get as long as {longest:g} s; expected less "
                    f"than {meaning['lifetime']} ({values[meaning['lifetime']]}) in all"
                )


def _numwants(values: Settings, meaning: Mapping[str, Any]) -> Iterator[str]:
    for default, maximum in meaning.get("numwant", ()):
        if values[default] > values[maximum]:
            yield f"{default}: found {values[default]}, over {maximum}; expected at most {values[maximum]}"


def _routes(values: Settings, meaning: Mapping[str, Any]) -> Iterator[str]:
    key = meaning.get("announce_routes")
    if key and values[meaning["listeners"]["http"]]:
        for routes in (key, key.replace("announce", "scrape")):
            if not values[routes]:
                yield f"{routes}: found no route; expected at least one, such as ['/{routes[5:].split('_')[0]}']"


def _tls(values: Settings, meaning: Mapping[str, Any]) -> Iterator[str]:
    if "tls" not in meaning:
        return
    https = meaning["listeners"]["https"]
    given = [key for key in meaning["tls"] if values[key]]
    if given and not values[https]:
        yield f"{https}: found nothing although {given[0]} is given; expected an address such as ':6970'"
    for key in meaning["tls"]:
        if values[https] and not values[key]:
            yield f"{key}: found nothing although {https} is {values[https]}; expected a PEM file's path on the host"


def _whitelist(values: Settings, meaning: Mapping[str, Any]) -> Iterator[str]:
    if "client_whitelist" in meaning:
        switch, clients = meaning["client_whitelist"]
        if values[switch] and not values[clients]:
            yield f"{clients}: found no client although {switch} is true, so that nobody may announce; expected some"
        if values[clients] and not values[switch]:
            yield f"{switch}: found false although {clients} is given, so that everybody may announce; expected true"


def _listeners(values: Settings, meaning: Mapping[str, Any], network: str) -> Iterator[str]:
    places = _places(values, meaning)
    fleet = {name: place for name, place in places.items() if name in meaning["listeners"]}
    if not fleet:
        yield f"{meaning['listeners']['http']}: found no listener; expected an address such as ':6969' here or for UDP"
    if "https" in fleet and meaning.get("https_needs_http") and "http" not in fleet:
        yield (
            f"{meaning['listeners']['http']}: found nothing although {meaning['listeners']['https']} is given, and "
            "chihaya starts both or none; expected an address, 127.0.0.1:6969 will do"
        )
    for name, place in fleet.items():
        hidden = (name == "http" and ("https" in fleet or values[meaning["real_ip"]])) or not place.loopback
        if not hidden:
            proxy = f", or {meaning['real_ip']} if a reverse proxy is in front" if name == "http" else ""
            yield (
                f"{meaning['listeners'][name]}: found {_show(_value(values, meaning, name))}, where no other host "
                f"finds it; expected ':{place.port}' or an address of this host{proxy}"
            )
    for name, place in places.items():
        if place.port < 1024 and network == "host":
            yield (
                f"{_key(meaning, name)}: found port {place.port}, which takes rights that the container does not have; "
                "expected one from 1024, or chihaya_network: published"
            )
    tcp = [name for name in places if name != "udp"]
    for number, name in enumerate(tcp):
        for other in tcp[:number]:
            if places[name].overlaps(places[other]):
                yield (
                    f"{_key(meaning, name)}: found port {places[name].port}, which {_key(meaning, other)} has too; "
                    "expected another one"
                )


def _places(values: Settings, meaning: Mapping[str, Any]) -> dict[str, Listen]:
    """Every listener that is on, by http, https, udp or the key of an internal one."""
    keys = {**meaning["listeners"], **{key: key for key in meaning["internal"]}}
    return {name: place for name, key in keys.items() if (place := parse_listen(values[key]))}


def _key(meaning: Mapping[str, Any], name: str) -> str:
    key: str = meaning["listeners"].get(name, name)
    return key


def _value(values: Settings, meaning: Mapping[str, Any], name: str) -> Any:
    return values[_key(meaning, name)]


def _seconds_of(values: Settings, key: str) -> float:
    return seconds(values[key]) or 0.0


# What follows from good settings


def _consequences(values: Settings, generation: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    meaning = generation["meaning"]
    places = _places(values, meaning)
    fleet = {name: place for name, place in places.items() if name in meaning["listeners"]}
    if "udp.private_key" in values and not values["udp.private_key"]:
        values["udp.private_key"] = options["private_key"]
    ports = []
    if options["network"] == "published":
        # In its own network the container listens everywhere; the address that was asked for is the one published.
        for name, place in places.items():
            values[_key(meaning, name)] = f":{place.port}"
            protocol = "udp" if name == "udp" else "tcp"
            ports.append(f"{'' if place.everywhere else place.host + ':'}{place.port}:{place.port}/{protocol}")
    config = _render(values, generation, fleet)
    route = values[meaning["announce_routes"]][0] if "announce_routes" in meaning else "/announce"
    # Named parts of a route stand for anything.
    route = re.sub(r"[:*]\w+", "probe", route)
    best = next(name for name in ("https", "http", "udp") if name in fleet)
    return {
        "config": config,
        "digest": hashlib.sha256(config.encode()).hexdigest()[:12],
        "mounts": [values[key] for key in meaning.get("tls", ()) if values[key]],
        "ports": ports,
        "tcp": sorted({place.port for name, place in fleet.items() if name != "udp" and not place.loopback}),
        "udp": sorted({place.port for name, place in fleet.items() if name == "udp"}),
        "probes": [url for name, place in fleet.items() for url in _probes(name, place, route, bool(options["ipv6"]))],
        "announce": {
            "scheme": best,
            "host": "" if fleet[best].everywhere or fleet[best].loopback else fleet[best].host,
            "port": fleet[best].port,
            "path": "/announce" if best == "udp" else route,
        },
        **_admission(values, generation),
    }


def _probes(name: str, place: Listen, route: str, ipv6: bool) -> Iterator[str]:
    hosts = [place.host or "127.0.0.1"]
    if place.everywhere:
        # Go listens for both families on either wildcard.
        hosts = ["127.0.0.1", *(["[::1]"] if ipv6 else [])]
    for host in hosts:
        yield f"udp://{host}:{place.port}" if name == "udp" else f"{name}://{host}:{place.port}{route}"


def _admission(values: Settings, generation: Mapping[str, Any]) -> dict[str, Any]:
    meaning = generation["meaning"]
    clients: list[str] = []
    guarded = bool(values.get(meaning.get("jwt", "")))
    if "client_whitelist" in meaning:
        clients = values[meaning["client_whitelist"][1]]
    for hook in values.get("prehooks", ()):
        options = hook[generation["hook_options"]]
        if hook["name"] == "jwt" or (hook["name"] == "torrent approval" and options.get("whitelist")):
            guarded = True
        if hook["name"] == "client approval":
            clients = options.get("whitelist") or []
    return {"client": f"-{clients[0]}-" if clients else "-SH0100-", "guarded": guarded}


def _render(values: Settings, generation: Mapping[str, Any], fleet: Mapping[str, Listen]) -> str:
    meaning = generation["meaning"]
    off = [section + "." for name, section in meaning.get("sections", {}).items() if name not in fleet]
    nested: dict[str, Any] = {}
    for key in generation["keys"]:
        if key not in values or key.startswith(tuple(off)):
            continue
        folder = nested
        *sections, last = key.split(".")
        for section in sections:
            folder = folder.setdefault(section, {})
        folder[last] = values[key]
    if generation["format"] == "json":
        return json.dumps(nested, indent=2) + "\n"
    return yaml.dump({generation["root"]: nested}, Dumper=_QuotingDumper, sort_keys=False, width=4096)


class _QuotingDumper(yaml.SafeDumper):
    """Puts every text in quotes: Go's YAML takes 1e10 and the like for numbers where Python's does not."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_QuotingDumper.add_representer(str, _represent_text)


def _plain(value: Any) -> Any:
    """The same without Ansible's subclasses of Python's types, which carry tags and which no dumper knows."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, str):
        return "".join(value)
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    if isinstance(value, bool):
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def _show(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
