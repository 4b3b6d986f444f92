#!/usr/bin/python
# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_gate
short_description: Look at what the hosts of a rollout recorded, and say how to go on
version_added: 0.1.0
description:
  - Looks at every host of a rollout, the unreachable ones too, tells in a line or a table how it stands, and returns
    how to go on. Nothing is connected to and nothing is changed.
  - A part of the playbooks C(shoal.deploy.publish), C(shoal.deploy.rollout), C(shoal.deploy.rollback) and
    C(shoal.deploy.status), which are what is meant to be called. It reads the variables that their tasks register.
author:
  - The shoal.deploy authors (@shoal-deploy)
extends_documentation_fragment:
  - shoal.deploy.rollout.attributes
options:
  after:
    description:
      - What the hosts have just done.
    type: str
    choices: [publish, prefetch, aim, batch, switch, everything, look]
    required: true
"""

EXAMPLES = r"""
- name: See whether all hosts of the batch arrived
  shoal.deploy.rollout_gate:
    after: batch
  run_once: true
  register: shoal_gate
"""

RETURN = r"""
go:
  description: Whether every host of the batch serves the wanted version and is healthy.
  returned: with O(after=batch)
  type: bool
hosts:
  description: The hosts that are switched next.
  returned: with O(after=prefetch), O(after=aim) and O(after=switch)
  type: list
  elements: str
targets:
  description: The version that each of them is switched to.
  returned: with O(after=prefetch), O(after=aim) and O(after=switch)
  type: dict
batches:
  description: How many hosts each batch has.
  returned: with O(after=prefetch), O(after=aim) and O(after=switch)
  type: list
  elements: int
complete:
  description: Whether the whole fleet is there.
  returned: with O(after=everything) and O(after=look)
  type: bool
message:
  description: The hosts that are not, and why.
  returned: with O(after=everything) and O(after=look)
  type: str
data:
  description: The whole result, for programs.
  returned: with O(after=everything)
  type: dict
"""
