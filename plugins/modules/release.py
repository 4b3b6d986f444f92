#!/usr/bin/python
# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Stage, activate or remove a release of an application
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Unpacks an archive beside the running release of an application, switches to it, and switches back by itself where
    it does not become healthy.
  - A release lies in C(ROOT/releases/VERSION) and C(ROOT/current) is a symbolic link to the active one.
  - The switch runs in a session of its own. If the connection is lost, or the playbook is stopped, it goes on to its
    end, and the same task follows it when it is run again.
extends_documentation_fragment:
  - shoal.deploy.release
  - shoal.deploy.agent.actiongroup
  - shoal.deploy.agent.attributes
options:
  app:
    description:
      - The name of the application.
    type: str
    required: true
  root:
    description:
      - The directory of the application, which holds C(releases/), C(shared/) and C(current).
    type: path
    required: true
  state:
    description:
      - V(staged) means that the release is unpacked and whole. Nothing is switched.
      - V(active) means that the release is the current one and healthy. It is staged first where O(archive) is given.
      - V(absent) means that the release is not there. The current and the previous release are never removed.
    type: str
    choices: [staged, active, absent]
    default: active
  version:
    description:
      - The version of the release. Put it in quotes, since YAML reads V(1.10) as the number 1.1.
      - With O(state=active), V(previous) means the release that was current before the present one.
    type: str
    required: true
  archive:
    description:
      - The archive on the host, a tar (also compressed with gzip, xz, bzip2 or zstd) or a zip.
      - Required for O(state=staged).
    type: path
  checksum:
    description:
      - The archive's SHA-256, as C(sha256:DIGITS). Each byte is checked as it is unpacked.
      - The archive needs this or O(torrent).
    type: str
  torrent:
    description:
      - A C(.torrent) file on the host whose pieces the archive has to match.
    type: path
  size:
    description:
      - The archive's size in bytes, checked before it is read.
    type: int
  limits:
    description:
      - How much may be unpacked.
    type: dict
    default: {}
    suboptions:
      unpacked_bytes:
        description:
          - Bytes of all members.
        type: int
      entries:
        description:
          - Number of members.
        type: int
      reserve_bytes:
        description:
          - Bytes that have to stay free on the file system.
        type: int
  strip_components:
    description:
      - Leading directories to leave out of the members' names, as C(tar) has it.
    type: int
    default: 0
  owner:
    description:
      - Who owns the unpacked files. By default the user that the module runs as.
    type: str
  group:
    description:
      - The group of the unpacked files.
    type: str
  umask:
    description:
      - Permission bits that no unpacked file has, in octal digits and quotes.
    type: str
    default: "022"
  shared:
    description:
      - Paths in the release that are symbolic links to C(ROOT/shared/PATH), which all releases have in common.
    type: list
    elements: str
    default: []
  restart:
    description:
      - What to restart after the switch. A text is the name of a systemd unit, a list a command with its arguments.
    type: raw
  restart_timeout:
    description:
      - Seconds that the restart may take.
    type: float
  health:
    description:
      - What has to be healthy after the switch. Every check has exactly one of C(url), C(tcp) and C(command).
    type: list
    elements: dict
    default: []
    suboptions:
      url:
        description:
          - A URL to get.
        type: str
      tcp:
        description:
          - An address and port to connect to.
        type: str
      command:
        description:
          - A command that has to exit with 0.
        type: list
        elements: str
      status:
        description:
          - The HTTP status that O(health[].url) has to answer with, by default 200.
        type: int
      contains:
        description:
          - A text that has to be in the answer of O(health[].url).
        type: str
      version:
        description:
          - Where the answer of O(health[].url) tells its version. Exactly one of V(json) (a dotted path), V(header) (a
            name) and V(body) (true).
        type: dict
      timeout:
        description:
          - Seconds within which the check has to succeed, by default 30.
        type: float
      interval:
        description:
          - Seconds between two tries, by default 1.
        type: float
      soak:
        description:
          - Seconds for which the check has to go on succeeding.
        type: float
  proof:
    description:
      - What proves that the new release answers and not the old one.
    type: str
    choices: [auto, process, version, none]
    default: auto
  hooks:
    description:
      - Commands that are run around the switch.
    type: dict
    default: {}
    suboptions:
      pre_activate:
        description:
          - Run before C(current) is switched. If it fails, nothing is switched.
        type: list
        elements: str
      post_activate:
        description:
          - Run after C(current) is switched and the service restarted. If it fails, it is switched back.
        type: list
        elements: str
      post_rollback:
        description:
          - Run after it was switched back.
        type: list
        elements: str
  hook_timeout:
    description:
      - Seconds that each hook may take.
    type: float
  run_as:
    description:
      - The user that hooks, health commands and the script run as.
    type: str
  script:
    description:
      - A command that does the whole switch by itself, instead of O(restart) and O(hooks).
    type: list
    elements: str
  script_timeout:
    description:
      - Seconds that the script may take.
    type: float
  keep_releases:
    description:
      - How many releases stay on the host. The current and the previous one always do.
    type: int
    default: 5
  irreversible:
    description:
      - Whether there is no way back from this release, because of what it does to its data.
    type: bool
    default: false
  lock_timeout:
    description:
      - Seconds to wait for another operation on the same application.
    type: float
    default: 0
  who:
    description:
      - Who asks, for the revision log. By default the user that the connection logged in as.
    type: str
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  async:
    support: full
