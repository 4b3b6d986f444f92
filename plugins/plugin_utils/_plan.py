# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan that the plays follow, made of the inventory's variables.

Nothing here reaches a host: what a plan needs to know is in the inventory and on the controller's disk. A plan is made
or refused before anything is touched, and a refusal names every wrong variable at once.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._checks import WrongValueError, describe, nearest
from ._pull import CHANNEL, PORT, app_file
from ._variables import (
    APP_SETTINGS,
    FLEET_SETTINGS,
    HOST_SETTINGS,
    HOST_VARIABLES,
    OPERATOR_KEYS,
    RUN_VARIABLES,
    VARIABLES,
    Setting,
)


class InvalidVariablesError(Exception):
    """The message has one line for each variable that is wrong, which it names first."""


@dataclass(frozen=True)
class Inventory:
    """What a plan is made of. ``variables(host)`` may raise KeyError for an unknown host."""

    run: Mapping[str, Any]  # variables of the run itself: extra vars, group_vars/all
    variables: Callable[[str], Mapping[str, Any]]
    every_host: Sequence[str]  # of the inventory, in its order
    selected: Sequence[str]  # the hosts that --limit leaves
    matching: Callable[[str | list[str]], list[str]]  # hosts of a pattern, --limit aside
    working_directory: Path  # where the user stands: relative paths begin here


class _Problems:
    """Collects what is wrong: one line for a variable, however many hosts share the mistake."""

    def __init__(self) -> None:
        self._hosts: dict[str, list[str]] = {}

    def add(self, line: str, host: str = "") -> None:
        hosts = self._hosts.setdefault(line, [])
        if host:
            hosts.append(host)

    def read(self, name: str, settings: Mapping[str, Setting], values: Mapping[str, Any], host: str = "") -> dict:
        """Each setting by its short name: checked, or its default."""
        result = {}
        for key, setting in settings.items():
            value = values.get(key)
            result[key] = setting.default
            if value is not None:
                try:
                    result[key] = setting.check(value)
                except WrongValueError as wrong:
                    for path, problem in wrong.problems:
                        self.add(f"{name}{key}{path}: {problem}", host)
        return result

    def raise_if_any(self) -> None:
        if not self._hosts:
            return
        lines = []
        for line, hosts in self._hosts.items():
            more = f" and {len(hosts) - 2} more" if len(hosts) > 2 else ""
            lines.append(line + (f" (on {', '.join(hosts[:2])}{more})" if hosts else ""))
        raise InvalidVariablesError("\n".join(lines))


def make_plan(action: str, inventory: Inventory) -> dict[str, Any]:
    """The plan of a playbook.

    :param action: install, uninstall, publish, rollout, rollback or status.
    :return: what is to be done, with ``hosts`` in the order of the inventory and ``settings`` for each of them.
    :raises InvalidVariablesError: naming every variable that is wrong.
    """
    problems = _Problems()
    _refuse_misspelt(inventory.run, problems)
    run = problems.read("", RUN_VARIABLES, inventory.run)
    if action in ("install", "uninstall"):
        plan = {"action": action, "parts": _parts(inventory)}
        if action == "install":
            plan.update(_pull_plan(run, inventory, problems))
        problems.raise_if_any()
        return plan
    app = run["shoal_app"]
    if not inventory.run.get("shoal_app"):
        problems.add("shoal_app: is missing: which app? Give -e shoal_app=NAME")
    if action in ("publish", "rollout") and inventory.run.get("shoal_version") is None:
        problems.add("shoal_version: is missing: which version? Give -e shoal_version=VERSION")
    problems.raise_if_any()

    plan = {"action": action, "app": app, "version": run["shoal_version"]}
    if action == "publish":
        plan.update(_publish_plan(run, inventory, problems))
    else:
        plan.update(_fleet_plan(app, inventory, problems))
        if action == "rollout":
            plan.update(_source(run, inventory, problems))
            _need_a_way_to_find_peers(plan["settings"], plan["hosts"], problems)
    problems.raise_if_any()
    return plan


