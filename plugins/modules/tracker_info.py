#!/usr/bin/python
# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tracker_info
short_description: Ask a BitTorrent tracker how it is and who is in its swarms
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Proves that a tracker works. A throwaway info hash is announced, seen in a scrape, withdrawn, and seen gone.
  - Scrapes the info hashes it is given, and shows a sample of their peers.
  - Works with HTTP, HTTPS and UDP (BEP 15) trackers of any make. Needs no agent and no library.
  - A tracker that does not answer is no failure of the module. RV(tracker.healthy) is then V(false) and
    RV(tracker.error) says why, so that a plain C(until) can wait for it.
extends_documentation_fragment:
  - shoal.deploy.agent.info
options:
  url:
    description:
      - The announce URL, as torrents have it.
      - A literal address chooses between IPv4 and IPv6, whose swarms most trackers keep apart. Of a name, the first
        address that answers is asked.
    type: str
    required: true
  scrape_url:
    description:
      - Where an HTTP tracker answers scrapes, for one that breaks the convention of BEP 48 (C(announce) in the last
        part of the path becomes C(scrape)).
    type: str
  info_hashes:
    description:
      - Info hashes to scrape, in hexadecimal. Of a v2 info hash the first 40 digits count, as on the wire.
    type: list
    elements: str
    default: []
  peers:
    description:
      - Show at most this many peers of each info hash.
      - Peers are told to peers only, so for this the module joins the swarm for an instant and withdraws.
    type: int
    default: 0
  probe:
    description:
      - Prove the tracker's health with a throwaway info hash. Without it a tracker is healthy that answers the scrape
        of O(info_hashes), and the intervals are not learned.
    type: bool
    default: true
  client:
    description:
      - How the peer id begins that the module announces with. A tracker that admits only some clients wants one of
        theirs.
    type: str
    default: -SH0100-
  timeout:
    description:
      - Seconds that all of it may take.
    type: float
    default: 10
  validate_certs:
    description:
      - Check the certificate of an HTTPS tracker.
    type: bool
    default: true
  ca_path:
    description:
      - A file of certificates to check it against, in place of the system's.
    type: path
seealso:
  - module: shoal.deploy.agent_info
  - ref: shoal.deploy.chihaya role <ansible_collections.shoal.deploy.chihaya_role>
    description: Installs a tracker.
"""

EXAMPLES = r"""
- name: Wait until the tracker works
  shoal.deploy.tracker_info:
    url: http://tracker.example.com:6969/announce
  register: result
  until: result.tracker.healthy
  retries: 10
  delay: 2

- name: Count who has the release
  shoal.deploy.tracker_info:
    url: udp://tracker.example.com:6969
    info_hashes:
      - d0d14c926e6e99761a2fdcff27b403d96376eff6
    peers: 20
  register: result

- name: Show them
  ansible.builtin.debug:
    msg: "{{ result.tracker.torrents[0].seeders }} seeders, {{ result.tracker.torrents[0].leechers }} leechers"
"""

RETURN = r"""
tracker:
  description: What the tracker told.
  type: dict
  returned: success
  contains:
    url:
      description: The announce URL.
      type: str
    protocol:
      description: V(http), V(https) or V(udp).
      type: str
    healthy:
      description: Whether everything that was asked was answered, and the probe held.
      type: bool
    error:
      description: What did not hold, V(none) if all did.
      type: str
    refusal:
      description:
        - The tracker's own words where it works and refuses the announce (an info hash or client that it does not
          admit, a missing token), V(none) otherwise.
      type: str
    interval:
      description: Seconds between announces that it asks for, V(none) if it was not asked to tell.
      type: int
    min_interval:
      description: Seconds that it wants at least between announces, V(none) if it does not tell. UDP trackers do not.
      type: int
    warning:
      description: Its warning message, V(none) without one.
      type: str
    seconds:
      description: How long all of it took.
      type: float
    torrents:
      description: One entry for each of O(info_hashes), in their order.
      type: list
      elements: dict
      contains:
        info_hash:
          description: The info hash, 40 hexadecimal digits.
          type: str
        known:
          description: Whether the tracker knows it. Some say so of any.
          type: bool
        seeders:
          description: Peers that have it all.
          type: int
        leechers:
          description: Peers that do not.
          type: int
        downloads:
          description: How often it was downloaded to the end, V(none) if the tracker does not count.
          type: int
        peers:
          description: The sample of peers, without ourselves.
          type: list
          elements: dict
          contains:
            ip:
              description: The address that the tracker hands out.
              type: str
            port:
              description: The port that it listens on.
              type: int
  sample:
    url: http://tracker.example.com:6969/announce
    protocol: http
    healthy: true
    error: null
    refusal: null
    interval: 60
    min_interval: 30
    warning: null
    seconds: 0.021
    torrents:
      - info_hash: d0d14c926e6e99761a2fdcff27b403d96376eff6
        known: true
        seeders: 5
        leechers: 0
        downloads: 4
        peers:
          - {ip: 192.0.2.11, port: 6891}
