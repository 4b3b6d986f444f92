# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.shoal.deploy.plugins.modules.release import is_cut_off, was_proven


@pytest.mark.parametrize(
    ("answer", "cut_off"),
    [
        ({"error": {"code": "stuck"}, "release": {"unproven": {"version": "1.2", "step": "commit"}}}, True),
        ({"error": {"code": "rolled_back"}, "release": {"unproven": None}}, False),
        # nothing more could be said, and the switch may have begun
        ({"error": {"code": "died"}}, True),
        ({"error": {"code": "io_error"}}, True),
        ({"error": {"code": "locked"}}, False),
        ({"error": {"code": "not_staged"}}, False),
        ({}, False),  # the command could not be run
    ],
)
def test_a_switch_that_ended_neither_way_is_known(answer, cut_off):
    assert is_cut_off(answer) is cut_off


@pytest.mark.parametrize(
    ("log", "proven"),
    [
        ([{"to": "1.2", "outcome": "activated"}], True),
        ([{"to": "1.3", "outcome": "failed"}, {"to": "1.2", "outcome": "activated"}], True),
        ([{"to": "1.2", "outcome": "failed"}, {"to": "1.2", "outcome": "activated"}], False),  # irreversible: it stayed
        ([], True),
    ],
)
def test_a_release_that_stayed_unhealthy_is_known_later_on(log, proven):
    assert was_proven({"current": "1.2", "log": log}) is proven
