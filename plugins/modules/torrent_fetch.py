#!/usr/bin/python
# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: torrent_fetch
short_description: Fetch a payload from a swarm
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Has the host's agent fetch what a torrent describes, from all hosts that have some of it, and seed it on.
  - Waits until every byte is there and verified, and puts the payload at O(dest) if asked to.
  - A payload that is there and verified already is not fetched again, and changes nothing.
  - While it waits, the controller shows how far the hosts of the play are together, at most a line for each tenth.
    Payloads that take only some seconds show none.
extends_documentation_fragment:
  - ansible.builtin.files
  - shoal.deploy.agent
  - shoal.deploy.agent.torrent
  - shoal.deploy.agent.actiongroup
  - shoal.deploy.agent.attributes
options:
  torrent:
    description:
      - The path of a C(.torrent) file on the controller, or with O(remote_src) on the host. Relative paths on the
        controller are looked for in C(files), as M(ansible.builtin.copy) does.
      - Or the URL of one (C(http), C(https)), which the host downloads.
      - Or a magnet link.
    type: path
    required: true
  remote_src:
    description:
      - Whether the path in O(torrent) is one of the host.
    type: bool
    default: false
  dest:
    description:
      - Where the payload is to be. It appears there when it is whole and verified, or not at all, as a copy of its own
        (a reflink where the file system can), with O(mode), O(owner) and O(group).
      - For a payload that is a file, an existing directory, or a path that ends with C(/), gets the payload under its
        own name. A payload that is a directory becomes O(dest) itself, unless that ends with C(/).
      - A directory is replaced only if all files in it are the torrent's.
      - Without it the payload stays in the agent's store; RV(path) tells where.
      - With O(wait=false) it is put there only if the payload is complete already.
    type: path
  mode:
    description:
      - The permissions of the payload at O(dest), as M(ansible.builtin.copy) has them. The directories of a payload get
        an octal mode with the right to search added to each right to read.
    type: raw
  wait:
    description:
      - Whether to wait until the payload is complete. Otherwise this returns as soon as the agent knows of the torrent.
    type: bool
    default: true
  stall_timeout:
    description:
      - Seconds without a byte after which to give up.
    type: int
    default: 600
  peers:
    description:
      - Peers to ask, beside those that trackers name. V(host:port) each.
    type: list
    elements: str
    default: []
  web_seeds:
    description:
      - URLs of web servers to turn to when the swarm stalls, beside those in the torrent (BEP 19).
    type: list
    elements: str
    default: []
  checksum:
    description:
      - What the payload must have, V(sha256:) and 64 hexadecimal digits. For payloads that are a file.
      - The torrent's own hashes are always checked.
    type: str
  app:
    description:
      - The application that the payload is a version of. With it the agent's retention knows which payloads of an
        application are the last ones, and removes older ones; a payload without it stays until somebody removes it.
    type: str
  version:
    description:
      - The version that the payload is.
    type: str
  _following:
    description:
      - Set by the module's own action plugin, which runs the module again and again to tell of progress between. Not
        for playbooks.
    type: dict
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  async:
    support: full
    details:
      - Without progress on the controller.
notes:
  - A host that waits holds one of the controller's forks. To have all hosts of a large fleet fetch at once, start with
    O(wait=false) on all, and wait in a second task.
seealso:
  - module: shoal.deploy.torrent_create
  - module: shoal.deploy.torrent_seed
  - module: shoal.deploy.agent_info
"""

EXAMPLES = r"""
- name: Fetch an archive
  shoal.deploy.torrent_fetch:
    torrent: shop-1.4.2.torrent
    dest: /srv/archives/shop-1.4.2.tar.zst
    owner: shop
    mode: "0640"

- name: Start on all hosts at once, whatever the number of forks
  shoal.deploy.torrent_fetch:
    torrent: https://files.example.com/shop-1.4.2.torrent
    wait: false

- name: Wait until all have it, and leave it in the agent's store
  shoal.deploy.torrent_fetch:
    torrent: https://files.example.com/shop-1.4.2.torrent
    checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    stall_timeout: 120
  register: shop

