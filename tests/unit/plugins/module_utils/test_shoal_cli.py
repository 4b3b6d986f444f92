# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shoal command's side of the protocol, played by a fake that keeps what it was asked."""

from __future__ import annotations

import json

import pytest
from ansible_collections.shoal.deploy.plugins.module_utils._shoal_cli import (
    ShoalCliError,
    caller,
    find_executable,
    run_release,
)


class FakeShoal:
    """Answers like the command would: ``lines`` are documents or plain texts."""

    def __init__(self, *lines, rc=0, err=""):
        self.out = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        self.rc = rc
        self.err = err

    def __call__(self, command, data, handle_exceptions):
        self.command = command
        self.request = json.loads(data)
        return self.rc, self.out, self.err


def result(**more):
    return dict({"event": "result", "protocol": 1, "ok": True, "changed": True}, **more)


def test_the_request_goes_in_and_the_last_result_comes_out():
    shoal = FakeShoal({"event": "step", "step": "unpack"}, result(outcome="staged"))
    answer = run_release(shoal, "/opt/bin/shoal", "stage", {"app": "shop"})
    assert answer["outcome"] == "staged"
    assert shoal.command == ["/opt/bin/shoal", "release", "stage", "--json"]
    assert shoal.request == {"app": "shop", "protocol": 1}


def test_check_mode_is_passed_on():
    shoal = FakeShoal(result())
    run_release(shoal, "shoal", "activate", {}, check=True)
    assert shoal.command[-1] == "--check"


def test_what_a_hook_prints_is_passed_over():
    shoal = FakeShoal(result(outcome="activated"), "bye", '{"event": "other"}', "[1]")
    assert run_release(shoal, "shoal", "activate", {})["outcome"] == "activated"


def test_a_failure_says_what_was_found_and_what_to_do():
    error = {"code": "locked", "message": "the lock is held by bob.", "hint": "wait for it"}
    shoal = FakeShoal(result(ok=False, changed=False, error=error), rc=1)
    with pytest.raises(ShoalCliError) as caught:
        run_release(shoal, "shoal", "activate", {})
    assert str(caught.value) == "The lock is held by bob. Wait for it."
    assert caught.value.result["error"]["code"] == "locked"


@pytest.mark.parametrize(("protocol", "side"), [(2, "update the collection"), (0, "update shoal on this host")])
def test_another_protocol_says_which_side_to_update(protocol, side):
    with pytest.raises(ShoalCliError, match="speaks protocol %d and this collection 1: %s" % (protocol, side)):
        run_release(FakeShoal(result(protocol=protocol)), "shoal", "info", {})


def test_no_result_tells_what_was_said_instead():
    shoal = FakeShoal(rc=2, err="No such command 'release'.")
    with pytest.raises(ShoalCliError, match=r"exit status 2.*No such command 'release'.*update shoal on this host"):
        run_release(shoal, "shoal", "info", {})


def test_a_command_that_is_not_there_says_where_to_get_it():
    def missing(command, data, handle_exceptions):
        raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(ShoalCliError, match=r"cannot run /opt/shoal: No such file.*torrent_agent.*executable"):
        run_release(missing, "/opt/shoal", "info", {})


def test_the_given_command_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_executable("~/bin/shoal") == str(tmp_path / "bin/shoal")
    assert find_executable(None).endswith("shoal")


@pytest.mark.parametrize("missing", [KeyError("uid not found"), OSError("No username set in the environment")])
def test_who_asks_may_be_a_user_without_a_name(monkeypatch, missing):
    def getuser():
        raise missing  # the latter since Python 3.13

    monkeypatch.setattr("getpass.getuser", getuser)
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert caller() == "4711"
    monkeypatch.setenv("SUDO_USER", "alice")
    assert caller() == "alice"
