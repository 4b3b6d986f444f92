"""A taken-over agent against the privileged side: nothing unsigned or older is activated, and it still works after."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_helpers import Publisher
from release_helpers import App, wait_until
from upgrade_helpers import Published, Shop, Unit, make_shop

from shoal.upgrade import serve

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Published]:
    """1.0 was pulled and runs; 1.1 is published and fetched: some megabytes, so that reading it takes a while."""
    shop = make_shop(tmp_path_factory.mktemp("prepared"))
    shop.relay(shop.publish("1.0"))
    assert shop.run()["ok"]
    one = shop.publish("1.1", {"big": random.Random(1).randbytes(4 << 20)}, {"unpacked_bytes": 8 << 20})
    shop.relay(one)
    return shop, one


@pytest.fixture
def attacked(prepared: tuple[Shop, Published], tmp_path: Path) -> tuple[Shop, Published]:
    shop, one = prepared
    shutil.copytree(shop.base, tmp_path, symlinks=True, dirs_exist_ok=True)
    copied = Shop(tmp_path, App(tmp_path), shop.publisher, shop.release)
    copied.follow()
    return copied, one


def assert_still_works(shop: Shop, one: Published) -> None:
    """With what was published in its place again, it is activated."""
    shop.payload(one).parent.rename(shop.base / "attacked")
    shop.relay(one)
    result = shop.run()
    assert (result["outcome"], result["version"], shop.releases.current()) == ("activated", "1.1", "1.1")
    shop.releases.assert_settled()


# -- the payload -------------------------------------------------------------------------------------------------


def _symlink(payload: Path, evil: Path) -> None:
    payload.unlink()
    payload.symlink_to(evil)


def _symlink_of_the_right_bytes(payload: Path, evil: Path) -> None:
    moved = payload.rename(evil.parent / "right")
    payload.symlink_to(moved)


def _folder_elsewhere(payload: Path, evil: Path) -> None:
    moved = payload.parent.rename(evil.parent / "moved")
    payload.parent.symlink_to(moved)


def _store_elsewhere(payload: Path, evil: Path) -> None:
    store = payload.parent.parent
    moved = store.rename(evil.parent / "moved")
    store.symlink_to(moved)


def _fifo(payload: Path, evil: Path) -> None:
    payload.unlink()
    os.mkfifo(payload)


def _hard_link(payload: Path, evil: Path) -> None:
    payload.unlink()
    payload.hardlink_to(evil)


def _device(payload: Path, evil: Path) -> None:
    payload.unlink()
    payload.symlink_to("/dev/zero")


def _folder(payload: Path, evil: Path) -> None:
    payload.unlink()
    payload.mkdir()


def _cut(payload: Path, evil: Path) -> None:
    os.truncate(payload, payload.stat().st_size // 2)


def _longer(payload: Path, evil: Path) -> None:
    with payload.open("ab") as file:
        file.write(bytes(10240))


SWAPS: dict[Callable[[Path, Path], None], str] = {
    _symlink: "no_archive",
    _symlink_of_the_right_bytes: "no_archive",
    _folder_elsewhere: "no_archive",
    _store_elsewhere: "no_archive",
    _fifo: "no_archive",
    _hard_link: "wrong_bytes",
    _device: "no_archive",
    _folder: "no_archive",
    _cut: "wrong_bytes",
    _longer: "wrong_bytes",
}


@pytest.mark.parametrize("swap", SWAPS, ids=lambda swap: swap.__name__.strip("_"))
def test_what_is_not_the_signed_payload_is_not_unpacked(
    attacked: tuple[Shop, Published], swap: Callable[[Path, Path], None]
) -> None:
    shop, one = attacked
    evil = shop.base / "evil.tar"
    evil.write_bytes(shop.build("1.1", {"evil": "", "big": bytes(4 << 20)}).archive.read_bytes())
    swap(shop.payload(one), evil)
    result = shop.run()
    assert (result["ok"], result["outcome"], result["reason"]) == (False, "refused", SWAPS[swap])
    assert shop.releases.current() == "1.0"
    store = shop.places.store
    if store.is_symlink():
        store.unlink()
        store.mkdir()
        shop.payload(one).parent.mkdir()
    assert_still_works(shop, one)


def test_a_payload_that_changes_while_it_is_unpacked_is_never_half_believed(attacked: tuple[Shop, Published]) -> None:
    shop, one = attacked
    payload, right = shop.payload(one), shop.payload(one).read_bytes()
    wrong = bytearray(right)
    wrong[len(wrong) // 2] ^= 1
    stop = threading.Event()

    def swap() -> None:
        other = payload.with_name("other")
        while not stop.is_set():
            for data in (bytes(wrong), right):
                with payload.open("r+b") as file:  # in place ...
                    file.seek(len(data) // 2)
                    file.write(data[len(data) // 2 :][:4096])
                other.write_bytes(data)  # ... and by another file under its name
                other.replace(payload)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        results = [shop.run() for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert {(one["outcome"], one["reason"]) for one in results} <= {
        ("refused", "wrong_bytes"),
        ("activated", "due"),
        ("nothing", "up_to_date"),
    }
    if shop.releases.current() == "1.0":
        assert_still_works(shop, one)
    assert (shop.releases.root / "current/big").read_bytes() == random.Random(1).randbytes(4 << 20)


# -- the end point -----------------------------------------------------------------------------------------------


@pytest.fixture
def moved_on(attacked: tuple[Shop, Published], tmp_path: Path) -> tuple[Shop, Path]:
    """1.1 runs; and what the agent kept while 0.9 was the newest."""
    shop, _one = attacked
    shop.publisher = Publisher(tmp_path / "own")
    shop.follow()
    shutil.rmtree(shop.places.state)
    kept = shop.places.agent_state / "endpoints"
    shutil.rmtree(kept)
    shop.relay(shop.publish("0.9"))
    assert shop.run()["ok"]
    old = tmp_path / "old"
    shutil.copytree(kept, old)
    shop.relay(shop.publish("1.1", {"new": ""}))
    assert shop.run()["outcome"] == "activated"
    return shop, old


def replay(shop: Shop, old: Path) -> None:
    kept = shop.places.agent_state / "endpoints"
    shutil.rmtree(kept)
    shutil.copytree(old, kept)


def test_old_metadata_is_refused_whatever_the_agent_forgets(moved_on: tuple[Shop, Path]) -> None:
    shop, old = moved_on
    new = shop.base / "new"
    shutil.copytree(shop.places.agent_state / "endpoints", new)
    replay(shop, old)
    assert (shop.run()["outcome"], shop.run()["reason"]) == ("refused", "older")
    # python-tuf's memory lost too: the floor is left
    shutil.rmtree(shop.places.state / "shop" / "trusted")
    assert (shop.run()["outcome"], shop.run()["reason"]) == ("refused", "older")
    assert shop.releases.current() == "1.1"
    replay(shop, new)
    assert shop.run()["reason"] == "up_to_date"


LIES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "nothing is there": (shutil.rmtree, {"unreachable"}),
    "a changed channel": (
        lambda kept: [path.write_bytes(path.read_bytes() + b" ") for path in kept.glob("targets/*stable.json")],
        {"changed", "oversized"},
    ),
    "a cut timestamp": (lambda kept: os.truncate(kept / "timestamp.json", 100), {"nonsense", "wrongly_signed"}),
    "an endless timestamp": (lambda kept: os.truncate(kept / "timestamp.json", 1 << 40), {"oversized"}),
    "an endless root": (
        lambda kept: (kept / "root_history/2.root.json").write_bytes(bytes(1 << 20)),
        {"oversized"},
    ),
    "a FIFO": (
        lambda kept: ((kept / "timestamp.json").unlink(), os.mkfifo(kept / "timestamp.json")),
        {"unreachable"},
    ),
    "a link": (
        lambda kept: (kept / "timestamp.json").rename(kept / "t") and (kept / "timestamp.json").symlink_to(kept / "t"),
        {"unreachable"},
    ),
    "a link above": (
        lambda kept: kept.rename(kept.with_name("moved")) and kept.symlink_to(kept.with_name("moved")),
        {"unreachable"},
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_an_agent_serves_instead_is_refused(attacked: tuple[Shop, Published], lie: str) -> None:
    shop, one = attacked
    do, reasons = LIES[lie]
    shutil.rmtree(shop.places.state / "shop" / "trusted")  # as on a new host: everything is read
    kept = shop.places.agent_state / "endpoints/shop/stable"
    do(kept)
    result = shop.run()
    assert (result["outcome"], result["changed"]) == ("refused", False)
    assert result["reason"] in reasons
    assert shop.releases.current() == "1.0"
    shutil.rmtree(kept.parent)
    assert_still_works(shop, one)


# -- the socket --------------------------------------------------------------------------------------------------


@pytest.fixture
def unit(attacked: tuple[Shop, Published], short_dir: Path) -> Iterator[Unit]:
    one = Unit(attacked[0], short_dir / "shop.sock", 600)
    yield one
    one.close()


REQUESTS: dict[str, tuple[bytes, str]] = {
    "another application": (b'{"protocol": 1, "app": "blog"}\n', "other_app"),
    "a path": (b'{"protocol": 1, "app": "../shop"}\n', "other_app"),
    "more than is known": (b'{"protocol": 1, "app": "shop", "version": "0.1"}\n', "bad_request"),
    "another protocol": (b'{"protocol": 2, "app": "shop"}\n', "unsupported_protocol"),
    "no JSON": (b"GET / HTTP/1.1\r\n", "bad_request"),
    "no object": (b"[]\n", "bad_request"),
    "bytes": (b"\xff\xfe\x00\n", "bad_request"),
    "nested": (b"[" * 4000 + b"\n", "bad_request"),
    "too long": (b"x" * (serve.MAX_REQUEST * 4), "bad_request"),
}


def test_requests_that_are_wrong_are_refused_and_floods_and_silence_hold_nobody_up(
    attacked: tuple[Shop, Published], unit: Unit
) -> None:
    shop, _one = attacked
    for name, (request, code) in REQUESTS.items():
        assert unit.ask(request)["error"]["code"] == code, name
    assert shop.releases.current() == "1.0"

    with contextlib.ExitStack() as opened:
        # As many silent connections as there may be, and more: each has its time, then others have their turn.
        for _ in range(serve.MAX_CLIENTS):
            opened.enter_context(unit.connect())
        with unit.connect() as over:
            assert unit.answer(over)["error"]["code"] == "limit"
        deadline = time.monotonic() + 60
        while (result := unit.ask()).get("reason") == "limit":
            assert time.monotonic() < deadline, "silent connections hold the others up"
            time.sleep(0.2)
    assert (result["outcome"], result["version"]) == ("activated", "1.1")

    # A flood of requests: all follow the same few runs.
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(unit.connect()) for _ in range(serve.MAX_CLIENTS // 2)]
        for client in clients:
            client.sendall(b'{"protocol": 1, "app": "shop"}\n')
        for client in clients[::2]:
            client.close()  # half of them go without waiting
        for client in clients[1::2]:
            assert unit.answer(client)["reason"] == "up_to_date"
    assert unit.ask()["reason"] == "up_to_date"
    assert unit.process.poll() is None


def test_who_never_reads_does_not_keep_its_place(attacked: tuple[Shop, Published], unit: Unit) -> None:
    """More is said than a socket holds, and less than makes the unit drop a follower while the work goes on."""
    shop, _one = attacked
    loud = ["sh", "-c", "yes $(printf %01900d 0) | head -300"]
    shop.release = {**shop.release, "switch": {**shop.release["switch"], "hooks": {"pre_activate": loud}}}
    shop.follow()
    with contextlib.ExitStack() as opened:
        for _ in range(serve.MAX_CLIENTS):
            opened.enter_context(unit.connect()).sendall(b'{"protocol": 1, "app": "shop"}\n')
        wait_until(lambda: shop.releases.current() == "1.1", "the switch", 60)
        found = wait_until(lambda: (one := unit.ask())["reason"] != "limit" and one, "a place", 60)
    assert found["reason"] == "up_to_date"


def test_the_unit_ends_when_nobody_asks(attacked: tuple[Shop, Published], short_dir: Path) -> None:
    one = Unit(attacked[0], short_dir / "shop.sock", 0.5)
    try:
        assert one.process.wait(60) == 0
        assert one.path.is_socket(), "the socket's file is the service manager's"
    finally:
        one.close()


def test_serving_needs_a_socket_that_was_handed_over(capfd: Any) -> None:
    assert serve.serve("shop", [], 1) == 2
    assert "start it by its socket unit" in capfd.readouterr().err