- name: Show where it came from
  ansible.builtin.debug:
    msg: "{{ shop.path }}: {{ shop.bytes_from }} in {{ shop.duration }} s"

- name: Fetch by magnet link from a peer that is known
  shoal.deploy.torrent_fetch:
    torrent: magnet:?xt=urn:btih:d0d14c926e6e99761a2fdcff27b403d96376eff6
    peers:
      - seed.example.com:6891
"""

RETURN = r"""
torrent:
  description:
    - The torrent as the agent sees it, as in M(shoal.deploy.agent_info). V(none) in check mode if it is unknown.
  type: dict
  returned: always
path:
  description: Where the payload is, at O(dest) or in the agent's store. V(none) while it is not known.
  type: str
  returned: always
dest:
  description: Where the payload was put.
  type: str
  returned: if O(dest) is given
complete:
  description: Whether every byte is there and verified.
  type: bool
  returned: always
bytes_from:
  description: Bytes received since the torrent was added, by where they came from.
  type: dict
  returned: always
  contains:
    peers:
      description: Bytes by peer, an agent's name or an address.
      type: dict
    web_seeds:
      description: Bytes from web seeds.
      type: int
duration:
  description: Seconds that the agent was downloading until the payload was complete.
  type: float
  returned: always
rate:
  description: Bytes per second over that time.
  type: float
  returned: always
"""

import os
import re
import time

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _metainfo, _payload
from ..module_utils._agent_client import (
    AGENT_ARGUMENTS,
    AgentClient,
    AgentError,
    AgentRefusalError,
)

DOWNLOAD_TIMEOUT = 60


class FetchError(Exception):
    """What could not be fetched, how far it got, why, and what to do; `facts` are for the module's result."""

    def __init__(self, text, **facts):
        super().__init__(text)
        self.facts = facts


def main():
    module = AnsibleModule(
        argument_spec=dict(
            AGENT_ARGUMENTS,
            torrent={"type": "path", "required": True},
            remote_src={"type": "bool", "default": False},
            dest={"type": "path"},
            wait={"type": "bool", "default": True},
            timeout={"type": "int", "default": 3600},
            stall_timeout={"type": "int", "default": 600},
            peers={"type": "list", "elements": "str", "default": []},
            trackers={"type": "list", "elements": "raw", "default": []},
            web_seeds={"type": "list", "elements": "str", "default": []},
            checksum={"type": "str"},
            app={"type": "str"},
            version={"type": "str"},
            upload_limit={"type": "int"},
            download_limit={"type": "int"},
            _following={"type": "dict"},
        ),
        add_file_common_args=True,
        required_together=[("app", "version")],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**Fetch(module).run())
    except FetchError as error:
        module.fail_json(msg=str(error), **error.facts)
    except (AgentError, _metainfo.MetainfoError, _payload.PayloadError) as error:
        module.fail_json(msg=str(error))


