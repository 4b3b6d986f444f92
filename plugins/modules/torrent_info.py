#!/usr/bin/python
# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: torrent_info
short_description: Tell what is in a torrent or magnet link
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Reads a C(.torrent) file on the host (BitTorrent v1, v2 or hybrid) or a magnet link, and returns what it says.
  - Needs no agent, no library and no network.
extends_documentation_fragment:
  - shoal.deploy.agent.info
options:
  src:
    description:
      - The path of a C(.torrent) file on the host, or a magnet link.
    type: path
    required: true
seealso:
  - module: shoal.deploy.torrent_create
  - module: shoal.deploy.agent_info
"""

EXAMPLES = r"""
- name: Read a torrent
  shoal.deploy.torrent_info:
    src: /srv/torrents/shop-1.4.2.torrent
  register: shop

- name: Show its info hash
  ansible.builtin.debug:
    msg: "{{ shop.metainfo.info_hash }}"

- name: Take a magnet link apart
  shoal.deploy.torrent_info:
    src: magnet:?xt=urn:btih:d0d14c926e6e99761a2fdcff27b403d96376eff6&dn=shop&xl=44354816
"""

RETURN = r"""
metainfo:
  description: What the torrent says. What a magnet link cannot tell is V(none).
  type: dict
  returned: success
  contains:
    info_hash:
      description: The info hash, 40 hexadecimal digits. Of a v2-only torrent those its SHA-256 begins with.
      type: str
    info_hash_v2:
      description: The SHA-256 info hash of a v2 or hybrid torrent.
      type: str
    version:
      description: V(v1), V(v2) or V(hybrid).
      type: str
    name:
      description: The name of the payload.
      type: str
    size:
      description: Bytes of the payload.
      type: int
    piece_length:
      description: Bytes in a piece.
      type: int
    pieces:
      description: Number of pieces.
      type: int
    is_file:
      description: Whether the payload is one file, not a directory.
      type: bool
    files:
      description: Every file of the payload.
      type: list
      elements: dict
      contains:
        path:
          description: The path, beginning with the name of the payload.
          type: str
        length:
          description: Bytes of the file.
          type: int
    private:
      description: Whether peers come from the trackers only.
      type: bool
    trackers:
      description: Announce tiers, lists of URLs.
      type: list
      elements: list
    web_seeds:
      description: URLs of web seeds.
      type: list
      elements: str
    comment:
      description: The comment.
      type: str
    source:
      description: The source.
      type: str
    created_by:
      description: The program that made the torrent.
      type: str
    creation_date:
      description: When it was made, as Unix time.
      type: int
    magnet:
      description: The magnet link.
      type: str
    peers:
      description: Peers named by a magnet link.
      type: list
      elements: str
      returned: for a magnet link
    file_selection:
      description: The files that a magnet link selects (BEP 53).
      type: str
      returned: for a magnet link
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _metainfo


def main():
    module = AnsibleModule(argument_spec={"src": {"type": "path", "required": True}}, supports_check_mode=True)
    src = module.params["src"]
    try:
        if src.strip().lower().startswith("magnet:"):
            facts = _metainfo.read_magnet(src)
        else:
            facts = _metainfo.read_torrent_file(src).facts()
    except _metainfo.MetainfoError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, metainfo=facts)


if __name__ == "__main__":
    main()
