#!/usr/bin/python
# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: torrent_seed
short_description: Have the host's agent seed a payload
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Has the host's agent seed a payload that is on the host, or has it stop.
  - The agent checks every byte of the payload first. One that is not what the torrent describes is an error.
extends_documentation_fragment:
  - shoal.deploy.agent
  - shoal.deploy.agent.torrent
  - shoal.deploy.agent.actiongroup
  - shoal.deploy.agent.attributes
options:
  state:
    description:
      - V(present) has the agent seed the payload.
      - V(absent) has it forget the torrent.
    type: str
    choices: [present, absent]
    default: present
  torrent:
    description:
      - The path of the C(.torrent) file on the host. Needed for O(state=present).
    type: path
  info_hash:
    description:
      - The torrent to forget, for O(state=absent), where its file is not at hand.
    type: str
  path:
    description:
      - The payload on the host, the file or directory itself. Its name may be another than that in the torrent.
      - Without it the agent must have the payload in its store already.
    type: path
  import:
    description:
      - Whether the payload is copied into the agent's store. Otherwise the agent seeds it where it lies, never writes
        to it, and must be able to read it.
      - The module reads the payload and hands it over, so that the agent needs no access to it.
    type: bool
    default: false
  wait:
    description:
      - Whether to wait until the payload is checked and found complete. An import is always waited for.
    type: bool
    default: true
  web_seeds:
    description:
      - URLs of web servers that hold the payload, beside those in the torrent.
    type: list
    elements: str
    default: []
  remove_data:
    description:
      - Whether V(absent) also deletes the payload from the agent's store. One that is seeded where it lies is never
        deleted.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    details:
      - The payload is not checked in check mode, so that wrong content is found in the real run only.
  diff_mode:
    support: full
  async:
    support: full
seealso:
  - module: shoal.deploy.torrent_create
  - module: shoal.deploy.torrent_fetch
  - module: shoal.deploy.agent_info
"""

EXAMPLES = r"""
- name: Seed an archive where it lies
  shoal.deploy.torrent_seed:
    torrent: /srv/torrents/shop-1.4.2.torrent
    path: /srv/build/shop-1.4.2.tar.zst

- name: Seed an archive that the agent may not read, at 20 MB/s at most
  shoal.deploy.torrent_seed:
    torrent: /srv/torrents/shop-1.4.2.torrent
    path: /root/shop-1.4.2.tar.zst
    import: true
    upload_limit: 20000000

- name: Stop seeding, and free the space in the agent's store
  shoal.deploy.torrent_seed:
    info_hash: d0d14c926e6e99761a2fdcff27b403d96376eff6
    state: absent
    remove_data: true
"""

RETURN = r"""
torrent:
  description: The torrent as the agent sees it, as in M(shoal.deploy.agent_info). V(none) if it does not know it.
  type: dict
  returned: success
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _metainfo, _payload
from ..module_utils._agent_client import AGENT_ARGUMENTS, AgentClient, AgentError


class SeedError(Exception):
    """What cannot be seeded, why, and what to do."""


def main():
    module = AnsibleModule(
        argument_spec=dict(
            AGENT_ARGUMENTS,
            **{
                "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                "torrent": {"type": "path"},
                "info_hash": {"type": "str"},
                "path": {"type": "path"},
                "import": {"type": "bool", "default": False},
                "wait": {"type": "bool", "default": True},
                "timeout": {"type": "int", "default": 3600},
                "trackers": {"type": "list", "elements": "raw", "default": []},
                "web_seeds": {"type": "list", "elements": "str", "default": []},
                "upload_limit": {"type": "int"},
                "download_limit": {"type": "int"},
                "remove_data": {"type": "bool", "default": False},
            },
        ),
        required_if=[("state", "present", ["torrent"]), ("import", True, ["path"])],
        required_one_of=[("torrent", "info_hash")],
        mutually_exclusive=[("torrent", "info_hash")],
        supports_check_mode=True,
    )
    seed = Seed(module)
    try:
        module.exit_json(**(seed.present() if module.params["state"] == "present" else seed.absent()))
    except (SeedError, AgentError, _metainfo.MetainfoError, _payload.PayloadError) as error:
        module.fail_json(msg=str(error))