class Fetch:
    """One run of the module."""

    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.client = AgentClient(self.params["socket"])
        self.following = self.params["_following"] or {}
        # whether earlier runs of the module have begun what this one goes on with
        self.going_on = "before" in self.following
        self.sha256 = sha256_of_checksum(self.params["checksum"])
        self.torrent = None  # bytes of the .torrent
        self.magnet = None
        self.info_hash = None
        self.metainfo = None
        self.dest = None  # the very path that the payload gets
        self.at_dest = False  # whether it is there, in check mode: whether it would be

    def run(self):
        """Do what the options ask for; the module's result."""
        self.meet_agent()
        self.read_torrent()
        check_mode, waiting = self.module.check_mode, self.params["wait"]

        before = self.look()
        complete_before = before is not None and before["state"] == "complete" and not self.going_on
        diff = {"before": {"info_hash": before and before["info_hash"], "complete": complete_before}}
        self.settle_dest(before)
        at_dest_before = self.at_dest
        if self.dest:
            diff["before"]["at_dest"] = at_dest_before
        if self.going_on:
            diff["before"] = self.following["before"]

        changed, status = self.tell_agent(before)
        if not check_mode and waiting and not complete_before:
            status, following = self.follow(status["info_hash"])
            if following:
                return dict(self.facts(status), changed=True, _following=dict(following, before=diff["before"]))
        complete = status is not None and status["state"] == "complete"
        if complete:
            self.settle_dest(status)
            self.deliver(status)
        elif check_mode and waiting:
            complete = True
            self.at_dest = bool(self.dest)

        changed = changed or (waiting and not complete_before) or self.at_dest != at_dest_before
        diff["after"] = {"info_hash": self.info_hash, "complete": complete}
        if self.dest:
            diff["after"]["at_dest"] = self.at_dest
        if at_dest_before:
            for path in _payload.paths(self.dest, self.metainfo):
                changed = self.module.set_fs_attributes_if_different(self.attributes_of(path), changed, diff)
        return dict(self.facts(status), changed=changed, diff=diff)

    # The torrent

    def read_torrent(self):
        """Take in the torrent or magnet link."""
        source = self.params["torrent"]
        if source.lower().startswith("magnet:"):
            self.magnet = source
            self.info_hash = _metainfo.read_magnet(source)["info_hash"]
            return
        if re.match("https?://", source, re.IGNORECASE):
            if self.going_on:
                # The agent has it by now: a fleet need not download it for each tenth
                self.info_hash = self.following["info_hash"]
                self.learn_metainfo(self.info_hash)
                self.magnet = self.metainfo.magnet
                return
            self.torrent = download(source)
            try:
                self.metainfo = _metainfo.read_metainfo(self.torrent)
            except _metainfo.MetainfoError as error:
                raise FetchError("cannot use the torrent at %s: %s" % (source, error)) from None
        else:
            self.metainfo, self.torrent = _metainfo.parse_torrent_file(source)
        self.info_hash = self.metainfo.info_hash

    def learn_metainfo(self, info_hash):
        """Of a magnet link, the metainfo that the agent got from peers, if it has it by now."""
        if self.metainfo:
            return
        try:
            metainfo = _metainfo.read_metainfo(self.client.metainfo(info_hash))
        except AgentRefusalError as error:
            if error.code == "conflict":
                return
            raise
        if info_hash not in (metainfo.info_hash, (metainfo.info_hash_v2 or "")[:40]):
            raise FetchError(
                "the agent's metainfo for the magnet link is that of another torrent, %s and not %s. Have the agent "
                "forget it (torrent_seed, state: absent) and fetch again." % (metainfo.info_hash, info_hash)
            )
        self.metainfo = metainfo

    def settle_dest(self, status):
        """Where exactly the payload goes, as far as that is known, and whether it is there; refused at once where it
        cannot go."""
        if status:
            self.learn_metainfo(status["info_hash"])
        dest = self.params["dest"]
        if not dest or self.at_dest:
            return
        if self.metainfo:
            if self.sha256 and not self.metainfo.is_file:
                raise FetchError(
                    "checksum is for a payload that is a file, and %s is a directory." % self.metainfo.name
                )
            if dest.endswith("/") or (self.metainfo.is_file and os.path.isdir(dest)):
                dest = os.path.join(dest, self.metainfo.name)
            self.at_dest = _payload.matches(dest, self.metainfo, self.sha256)
            if not self.at_dest:
                _payload.check_dest(dest, self.metainfo)
        self.dest = dest

    # The agent

    def meet_agent(self):
        """Wait for an agent that is restarted while this goes on; one that was never there is an error at once."""
        if self.going_on:
            self.client.patiently(self.client.agent)

    def look(self):
        """The torrent's status, None if it is unknown. One that is being checked is waited for."""
        status = self.client.add(torrent=self.torrent, magnet=self.magnet, dry_run=True)[1]
        if status is None or status["state"] != "checking" or not self.params["wait"] or self.going_on:
            return status
        deadline = time.monotonic() + self.params["timeout"]

        def checked(status):
            if time.monotonic() >= deadline:
                raise self.failure(status, "not complete after %d s (timeout)" % self.params["timeout"])
            return status["state"] != "checking"

        return self.client.wait(status["info_hash"], checked, lambda: (deadline - time.monotonic(), None))

    def tell_agent(self, before):
        """Have the agent fetch, or see what that would change: whether it changes anything, and the status."""
        check_mode = self.module.check_mode
        limits = {key: self.params[key] for key in ("upload_limit", "download_limit") if self.params[key] is not None}
        changed, status = self.client.add(
            torrent=self.torrent,
            magnet=self.magnet,
            dry_run=check_mode,
            trackers=_metainfo.announce_tiers(self.params["trackers"]),
            peers=self.params["peers"],
            web_seeds=self.params["web_seeds"],
            label={key: self.params[key] for key in ("app", "version")} if self.params["app"] else None,
            **limits,
        )
        if before is None:
            return True, status
        wanted = {key: value for key, value in limits.items() if value != before[key]}
        if before["state"] != "complete" and (before["paused"] or before["state"] == "error"):
            wanted["paused"] = False  # after an error: try again
        if wanted:
            status = self.client.change(before["info_hash"], dry_run=check_mode, **wanted)[1]
        return changed or bool(wanted), status

    def follow(self, info_hash):
        """Wait until the torrent is complete; its status then.

        Under the action plugin this ends at the next tenth already, with what is to be given back to go on.
        """
        clock = time.monotonic()
        following = self.following
        started = following.get("started", clock)
        report_from = clock + following.get("at_least", 0)
        until = following.get("until")
        seen = following.get("seen")
        moved_at = following.get("moved_at", clock)

        def reached(status):
            nonlocal seen, moved_at
            now = time.monotonic()
            standing = [status["state"], status["done"], status["progress"]]
            if standing != seen:
                seen, moved_at = standing, now
            if status["state"] == "complete":
                return True
            if status["state"] == "error":
                error = status["error"] or {}
                about = "%s: " % error["what"] if error.get("what") else ""
                raise self.failure(status, "the agent stopped with an error: %s%s" % (about, error.get("message")))
            if now - started >= self.params["timeout"]:
                raise self.failure(status, "not complete after %d s (timeout)" % self.params["timeout"])
            if now - moved_at >= self.params["stall_timeout"]:
                raise self.failure(status, "no byte came for %d s (stall_timeout)" % self.params["stall_timeout"])
            return until is not None and now >= report_from and share(status) >= until

        def patience():
            now = time.monotonic()
            left = min(started + self.params["timeout"], moved_at + self.params["stall_timeout"]) - now
            if until is not None and now < report_from:
                return min(report_from - now, left), None
            return left, until

        status = self.client.wait(info_hash, reached, patience)
        if status["state"] == "complete":
            return status, None
        progress = share(status)
        return status, {
            "info_hash": info_hash,
            "started": started,
            "until": min(1.0, (int(progress * 10) + 1) / 10),
            "seen": seen,
            "moved_at": moved_at,
            "progress": progress,
        }

    # The payload

    def deliver(self, status):
        """The payload is complete: check it, and put it at `dest` unless it is there."""
        if not self.metainfo:
            raise FetchError(
                "all of %s came, and the agent has not written down the torrent of the magnet link yet: its disk is "
                "slow or full. It was put nowhere; run this again." % status["info_hash"],
                **self.facts(status),
            )
        if self.sha256 and not self.metainfo.is_file:
            raise FetchError("checksum is for payloads that are a file, and %s is a directory." % self.metainfo.name)
        try:
            if self.dest:
                if not self.at_dest and not self.module.check_mode:
                    _payload.put(status["payload_path"], self.dest, self.metainfo, self.sha256, self.set_attributes)
                self.at_dest = True
            elif self.sha256:
                _payload.check_sha256(status["payload_path"], self.metainfo, self.sha256)
        except _payload.WrongContentError as error:
            raise FetchError(self.wrong_content(status, error), **self.facts(status)) from None

    def wrong_content(self, status, error):
        return (
            "the payload of torrent %s is not accepted: %s. It was put nowhere. Either checksum and torrent do not "
            "belong together, or the agent's store at %s was changed: have the agent forget the torrent with its data "
            "(torrent_seed, state: absent, remove_data: true) and fetch again."
            % (status["info_hash"], error, status["payload_path"])
        )

    def attributes_of(self, path):
        """The mode, owner and so on that the options want for a path of the payload at `dest`."""
        arguments = self.module.load_file_common_arguments(self.params, path=path)
        mode = arguments["mode"]
        if mode is not None and os.path.isdir(path) and re.match("[0-7]+$", str(mode)):
            bits = int(str(mode), 8)
            arguments["mode"] = "%04o" % (bits | (bits & 0o444) >> 2)
        return arguments

    def set_attributes(self, path):
        self.module.set_fs_attributes_if_different(self.attributes_of(path), False)

    # Results

    def facts(self, status):
        """What is returned, of a success as of a failure."""
        complete = status is not None and status["state"] == "complete"
        duration = status["download_seconds"] if status else 0.0
        facts = {
            "torrent": status,
            "path": self.dest if self.at_dest else status["payload_path"] if status else None,
            "complete": complete,
            "bytes_from": {
                "peers": status["from_peers"] if status else {},
                "web_seeds": status["from_web_seeds"] if status else 0,
            },
            "duration": duration,
            "rate": status["downloaded"] / duration if duration else 0.0,
        }
        if self.dest:
            facts["dest"] = self.dest
        return facts

    def failure(self, status, why):
        """A failure that tells how far it got, what the swarm looks like and what to do."""
        trackers = [
            "%s: %s" % (tracker["url"], "works" if tracker["working"] else tracker["message"] or "no answer yet")
            for tracker in status["trackers"]
        ]
        if status["state"] == "metadata":
            far = "its metainfo has not come yet"
        else:
            far = "%d of %d bytes (%d %%) are here and stay here" % (
                status["done"],
                status["size"],
                100 * share(status),
            )
        if status["held"]:
            why = "%s; the agent holds it: %s" % (why, status["held"]["message"])
        text = "cannot fetch %s (%s): %s. So far %s. Peers: %d connected, %d of them seeds. Trackers: %s. %s" % (
            status["name"] or "the torrent",
            status["info_hash"],
            why,
            far,
            status["peers"],
            status["seeds"],
            "; ".join(trackers) or "none",
            next_step(status),
        )
        return FetchError(text, **self.facts(status))


