"""Keep what a playbook told with set_stats, as JSON in the file that SHOAL_DEMO_STATS names, for the driver."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: demo_stats
type: aggregate
short_description: Keep the set_stats of a playbook for the demo's driver
description: Writes them as JSON into the file that the environment names.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "demo_stats"

    def v2_playbook_on_stats(self, stats):
        Path(os.environ["SHOAL_DEMO_STATS"]).write_text(json.dumps(stats.custom, default=str), encoding="utf-8")