seealso:
  - module: shoal.deploy.release_info
  - module: shoal.deploy.release_publish
  - module: shoal.deploy.torrent_fetch
"""

EXAMPLES = r"""
- name: Unpack a release beside the running one
  shoal.deploy.release:
    app: shop
    root: /srv/shop
    version: "1.4.2"
    state: staged
    archive: /var/cache/shop-1.4.2.tar.zst
    checksum: sha256:0f343b0931126a20f133d67c2b018a3b1e6f1f8b8bde4e5e5b2f8b9e7e2d4c3a

- name: Switch to it, and back where it is not healthy within 30 seconds
  shoal.deploy.release:
    app: shop
    root: /srv/shop
    version: "1.4.2"
    restart: shop.service
    health:
      - url: http://127.0.0.1:8080/health
        version: {json: version}
        timeout: 30

- name: Go back to the release before
  shoal.deploy.release:
    app: shop
    root: /srv/shop
    version: previous
    restart: shop.service

- name: Remove an old release
  shoal.deploy.release:
    app: shop
    root: /srv/shop
    version: "1.2.0"
    state: absent
"""

RETURN = r"""
outcome:
  description:
    - What became of the request. V(staged), V(already_staged), V(activated), V(already_active), V(rolled_back) or
      V(failed); the module fails with the last two.
  returned: with O(state=staged) and O(state=active), unless it was refused
  type: str
  sample: activated
from:
  description: The version that was current before the switch, or V(none).
  returned: with O(state=active)
  type: str
  sample: 1.4.1
to:
  description: The version that was to be switched to.
  returned: with O(state=active)
  type: str
  sample: 1.4.2
reason:
  description: Why it was switched back.
  returned: when it was
  type: str
  sample: http://127.0.0.1:8080/health answered 500 for 30 s
healthy:
  description:
    - Whether the host serves a healthy release now, the old or the new one. V(false) where going back did not help,
      where there is no way back, and where the switch was cut off between the two, so that nobody knows.
    - Of a release that was active already, whether it was healthy when it was activated.
  returned: with O(state=active), unless it was refused
  type: bool
seconds:
  description: How long each step took, in seconds.
  returned: when something was done
  type: dict
  sample: {switch: 0.01, restart: 0.8, health: 1.2}
release:
  description: The application's releases, as M(shoal.deploy.release_info) returns them.
  returned: success
  type: dict
