"""One watcher over time: real documents of an end point, and a privileged side that says what the test wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from endpoint_helpers import Publisher

from shoal.agent import asking, watch
from shoal.agent.config import Config, Upgrade
from shoal.agent.watch import Watcher
from shoal.cli import watch as command
from shoal.endpoint import apps
from shoal.endpoint.policy import Decision
from shoal.swarm import State

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

LONG = 60.0  # seconds: not meant to be reached
ENDED = {"ok": True, "changed": False, "outcome": "nothing", "reason": "halted", "message": "", "sequence": 1}


class Side:
    """The privileged side: each answer in its turn, the last one for ever."""

    def __init__(self, *outcomes: str) -> None:
        self.answers = [{**ENDED, "ok": False, "outcome": one, "reason": "died", "sequence": None} for one in outcomes]
        self.asked = 0

    async def ask(self, _config: Config, _app: str) -> dict[str, Any]:
        self.asked += 1
        return self.answers[self.asked - 1] if self.asked <= len(self.answers) else ENDED


class Here:
    """An engine that has every payload, unless it is told otherwise."""

    state = State.COMPLETE

    def add(self, _request: Any) -> None:
        """It is here."""

    def status(self, _info_hash: str) -> SimpleNamespace:
        return SimpleNamespace(state=self.state)


class Counted(Watcher):
    """Says how often it decided."""

    decided = 0

    def _decide(self, view: Any) -> Any:
        self.decided += 1
        return super()._decide(view)


@pytest.fixture
def shop(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


@pytest.fixture
def follow(shop: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Counted]:
    """``follow(side)``: a watcher that asks ``side``, polls once an hour, and has no patience."""
    folder = tmp_path / "apps.d"
    folder.mkdir()
    endpoint = {"urls": ["http://127.0.0.1:9/"], "interval": 3600}
    document = {"endpoint": endpoint, "policy": {"auto": "activate"}, "release": {"root": str(tmp_path / "srv")}}
    (folder / "shop.yml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr(watch, "RETRY", 0.01)
    monkeypatch.setattr(watch, "MAX_RETRY", 0.02)

    def make(side: Side) -> Counted:
        monkeypatch.setattr(watch, "ask", side.ask)
        engine: Any = Here()
        one = Counted(apps.load(folder, "shop"), Config(state_dir=tmp_path), engine, lambda *_: None)
        reader = shop.client(tmp_path / "read")
        monkeypatch.setattr(one, "_read", lambda: reader.read("stable"))
        return one

    return make


def play(one: Watcher, story: Callable[[], Awaitable[None]]) -> None:
    """Run ``story`` beside the watcher."""

    async def run() -> None:
        task = asyncio.create_task(one.run())
        try:
            await story()
        finally:
            task.cancel()

    asyncio.run(asyncio.wait_for(run(), LONG))


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def polled(one: Watcher) -> None:
    polls = one.polls
    one.nudge()
    await until(lambda: one.polls > polls)


@pytest.mark.parametrize("outcome", ["busy", "refused"])
def test_what_was_begun_is_brought_to_its_end_though_the_channel_was_halted_since(
    outcome: str, shop: Publisher, follow: Callable[..., Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.publish("1.0")
    side = Side(outcome)
    one = follow(side)

    async def story() -> None:
        monkeypatch.setattr(watch, "RETRY", 3600)
        monkeypatch.setattr(watch, "MAX_RETRY", 3600)
        await polled(one)
        await until(lambda: one.state == "retrying")
        monkeypatch.setattr(watch, "RETRY", 0.01)
        shop.do("halt")
        await polled(one)
        await until(lambda: side.asked == 2 and one.state == "waiting")
        assert one.describe()["decision"] == "halted"
        assert one.describe()["outcome"]["outcome"] == "nothing"

    play(one, story)


def test_a_halt_stops_a_host_within_one_poll(shop: Publisher, follow: Callable[..., Counted]) -> None:
    """It fetches already; what arrives after the next poll is not asked for. Nothing else than the halt stops it."""
    shop.publish("1.0")
    side = Side()
    one = follow(side)
    one._engine.state = State.DOWNLOADING

    async def complete() -> None:
        one._engine.state = State.COMPLETE
        decided = one.decided
        one.on_complete(one.describe()["info_hash"])
        await until(lambda: one.decided > decided)

    async def story() -> None:
        await polled(one)
        await until(lambda: one.state == "fetching")
        shop.do("halt")
        await polled(one)
        await complete()
        assert (one.describe()["decision"], side.asked) == ("halted", 0)
        shop.do("resume")
        await polled(one)
        await until(lambda: side.asked)

    play(one, story)


def test_a_host_that_was_about_to_ask_again_costs_nothing_while_the_channel_is_halted(
    shop: Publisher, follow: Callable[..., Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "RETRY", 0.1)
    monkeypatch.setattr(watch, "MAX_RETRY", 0.1)
    shop.publish("1.0")
    side = Side()
    one = follow(side)

    async def story() -> None:
        await polled(one)
        await until(lambda: one.state == "retrying")
        shop.do("halt")
        one._nudged.set()  # as the next poll by itself: a nudge would take the wait back
        await until(lambda: one.describe()["decision"] == "halted")
        asked, decided = side.asked, one.decided
        await asyncio.sleep(0.5)  # the wait is over, and some more
        assert one.decided - decided <= 3
        assert side.asked <= asked + 1
        assert one.state == "waiting"

    play(one, story)


def test_a_new_sequence_is_not_held_up_by_what_stood_in_the_way_of_the_one_before(
    shop: Publisher, follow: Callable[..., Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "RETRY", 3600)
    shop.publish("1.0")
    side = Side("refused")
    one = follow(side)

    async def story() -> None:
        monkeypatch.setattr(watch, "MAX_RETRY", 3600)
        await polled(one)
        await until(lambda: one.state == "retrying")
        shop.publish("1.1")
        one._nudged.set()
        await until(lambda: side.asked == 2)

    play(one, story)


def test_the_first_version_is_waited_for_no_longer_than_the_next(
    shop: Publisher, follow: Callable[..., Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[int] = []

    def soon(_rng: object, failed: int, _interval: float) -> float:
        failures.append(failed)
        return 0.01

    monkeypatch.setattr(watch.schedule, "next_delay", soon)
    monkeypatch.setattr(watch.schedule, "first_delay", lambda _rng, _interval: 0.01)
    monkeypatch.setattr(apps, "MIN_INTERVAL", 0.0)
    side = Side()
    one = follow(side)

    async def story() -> None:
        await until(lambda: one.polls >= 3)
        assert one.describe()["error"]["code"] == "no_channel"
        shop.publish("1.0")
        await until(lambda: side.asked)
        assert set(failures) == {0}

    play(one, story)


def test_a_window_that_opens_while_the_privileged_side_unpacks_is_not_missed(
    shop: Publisher, follow: Callable[..., Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.publish("1.0")
    side = Side("staged")
    one = follow(side)
    monkeypatch.setattr(
        watch, "decide", lambda *_: Decision("activate", "due") if side.asked else Decision("stage", "outside_window")
    )

    async def story() -> None:
        await polled(one)
        await until(lambda: side.asked == 2)

    play(one, story)


def test_a_clock_that_was_set_back_stops_neither_polls_nor_retries(
    shop: Publisher, follow: Callable[..., Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.publish("1.0")
    side = Side(*["busy"] * 3)
    one = follow(side)
    real = time.time
    monkeypatch.setattr(watch, "RETRY", 0.5)  # the clock is set while it waits
    monkeypatch.setattr(watch, "MAX_RETRY", 0.5)

    async def story() -> None:
        await polled(one)
        await until(lambda: one.state == "retrying")
        monkeypatch.setattr(time, "time", lambda: real() - 365 * 86400)
        asked = side.asked
        await until(lambda: side.asked > asked)
        await polled(one)

    play(one, story)


def test_a_privileged_side_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(upgrade=Upgrade(socket_dir=tmp_path))
    for seconds, found in ((10.0, "No such file or directory"), (0.0, "no answer within 0 s")):
        monkeypatch.setattr(asking, "CONNECT_SECONDS", seconds)
        message = asyncio.run(asking.ask(config, "shop"))["message"]
        assert message == f"cannot connect to {tmp_path}/shop.sock: {found}; is shoal-upgrade@shop.socket started?"


def test_the_command_shows_an_application_that_cannot_be_followed_yet() -> None:
    """It is to be tried again, and nobody was asked so far."""
    app = {"app": "shop", "state": "retrying", "outcome": None, "polls": 1}
    assert command._is_settled(app)
    assert not command._is_well(app)
