"""``shoal fetch --dest``: the payload out of the store, whole or not at all."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.fixture
def fetch(agent_factory):
    """``fetch(torrent, dest)``: runs the command against an agent that knows one publisher."""
    publisher, host = agent_factory("publisher"), agent_factory("host1")

    def run(payload, torrent, dest):
        publisher.seed(payload, torrent)
        command = ["fetch", torrent, "--peer", publisher.peer, "--dest", dest, "--socket", host.socket]
        return subprocess.run(
            [sys.executable, "-m", "shoal", *map(str, command)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_a_payload_comes_to_where_it_is_wanted(fetch, make_payload, make_torrent, tmp_path):
    archive = make_payload("shop.tar", 200_000)
    torrent = make_torrent(archive)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old.tar").write_text("old")
    for dest, at in ((folder, "shop.tar"), (folder / "old.tar", "old.tar"), (f"{folder}/new/", "new/shop.tar")):
        done = fetch(archive, torrent, dest)
        assert done.returncode == 0, done.stderr
        assert f"copied to {folder / at}" in done.stderr
        assert (folder / at).read_bytes() == archive.read_bytes()

    site = make_payload("site", {"index.html": 1000, "img/logo.png": 5000})
    assert fetch(site, make_torrent(site), folder).returncode == 0
    assert (folder / "site/img/logo.png").read_bytes() == (site / "img/logo.png").read_bytes()
    again = fetch(site, make_torrent(site), folder)  # would have to remove what is there
    assert again.returncode == 1
    assert f"to {folder / 'site'}: " in again.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["new", "old.tar", "shop.tar", "site"], (
        "nothing is left of the attempt"
    )

    nowhere = fetch(archive, torrent, tmp_path / "no/such/place")
    assert nowhere.returncode == 1
    assert "its folder is not there" in nowhere.stderr
