#!/usr/bin/python
# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_plan
short_description: Check the variables of a rollout and plan it
version_added: 0.1.0
description:
  - Checks the C(shoal_*) variables of every host that a playbook of this collection is about to work on, and returns
    what is to be done. Nothing is connected to and nothing is changed.
  - A part of the playbooks C(shoal.deploy.install), C(shoal.deploy.uninstall), C(shoal.deploy.publish),
    C(shoal.deploy.rollout), C(shoal.deploy.rollback) and C(shoal.deploy.status), which are what is meant to be called.
author:
  - The shoal.deploy authors (@shoal-deploy)
extends_documentation_fragment:
  - shoal.deploy.rollout.attributes
options:
  playbook:
    description:
      - The playbook to plan for.
    type: str
    choices: [install, uninstall, publish, rollout, rollback, status]
    required: true
"""

EXAMPLES = r"""
- name: Check every variable before anything is changed
  shoal.deploy.rollout_plan:
    playbook: rollout
  run_once: true
  register: shoal_plan
"""

RETURN = r"""
app:
  description: The app.
  returned: but for V(install) and V(uninstall)
  type: str
  sample: shop
version:
  description: The version, or V(none) where the previous one is meant.
  returned: success
  type: str
  sample: 1.4.2
hosts:
  description: The hosts to work on, in the order of the inventory, without those that C(--limit) excludes.
  returned: success
  type: list
  elements: str
  sample: [web1, web2]
settings:
  description: The settings of each of the hosts, with defaults filled in.
  returned: success
  type: dict
batches:
  description: How many hosts each batch has.
  returned: where hosts are switched
  type: list
  elements: int
  sample: [1, 4, 5]
who:
  description: Who runs the playbook, and where, for the revision log.
  returned: success
  type: str
  sample: alice@controller
"""
