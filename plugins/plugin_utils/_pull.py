# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An app that hosts bring up to date by themselves: its settings as the file that a host follows (docs/upgrade.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHANNEL = "stable"
PORT = 6892  # where the role publisher serves end points

_ENDPOINT = ("interval", "ca_file")
_POLICY = ("auto", "windows", "hold", "pin", "clock")
_RELEASE = ("root", "owner", "group", "umask", "strip_components", "shared", "keep_releases")
_SWITCH = (
    "restart",
    "restart_timeout",
    "health",
    "proof",
    "hooks",
    "hook_timeout",
    "run_as",
    "script",
    "script_timeout",
)


def app_file(settings: Mapping[str, Any], url: str) -> dict[str, Any]:
    """What the role torrent_agent is told of an app.

    :param settings: the app's, checked, as one host has them.
    :param url: of the end point, where ``pull`` names none.
    """
    pull = settings["pull"]
    entry: dict[str, Any] = {
        "endpoint": {
            "urls": pull.get("urls") or [url],
            "channel": pull.get("channel", CHANNEL),
            **_some(pull, _ENDPOINT),
        },
        "policy": {"auto": "activate", **_some(pull, _POLICY)},
        "release": {**_some(settings, _RELEASE), "switch": _some(settings, _SWITCH)},
        **_some(pull, ("report_url",)),
    }
    if pull.get("writable"):
        entry["writable"] = pull["writable"]
    return entry


def _some(values: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Those that say something; for the rest the file's own defaults hold."""
    return {key: values[key] for key in keys if values.get(key) not in (None, [], {}, "")}
