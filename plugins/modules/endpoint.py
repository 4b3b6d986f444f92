#!/usr/bin/python
# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: endpoint
short_description: Say at an application's end point which version hosts are to run
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Runs a verb of C(shoal endpoint) on the publisher. An end point is a folder of signed files that any web server
    serves; hosts that watch it bring themselves up to date.
  - Run by root, it works as the user that the folder belongs to, so that the timer that signs anew goes on.
  - Done already is no change.
extends_documentation_fragment:
  - shoal.deploy.release
  - shoal.deploy.agent.actiongroup
  - shoal.deploy.agent.attributes
options:
  folder:
    description:
      - The end point's folder.
    type: path
    required: true
  verb:
    description:
      - V(init) makes an end point, and keys where there are none.
      - V(publish) puts a published version into a channel, V(promote) that of another channel.
      - V(percent) plans which share of the fleet may upgrade when.
      - V(halt) has no host begin to upgrade, V(resume) takes that back.
      - V(revoke) says that a version is not to be activated, V(withdraw) takes versions away that no channel is at.
      - V(refresh) signs anew what will expire.
      - V(rotate) replaces the keys of a role.
      - V(verify) reads the end point as a host would, V(list) tells what is there. Both change nothing.
    type: str
    required: true
    choices: [init, publish, promote, percent, halt, resume, revoke, withdraw, refresh, rotate, verify, list]
  app:
    description:
      - The name of the application, with O(verb=init).
    type: str
  channel:
    description:
      - The channel, with O(verb=publish), O(verb=promote), O(verb=percent), O(verb=halt), O(verb=resume) and
        O(verb=verify).
    type: str
  published:
    description:
      - The directory of the version to publish, RV(shoal.deploy.release_publish#module:path).
    type: path
  version:
    description:
      - Publish a version that is at the end point already; promote only this one; the version to revoke.
      - Put it in quotes, since YAML reads V(1.10) as the number 1.1.
    type: str
  versions:
    description:
      - The versions to withdraw.
    type: list
    elements: str
    default: []
  source:
    description:
      - With O(verb=promote), the channel whose version it is.
    type: str
  rollout:
    description:
      - Which share of the fleet may upgrade when, in steps such as V(10), V(50@+2h), V(100@2026-11-23T08:00:00Z).
      - By default everybody at once.
    type: list
    elements: str
    default: []
  again:
    description:
      - Publish a version that the channel had before, to bring hosts back to it.
    type: bool
    default: false
  sequence:
    description:
      - The sequence instead of the next one, after a backup was restored.
    type: int
  reason:
    description:
      - Words for people, with O(verb=halt) and O(verb=revoke).
    type: str
  force:
    description:
      - With O(verb=refresh), also what was signed a moment ago.
    type: bool
    default: false
  keys:
    description:
      - Files of keys on the host, or folders of them, to sign with.
    type: list
    elements: path
    default: []
  pems:
    description:
      - More keys, as texts. So the operator's keys stay on the controller, or in a vault.
    type: list
    elements: str
    default: []
  passphrase:
    description:
      - Of keys that are encrypted.
    type: str
  operator_keys:
    description:
      - With O(verb=init), the folder on the host where the keys of root and targets are, or are to be.
    type: path
  publisher_keys:
    description:
      - With O(verb=init), the folder on the host where the keys of snapshot and timestamp are, or are to be.
    type: path
  root_keys:
    description:
      - With O(verb=init), how many root keys there are to be.
    type: int
    default: 1
  root_threshold:
    description:
      - With O(verb=init), how many of them have to sign.
    type: int
    default: 1
  role:
    description:
      - With O(verb=rotate), whose keys are replaced.
    type: str
    choices: [root, targets, snapshot, timestamp]
  new_keys:
    description:
      - With O(verb=rotate), the folder on the host where the new keys are to be.
    type: path
  lock_timeout:
    description:
      - Seconds to wait for another publisher.
    type: float
    default: 0
  who:
    description:
      - Who asks, for the channel's history. By default the user that the connection logged in as.
    type: str
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  async:
    support: full
seealso:
  - module: shoal.deploy.release_publish
"""

EXAMPLES = r"""
- name: Bring a version to a tenth of the hosts that follow stable, to half after two hours, to all after a day
  shoal.deploy.endpoint:
    folder: /srv/shoal/endpoint/shop
    verb: publish
    channel: stable
    published: /srv/shoal/shop/1.4.2
    rollout: ["10", "50@+2h", "100@+1d"]
    keys: [/var/lib/shoal-publisher/keys/shop]
    pems: ["{{ lookup('ansible.builtin.file', 'operator-keys/targets.pem') }}"]

- name: Stop it
  shoal.deploy.endpoint:
    folder: /srv/shoal/endpoint/shop
    verb: halt
    channel: stable
    reason: The shop is slow.
    keys: [/var/lib/shoal-publisher/keys/shop]
    pems: ["{{ lookup('ansible.builtin.file', 'operator-keys/targets.pem') }}"]
"""

RETURN = r"""
outcome:
  description: What was done, or V(unchanged).
  returned: success
  type: str
  sample: published
endpoint:
  description: What is at the end point afterwards.
  returned: success, but for O(verb=verify) and where check mode foresees an end point that is not there yet
  type: dict
  contains:
    app:
      description: Whose it is.
      type: str
    folder:
      description: Where it is.
      type: str
    signed:
      description: Of each role V(version), V(signed_at), V(expires), V(keys) and V(threshold).
      type: dict
    root:
      description: The newest root's V(file) and V(sha256).
      type: dict
    channels:
      description: The channels, each with V(sequence), V(version), V(rollout), V(percent), V(halt) and V(revoked).
      type: list
      elements: dict
    versions:
      description: The versions that are there.
      type: list
      elements: dict
    warnings:
      description: What will expire soon.
      type: list
      elements: str
channels:
  description: What a host would read, for each channel.
  returned: with O(verb=verify)
  type: list
  elements: dict
error:
  description: What was wrong, where it was refused.
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

import functools
import os
import pwd
import socket
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._shoal_cli import ShoalCliError, caller, find_executable, run_shoal

REQUEST_OPTIONS = (
    "folder", "app", "channel", "published", "version", "versions", "source", "rollout", "again", "sequence", "reason",
    "force", "keys", "pems", "passphrase", "operator_keys", "publisher_keys", "root_keys", "root_threshold", "role",
    "new_keys", "lock_timeout",
)  # fmt: skip
RETURNED = ("outcome", "endpoint", "channels", "error")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "verb": {
                "type": "str",
                "required": True,
                "choices": [
                    "init",
                    "publish",
                    "promote",
                    "percent",
                    "halt",
                    "resume",
                    "revoke",
                    "withdraw",
                    "refresh",
                    "rotate",
                    "verify",
                    "list",
                ],
            },
            "app": {"type": "str"},
            "channel": {"type": "str"},
            "published": {"type": "path"},
            "version": {"type": "str"},
            "versions": {"type": "list", "elements": "str", "default": []},
            "source": {"type": "str"},
            "rollout": {"type": "list", "elements": "str", "default": []},
            "again": {"type": "bool", "default": False},
            "sequence": {"type": "int"},
            "reason": {"type": "str"},
            "force": {"type": "bool", "default": False},
            # paths of keys, and numbers of them, are no secrets
            "keys": {"type": "list", "elements": "path", "default": [], "no_log": False},
            "pems": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "passphrase": {"type": "str", "no_log": True},
            "operator_keys": {"type": "path", "no_log": False},
            "publisher_keys": {"type": "path", "no_log": False},
            "root_keys": {"type": "int", "default": 1, "no_log": False},
            "root_threshold": {"type": "int", "default": 1},
            "role": {"type": "str", "choices": ["root", "targets", "snapshot", "timestamp"]},
            "new_keys": {"type": "path", "no_log": False},
            "lock_timeout": {"type": "float", "default": 0},
            "who": {"type": "str"},
            "executable": {"type": "path"},
        },
        required_if=[
            ("verb", "init", ("app", "operator_keys", "publisher_keys")),
            ("verb", "publish", ("channel",)),
            ("verb", "publish", ("published", "version"), True),
            ("verb", "promote", ("source", "channel")),
            ("verb", "percent", ("channel", "rollout")),
            ("verb", "halt", ("channel",)),
            ("verb", "resume", ("channel",)),
            ("verb", "revoke", ("version",)),
            ("verb", "withdraw", ("versions",)),
            ("verb", "rotate", ("role", "new_keys")),
        ],
        supports_check_mode=True,
    )
    params: Dict[str, Any] = module.params
    # What is empty is left out: the command knows what it means not to be told.
    request = {key: params[key] for key in REQUEST_OPTIONS if params[key]}
    request["who"] = params["who"] or "%s@%s" % (caller(), socket.gethostname())
    try:
        result = run_shoal(
            functools.partial(module.run_command, cwd="/"),
            find_executable(params["executable"]),
            ["endpoint", params["verb"]],
            request,
            check=module.check_mode,
            prefix=as_owner(params["folder"]),
        )
    except ShoalCliError as error:
        module.fail_json(msg=str(error), **returned(error.result))
    module.exit_json(changed=result["changed"], diff=result.get("diff", {}), **returned(result))


def as_owner(folder: str) -> List[str]:
    """What makes a command of root's one of the folder's owner, who has to be able to write there later on."""
    try:
        owner = pwd.getpwuid(os.stat(folder).st_uid)
    except (OSError, KeyError):
        return []
    if os.geteuid() != 0 or owner.pw_uid == 0:
        return []
    return ["setpriv", "--reuid", str(owner.pw_uid), "--regid", str(owner.pw_gid), "--init-groups"]


def returned(result: Dict[str, Any]) -> Dict[str, Any]:
    return {key: result[key] for key in RETURNED if key in result}


if __name__ == "__main__":
    main()