def batch_sizes(ramp: Sequence[int | str], hosts: int) -> list[int]:
    """How many hosts each batch has so that the fleet grows along the ramp; steps that add no host are left out.

    A share is rounded up: ``"10%"`` of 5 hosts is one host.
    """
    sizes = []
    done = 0
    for step in ramp:
        goal = step if isinstance(step, int) else math.ceil(hosts * int(step.rstrip("%")) / 100)
        goal = min(goal, hosts)
        if goal > done:
            sizes.append(goal - done)
            done = goal
    return sizes


def _refuse_misspelt(run: Mapping[str, Any], problems: _Problems) -> None:
    """A variable that almost has the name of one of ours would be ignored in silence."""
    for name in run:
        if isinstance(name, str) and name.startswith("shoal_") and name not in VARIABLES:
            known = [variable.removeprefix("shoal_") for variable in VARIABLES]
            # nearer than for a setting: other names are the user's own
            for match in difflib.get_close_matches(name.removeprefix("shoal_"), known, n=1, cutoff=0.8):
                value = run[name]
                if isinstance(value, Mapping) and "changed" in value:
                    continue  # what a task of an earlier playbook of the same run registered
                problems.add(f"{name}: is not a variable of shoal.deploy; did you mean shoal_{match}?")


def _publishers(run: Mapping[str, Any], inventory: Inventory, problems: _Problems) -> list[str]:
    pattern = run["shoal_publishers"]
    hosts = inventory.matching(pattern)
    if not hosts:
        problems.add(
            f"shoal_publishers: no host of the inventory matches {pattern!r}: make a group of that name with the "
            "publisher as its first host, or set shoal_publishers to another pattern"
        )
    return hosts


def _publish_plan(run: Mapping[str, Any], inventory: Inventory, problems: _Problems) -> dict[str, Any]:
    hosts = _publishers(run, inventory, problems)
    outside = [host for host in hosts if host not in set(inventory.selected)]
    if outside:
        problems.add(f"shoal_publishers: {', '.join(outside)} is outside of --limit, and publishing happens there")
    settings = {host: problems.read("", HOST_VARIABLES, inventory.variables(host), host) for host in hosts}
    _need_a_way_to_find_peers(settings, hosts, problems)
    pull = _publishing(run["shoal_app"], inventory, problems)
    channel = run["shoal_channel"] or (pull.get("channel", CHANNEL) if pull is not None else None)
    return {
        "channel": channel,
        "again": run["shoal_again"],
        "operator_keys_dir": _operator_keys_dir(hosts[0], inventory, problems, sign=True)
        if channel and hosts
        else None,
        "rollout": [str(step) for step in (pull or {}).get("rollout", [])],
        "hosts": hosts,
        "publisher": hosts[0] if hosts else None,
        "settings": {host: _short(values) for host, values in settings.items()},
        "archive": _archive(run, inventory.working_directory, problems),
        "irreversible": run["shoal_irreversible"],
        "notes": run["shoal_notes"],
    }


def _publishing(app: str, inventory: Inventory, problems: _Problems) -> Mapping[str, Any] | None:
    """The app's ``pull`` as its first host has it; None where hosts do not follow it, or nobody knows the app."""
    for host in inventory.every_host:
        apps = inventory.variables(host).get("shoal_apps")
        settings = apps.get(app) if isinstance(apps, Mapping) else None
        if not isinstance(settings, Mapping):
            continue
        pattern = problems.read(f"shoal_apps.{app}.", {"hosts": FLEET_SETTINGS["hosts"]}, settings, host)["hosts"]
        hosts = inventory.matching(pattern) if pattern else []
        if hosts and host != hosts[0]:
            # a template in it may be of variables that only the app's hosts have
            host, settings = hosts[0], (inventory.variables(hosts[0]).get("shoal_apps") or {}).get(app, settings)
        pull: Mapping[str, Any] | None = problems.read(
            f"shoal_apps.{app}.", {"pull": HOST_SETTINGS["pull"]}, settings, host
        )["pull"]
        return pull
    return None


