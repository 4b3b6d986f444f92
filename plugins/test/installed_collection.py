# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: installed_collection
short_description: Whether the controller has a collection
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Tells whether a collection is installed where this controller looks for collections.
  - Made for roles of this collection that need others which most of its users do without.
options:
  _input:
    description: The name of the collection.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Say what is missing
  ansible.builtin.assert:
    that: "'community.docker' is shoal.deploy.installed_collection"
"""

RETURN = r"""
_value:
  description: Whether it is there.
  type: bool
"""

import importlib.util


def installed_collection(name):
    """Whether the collection can be loaded; Ansible's own finder looks for it."""
    try:
        return importlib.util.find_spec("ansible_collections." + str(name)) is not None
    except ModuleNotFoundError:  # no other collection of its namespace is there
        return False


class TestModule:
    """The test installed_collection."""

    def tests(self):
        return {"installed_collection": installed_collection}
