#!/usr/bin/python
# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: agent_info
short_description: Tell what the host's agent is and does
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Asks the host's agent for itself and its torrents.
extends_documentation_fragment:
  - shoal.deploy.agent
  - shoal.deploy.agent.actiongroup
  - shoal.deploy.agent.info
options:
  info_hash:
    description:
      - Return only the torrent with this info hash.
    type: str
seealso:
  - module: shoal.deploy.torrent_info
  - module: shoal.deploy.torrent_fetch
"""

EXAMPLES = r"""
- name: Ask the agent
  shoal.deploy.agent_info:
  register: shoal

- name: Show what it seeds
  ansible.builtin.debug:
    msg: "{{ shoal.torrents | selectattr('state', 'equalto', 'complete') | map(attribute='name') }}"
"""

RETURN = r"""
agent:
  description: The agent.
  type: dict
  returned: success
  contains:
    version:
      description: Its version.
      type: str
    api:
      description: The version of its API.
      type: int
    libtorrent:
      description: The version of libtorrent.
      type: str
    name:
      description: The name that it tells its peers.
      type: str
    pid:
      description: Its process.
      type: int
    started_at:
      description: When it was started, as Unix time.
      type: float
    listen:
      description: The ports where peers reach it.
      type: list
      elements: int
    store_dir:
      description: Where it keeps payloads.
      type: str
    state_dir:
      description: Where it keeps its state.
      type: str
    upload_limit:
      description: Bytes per second that it sends at most. V(0) is no limit.
      type: int
    download_limit:
      description: Bytes per second that it receives at most. V(0) is no limit.
      type: int
    upload_rate:
      description: Bytes per second that it sends now.
      type: int
    download_rate:
      description: Bytes per second that it receives now.
      type: int
    uploaded:
      description: Bytes of payloads sent, of all its torrents.
      type: int
    downloaded:
      description: Bytes of payloads received, of all its torrents.
      type: int
    torrents:
      description: Number of its torrents.
      type: int
    storage:
      description: The space of its store, V(none) where that cannot be looked at.
      type: dict
    config:
      description:
        - Of its configuration file V(loaded_at), V(error) (why the last reload was refused) and V(restart_needed) (keys
          that come into force only with a restart).
      type: dict
    apps:
      description: The applications that the host follows by itself, and where each stands.
      type: list
      elements: dict
    schedule:
      description: The span of the schedule of limits that is in force, V(none) outside of any.
      type: str
torrents:
  description: Its torrents.
  type: list
  elements: dict
  returned: success
  contains:
    info_hash:
      description: The info hash.
      type: str
    name:
      description: The name of the payload.
      type: str
    state:
      description: V(metadata), V(checking), V(downloading), V(complete) or V(error).
      type: str
    paused:
      description: Whether it neither fetches nor seeds.
      type: bool
    size:
      description: Bytes of the payload.
      type: int
    done:
      description: Verified bytes that are here.
      type: int
    payload_path:
      description: Where the payload is.
      type: str
    from_peers:
      description: Bytes received, by peer.
      type: dict
    from_web_seeds:
      description: Bytes received from web seeds.
      type: int
    uploaded:
      description: Bytes sent.
      type: int
    peers:
      description: Connected peers.
      type: int
    seeds:
      description: Connected peers that have all of it.
      type: int
    error:
      description: Why it stands still.
      type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._agent_client import AGENT_ARGUMENTS, AgentClient, AgentError


def main():
    module = AnsibleModule(
        argument_spec=dict(AGENT_ARGUMENTS, info_hash={"type": "str"}),
        supports_check_mode=True,
    )
    client = AgentClient(module.params["socket"])
    wanted = module.params["info_hash"]
    try:
        agent = client.agent()
        if wanted is None:
            torrents = client.torrents()
        else:
            torrents = [torrent for torrent in [client.torrent(wanted.lower())] if torrent]
    except AgentError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, agent=agent, torrents=torrents)


if __name__ == "__main__":
    main()