error:
  description: What was wrong, where the request was refused and nothing was done.
  returned: when it was
  type: dict
  contains:
    code:
      description: A word for programs.
      type: str
    message:
      description: What was found.
      type: str
    hint:
      description: What to do now.
      type: str
"""

import os
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._shoal_cli import ShoalCliError, caller, find_executable, run_release

HEALTH_OPTIONS = {
    "url": {"type": "str"},
    "tcp": {"type": "str"},
    "command": {"type": "list", "elements": "str"},
    "status": {"type": "int"},
    "contains": {"type": "str"},
    "version": {"type": "dict"},
    "timeout": {"type": "float"},
    "interval": {"type": "float"},
    "soak": {"type": "float"},
}
HOOKS_OPTIONS = {
    "pre_activate": {"type": "list", "elements": "str"},
    "post_activate": {"type": "list", "elements": "str"},
    "post_rollback": {"type": "list", "elements": "str"},
}
LIMITS_OPTIONS = {"unpacked_bytes": {"type": "int"}, "entries": {"type": "int"}, "reserve_bytes": {"type": "int"}}

RETURNED = ("outcome", "from", "to", "reason", "healthy", "seconds", "release", "error")

# What ends a switch without a word on what became of it (docs/release.md); other errors come before it.
CUT_OFF = ("stuck", "died", "io_error", "internal", "damaged_record")

REQUEST_OPTIONS = (
    "app", "root", "strip_components", "owner", "group", "umask", "shared", "keep_releases", "irreversible",
    "lock_timeout", "limits",
)  # fmt: skip
SWITCH_OPTIONS = (
    "restart", "restart_timeout", "health", "proof", "hooks", "hook_timeout", "run_as", "script", "script_timeout",
)  # fmt: skip


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["staged", "active", "absent"], "default": "active"},
            "version": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "checksum": {"type": "str"},
            "torrent": {"type": "path"},
            "size": {"type": "int"},
            "limits": {"type": "dict", "options": LIMITS_OPTIONS, "default": {}},
            "strip_components": {"type": "int", "default": 0},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "umask": {"type": "str", "default": "022"},
            "shared": {"type": "list", "elements": "str", "default": []},
            "restart": {"type": "raw"},
            "restart_timeout": {"type": "float"},
            "health": {
                "type": "list",
                "elements": "dict",
                "options": HEALTH_OPTIONS,
                "default": [],
                "required_one_of": [("url", "tcp", "command")],
                "mutually_exclusive": [("url", "tcp", "command")],
            },
            "proof": {"type": "str", "choices": ["auto", "process", "version", "none"], "default": "auto"},
            "hooks": {"type": "dict", "options": HOOKS_OPTIONS, "default": {}},
            "hook_timeout": {"type": "float"},
            "run_as": {"type": "str"},
            "script": {"type": "list", "elements": "str"},
            "script_timeout": {"type": "float"},
            "keep_releases": {"type": "int", "default": 5},
            "irreversible": {"type": "bool", "default": False},
            "lock_timeout": {"type": "float", "default": 0},
            "who": {"type": "str"},
            "executable": {"type": "path"},
        },
        required_if=[("state", "staged", ("archive",))],
        supports_check_mode=True,
    )
    try:
        result = Release(module).ensure()
    except ShoalCliError as error:
        module.fail_json(msg=str(error), changed=bool(error.result.get("changed")), **returned(error.result))
    module.exit_json(**result)


class Release:
    """What the module's options ask of one application."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params: Dict[str, Any] = module.params
        self.executable = find_executable(self.params["executable"])

    def ensure(self) -> Dict[str, Any]:
        """Bring about the wanted state; the module's result."""
        params = self.params
        if params["archive"] and not (params["checksum"] or params["torrent"]):
            raise ShoalCliError("the archive needs checksum or torrent, so that its bytes can be verified.")
        if params["version"] == "previous" and params["state"] != "active":
            raise ShoalCliError("version: previous is for state: active only; name the version.")
        if params["state"] == "absent":
            return self.result(self.run("remove", self.request()))
        staged = self.stage() if params["archive"] else {}
        if params["state"] == "staged":
            return staged
        # What this check only predicts to be staged is not there yet; the archive in the request says that it comes.
        to_come = {"archive": self.archive()} if staged.get("changed") and self.module.check_mode else {}
        activated = self.result(self.activate(self.request(**to_come)))
        activated["changed"] = activated["changed"] or staged.get("changed", False)
        return activated

    def activate(self, request: Dict[str, Any]) -> Dict[str, Any]:
        try:
            answer = self.run("activate", request)
        except ShoalCliError as error:
            if is_cut_off(error.result):
                error.result["healthy"] = False
            raise
        if answer.get("outcome") == "already_active":
            answer["healthy"] = was_proven(answer["release"])
        return answer

    def stage(self) -> Dict[str, Any]:
        if self.module.check_mode and not os.path.exists(self.params["archive"]):
            # An earlier task of the same check would have brought it.
            return self.predict_stage()
        return self.result(self.run("stage", self.request(archive=self.archive())))

    def predict_stage(self) -> Dict[str, Any]:
        found = self.run("info", self.request())["release"]
        there = self.params["version"] in found["staged"]
        after = found["staged"] if there else [*found["staged"], self.params["version"]]
        return {
            "changed": not there,
            "outcome": "already_staged" if there else "staged",
            "release": found,
            "diff": {"before": {"staged": found["staged"]}, "after": {"staged": after}},
        }

    def run(self, verb: str, request: Dict[str, Any]) -> Dict[str, Any]:
        return run_release(self.module.run_command, self.executable, verb, request, self.module.check_mode)

    def request(self, **more: Any) -> Dict[str, Any]:
        params = self.params
        previous = params["version"] == "previous"
        switch = given({key: params[key] for key in SWITCH_OPTIONS})
        switch["health"] = [given(check) for check in params["health"]]
        request = given({key: params[key] for key in REQUEST_OPTIONS})
        request.update(
            version=None if previous else params["version"],
            previous=previous,
            who=params["who"] or caller(),
            switch=switch,
            **more,
        )
        return request

    def archive(self) -> Dict[str, Any]:
        params = self.params
        checksum = params["checksum"] or ""
        algorithm, _colon, digits = checksum.partition(":")
        if checksum and algorithm != "sha256":
            raise ShoalCliError("checksum must be sha256: and 64 hex digits, found %r." % checksum)
        return given(
            {
                "path": params["archive"],
                "size": params["size"],
                "sha256": digits.lower() or None,
                "torrent": params["torrent"],
            }
        )

    def result(self, answer: Dict[str, Any]) -> Dict[str, Any]:
        result = returned(answer)
        result["changed"] = bool(answer.get("changed"))
        if answer.get("diff"):
            result["diff"] = answer["diff"]
        return result


def given(values: Dict[str, Any]) -> Dict[str, Any]:
    """Without what was not given; the same in dictionaries below."""
    return {
        key: given(value) if isinstance(value, dict) else value for key, value in values.items() if value is not None
    }


def is_cut_off(answer: Dict[str, Any]) -> bool:
    """Whether a failed switch may have left the host between two releases."""
    if "release" in answer:
        return bool(answer["release"].get("unproven"))
    return (answer.get("error") or {}).get("code") in CUT_OFF


def was_proven(release: Dict[str, Any]) -> bool:
    """Whether the current release was healthy when it was activated. One that there is no way back from is current even
    if it was not; one that others activated is believed."""
    arrivals = [entry["outcome"] for entry in release["log"] if entry["to"] == release["current"]]
    return not arrivals or arrivals[0] != "failed"


def returned(answer: Dict[str, Any]) -> Dict[str, Any]:
    """The part of a result that the module returns."""
    return {key: answer[key] for key in RETURNED if answer.get(key) is not None}


if __name__ == "__main__":
    main()
