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
extends_documentation_fragment:
  - shoal.deploy.rollout.attributes
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

import base64
import json
import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._agent_client import AgentClient, AgentError

FORMAT = 1


class ManifestError(Exception):
    """What is published cannot be used; the text says why and what to do."""


def main():
    """The half that runs on the publisher: the files, in one turn. The action plugin checks and keeps the torrent."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "app": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "socket": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    app, version = module.params["app"], module.params["version"]
    folder = os.path.join(module.params["path"], app, version)
    try:
        manifest = parse(read(os.path.join(folder, "manifest.json")), folder, app, version)
        torrent = read(os.path.join(folder, manifest["archive"]["name"] + ".torrent"))
    except ManifestError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg="%s %s is not published: on the publisher, %s cannot be read: %s. Publish it: ansible-playbook "
            "shoal.deploy.publish -e shoal_app=%s -e shoal_version=%s -e shoal_archive=FILE"
            % (app, version, error.filename, error.strerror, app, version)
        )
    module.exit_json(
        changed=False,
        manifest=manifest,
        torrent=base64.b64encode(torrent).decode("ascii"),
        publisher=agent_name(module),
    )


def read(path):
    with open(path, "rb") as file:
        return file.read()


def parse(data, folder, app, version):
    """The manifest, if it is one of this version that this collection understands."""
    try:
        manifest = json.loads(data)
        described = (manifest["app"], manifest["version"])
        if manifest["format"] != FORMAT:
            raise ManifestError(
                "%s/manifest.json on the publisher has format %s, this collection reads %d: update the collection on "
                "this controller" % (folder, manifest["format"], FORMAT)
            )
        _used = (manifest["archive"]["name"], manifest["archive"]["size"], manifest["info_hash"])
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError("%s/manifest.json on the publisher cannot be read: %r" % (folder, error)) from None
    if described != (app, version):
        raise ManifestError("%s/manifest.json on the publisher describes %s %s" % (folder, *described))
    return manifest


def agent_name(module):
    """What peers call the publisher's agent; None where it does not answer: other hosts may seed as well."""
    try:
        return AgentClient(module.params["socket"]).agent()["name"]
    except AgentError as error:
        module.warn("the agent of the publisher does not answer: %s Hosts can fetch only what other hosts have" % error)
        return None


if __name__ == "__main__":
    main()