def _operator_keys_dir(host: str, inventory: Inventory, problems: _Problems, *, sign: bool = False) -> str | None:
    """The folder of the operator's keys; None where the variable has the keys themselves, which no plan tells.

    :param sign: whether a key has to be there.
    """
    name = "shoal_operator_keys"
    given = inventory.variables(host).get(name)
    if given is None:
        problems.add(
            f"{name}: is missing: the folder on this machine for the keys that end points are signed with", host
        )
        return None
    keys = problems.read("", {name: OPERATOR_KEYS}, {name: given}, host)[name]
    if not isinstance(keys, str):
        return None
    folder = inventory.working_directory / Path(keys).expanduser()
    if sign and not (folder / "targets.pem").is_file():
        problems.add(
            f"{name}: expected a key at {folder}/targets.pem, found nothing: shoal.deploy.install makes it", host
        )
    return str(folder)


def _parts(inventory: Inventory) -> dict[str, list[str]]:
    """What each host that is selected is: ``tracker``, ``publisher``, ``agent``, as its own variables name them.

    Of an app nothing but its pattern is looked at: other settings may be of variables that only its hosts have.
    """
    matching = _matching(inventory)
    parts: dict[str, list[str]] = {}
    selected = set(inventory.selected)
    for host in inventory.every_host:
        if host not in selected:
            continue
        variables = inventory.variables(host)
        found = []
        if host in matching(variables.get("shoal_tracker_hosts", "shoal_trackers")):
            found.append("tracker")
        publishes = host in matching(variables.get("shoal_publishers", "shoal_publishers"))
        if publishes:
            found.append("publisher")
        if publishes or any(host in matching(pattern) for pattern in _fleets(variables)):
            found.append("agent")
        parts[host] = found
    return parts


def _fleets(variables: Mapping[str, Any]) -> Iterator[Any]:
    """Patterns of the hosts that are rolled out to."""
    if (fleet := variables.get("shoal_fleet")) is not None:
        yield fleet
        return
    apps = variables.get("shoal_apps")
    for settings in apps.values() if isinstance(apps, Mapping) else ():
        if isinstance(settings, Mapping):
            yield settings.get("hosts")


def _matching(inventory: Inventory) -> Callable[[Any], set[str]]:
    """The hosts of a pattern, looked for once: all hosts of a fleet ask for the same few."""
    found = functools.cache(lambda *patterns: set(inventory.matching(list(patterns))))

    def matching(pattern: Any) -> set[str]:
        patterns = [pattern] if isinstance(pattern, str) else pattern if isinstance(pattern, list) else []
        names = [each for each in patterns if isinstance(each, str)]  # a rollout says what is wrong with others
        return found(*names) if names else set()

    return matching


def _pull_plan(run: Mapping[str, Any], inventory: Inventory, problems: _Problems) -> dict[str, Any]:
    """Which apps have an end point, at which publisher, and what of them each host that is selected follows."""
    everywhere: dict[str, None] = {}
    follow: dict[str, dict[str, Any]] = {}
    found: list[tuple[str, str, dict[str, Any]]] = []
    matching = _matching(inventory)
    for host in inventory.every_host:
        variables = inventory.variables(host)
        apps = variables.get("shoal_apps")
        for app, settings in apps.items() if isinstance(apps, Mapping) else ():
            if not isinstance(settings, Mapping):
                continue
            if host in matching(settings.get("hosts")) and settings.get("pull") is not None:
                own, _fleet = _app_settings(app, variables, host, problems)
                everywhere[app] = None
                if own["pull"] is not None:
                    found.append((host, app, own))
    if not everywhere:
        return {"apps": [], "follow": {}, "publisher": None, "operator_keys_dir": None}
    publishers = _publishers(run, inventory, problems)
    problems.raise_if_any()
    first = publishers[0]
    variables = inventory.variables(first)
    values = _short(problems.read("", HOST_VARIABLES, variables, first))
    if "endpoint" in everywhere and values["endpoint_dir"] == f"{values['publish_dir']}/endpoint":
        problems.add("shoal_apps.endpoint: its versions would lie where end points are: set shoal_endpoint_dir", first)
    # as the role publisher serves it
    scheme = "https" if variables.get("publisher_tls_certificate") else "http"
    url = (values["endpoint_url"] or f"{scheme}://{first}:{variables.get('publisher_port', PORT)}").rstrip("/")
    selected = set(inventory.selected)
    for host, app, own in found:
        if host in selected:
            follow.setdefault(host, {})[app] = app_file(own, f"{url}/{app}/")
    return {
        "apps": list(everywhere),
        "follow": follow,
        "publisher": first,
        "publisher_settings": values,
        "operator_keys_dir": _operator_keys_dir(first, inventory, problems),
    }


