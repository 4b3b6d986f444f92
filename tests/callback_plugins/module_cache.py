"""Modules that are packed once for many runs of ansible-playbook, in the folder that SHOAL_MODULE_CACHE names.

Each run packs every kind of module that it uses, a quarter of a second of processor time each, and keeps it for its own
tasks only. tests/run.sh and tests/molecule.sh name a folder for the time that they run.
"""

from __future__ import annotations

import os
from pathlib import Path

from ansible import constants
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: module_cache
type: aggregate
short_description: Share packed modules among runs
description: Makes the folder of packed modules a link to the one that the environment names.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "module_cache"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook):
        if folder := os.environ.get("SHOAL_MODULE_CACHE"):
            Path(folder).mkdir(exist_ok=True)
            Path(constants.DEFAULT_LOCAL_TMP, "ansiballz_cache").symlink_to(folder)
