# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.shoal.deploy.plugins.modules import torrent_create


@pytest.fixture
def create(run_module, payload, tmp_path):
    def run(check=False, **options):
        return run_module(
            torrent_create, dict({"path": str(payload), "dest": str(tmp_path / "x.torrent")}, **options), check
        )

    return run


def test_check_mode_tells_what_the_run_does_and_the_second_run_does_nothing(create, tmp_path):
    options = {"trackers": ["http://a/announce"], "exclude": ["*.txt"], "comment": "hi"}
    predicted = create(check=True, **options)
    assert not (tmp_path / "x.torrent").exists()
    made = create(**options)
    assert (predicted["changed"], made["changed"]) == (True, True)
    for key in ("metainfo", "diff", "sha256", "dest"):
        assert predicted[key] == made[key]
    content = (tmp_path / "x.torrent").read_bytes()
    assert create(check=True, **options)["changed"] is False
    assert create(**options)["changed"] is False
    assert (tmp_path / "x.torrent").read_bytes() == content


def test_changed_content_and_changed_options_are_seen(create, payload):
    first = create()
    (payload / "lib.txt").write_text("other")
    second = create()
    third = create(source="eu")
    assert [second["changed"], third["changed"]] == [True, True]
    assert len({result["metainfo"]["info_hash"] for result in (first, second, third)}) == 3
    assert third["diff"]["before"]["info_hash"] == second["metainfo"]["info_hash"]


def test_a_creation_date_stays_while_nothing_else_changes(create, monkeypatch):
    monkeypatch.setattr(torrent_create.time, "time", lambda: 1800000000)
    assert create(creation_date=True)["metainfo"]["creation_date"] == 1800000000
    monkeypatch.setattr(torrent_create.time, "time", lambda: 1900000000)
    again = create(creation_date=True)
    assert (again["changed"], again["metainfo"]["creation_date"]) == (False, 1800000000)
    other = create(creation_date=True, comment="new")
    assert (other["changed"], other["metainfo"]["creation_date"]) == (True, 1900000000)
    assert create(comment="new")["metainfo"]["creation_date"] is None


def test_what_is_no_torrent_is_replaced(create, tmp_path):
    (tmp_path / "x.torrent").write_text("hello")
    result = create()
    assert result["changed"]
    assert result["diff"]["before"] == {"error": "not a torrent"}


def test_a_directory_as_dest_gets_the_payload_s_name(create, tmp_path):
    (tmp_path / "torrents").mkdir()
    assert create(dest=str(tmp_path / "torrents"))["dest"] == str(tmp_path / "torrents" / "shop-1.0.torrent")
    assert create(dest=str(tmp_path / "torrents"), name="shop")["dest"] == str(tmp_path / "torrents" / "shop.torrent")


def test_a_torrent_may_lie_in_its_payload_only_where_it_is_left_out(create, payload):
    inside = str(payload / "lib" / "x.torrent")
    assert "lies in the payload" in create(dest=inside)["msg"]
    assert create(dest=inside, exclude=["*.torrent"])["changed"]
    assert create(dest=inside, exclude=["*.torrent"])["changed"] is False
