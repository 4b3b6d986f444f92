# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: agent_bundle
short_description: Pack what the role torrent_agent brings to a host
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Packs the agent's package, the list of its libraries with their hashes and, of a wheelhouse, the wheels that a host
    needs, as one tar archive on the controller. Made for the role P(shoal.deploy.torrent_agent#role).
  - The archive lies in Ansible's temporary folder and is gone when Ansible ends.
options:
  _terms:
    description: The role's folder of files.
    type: list
    elements: path
    required: true
  python:
    description: The host's Python, such as V(3.11).
    type: str
    required: true
  machine:
    description: The host's machine, as C(uname -m) tells it.
    type: str
    required: true
  source:
    description: Where libraries come from.
    type: str
    choices: [pypi, wheelhouse, distro]
    default: pypi
  wheelhouse:
    description: A folder of wheels on the controller; none if empty.
    type: str
    default: ""
  without:
    description: Libraries that the host has of its distribution.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Say what would be installed
  ansible.builtin.debug:
    msg: "{{ lookup('shoal.deploy.agent_bundle', role_path ~ '/files', python='3.11', machine='x86_64').name }}"
"""

RETURN = r"""
_raw:
  description:
    - One dictionary. RV(ignore:path) of the archive, RV(ignore:version) of the package, RV(ignore:name) of what is
      installed (version and digest), RV(ignore:wheel) and RV(ignore:wheels) in the archive, and RV(ignore:downloads),
      the requirements file of what a wheelhouse must hold.
    - RV(ignore:problems) is a list of texts. If there are any, the wheelhouse lacks what the host needs.
  type: list
  elements: dict
"""

import hashlib
from pathlib import Path

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ..plugin_utils._bundle import BundleError, keep, make_bundle


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        wheelhouse = self.get_option("wheelhouse")
        results = []
        for files in self.get_option("_terms") or terms:
            try:
                bundle, content = make_bundle(
                    Path(files),
                    python=self.get_option("python"),
                    machine=self.get_option("machine"),
                    source=self.get_option("source"),
                    wheelhouse=Path(wheelhouse).expanduser() if wheelhouse else None,
                    without=self.get_option("without"),
                )
                named = f"shoal-{hashlib.sha256(content).hexdigest()[:16]}.tar"
                bundle["path"] = str(keep(Path(constants.DEFAULT_LOCAL_TMP), named, content))
            except (BundleError, OSError) as error:
                raise AnsibleError(f"cannot pack the agent: {error}") from error
            results.append(bundle)
        return results
