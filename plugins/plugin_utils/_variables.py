# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every variable of the playbooks: what it may be, and its default."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ._checks import (
    Check,
    WrongValueError,
    boolean,
    choice,
    describe,
    either,
    integer,
    listing,
    mapping,
    seconds,
    text,
)

DAY = 86400


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_integer(value: object) -> bool:
    """A port is one where it comes of a template alone; a command's argument is text, as in ansible.builtin.command."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


_words = text("a text that is not empty")
_name = text(
    "a name of letters, digits, dots, dashes and underscores that begins with a letter or digit",
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
)
_absolute_path = text("an absolute path, such as /srv/shop", r"/(?!.*(^|/)\.\.(/|$))[^\0\n]*[^\0\n/]")
_inner_path = text("a path within the release: relative and without ..", r"(?!/)(?!(.*/)?\.\.(/|$))[^\0\n]*[^\0\n/]")
_url = text("a URL that begins with http:// or https://", r"https?://[^\s/]+(/\S*)?")
_address = text("an address and port, such as 127.0.0.1:8080", r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):\d{1,5}")
_command = listing(
    either(_is_integer, str, text("a text")), "a command: a list of the program and its arguments", least=1
)
_pattern = either(_is_text, _words, listing(_words, "a pattern of hosts or a list of them", least=1))
_announce_url = text("an announce URL that begins with http://, https:// or udp://", r"(https?|udp)://[^\s/]+(/\S*)?")
_tiers = listing(
    either(_is_text, _announce_url, listing(_announce_url, "a tier: a list of announce URLs", least=1)),
    "a list of announce URLs or of tiers of them",
)


def version(value: Any) -> str:
    """A version is a name. YAML makes a number of ``1.10``, and 1.1 of that: refused, as nobody can tell them apart."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        problem = f"is {describe(value)}, not a text, and YAML may have dropped a digit (1.10 becomes 1.1)"
        raise WrongValueError(("", f"{problem}: put it in quotes, or give it as -e shoal_version=VERSION"))
    if value == "previous":  # to the module release it is the one before the current
        raise WrongValueError(("", "'previous' can be no version's name; a rollback goes there without shoal_version"))
    return str(
        text(
            "a version of letters, digits and . _ + ~ - that begins with a letter or digit, without '..'",
            r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._+~-]{0,127}",
        )(value)
    )


def _umask(value: Any) -> str:
    if isinstance(value, int):
        raise WrongValueError(
            ("", f"is {describe(value)}, not a text: put it in quotes ('022'), YAML reads digits after a 0 as octal")
        )
    return str(text("a umask of three octal digits, such as '022'", r"0?[0-7]{3}")(value))


def _ramp(value: Any) -> list[int | str]:
    """Steps that grow: how many hosts (``5``), or what share of them (``"10%"``), have the version after each."""
    step = either(
        lambda entry: isinstance(entry, str) and entry.endswith("%"),
        text("a share from 1% to 100%", r"([1-9]\d?|100)%"),
        integer(1, 1_000_000, " of hosts, or a share such as '10%'"),
    )
    steps: list[int | str] = listing(step, "a list of growing steps, such as [1, '10%', '50%', '100%']", least=1)(value)
    for kind in (int, str):
        sizes = [int(str(entry).rstrip("%")) for entry in steps if isinstance(entry, kind)]
        if any(later <= earlier for earlier, later in itertools.pairwise(sizes)):
            raise WrongValueError(("", f"expected steps that grow, found {steps}"))
    if steps[-1] != "100%":
        raise WrongValueError(("", f"expected '100%' as the last step, found {steps[-1]!r}"))
    return steps


def _checksum(value: Any) -> str:
    return str(text("sha256: and 64 hex digits", r"sha256:[0-9a-fA-F]{64}")(value)).lower()


_health_fields = mapping(
    {
        "url": _url,
        "tcp": _address,
        "command": _command,
        "status": integer(100, 599, ", an HTTP status"),
        "contains": _words,
        "version": mapping({"json": _words, "header": _words, "body": boolean}, one_of=("json", "header", "body")),
        "timeout": seconds(1, DAY),
        "interval": seconds(0.05, 3600),
        "soak": seconds(0, DAY),
    },
    one_of=("url", "tcp", "command"),
)


def _health(value: Any) -> dict[str, Any]:
    check: dict[str, Any] = _health_fields(value)
    if "url" not in check:
        problems = [(f".{key}", "needs a url: only its answer has one") for key in _OF_AN_ANSWER if key in check]
        if problems:
            raise WrongValueError(*problems)
    return check


_OF_AN_ANSWER = ("status", "contains", "version")


def _auto(value: Any) -> str:
    """YAML reads ``off`` as false."""
    return str(choice("off", "fetch", "stage", "activate")("off" if value is False else value))


_channel = text(
    "a channel: a name of small letters, digits, dots, dashes and underscores", r"[a-z0-9][a-z0-9._-]{0,63}"
)


