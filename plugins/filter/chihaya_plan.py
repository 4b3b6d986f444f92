# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: chihaya_plan
short_description: Check and render a chihaya configuration
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Checks the settings of a chihaya tracker against one of its versions, merges them over the role's defaults and
    renders its configuration. Made for the role P(shoal.deploy.chihaya#role).
positional: _input, generation, options
options:
  _input:
    description: Settings, nested as in chihaya's own file.
    type: dict
    required: true
  generation:
    description: The description of one version of chihaya, a file of the role's C(files/generations).
    type: dict
    required: true
  options:
    description: What else decides. V(network), V(ipv6) and V(private_key).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what is wrong with the settings
  ansible.builtin.debug:
    msg: "{{ (chihaya_config | shoal.deploy.chihaya_plan(generation, options)).problems }}"
  vars:
    generation: "{{ lookup('ansible.builtin.file', 'files/generations/main.yml') | from_yaml }}"
    options: {network: host, ipv6: true, private_key: ""}
"""

RETURN = r"""
_value:
  description:
    - The plan. RV(ignore:problems) is a list of texts. If it is empty, what follows from the settings is there too,
      such as the configuration and the URLs at which the tracker must answer.
  type: dict
"""

from ..plugin_utils._chihaya import make_plan


class FilterModule:
    """The filter chihaya_plan."""

    def filters(self):
        return {"chihaya_plan": make_plan}