"""

import binascii
import re
import time

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._tracker import RefusedError, TrackerError, new_identity, prove, sample_peers, tracker_for

_INFO_HASH = re.compile(r"[0-9a-fA-F]{40}([0-9a-fA-F]{24})?\Z")


def on_the_wire(entry):
    """The info hash of one of the facts' torrents, as trackers have it."""
    return binascii.unhexlify(entry["info_hash"])


def ask(tracker, facts, params):
    """Fill in the facts, up to the first thing that fails."""
    who = new_identity(params["client"])
    if params["probe"]:
        answer = prove(tracker, who)
        facts.update(interval=answer.interval, min_interval=answer.min_interval, warning=answer.warning)
    if params["peers"]:
        for entry in facts["torrents"]:
            answer = sample_peers(tracker, on_the_wire(entry), who, params["peers"])
            entry["peers"] = [{"ip": ip, "port": port} for ip, port in answer.peers]
    if facts["torrents"]:
        # After the sample, in which we were counted.
        swarms = tracker.scrape([on_the_wire(entry) for entry in facts["torrents"]])
        for entry in facts["torrents"]:
            swarm = swarms.get(on_the_wire(entry))
            if swarm:
                entry.update(swarm._asdict(), known=True)
    facts["healthy"] = True


def main():
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "scrape_url": {"type": "str"},
            "info_hashes": {"type": "list", "elements": "str", "default": []},
            "peers": {"type": "int", "default": 0},
            "probe": {"type": "bool", "default": True},
            "client": {"type": "str", "default": "-SH0100-"},
            "timeout": {"type": "float", "default": 10},
            "validate_certs": {"type": "bool", "default": True},
            "ca_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    for info_hash in params["info_hashes"]:
        if not _INFO_HASH.match(info_hash):
            module.fail_json(msg="info_hashes: %r is no info hash, expected 40 or 64 hexadecimal digits" % info_hash)
    if not re.match(r"[ -~]{1,20}\Z", params["client"]):
        module.fail_json(msg="client: %r begins no peer id, expected 1 to 20 ASCII characters" % params["client"])
    if not 0 <= params["peers"] <= 1000:
        module.fail_json(msg="peers: %d, expected 0 to 1000" % params["peers"])
    if params["timeout"] <= 0:
        module.fail_json(msg="timeout: %g s, expected more than 0" % params["timeout"])
    if not params["probe"] and not params["info_hashes"]:
        module.fail_json(msg="probe is off and info_hashes is empty: there is nothing to ask the tracker for")
    try:
        tracker = tracker_for(
            params["url"],
            params["scrape_url"],
            params["timeout"],
            validate_certs=params["validate_certs"],
            ca_path=params["ca_path"],
        )
    except TrackerError as error:
        module.fail_json(msg=str(error))

    facts = {
        "url": params["url"],
        "protocol": tracker.protocol,
        "healthy": False,
        "error": None,
        "refusal": None,
        "interval": None,
        "min_interval": None,
        "warning": None,
        "torrents": [
            {
                "info_hash": info_hash[:40].lower(),
                "known": False,
                "seeders": 0,
                "leechers": 0,
                "downloads": None,
                "peers": [],
            }
            for info_hash in params["info_hashes"]
        ],
    }
    started = time.monotonic()
    try:
        ask(tracker, facts, params)
    except RefusedError as error:
        facts["refusal"] = str(error)
        facts["error"] = "%s refuses: %s" % (params["url"], error)
    except TrackerError as error:
        facts["error"] = str(error)
    finally:
        tracker.close()
    facts["seconds"] = round(time.monotonic() - started, 3)
    module.exit_json(changed=False, tracker=facts)


if __name__ == "__main__":
    main()
