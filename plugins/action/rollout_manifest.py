# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from ansible import constants as C  # noqa: N812
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..module_utils._metainfo import MetainfoError, read_metainfo

FORMAT = 1


class ActionModule(ActionBase):
    """Reads what release_publish wrote, and keeps the torrent on the controller until the playbook ends."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "path", "required": True},
                "app": {"type": "str", "required": True},
                "version": {"type": "str", "required": True},
                "socket": {"type": "path", "required": True},
            }
        )
        folder = f"{arguments['path']}/{arguments['app']}/{arguments['version']}"
        manifest = self._manifest(folder, arguments, task_vars)
        torrent = self._read(f"{folder}/{manifest['archive']['name']}.torrent", arguments, task_vars)
        try:
            metainfo = read_metainfo(torrent)
        except MetainfoError as error:
            raise AnsibleActionFail(f"the torrent in {folder} on the publisher cannot be used: {error}") from None
        if metainfo.info_hash != manifest["info_hash"] or metainfo.size != manifest["archive"]["size"]:
            raise AnsibleActionFail(
                f"in {folder} on the publisher, the torrent (info hash {metainfo.info_hash}) is not the one that "
                f"manifest.json describes ({manifest['info_hash']}): somebody changed what is published. "
                "Remove the directory and publish the version again, from the same archive"
            )
        kept = Path(C.DEFAULT_LOCAL_TMP) / f"{manifest['info_hash']}.torrent"  # removed when ansible-playbook ends
        kept.write_bytes(torrent)
        result.update(
            changed=False, manifest=manifest, torrent=str(kept), publisher=self._publisher(arguments, task_vars)
        )
        return result

    def _manifest(self, folder: str, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        try:
            manifest: dict[str, Any] = json.loads(self._read(f"{folder}/manifest.json", arguments, task_vars))
            described = (manifest["format"], manifest["app"], manifest["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise AnsibleActionFail(f"{folder}/manifest.json on the publisher cannot be read: {error!r}") from None
        if described[0] != FORMAT:
            raise AnsibleActionFail(
                f"{folder}/manifest.json on the publisher has format {described[0]}, this collection reads {FORMAT}: "
                "update the collection on this controller"
            )
        if described[1:] != (arguments["app"], arguments["version"]):
            raise AnsibleActionFail(f"{folder}/manifest.json on the publisher describes {described[1]} {described[2]}")
        return manifest

    def _read(self, path: str, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> bytes:
        found = self._execute_module("ansible.builtin.slurp", {"src": path}, task_vars=task_vars)
        if found.get("failed"):
            raise AnsibleActionFail(
                f"{arguments['app']} {arguments['version']} is not published: the publisher {self._task.delegate_to} "
                f"says: {found.get('msg')}. Publish it: ansible-playbook shoal.deploy.publish -e "
                f"shoal_app={arguments['app']} -e shoal_version={arguments['version']} -e shoal_archive=FILE"
            )
        return base64.b64decode(found["content"])

    def _publisher(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> str | None:
        """What peers call the publisher's agent; None where it does not answer: other hosts may seed as well."""
        found = self._execute_module("shoal.deploy.agent_info", {"socket": arguments["socket"]}, task_vars=task_vars)
        name = (found.get("agent") or {}).get("name")
        if not name:
            self._display.warning(
                f"the agent of the publisher {self._task.delegate_to} does not answer: {found.get('msg')}. "
                "Hosts can fetch only what other hosts have"
            )
        return name