class Seed:
    """One run of the module."""

    def __init__(self, module):
        self.params = module.params
        self.check_mode = module.check_mode
        self.client = AgentClient(self.params["socket"])
        self.deadline = time.monotonic() + self.params["timeout"]

    def absent(self):
        """Have the torrent forgotten; the module's result."""
        info_hash = self.params["info_hash"] or _metainfo.read_torrent_file(self.params["torrent"]).info_hash
        info_hash = info_hash.lower()
        before = self.client.torrent(info_hash)
        changed = self.client.remove(info_hash, data=self.params["remove_data"], dry_run=self.check_mode)
        diff = {"before": self.summary(before), "after": self.summary(None)}
        return {"changed": changed, "torrent": None, "diff": diff}

    def present(self):
        """Have the payload seeded; the module's result."""
        metainfo, torrent = _metainfo.parse_torrent_file(self.params["torrent"])
        importing, path = self.params["import"], self.params["path"]
        request = {
            "torrent": torrent,
            "data_path": None if importing else path,
            "trackers": _metainfo.announce_tiers(self.params["trackers"]),
            "web_seeds": self.params["web_seeds"],
        }
        limits = {key: self.params[key] for key in ("upload_limit", "download_limit") if self.params[key] is not None}
        changed, before = self.client.add(dry_run=True, **request)
        if before is None and not path:
            raise SeedError(
                "the agent at %s does not have %s (%s). Give the payload's path, or fetch it first (torrent_fetch)."
                % (self.params["socket"], metainfo.name, metainfo.info_hash)
            )
        importing = importing and (before is None or before["state"] not in ("complete", "checking"))
        if importing:
            _payload.check_sizes(path, metainfo)
        wanted = self.wanted(before, limits)
        changed = changed or importing or bool(wanted)
        after = dict(self.summary(before), state="present", complete=True, paused=False, **limits)
        status = before
        if not self.check_mode:
            _changed, status = self.client.add(paused=importing, **dict(request, **limits))
            try:
                status = self.bring_about(status, metainfo, importing, wanted)
            except SeedError:
                if before is None:
                    # nobody is to be told of what nobody has
                    self.client.remove(status["info_hash"], data=True)
                raise
        return {"changed": changed, "torrent": status, "diff": {"before": self.summary(before), "after": after}}

    @staticmethod
    def wanted(before, limits):
        """What is to be changed of a torrent that the agent knows."""
        if before is None:
            return {}
        wanted = {key: value for key, value in limits.items() if value != before[key]}
        if before["paused"] or before["state"] == "error":
            wanted["paused"] = False  # after an error: look again
        return wanted

    def bring_about(self, status, metainfo, importing, wanted):
        """Have the torrent that the agent knows by now seeded as wanted; its status."""
        info_hash = status["info_hash"]
        if importing:
            self.hand_over(info_hash, metainfo)
            wanted = dict(wanted, paused=False)
        if wanted:
            status = self.client.change(info_hash, **wanted)[1]
        if self.params["wait"] or importing:
            status = self.client.wait(info_hash, self.is_complete, self.patience)
        return status

    def hand_over(self, info_hash, metainfo):
        """Copy the payload into the agent's store, and have it checked there."""
        self.client.change(info_hash, paused=True)
        for index, file in enumerate(metainfo.files):
            if not file.pad:
                with _payload.opened(self.params["path"], metainfo, file) as content:
                    self.client.put_file(info_hash, index, content, file.length)
        self.client.recheck(info_hash)
        status = self.client.wait(info_hash, lambda status: not self.is_checking(status), self.patience)
        if status["state"] != "complete":
            self.refuse(status)

    def is_checking(self, status):
        if time.monotonic() >= self.deadline:
            raise SeedError(
                "%s (%s) is not checked after %d s (timeout): %d %% so far. The agent goes on; wait longer."
                % (status["name"], status["info_hash"], self.params["timeout"], 100 * status["progress"])
            )
        return status["state"] == "checking"

    def is_complete(self, status):
        if self.is_checking(status):
            return False
        if status["state"] != "complete":
            self.refuse(status)
        return True

    def patience(self):
        return self.deadline - time.monotonic(), None

    def refuse(self, status):
        """The payload is not what the torrent says."""
        error = status["error"] or {}
        why = ": ".join(filter(None, (error.get("what"), error.get("message")))) or (
            "%d of %d pieces are right" % (status["pieces_done"], status["pieces"])
        )
        if self.params["import"]:
            next_step = "Is it the file that the torrent was made of?"
        else:
            next_step = "Is it the file that the torrent was made of? May the agent read it? If not, set import: true."
        raise SeedError(
            "cannot seed %s as the torrent %s describes it (%s): %s. %s If it was changed since, make the torrent anew "
            "(torrent_create)."
            % (
                self.params["path"] or status["payload_path"],
                self.params["torrent"],
                status["info_hash"],
                why,
                next_step,
            )
        )

    @staticmethod
    def summary(status):
        """What a diff shows of a torrent."""
        if status is None:
            return {"state": "absent"}
        return {
            "state": "present",
            "complete": status["state"] == "complete",
            "paused": status["paused"],
            "upload_limit": status["upload_limit"],
            "download_limit": status["download_limit"],
        }


if __name__ == "__main__":
    main()
