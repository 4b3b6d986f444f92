#!/usr/bin/python
# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: Tell the releases of an application on a host
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Tells which release of an application is current, which one was before, which ones are staged, and what happened
    last.
extends_documentation_fragment:
  - shoal.deploy.release
  - shoal.deploy.agent.actiongroup
  - shoal.deploy.agent.info
options:
  app:
    description:
      - The name of the application.
    type: str
    required: true
  root:
    description:
      - The directory of the application. That there is nothing yet is no failure.
    type: path
    required: true
seealso:
  - module: shoal.deploy.release
"""

EXAMPLES = r"""
- name: Look which version runs
  shoal.deploy.release_info:
    app: shop
    root: /srv/shop
  register: shop

- name: Show it
  ansible.builtin.debug:
    msg: "{{ shop.release.current }}"
"""

RETURN = r"""
release:
  description: The application's releases.
  returned: success
  type: dict
  contains:
    app:
      description: The name of the application.
      type: str
    root:
      description: Its directory.
      type: str
    current:
      description: The version that C(current) points at, or V(none).
      type: str
    previous:
      description: The version to go back to, or V(none).
      type: str
    staged:
      description: The versions that are unpacked and whole.
      type: list
      elements: str
    releases:
      description: Everything in C(releases/).
      type: list
      elements: dict
    unproven:
      description: A release that was switched to and was not proven healthy yet, or V(none).
      type: dict
    running_operation:
      description: The operation that is under way, or V(none).
      type: dict
    log:
      description: The last revisions. Who, what, when, from, to, outcome, seconds.
      type: list
      elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._shoal_cli import ShoalCliError, find_executable, run_release


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "executable": {"type": "path"},
        },
        supports_check_mode=True,
    )
    request = {"app": module.params["app"], "root": module.params["root"]}
    try:
        answer = run_release(module.run_command, find_executable(module.params["executable"]), "info", request)
    except ShoalCliError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, release=answer["release"])


if __name__ == "__main__":
    main()
