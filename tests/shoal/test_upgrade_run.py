"""The privileged side of a pull: what it decides by signed metadata alone, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from release_helpers import App, Service, service
from upgrade_helpers import Shop, make_shop

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Service]:
    with service(App(tmp_path)) as one:
        yield one


@pytest.fixture
def shop(tmp_path: Path, served: Service) -> Shop:
    return make_shop(tmp_path, served)


def test_what_is_signed_and_here_is_activated_once(shop: Shop) -> None:
    shop.relay(shop.publish("1.0"))
    done = shop.run()
    assert (done["ok"], done["outcome"], done["sequence"], done["version"]) == (True, "activated", 1, "1.0")
    assert shop.releases.current() == "1.0"
    again = shop.run()
    assert (again["ok"], again["changed"], again["outcome"], again["reason"]) == (True, False, "nothing", "up_to_date")


def test_a_broken_version_is_left_and_not_tried_again(shop: Shop) -> None:
    shop.relay(shop.publish("1.0"))
    assert shop.run()["ok"]
    shop.relay(shop.publish("1.1", {"mode": "ill"}))
    back = shop.run()
    assert (back["ok"], back["outcome"], back["reason"]) == (False, "rolled_back", "health")
    assert shop.releases.current() == "1.0"
    again = shop.run()
    assert (again["changed"], again["outcome"], again["reason"]) == (False, "nothing", "failed_before")
    assert again["past"] == {"sequence": 1, "failed": [2]}
    shop.relay(shop.publish("1.2"))
    assert shop.run()["outcome"] == "activated"
