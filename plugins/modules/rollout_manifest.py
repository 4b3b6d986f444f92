#!/usr/bin/python
# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_manifest
short_description: Read what is published of a version
version_added: 0.1.0
description:
  - Reads the manifest that M(shoal.deploy.release_publish) wrote, and keeps the torrent on the controller until the
    playbook ends. A torrent that is not the one of the manifest is refused.
  - A part of the playbooks C(shoal.deploy.publish) and C(shoal.deploy.rollout), which are what is meant to be called.
    It runs on the publisher.
author:
  - The shoal.deploy authors (@shoal-deploy)
options:
  path:
    description:
      - The directory of everything that is published.
    type: path
    required: true
  app:
    description:
      - The app.
    type: str
    required: true
  version:
    description:
      - The version.
    type: str
    required: true
  socket:
    description:
      - The unix socket of the publisher's agent, which is asked for its name.
    type: path
    required: true
attributes:
  action:
    description: Has an action plugin, which runs on the controller.
    support: full
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the target.
    support: full
    details:
      - Never changes anything.
  diff_mode:
    description: Will return details on what has changed, when in diff mode.
    support: N/A
    details:
      - Never changes anything.
  platform:
    description: Target OS or families that can be operated against.
    support: full
    platforms: posix
"""

EXAMPLES = r"""
- name: Read the manifest at the publisher
  shoal.deploy.rollout_manifest:
    path: /srv/shoal
    app: shop
    version: "1.4.2"
    socket: /run/shoal/agent.sock
  delegate_to: publisher
  run_once: true
  register: shoal_release
"""

RETURN = r"""
manifest:
  description: The manifest.
  returned: success
  type: dict
torrent:
  description: The torrent, on the controller.
  returned: success
  type: str
publisher:
  description: What peers call the publisher's agent, or V(none) where it does not answer.
  returned: success
  type: str
"""
