# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import subprocess

import pytest
from ansible_collections.shoal.deploy.plugins.action import rollout_look

SHOAL = """#!/bin/sh
# tells the words and the request that it was given
printf '{"words": "%s", "request": %s}' "$*" "$(cat)"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A host's home directory, with the command in a place of its own and one that is on PATH."""
    monkeypatch.setattr(rollout_look, "INSTALLED", str(tmp_path / "installed"))
    for folder in ("own place", "bin"):
        command = tmp_path / folder / "shoal"
        command.parent.mkdir()
        command.write_text(SHOAL)
        command.chmod(0o755)
    return tmp_path


@pytest.fixture
def run(home):
    """What becomes of a command in the shell of a host."""

    class Host:
        def _low_level_execute_command(self, line):
            environment = {"HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin"}
            done = subprocess.run(["/bin/sh", "-c", line], env=environment, capture_output=True, text=True, check=False)
            return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    return lambda command, data: rollout_look.ActionModule._run_command(
        Host(), command, data=data, handle_exceptions=False
    )


@pytest.mark.parametrize("executable", ["shoal", "~/own place/shoal", "{home}/own place/shoal"])
def test_the_command_gets_the_request_whatever_is_in_it(run, home, executable):
    request = {"root": "/srv/it's a $(shop) %s \\n", "app": "shop"}
    executable = executable.format(home=home)
    status, out, err = run([executable, "release", "info", "--json"], json.dumps(request))
    assert (status, err) == (0, "")
    assert json.loads(out) == {"words": "release info --json", "request": request}


def test_the_installed_command_comes_before_that_on_path(run, home):
    (home / "installed").write_text("#!/bin/sh\necho installed\n")
    (home / "installed").chmod(0o755)
    assert run(["shoal", "release", "info", "--json"], "{}") == (0, "installed\n", "")


def test_a_command_that_is_not_there_is_no_answer(run):
    with pytest.raises(OSError, match="No such file"):
        run(["/opt/none/shoal", "release", "info", "--json"], "{}")


def test_a_command_that_fails_says_so(run, home):
    (home / "bin" / "shoal").write_text("#!/bin/sh\necho wrong >&2\nexit 3\n")
    assert run(["shoal", "release", "info", "--json"], "{}") == (3, "", "wrong\n")