def _moment(value: Any) -> str:
    """YAML makes a time of what looks like one."""
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(text("a time in UTC, such as 2026-12-01T00:00:00Z", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")(value))


_pull = mapping(
    {
        "channel": _channel,
        "rollout": listing(
            either(_is_integer, integer(1, 100, " percent"), text("a step such as 10, 50@+2h or 100@+1d")),
            "a list of steps, such as [10, '50@+2h', '100@+1d']",
            least=1,
        ),
        "auto": _auto,
        "windows": listing(
            mapping(
                {"cron": _words, "duration": either(_is_integer, seconds(60, 7 * DAY), _words), "timezone": _words},
                required=("cron", "duration"),
            ),
            "a list of maintenance windows",
        ),
        "hold": boolean,
        "pin": mapping({"version": version, "until": _moment}, required=("version",)),
        "clock": choice("synchronised", "any"),
        "interval": seconds(1, DAY),
        "urls": listing(_url, "a list of the end point's URLs", least=1),
        "ca_file": _absolute_path,
        "report_url": _url,
        "writable": listing(_absolute_path, "a list of absolute paths"),
    }
)
_operator_keys = either(
    _is_mapping,
    mapping({"root": _words, "targets": _words}, required=("root", "targets")),
    text("a folder on this machine, or a mapping of root and targets to the texts of their keys", r"[^\0\n]+"),
)


@dataclass(frozen=True)
class Setting:
    check: Check
    default: Any = None


FLEET_SETTINGS: dict[str, Setting] = {
    "hosts": Setting(_pattern),
    "ramp": Setting(_ramp, [1, "10%", "50%", "100%"]),
    "quorum": Setting(integer(1, 100, " percent"), 100),
    "on_failure": Setting(choice("stop", "rollback_batch", "rollback_all"), "stop"),
    "drain": Setting(_words),
    "undrain": Setting(_words),
    "pause": Setting(seconds(0, DAY), 0),
}
"""Settings of an app that are about the whole fleet: the same on all of its hosts."""

HOST_SETTINGS: dict[str, Setting] = {
    "root": Setting(_absolute_path),
    "restart": Setting(either(_is_text, _words, _command)),
    "restart_timeout": Setting(seconds(1, DAY)),
    "health": Setting(either(_is_mapping, _health, listing(_health, "a health check or a list of them", least=1))),
    "proof": Setting(choice("auto", "process", "version", "none")),
    "hooks": Setting(mapping({"pre_activate": _command, "post_activate": _command, "post_rollback": _command})),
    "hook_timeout": Setting(seconds(1, DAY)),
    "run_as": Setting(_words),
    "script": Setting(_command),
    "script_timeout": Setting(seconds(1, DAY)),
    "shared": Setting(listing(_inner_path, "a list of paths within the release"), []),
    "owner": Setting(_words),
    "group": Setting(_words),
    "umask": Setting(_umask),
    "strip_components": Setting(integer(0, 64), 0),
    "keep_releases": Setting(integer(1, 1000)),
    "pull": Setting(_pull),
}
"""Settings of an app that each of its hosts may have its own of."""

APP_SETTINGS = {**FLEET_SETTINGS, **HOST_SETTINGS}

RUN_VARIABLES: dict[str, Setting] = {
    "shoal_app": Setting(_name),
    "shoal_version": Setting(version),
    "shoal_channel": Setting(_channel),
    "shoal_again": Setting(boolean, False),
    "shoal_archive": Setting(_words),
    "shoal_archive_remote_src": Setting(boolean, False),
    "shoal_archive_checksum": Setting(_checksum),
    "shoal_publishers": Setting(_pattern, "shoal_publishers"),
    "shoal_irreversible": Setting(boolean, False),
    "shoal_notes": Setting(text("a text", r"(?s).*"), ""),
}
"""Variables of one run: what is to be done."""

HOST_VARIABLES: dict[str, Setting] = {
    "shoal_socket": Setting(_absolute_path, "/run/shoal/agent.sock"),
    "shoal_executable": Setting(_words),
    "shoal_become": Setting(boolean, True),
    "shoal_publish_dir": Setting(_absolute_path, "/srv/shoal"),
    "shoal_endpoint_dir": Setting(_absolute_path, "/srv/shoal/endpoint"),
    "shoal_publisher_keys": Setting(_absolute_path, "/var/lib/shoal-publisher/keys"),
    "shoal_endpoint_url": Setting(_url),
    "shoal_trackers": Setting(_tiers, []),
    "shoal_web_seeds": Setting(listing(_url, "a list of URLs"), []),
    "shoal_peers": Setting(listing(_address, "a list of addresses with ports"), []),
    "shoal_fetch_timeout": Setting(integer(1, 7 * DAY, " seconds"), 3600),
    "shoal_stall_timeout": Setting(integer(1, DAY, " seconds"), 600),
}
"""Variables that each host may have its own of."""

OPERATOR_KEYS = Setting(_operator_keys)
"""``shoal_operator_keys``: its value is in no plan, as plans are printed."""

VARIABLES = {"shoal_apps", "shoal_operator_keys", *RUN_VARIABLES, *HOST_VARIABLES}
