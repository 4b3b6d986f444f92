# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args


@pytest.fixture
def run_module(capsys, tmp_path):
    """Run a module in this process as Ansible would; returns what it told Ansible."""

    def run(module, arguments, check=False):
        temporary = tmp_path / "ansible-tmp"
        temporary.mkdir(exist_ok=True)
        settings = {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": str(temporary)}
        with patch_module_args(dict(arguments, **settings)), pytest.raises(SystemExit) as end:
            module.main()
        result = json.loads(capsys.readouterr().out)
        assert bool(end.value.code) == bool(result.get("failed"))
        return result

    return run


@pytest.fixture
def payload(tmp_path):
    """A directory with files of some pieces, an empty one, and names whose order is easily got wrong."""
    root = tmp_path / "shop-1.0"
    contents = {
        "bin/start": b"#!/bin/sh\n" * 900,
        "lib/a.jar": bytes(range(256)) * 300,
        "lib/B.jar": b"B" * 40000,
        "lib/ä.jar": b"umlaut" * 1000,
        "lib.txt": b"sorts after the folder",
        "empty": b"",
    }
    for name, content in contents.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root