def _archive(run: Mapping[str, Any], working_directory: Path, problems: _Problems) -> dict[str, Any] | None:
    """Where the archive lies: ``{"at": "controller"|"publisher"|"url", "path": ..., "name": ..., "checksum": ...}``."""
    given = run["shoal_archive"]
    if given is None:
        problems.add("shoal_archive: is missing: which file? Give -e shoal_archive=PATH or a URL")
        return None
    is_url = bool(re.match(r"https?://", given))
    at = "url" if is_url else "publisher" if run["shoal_archive_remote_src"] else "controller"
    path = given
    name = given.split("?")[0].split("#")[0].rstrip("/").rsplit("/", 1)[-1]
    if re.match(r"[a-z]+://", given) and not is_url:
        problems.add(f"shoal_archive: expected a path or a URL that begins with http:// or https://, found {given!r}")
    elif at == "publisher" and not given.startswith("/"):
        problems.add(f"shoal_archive: expected an absolute path on the publisher, found {given!r}")
    elif at == "controller":
        file = working_directory / Path(given).expanduser()
        path = str(file)
        if not file.is_file():
            found = "a directory" if file.is_dir() else "nothing"
            problems.add(f"shoal_archive: expected a file at {file}, found {found} there")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}", name):
        problems.add(
            f"shoal_archive: expected a file name of letters, digits and . _ + ~ - (hosts see it), found {name!r}"
        )
    return {"at": at, "path": path, "name": name, "checksum": run["shoal_archive_checksum"]}


def _source(run: Mapping[str, Any], inventory: Inventory, problems: _Problems) -> dict[str, Any]:
    """Where a rollout takes the release from."""
    publishers = _publishers(run, inventory, problems)
    if not publishers:
        return {}
    first = publishers[0]
    return {
        "publisher": first,
        "publishers": publishers,
        "publisher_settings": _short(problems.read("", HOST_VARIABLES, inventory.variables(first), first)),
    }


def _need_a_way_to_find_peers(
    settings: Mapping[str, Mapping[str, Any]], hosts: Sequence[str], problems: _Problems
) -> None:
    for host in hosts:
        values = settings[host]
        if not values.get("trackers", values.get("shoal_trackers")) and not values.get(
            "peers", values.get("shoal_peers")
        ):
            problems.add(
                "shoal_trackers: is missing: hosts need a tracker's announce URL, or shoal_peers, to find each other",
                host,
            )


def _short(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("shoal_"): value for name, value in values.items()}


def _fleet_plan(app: str, inventory: Inventory, problems: _Problems) -> dict[str, Any]:
    declared = _declaration(app, inventory, problems)
    pattern = declared["hosts"]
    targets = inventory.matching(pattern)
    if not targets:
        problems.add(f"shoal_apps.{app}.hosts: no host of the inventory matches {pattern!r}")
    limited = set(inventory.selected)
    hosts = [host for host in targets if host in limited]
    if targets and not hosts:
        problems.add(
            f"shoal_apps.{app}.hosts: --limit leaves none of its {len(targets)} hosts ({', '.join(targets[:3])}"
            f"{', ...' if len(targets) > 3 else ''})"
        )
    problems.raise_if_any()
    fleet: dict[str, Any] = {}
    settings = {}
    for host in hosts:
        variables = inventory.variables(host)
        values, own_fleet = _app_settings(app, variables, host, problems)
        for key in FLEET_SETTINGS:
            if fleet and fleet[key] != own_fleet[key]:
                problems.add(f"shoal_apps.{app}.{key}: differs from that of {hosts[0]}; it is one for the fleet", host)
        fleet = fleet or own_fleet
        values.update(_short(problems.read("", HOST_VARIABLES, variables, host)))
        settings[host] = values
    problems.raise_if_any()
    for key in ("drain", "undrain"):
        if fleet[key] is not None:
            fleet[key] = _task_file(f"shoal_apps.{app}.{key}", fleet[key], inventory.working_directory, problems)
    return {
        **fleet,
        "hosts": hosts,
        "settings": settings,
        "batches": batch_sizes(fleet["ramp"], len(hosts)),
    }