def next_step(status):
    """What to do about a torrent that does not get on."""
    if status["held"]:
        return "Make room on that file system: it then goes on by itself."
    if status["state"] == "error":
        return "Set that right and run this again: it goes on where it stopped."
    if status["state"] == "checking":
        return "The agent is still hashing what it has: run this again with a longer timeout."
    if not status["peers"]:
        if not status["trackers"]:
            return "Nobody is known to ask: give peers, trackers or web_seeds."
        if not any(tracker["working"] for tracker in status["trackers"]):
            return "No tracker works: see whether this host reaches them, or give peers."
        return "The trackers know nobody who can be reached: is it seeded, and can this host reach the seed's port?"
    if not status["seeds"] and not status["download_rate"]:
        return "No connected peer has all of it: start a seed (torrent_seed), or give web_seeds."
    return "Run this again to go on where it stopped, with a longer timeout if the link is slow."


def share(status):
    """How much of the payload is here, 0 to 1."""
    return status["done"] / status["size"] if status["size"] else 0.0


def sha256_of_checksum(checksum):
    """The hexadecimal digits of the option `checksum`."""
    if checksum is None:
        return None
    match = re.match("sha256:([0-9a-f]{64})$", checksum.strip().lower())
    if not match:
        raise FetchError("checksum must be sha256: and 64 hexadecimal digits, and is %r." % checksum)
    return match.group(1)


def download(url):
    """The torrent at a URL."""
    from ansible.module_utils.urls import open_url  # only here: half as much again to import as all the rest

    try:
        return open_url(url, timeout=DOWNLOAD_TIMEOUT, http_agent="shoal.deploy").read(_metainfo.MAX_READ_SIZE + 1)
    except Exception as error:  # urllib, ssl and http have a tree of errors each
        raise FetchError("cannot download the torrent %s: %s" % (url, error)) from None


if __name__ == "__main__":
    main()
