# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from ansible import constants as C  # noqa: N812
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..module_utils._metainfo import MetainfoError, read_metainfo


class ActionModule(ActionBase):
    """Reads what release_publish wrote, and keeps the torrent on the controller until the playbook ends."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(self._execute_module(task_vars=task_vars))
        if result.get("failed"):
            return result
        manifest = result["manifest"]
        torrent = base64.b64decode(result["torrent"])
        try:
            metainfo = read_metainfo(torrent)
        except MetainfoError as error:
            raise AnsibleActionFail(f"the torrent that is published cannot be used: {error}") from None
        if metainfo.info_hash != manifest["info_hash"] or metainfo.size != manifest["archive"]["size"]:
            raise AnsibleActionFail(
                f"at the publisher, the torrent of {manifest['app']} {manifest['version']} (info hash "
                f"{metainfo.info_hash}) is not the one that manifest.json describes ({manifest['info_hash']}): "
                "somebody changed what is published. Remove the directory and publish the version again, from the "
                "same archive"
            )
        kept = Path(C.DEFAULT_LOCAL_TMP) / f"{manifest['info_hash']}.torrent"  # removed when ansible-playbook ends
        kept.write_bytes(torrent)
        result["torrent"] = str(kept)
        return result
