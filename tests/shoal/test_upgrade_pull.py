"""A whole pull: publisher's end point over HTTP, real agents and libtorrent, and the privileged side as a child."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_helpers import Server
from endpoint_helpers import served as serve
from upgrade_helpers import Published, Shop, make_shop

WAIT = 120.0  # seconds


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return make_shop(tmp_path)


@pytest.fixture
def web(shop: Shop) -> Iterator[Server]:
    with serve(shop.publisher.folder) as server:
        shop.urls = [server.url]
        shop.follow()
        yield server


@pytest.fixture
def seeder(agent_factory: Any) -> Any:
    return agent_factory("publisher")


@pytest.fixture
def host(shop: Shop, web: Server, agent_factory: Any) -> Any:
    return agent_factory("host1", apps_dir=str(shop.places.apps), upgrade={"by": "child"})


def hand_over(one: Published, seeder: Any, host: Any, wait_until: Any) -> None:
    """What a tracker does: the host hears of the seeder."""
    seeder.seed(one.archive, one.torrent)
    wait_until(
        lambda: any(torrent["info_hash"] == one.manifest.info_hash for torrent in host.client.torrents()),
        timeout=WAIT,
        what="the torrent at the agent",
    )
    host.client.change(one.manifest.info_hash, peers=[seeder.peer])


def test_what_is_published_arrives_by_itself_and_what_is_broken_goes_back(
    shop: Shop, seeder: Any, host: Any, wait_until: Any
) -> None:
    def app() -> dict[str, Any]:
        found: dict[str, Any] = host.client.app("shop")
        return found

    hand_over(shop.publish("1.0"), seeder, host, wait_until)
    wait_until(lambda: app()["state"] == "up_to_date", timeout=WAIT, what="1.0")
    assert shop.releases.current() == "1.0"
    assert app()["outcome"]["outcome"] == "activated"

    hand_over(shop.publish("1.1", {"broken": ""}), seeder, host, wait_until)
    wait_until(lambda: app()["state"] == "failed", timeout=WAIT, what="the way back from 1.1")
    assert shop.releases.current() == "1.0"
    assert (app()["outcome"]["outcome"], app()["failed"]) == ("rolled_back", [2])
    polls = app()["polls"]
    wait_until(lambda: app()["polls"] > polls + 1, timeout=WAIT, what="two more polls")
    assert (app()["state"], app()["decision"]) == ("failed", "failed_before")

    hand_over(shop.publish("1.2"), seeder, host, wait_until)
    wait_until(lambda: app()["state"] == "up_to_date", timeout=WAIT, what="1.2")
    assert shop.releases.current() == "1.2"
