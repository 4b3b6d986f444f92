#!/usr/bin/python
# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_look
short_description: Look which releases a host has
version_added: 0.1.0
description:
  - Asks the C(shoal) command of a host which releases of an application it has, and returns what
    M(shoal.deploy.release_info) does. No module is sent there for that, which makes it several times as quick.
  - A part of the playbooks C(shoal.deploy.rollout), C(shoal.deploy.rollback) and C(shoal.deploy.status), which are
    what is meant to be called.
author:
  - The shoal.deploy authors (@shoal-deploy)
extends_documentation_fragment:
  - shoal.deploy.rollout.attributes
options:
  app:
    description:
      - The name of the application.
    type: str
    required: true
  root:
    description:
      - The directory of the application. That there is nothing yet is no failure.
    type: str
    required: true
  executable:
    description:
      - The C(shoal) command on the host. By default the one that the role P(shoal.deploy.torrent_agent#role) installs,
        if it is there, else the one on C(PATH).
    type: str
seealso:
  - module: shoal.deploy.release_info
"""

EXAMPLES = r"""
- name: Look which releases the host has
  shoal.deploy.rollout_look:
    app: shop
    root: /srv/shop
  register: shoal_look
"""

RETURN = r"""
release:
  description: The application's releases, as M(shoal.deploy.release_info) returns them.
  returned: success
  type: dict
"""
