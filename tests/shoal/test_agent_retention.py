"""Old payloads go by what is configured; what somebody may still need stays."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
import yaml

from shoal.agent.config import Duration, Retention
from shoal.agent.retention import superseded
from shoal.swarm import Label, State

NOW = 1_800_000_000.0
DAY = 86400.0


def payload(name, days_ago=0.0, **fields):
    """``shop-1.0``: of the app shop, asked for so many days ago."""
    app, _, version = name.partition("-")
    usual = {"label": Label(app, version), "in_store": True, "state": State.COMPLETE, "pinned": False}
    return SimpleNamespace(name=name, wanted_at=NOW - days_ago * DAY, **{**usual, **fields})


OLD = [payload("shop-1", 40), payload("shop-2", 30), payload("shop-3", 20)]
CASES = {
    # payloads, keep, min_age in days -> which go, in how many days the next is due
    "nothing is configured": (OLD, 0, 0, [], None),
    "the last versions stay": (OLD, 2, 7, ["shop-1"], None),
    "fewer are there": (OLD, 3, 7, [], None),
    "what is young stays": (OLD, 1, 35, ["shop-1"], 5),
    "apps are counted apart": ([*OLD, payload("site-9", 90)], 2, 7, ["shop-1"], None),
    "asked for again is new again": ([*OLD[1:], payload("shop-1", 1)], 1, 7, ["shop-2", "shop-3"], None),
    "pinned": ([payload("shop-1", 40, pinned=True), *OLD[1:]], 1, 7, ["shop-2"], None),
    "seeded in place": ([payload("shop-1", 40, in_store=False), *OLD[1:]], 1, 7, ["shop-2"], None),
    "nobody said what it is": ([payload("shop-1", 40, label=None), *OLD[1:]], 1, 7, ["shop-2"], None),
    "not complete, so not counted": ([*OLD, payload("shop-4", state=State.DOWNLOADING)], 2, 7, ["shop-1"], None),
    "downloading still": ([payload("shop-1", 40, state=State.DOWNLOADING), *OLD[1:]], 1, 7, ["shop-2"], None),
    "failed": ([payload("shop-1", 40, state=State.ERROR), *OLD[1:]], 1, 7, ["shop-2"], None),
    "two payloads of one version": ([*OLD, payload("shop-3", 19)], 2, 7, ["shop-1"], None),
    "to the second": ([payload("shop-1", 7), payload("shop-2", 1)], 1, 7, ["shop-1"], None),
    "and no earlier": ([payload("shop-1", 6.5), payload("shop-2", 1)], 1, 7, [], 0.5),
}


@pytest.mark.parametrize(("torrents", "keep", "min_age", "gone", "due"), CASES.values(), ids=CASES)
def test_which_payloads_go(torrents, keep, min_age, gone, due):
    found, next_due = superseded(torrents, Retention(keep, Duration(min_age * DAY)), NOW)
    assert sorted(torrent.name for torrent in found) == gone
    assert next_due == (None if due is None else NOW + due * DAY)


def test_a_reload_removes_what_is_old_by_then_and_tells(agent_factory, make_payload, make_torrent, wait_until):
    publisher = agent_factory("publisher")
    host = agent_factory("host1")
    torrents, hashes = {}, {}
    for name in ("shop-1", "shop-2", "shop-3", "shop-4", "other"):
        archive = make_payload(name, 40_000)
        torrent = make_torrent(archive)
        publisher.seed(archive, torrent)
        app, _, version = name.partition("-")
        label = {"label": {"app": app, "version": version}} if version else {}
        torrents[name] = torrent
        hashes[name] = host.fetch(torrent, publisher, **label)["info_hash"]
    assert host.client.torrent(hashes["shop-1"])["label"] == {"app": "shop", "version": "1"}
    assert host.client.change(hashes["shop-2"], pinned=True)["changed"]
    assert not host.client.change(hashes["shop-2"], pinned=True)["changed"]
    host.fetch(torrents["shop-3"])  # a rollback asks for it again
    host.stop()
    host.start()  # all that is known of them is kept

    config = {**host.config, "retention": {"keep": 1, "min_age": 0}}
    host.config_path.write_text(yaml.safe_dump(config))
    host.process.send_signal(signal.SIGHUP)

    def removed() -> dict[str, str]:
        events = host.client.events()["events"]
        return {event["info_hash"]: event["message"] for event in events if event["kind"] == "removed"}

    wait_until(lambda: len(removed()) == 2)
    left = {torrent["info_hash"] for torrent in host.client.torrents()}
    assert left == {hashes["shop-2"], hashes["shop-3"], hashes["other"]}
    assert sorted(path.name for path in (host.state_dir / "store").iterdir()) == sorted(left)
    assert removed() == {
        hashes["shop-1"]: "shop 1 is not among the 1 versions that were asked for last",
        hashes["shop-4"]: "shop 4 is not among the 1 versions that were asked for last",
    }
    assert len(publisher.client.torrents()) == 5
