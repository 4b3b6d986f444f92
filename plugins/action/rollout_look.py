# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import os
import shlex
from typing import Any

from ansible.plugins.action import ActionBase

from ..module_utils._shoal_cli import INSTALLED, ShoalCliError, run_release

NOT_FOUND = 127  # exit status of a shell that knows no such command


class ActionModule(ActionBase):
    """Asks the host's ``shoal`` command which releases there are.

    Every host of a fleet is asked this before anything else. So it is one command in the connection's shell, and not a
    module, which would be sent there to start that command.
    """

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec(
            argument_spec={
                "app": {"type": "str", "required": True},
                "root": {"type": "str", "required": True},
                "executable": {"type": "str"},
            }
        )
        result["changed"] = False
        try:
            answer = run_release(
                self._run_command,
                arguments["executable"] or "shoal",
                "info",
                {"app": arguments["app"], "root": arguments["root"]},
            )
        except ShoalCliError as error:
            result.update(failed=True, msg=str(error))
        else:
            result["release"] = answer["release"]
        return result

    def _run_command(self, command: list[str], data: str, **_options: bool) -> tuple[int, str, str]:
        """As AnsibleModule.run_command. The data comes down a pipe of the host's own: not every way to become another
        user passes on what is sent to the connection."""
        executable, *words = command
        choice = shlex.quote(executable)
        if executable == "shoal":
            choice = f"$(test -x {INSTALLED} && echo {INSTALLED} || echo shoal)"
        elif executable.startswith("~/"):
            choice = f'"$HOME"{shlex.quote(executable[1:])}'
        done = self._low_level_execute_command(f"printf %s {shlex.quote(data)} | {choice} {shlex.join(words)}")
        if done["rc"] == NOT_FOUND:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return done["rc"], done["stdout"], done["stderr"]
