# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one library that a module needs: who makes torrents runs under an interpreter that has torf.

Private to this collection.
"""

from __future__ import annotations

import json
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.common.respawn import has_respawned, probe_interpreters_for_module, respawn_module

INTERPRETERS_WITH_TORF = ("/opt/shoal/current/bin/python", "/usr/bin/python3", "/usr/libexec/platform-python")
# respawn_module() writes the arguments into a pipe that nobody reads yet: above its 64 KiB it would wait for ever
MAX_RESPAWN_ARGUMENTS = 48 * 1024


def require_torf(module: AnsibleModule) -> None:
    """Go on only under an interpreter that has torf; where this one lacks it, the module is run again under another."""
    try:
        import torf  # noqa: F401 - makes sure that it can be
    except ImportError:
        problem = traceback.format_exc()
    else:
        return
    if not has_respawned() and len(json.dumps(module.params)) < MAX_RESPAWN_ARGUMENTS:
        interpreter = probe_interpreters_for_module(INTERPRETERS_WITH_TORF, "torf")
        if interpreter:
            respawn_module(interpreter)
    module.fail_json(msg=missing_required_lib("torf", url="https://torf.readthedocs.io"), exception=problem)
