# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.shoal.deploy.plugins.module_utils._agent_client import AgentError, AgentUnreachableError
from ansible_collections.shoal.deploy.plugins.modules import torrent_fetch

TRACKER = {"url": "http://tracker/announce", "working": False, "message": "Connection refused"}


def status(**changes):
    return dict(
        {
            "state": "downloading",
            "held": None,
            "peers": 0,
            "seeds": 0,
            "trackers": [],
            "download_rate": 0,
            "done": 0,
            "size": 10,
        },
        **changes,
    )


@pytest.mark.parametrize(
    ("seen", "advice"),
    [
        (status(), "Nobody is known to ask"),
        (status(trackers=[TRACKER]), "No tracker works"),
        (status(trackers=[dict(TRACKER, working=True)]), "know nobody who can be reached"),
        (status(peers=3), "No connected peer has all of it"),
        (status(peers=3, seeds=1), "longer timeout"),
        (status(state="error"), "Set that right"),
        (status(state="checking"), "still hashing"),
        (status(held={"reason": "space", "message": "waiting for space"}), "Make room"),
    ],
)
def test_the_next_step_fits_what_was_seen(seen, advice):
    assert advice in torrent_fetch.next_step(seen)


@pytest.mark.parametrize(
    ("checksum", "digits"),
    [("sha256:" + "AB" * 32, "ab" * 32), (" sha256:" + "12" * 32 + "\n", "12" * 32), (None, None)],
)
def test_a_checksum_is_read(checksum, digits):
    assert torrent_fetch.sha256_of_checksum(checksum) == digits


@pytest.mark.parametrize("checksum", ["", "ab" * 32, "sha256:", "sha256:" + "ab" * 31, "sha1:" + "ab" * 20])
def test_another_checksum_is_refused(checksum):
    with pytest.raises(torrent_fetch.FetchError, match="checksum must be sha256"):
        torrent_fetch.sha256_of_checksum(checksum)


def test_no_agent_is_a_failure_that_says_what_to_do(run_module, tmp_path):
    result = run_module(
        torrent_fetch, {"torrent": "magnet:?xt=urn:btih:" + "ab" * 20, "socket": str(tmp_path / "s")}, check=True
    )
    assert "cannot talk to the agent" in result["msg"]
    assert "Start the agent" in result["msg"]


def test_what_was_begun_goes_on_when_the_agent_is_restarted_between_two_reports(run_module, monkeypatch):
    answers = iter([AgentUnreachableError("there is no such socket"), AgentUnreachableError("nobody listens"), {}])

    def agent(_client):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def add(_client, **_fields):
        raise AgentError("asked to go on")

    monkeypatch.setattr(torrent_fetch.AgentClient, "agent", agent)
    monkeypatch.setattr(torrent_fetch.AgentClient, "add", add)
    monkeypatch.setattr(torrent_fetch.time, "sleep", lambda _seconds: None)
    arguments = {"torrent": "magnet:?xt=urn:btih:" + "ab" * 20, "_following": {"before": {}}}
    assert run_module(torrent_fetch, arguments)["msg"] == "asked to go on"


def test_a_torrent_that_is_none_is_refused_before_the_agent_is_asked(run_module, tmp_path):
    (tmp_path / "x.torrent").write_text("hello")
    result = run_module(torrent_fetch, {"torrent": str(tmp_path / "x.torrent"), "socket": str(tmp_path / "s")})
    assert "this is not a .torrent file" in result["msg"]
