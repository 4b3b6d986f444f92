"""The privileged side of a pull: what it decides by signed metadata alone, and what follows from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from endpoint_helpers import NOW, Publisher
from release_helpers import App, service, spec
from upgrade_helpers import HOOK, Shop, make_shop

from shoal.endpoint import publisher
from shoal.endpoint.errors import EndpointError
from shoal.endpoint.policy import share
from shoal.release.layout import Layout
from shoal.release.lock import Lock
from shoal.upgrade import clock
from shoal.upgrade.errors import UpgradeError

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return make_shop(tmp_path)


@pytest.fixture
def running(shop: Shop) -> Shop:
    """1.0 was pulled and runs."""
    shop.relay(shop.publish("1.0"))
    assert shop.run()["outcome"] == "activated"
    return shop


def test_what_is_signed_and_here_is_activated_once(tmp_path: Path) -> None:
    with service(App(tmp_path)) as served:
        shop = make_shop(tmp_path, served)
        shop.relay(shop.publish("1.0"))
        done = shop.run()
        assert (done["ok"], done["outcome"], done["sequence"], done["version"]) == (True, "activated", 1, "1.0")
        assert (done["current"], done["past"]) == ("1.0", {"sequence": 1, "failed": []})
        assert shop.releases.current() == "1.0"
        pid = served.pid()
        again = shop.run()
        assert (again["ok"], again["changed"], again["reason"]) == (True, False, "up_to_date")
        assert served.pid() == pid


def test_a_version_that_is_not_healthy_is_left_and_not_tried_again(running: Shop) -> None:
    running.release["switch"] = {"health": [{"command": HOOK, "timeout": 2}]}
    running.follow()
    running.relay(running.publish("1.1", {"broken": ""}))
    back = running.run()
    assert (back["ok"], back["outcome"], back["reason"]) == (False, "rolled_back", "health")
    assert running.releases.current() == "1.0"
    again = running.run()
    assert (again["changed"], again["outcome"], again["reason"]) == (False, "nothing", "failed_before")
    assert again["past"] == {"sequence": 1, "failed": [2]}
    running.relay(running.publish("1.2"))
    assert running.run()["outcome"] == "activated"


SCRIPT = """#!/bin/sh
echo "$SHOAL_ACTION $SHOAL_VERSION" >> "$SHOAL_ROOT/../script.log"
ln -sfn "releases/$SHOAL_VERSION" "$SHOAL_ROOT/current"
"""


def test_a_deployment_script_does_the_whole_switch(tmp_path: Path) -> None:
    script = tmp_path / "deploy"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    shop = make_shop(tmp_path)
    shop.release["switch"] = {"script": [str(script)], "health": [{"command": HOOK, "timeout": 2}]}
    shop.follow()
    for version, files in (("1.0", {}), ("1.1", {"broken": ""})):
        shop.relay(shop.publish(version, files))
        shop.run()
    assert shop.releases.current() == "1.0"
    assert (tmp_path / "script.log").read_text().splitlines() == ["activate 1.0", "activate 1.1", "rollback 1.0"]


# -- what is not due ---------------------------------------------------------------------------------------------

PINNED = {"version": "1.0", "until": (NOW + timedelta(days=1)).isoformat()}
# Opens once a year, on a day that is not near.
CLOSED = {"cron": f"0 0 1 {(NOW.month + 5) % 12 + 1} *", "duration": 60}
NOT_DUE: dict[str, tuple[dict[str, Any], Callable[[Publisher], object], str, str]] = {
    "off": ({"auto": "off"}, lambda _: None, "nothing", "off"),
    "only fetched": ({"auto": "fetch"}, lambda _: None, "nothing", "only_fetch"),
    "only staged": ({"auto": "stage"}, lambda _: None, "staged", "due"),
    "no window is open": ({"windows": [CLOSED]}, lambda _: None, "staged", "outside_window"),
    "held": ({"hold": True}, lambda _: None, "nothing", "held"),
    "pinned": ({"pin": PINNED}, lambda _: None, "nothing", "pinned"),
    "halted": ({}, lambda shop: shop.do("halt"), "nothing", "halted"),
    "revoked": ({}, lambda shop: shop.do("revoke", version="1.1"), "nothing", "revoked"),
}


@pytest.mark.parametrize("name", NOT_DUE)
def test_what_is_not_due_is_not_activated_whatever_the_agent_asks(running: Shop, name: str) -> None:
    policy, do, outcome, reason = NOT_DUE[name]
    one = running.publish("1.1")
    do(running.publisher)
    running.relay(one)
    running.follow(**policy)
    result = running.run()
    assert (result["ok"], result["outcome"], result["reason"]) == (True, outcome, reason)
    assert running.releases.current() == "1.0"
    staged = running.releases.ask("info")["release"]["staged"]
    assert staged == (["1.0", "1.1"] if outcome == "staged" else ["1.0"])
    assert (result["until"] is not None) == (reason in ("pinned", "outside_window"))


def test_a_host_waits_for_its_share_of_the_fleet(shop: Shop) -> None:
    place = share("shop", "host1", 1)
    one = shop.publish("1.0", rollout=[str(int(place))])
    shop.relay(one)
    assert shop.run()["reason"] == "not_its_turn"
    shop.publisher.do("percent", rollout=[str(int(place) + 1)])
    shop.relay(one)
    assert shop.run()["outcome"] == "activated"


def test_there_is_no_way_back_past_an_irreversible_version(running: Shop) -> None:
    running.relay(running.publish("2.0", manifest={"irreversible": True}))
    assert running.run()["outcome"] == "activated"
    with pytest.raises(Exception, match="no way back"):
        running.publish("1.0", again=True)
    assert running.releases.activate("1.0")["error"]["code"] == "no_way_back"


def test_an_irreversible_version_that_fails_stays_and_is_said_to_have_failed(running: Shop) -> None:
    running.relay(running.publish("2.0", {"broken": ""}, {"irreversible": True}))
    result = running.run()
    assert (result["outcome"], result["reason"], result["current"]) == ("failed", "post_activate", "2.0")
    again = running.run()
    assert (again["reason"], again["past"]) == ("up_to_date", {"sequence": 2, "failed": [2]})


# -- what is not believed ----------------------------------------------------------------------------------------


def refused(shop: Shop, reason: str) -> None:
    """Nothing is done, and the way back is open all the same."""
    before = shop.releases.current()
    result = shop.run()
    assert (result["ok"], result["changed"], result["outcome"]) == (False, False, "refused")
    assert (result["reason"], result["error"]["code"]) == (reason, reason)
    assert shop.releases.current() == before


def test_a_clock_that_cannot_tell_what_has_expired_blocks_what_is_new(
    running: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.relay(running.publish("1.1"))
    now = clock.now() + timedelta(seconds=2)  # steps are whole seconds
    for behind in (timedelta(minutes=10), timedelta(days=400)):
        monkeypatch.setattr(clock, "now", lambda behind=behind: now - behind)
        refused(running, "clock_behind")
    monkeypatch.setattr(clock, "now", lambda: now - timedelta(minutes=1))  # clocks differ a little
    running.follow(clock="synchronised")
    monkeypatch.setattr(clock, "is_synchronised", lambda: False)
    refused(running, "clock_not_synchronised")

    def closed() -> bool:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(clock, "is_synchronised", closed)
    refused(running, "clock_not_synchronised")
    monkeypatch.setattr(clock, "is_synchronised", lambda: True)
    assert running.run()["reason"] == "not_its_turn", "by that clock, its step is yet to come"
    monkeypatch.setattr(clock, "now", lambda: now)
    assert running.run()["outcome"] == "activated"


def test_the_kernel_is_asked_about_its_clock() -> None:
    try:
        found = clock.is_synchronised()
    except PermissionError:
        return  # a container that may not ask
    assert found in (True, False)


def test_an_expired_end_point_blocks_what_is_new_and_no_way_back(tmp_path: Path) -> None:
    past = NOW - timedelta(days=3)
    shop = make_shop(tmp_path)
    old = Publisher(tmp_path / "old", at=past)
    shop.publisher = old
    shop.follow()
    one = shop.build("1.0")
    publisher.publish(old.request(), one.manifest, one.torrent.read_bytes(), check=False, at=past)
    shop.relay_unread()
    refused(shop, "expired")
    for version in ("0.8", "0.9"):
        shop.releases.stage(version)
        assert shop.releases.activate(version, **shop.release)["ok"]
    refused(shop, "expired")
    assert shop.releases.ask("activate", previous=True, **shop.release)["ok"]
    assert shop.releases.current() == "0.8"


def test_another_applications_end_point_is_refused(running: Shop, tmp_path: Path) -> None:
    other = Publisher(tmp_path / "other", app="blog")
    other.publish("9.9")
    shutil.rmtree(running.publisher.folder)
    shutil.copytree(other.folder, running.publisher.folder)
    running.relay_unread()
    refused(running, "other_app")


def test_three_generations_of_root_keys_are_followed_through_the_agent(running: Shop, tmp_path: Path) -> None:
    """Awake or asleep in between, or new and with nothing but the first root: by what the agent keeps alone."""
    shop, asleep = running, tmp_path / "asleep"
    shutil.copytree(shop.places.state, asleep)
    for generation in range(1, 4):
        for role in ("root", "targets"):
            new = str(tmp_path / f"{role}{generation}")
            shop.publisher.do("rotate", role=role, new_keys=new)
            shop.publisher.keys = [new, *shop.publisher.keys]
        shop.relay()
        assert shop.run()["reason"] == "up_to_date"
    shop.relay(shop.publish("1.1"))
    assert shop.run()["outcome"] == "activated"
    for state in (asleep, tmp_path / "none"):
        shutil.rmtree(shop.places.state)
        if state.exists():
            shutil.copytree(state, shop.places.state)
        assert shop.run()["reason"] == "up_to_date"
    # one generation missing on the way: nothing that follows is believed
    (shop.places.agent_state / "endpoints/shop/stable/root_history/4.root.json").unlink()
    shutil.rmtree(shop.places.state)
    assert (shop.run()["outcome"], shop.run()["reason"]) == ("refused", "wrongly_signed")


def test_what_is_not_fetched_yet_or_damaged_is_asked_for_again(running: Shop) -> None:
    one = running.publish("1.1")
    running.relay()
    refused(running, "no_archive")
    running.relay(one)
    running.payload(one).write_bytes(bytes(one.manifest.archive.size))
    refused(running, "wrong_bytes")
    running.relay(one)
    assert running.run()["outcome"] == "activated"


def test_an_archive_that_is_never_unpacked_has_failed(running: Shop) -> None:
    one = running.publish("1.1", {f"file{number}": "" for number in range(20)}, {"entries": 5})
    running.relay(one)
    result = running.run()
    assert (result["outcome"], result["reason"]) == ("failed", "refused_archive")
    assert running.run()["reason"] == "failed_before"
    assert running.releases.current() == "1.0"


# -- a push beside it --------------------------------------------------------------------------------------------


def push(shop: Shop, version: str) -> None:
    shop.releases.stage(version)
    assert shop.releases.activate(version, **shop.release)["ok"]


def test_a_push_pins_until_somebody_says_otherwise(running: Shop) -> None:
    push(running, "0.9")
    running.relay(running.publish("1.1"))
    for _ in range(2):
        result = running.run()
        assert (result["outcome"], result["reason"], result["current"]) == ("nothing", "pushed", "0.9")
    assert running.ask("status")["upgrade"]["pushed"] is True
    assert running.ask("follow")["changed"] is True
    assert running.ask("follow")["changed"] is False
    assert running.ask("status")["upgrade"]["pushed"] is False
    assert running.run()["outcome"] == "activated"
    assert running.releases.current() == "1.1"


def test_a_push_while_the_next_version_is_unpacked_pins_too(running: Shop) -> None:
    """Somebody goes back at night, and hosts that were about to go forward do not."""
    running.releases.stage("0.9")
    running.relay(running.publish("1.1"))

    def push(when: str, step: str) -> None:
        if (when, step) == ("after", "stage"):
            assert running.releases.activate("0.9")["ok"]

    result = running.run(observe=push)
    assert (result["outcome"], result["reason"], running.releases.current()) == ("nothing", "pushed", "0.9")
    assert running.ask("status")["upgrade"]["work"] is None
    assert running.run()["reason"] == "pushed"
    assert running.ask("follow")["outcome"] == "following"
    assert running.run()["outcome"] == "activated"


def test_what_was_only_staged_or_refused_is_no_work_under_way(running: Shop) -> None:
    running.follow(auto="stage")
    one = running.publish("1.1")
    running.relay()
    assert running.run()["reason"] == "no_archive"
    assert running.ask("status")["upgrade"]["work"] is None
    running.relay(one)
    assert running.run()["outcome"] == "staged"
    assert running.ask("status")["upgrade"]["work"] is None


def test_a_push_pins_until_the_channel_names_what_runs(running: Shop) -> None:
    one = running.build("1.1")
    archive = spec(one.archive)
    assert running.releases.ask("stage", version="1.1", archive=archive)["ok"]
    assert running.releases.activate("1.1", **running.release)["ok"]
    running.relay()
    assert running.run()["reason"] == "pushed"
    running.relay(running.publish("1.1"))
    assert running.run()["reason"] == "up_to_date"
    running.relay(running.publish("1.2"))
    assert running.run()["outcome"] == "activated"


def test_what_ran_before_a_host_follows_is_taken_as_it_is(shop: Shop) -> None:
    push(shop, "0.9")
    shop.relay(shop.publish("1.0"))
    assert shop.run()["outcome"] == "activated"


def test_a_manual_way_back_is_not_undone(running: Shop) -> None:
    running.relay(running.publish("1.1"))
    assert running.run()["outcome"] == "activated"
    assert running.releases.ask("activate", previous=True, **running.release)["ok"]
    assert running.run()["reason"] == "pushed"
    assert running.releases.current() == "1.0"


def test_two_never_switch_at_once(running: Shop) -> None:
    running.relay(running.publish("1.1"))
    with Lock.acquire(Layout(running.releases.root).lock, {"verb": "activate", "who": "alice"}):
        result = running.run()
        assert (result["ok"], result["outcome"], result["reason"]) == (False, "busy", "busy")
    with Lock.acquire(running.places.state / "shop" / "lock", {"verb": "upgrade"}):
        assert running.run()["outcome"] == "busy"
    assert running.run()["outcome"] == "activated"


# -- the file and the command ------------------------------------------------------------------------------------

WRONG_RELEASE: dict[str, tuple[Any, str]] = {
    "no root": ({}, "release.root: missing"),
    "what follows from the end point": ({"root": "/srv/shop", "version": "1.0"}, "release.version: cannot be fixed"),
    "a slip": ({"root": "/srv/shop", "keep_release": 3}, "did you mean 'keep_releases'?"),
    "a check": ({"root": "/srv/shop", "switch": {"health": [{}]}}, "exactly one of url, tcp, command"),
    "on, which YAML takes for true": (
        {"root": "/srv/shop", "switch": {"hooks": {True: ["x"]}}},
        "release: the request",
    ),
}


@pytest.mark.parametrize("name", WRONG_RELEASE)
def test_what_is_wrong_with_a_file_is_told_before_it_is_placed(shop: Shop, name: str) -> None:
    release, words = WRONG_RELEASE[name]
    document = {"endpoint": {"urls": ["http://publisher/"]}, "release": release}
    new = shop.base / "new.yml"
    new.write_text(yaml.safe_dump(document))
    new.chmod(0o600)
    with pytest.raises((EndpointError, UpgradeError)) as found:
        shop.ask("check", new)
    assert found.value.code == "bad_config"
    assert words in str(found.value) + found.value.hint
    assert shop.ask("check", None)["outcome"] == "valid"
    shutil.copy(new, shop.file)
    result = shop.run()
    assert (result["outcome"], result["reason"]) == ("refused", "bad_config")


def test_the_command_says_the_same(shop: Shop) -> None:
    shop.relay(shop.publish("1.0"))
    done = shop.command("run")
    assert (done["event"], done["outcome"], done["past"]) == ("result", "activated", {"sequence": 1, "failed": []})
    steps = [event["step"] for event in done["events"] if event["event"] == "step" and event["state"] == "start"]
    assert [step for step in steps if step in ("settle", "decide", "stage", "activate", "record")] == [
        "settle",
        "decide",
        "stage",
        "activate",
        "record",
    ]
