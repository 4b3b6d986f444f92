"""When each task began, as JSON in the file that SHOAL_TASK_TIMES names: a list of [seconds, name]."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: task_times
type: aggregate
short_description: Keep when each task began, for a benchmark
description: Writes Unix times and names as JSON into the file that the environment names.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_times"

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[float, str]] = []

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.begun.append((time.time(), task.get_name()))

    def v2_playbook_on_stats(self, stats):
        self.begun.append((time.time(), "the end"))
        Path(os.environ["SHOAL_TASK_TIMES"]).write_text(json.dumps(self.begun), encoding="utf-8")