def _declaration(app: str, inventory: Inventory, problems: _Problems) -> Mapping[str, Any]:
    """The app's settings as the first host has them that has them at all; any host can lead to the pattern."""
    known: dict[str, None] = {}
    for host in inventory.every_host:
        apps = inventory.variables(host).get("shoal_apps")
        if apps is None:
            continue
        if not isinstance(apps, Mapping):
            problems.add(f"shoal_apps: expected a mapping of app names to settings, found {describe(apps)}", host)
            break
        if app in apps:
            settings = apps[app]
            if isinstance(settings, Mapping) and settings.get("hosts"):
                return {"hosts": problems.read(f"shoal_apps.{app}.", FLEET_SETTINGS, settings, host)["hosts"] or ""}
            if not isinstance(settings, Mapping):
                problems.add(f"shoal_apps.{app}: expected a mapping of settings, found {describe(settings)}", host)
            else:
                problems.add(f"shoal_apps.{app}.hosts: is missing: a group or pattern of the inventory", host)
            break
        known.update(dict.fromkeys(map(str, apps)))
    else:
        if known:
            problems.add(
                f"shoal_app: there is no app {app!r} in shoal_apps{nearest(app, known)} Known: {', '.join(known)}"
            )
        else:
            problems.add(
                "shoal_apps: no host has it: put it into group_vars/all.yml beside the inventory (group_vars beside "
                "a playbook of your own are not read)"
            )
    problems.raise_if_any()
    raise AssertionError("unreachable: a problem was added")


def _app_settings(
    app: str, variables: Mapping[str, Any], host: str, problems: _Problems
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The host's own settings of the app, and those of the fleet as this host sees them."""
    where = f"shoal_apps.{app}."
    apps = variables.get("shoal_apps") or {}
    values = apps.get(app)
    if not isinstance(values, Mapping):
        problems.add(f"shoal_apps.{app}: is missing, although its hosts include this one", host)
        values = {}
    for key in values:
        if key not in APP_SETTINGS:
            problems.add(f"{where}{key}: is not a setting of an app{nearest(str(key), APP_SETTINGS)}", host)
    own = problems.read(where, HOST_SETTINGS, values, host)
    fleet = problems.read(where, FLEET_SETTINGS, values, host)
    if values.get("root") is None:
        problems.add(f"{where}root: is missing: the directory that holds releases/ and current", host)
    if own["script"] is not None and (own["restart"] is not None or own["hooks"] is not None):
        problems.add(f"{where}script: does the whole switch, so restart and hooks cannot be there too", host)
    if (fleet["drain"] is None) != (fleet["undrain"] is None):
        missing = "undrain" if fleet["undrain"] is None else "drain"
        problems.add(f"{where}{missing}: is missing: drain and undrain belong together", host)
    for other, settings in apps.items():
        if other != app and isinstance(settings, Mapping) and own["root"] and settings.get("root") == own["root"]:
            problems.add(f"{where}root: {own['root']} is the root of {other!r} too; each app needs its own", host)
    if isinstance(own["health"], dict):
        own["health"] = [own["health"]]
    own["switch_limit"] = _switch_limit(own)
    return own, fleet


def _switch_limit(settings: Mapping[str, Any]) -> int:
    """Seconds after which a switch that still runs must be lost: there and back again by every limit of its steps.

    The limits that are not set are those of ``shoal release`` (docs/release.md).
    """
    healthy = sum(check.get("timeout", 30) + check.get("soak", 0) for check in settings["health"] or [])
    hooks = len(settings["hooks"] or {}) * (settings["hook_timeout"] or 300)
    work = (settings["script_timeout"] or 900) if settings["script"] else (settings["restart_timeout"] or 60) + hooks
    return math.ceil(2 * (healthy + work) + 300)


def _task_file(name: str, given: str, working_directory: Path, problems: _Problems) -> str:
    file = working_directory / Path(given).expanduser()
    if not file.is_file():
        problems.add(f"{name}: expected a file of tasks at {file}, found nothing there")
    return str(file)
