# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from ansible_collections.shoal.deploy.plugins.module_utils import _torf


class FailedError(Exception):
    """What fail_json() ends a module with here."""


@pytest.fixture
def module():
    def fail_json(msg, exception):
        raise FailedError(msg, exception)

    return SimpleNamespace(params={"exclude": []}, fail_json=fail_json)


@pytest.fixture
def without_torf(monkeypatch):
    monkeypatch.setitem(sys.modules, "torf", None)  # importing it raises ImportError then


def test_where_torf_is_the_module_goes_on(module):
    assert _torf.require_torf(module) is None


@pytest.mark.usefixtures("without_torf")
def test_without_torf_another_interpreter_is_tried(module, monkeypatch):
    tried = []
    monkeypatch.setattr(_torf, "probe_interpreters_for_module", lambda paths, name: "/a/python")
    monkeypatch.setattr(_torf, "respawn_module", tried.append)
    with pytest.raises(FailedError, match="torf"):  # respawn_module() itself does not return
        _torf.require_torf(module)
    assert tried == ["/a/python"]


@pytest.mark.usefixtures("without_torf")
@pytest.mark.parametrize("respawned", [True, False])
def test_who_cannot_be_helped_is_told_what_is_missing(module, monkeypatch, respawned):
    monkeypatch.setattr(_torf, "has_respawned", lambda: respawned)
    monkeypatch.setattr(_torf, "probe_interpreters_for_module", lambda paths, name: None)
    with pytest.raises(FailedError, match="torf") as failed:
        _torf.require_torf(module)
    assert "ImportError" in failed.value.args[1] or "ModuleNotFoundError" in failed.value.args[1]


@pytest.mark.usefixtures("without_torf")
def test_arguments_that_a_respawn_would_hang_on_are_not_respawned(module, monkeypatch):
    monkeypatch.setattr(_torf, "probe_interpreters_for_module", lambda paths, name: pytest.fail("probed"))
    module.params = {"exclude": ["x" * 1000] * 64}
    with pytest.raises(FailedError, match="torf"):
        _torf.require_torf(module)
