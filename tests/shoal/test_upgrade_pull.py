"""A whole pull: publisher's end point over HTTP, real agents and libtorrent, and the privileged side as a child."""

from __future__ import annotations

import http.server
import json
import signal
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agent_helpers import ask
from endpoint_helpers import Server
from endpoint_helpers import served as serve
from upgrade_helpers import Published, Shop, Unit, make_shop

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


def app_of(host: Any) -> dict[str, Any]:
    found: dict[str, Any] = host.client.app("shop")
    return found


class Reports:
    """Where outcomes are POSTed; the first one is not taken."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.asked = 0
        reports = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                reports.asked += 1
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if reports.asked > 1:
                    reports.taken.append(document)
                self.send_response(500 if reports.asked == 1 else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/outcomes"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def test_what_is_published_arrives_by_itself_and_what_is_broken_goes_back(
    shop: Shop, seeder: Any, host: Any, wait_until: Any
) -> None:
    def app() -> dict[str, Any]:
        return app_of(host)

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


def test_an_agent_that_is_killed_on_the_way_arrives_all_the_same(
    shop: Shop, seeder: Any, host: Any, wait_until: Any
) -> None:
    one = shop.publish("1.0")
    wait_until(lambda: app_of(host)["state"] == "fetching", timeout=WAIT, what="the fetching")
    host.kill()
    host.start()
    hand_over(one, seeder, host, wait_until)
    wait_until(lambda: app_of(host)["state"] in ("upgrading", "up_to_date"), timeout=WAIT, what="the asking")
    host.kill()
    host.start()
    wait_until(lambda: app_of(host)["state"] == "up_to_date", timeout=WAIT, what="1.0")
    assert shop.releases.current() == "1.0"
    assert shop.ask("status")["upgrade"]["channels"]["stable"]["failed"] == []


def watch(host: Any, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shoal", "watch", "--socket", str(host.socket), *flags],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )


def test_people_nudge_it_and_it_tells_of_itself(
    shop: Shop, web: Server, seeder: Any, agent_factory: Any, wait_until: Any
) -> None:
    """An interval of an hour: whatever happens here, happens because it was asked for."""
    one = shop.publish("1.0")
    with closing(Reports()) as reports:
        shop.keys = {"report_url": reports.url}
        shop.interval = 3600
        shop.follow()
        host = agent_factory(
            "host1", apps_dir=str(shop.places.apps), upgrade={"by": "child"}, metrics={"listen": "127.0.0.1:0"}
        )
        assert ask(host.socket, "POST", "/v1/apps/blog/poll").error["code"] == "not_found"
        host.client.poll_app("shop")
        hand_over(one, seeder, host, wait_until)
        done = watch(host, "--once", "--json", "shop")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["apps"][0]["state"] == "up_to_date"
        assert shop.releases.current() == "1.0"
        assert "up_to_date" in watch(host).stdout
        assert "'my shop' is not followed here" in watch(host, "my shop").stderr

        broken = shop.publish("1.1", {"broken": ""})
        host.client.poll_app("shop")
        hand_over(broken, seeder, host, wait_until)
        assert watch(host, "--once").returncode == 1
        web.folder = web.folder / "gone"
        failed = watch(host, "--once")
        assert failed.returncode == 1
        assert "unreachable" in failed.stdout

        wait_until(lambda: len(reports.taken) == 2, timeout=WAIT, what="the reports")
        activated, back = reports.taken
        assert (activated["host"], activated["app"], activated["outcome"]) == ("host1", "shop", "activated")
        assert (back["outcome"], back["reason"], back["version"]) == ("rolled_back", "post_activate", "1.1")
        assert reports.asked == 3

        figures = host.client.metrics()
        labels = 'app="shop",channel="stable"'
        for line in (
            f"shoal_app_sequence_seen{{{labels}}} 2.0",
            f"shoal_app_sequence_active{{{labels}}} 1.0",
            f'shoal_app_outcomes_total{{{labels},outcome="activated",reason="due"}} 1.0',
            f'shoal_app_outcomes_total{{{labels},outcome="rolled_back",reason="post_activate"}} 1.0',
            f'shoal_app_polls_refused_total{{{labels},reason="unreachable"}} 1.0',
            'shoal_torrents{state="complete"} 2.0',
        ):
            assert line in figures.splitlines()
        events = [json.loads(line) for line in host.log.splitlines()]
        port = next(event["metrics"] for event in events if event["message"] == "agent started")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert f"shoal_app_sequence_seen{{{labels}}} 2.0" in answer.read().decode()
        outcomes = [event["outcome"] for event in events if event.get("event") == "upgrade"]
        assert outcomes == ["activated", "rolled_back"]
        assert "shop: rolled_back (post_activate)" in [event["message"] for event in events]


def test_its_file_may_change_while_it_runs(shop: Shop, seeder: Any, host: Any, wait_until: Any) -> None:
    one = shop.publish("1.0")
    shop.follow(hold=True)
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: app_of(host)["decision"] == "held", timeout=WAIT, what="the hold")
    assert host.client.torrents() == []

    # what is wrong is not in force, and what was goes on
    right = shop.file.read_text()
    shop.file.write_text(right.replace("hold", "holt"))
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: app_of(host)["file_error"], timeout=WAIT, what="the refusal")
    assert "did you mean 'hold'?" in app_of(host)["file_error"]["message"]
    assert app_of(host)["decision"] == "held"

    shop.follow(auto="stage")
    host.process.send_signal(signal.SIGHUP)
    hand_over(one, seeder, host, wait_until)
    wait_until(lambda: app_of(host)["outcome"], timeout=WAIT, what="the staging")
    assert app_of(host)["outcome"]["outcome"] == "staged"
    assert shop.releases.current() is None

    shop.follow()
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: shop.releases.current() == "1.0", timeout=WAIT, what="1.0")


def window_from(opening: float, zones: Path) -> dict[str, Any]:
    """A window of two hours that opens then: at noon, in a time zone made for it (RFC 8536).

    Windows open at full minutes, zones may be any number of seconds ahead: nobody has to wait for the next minute.
    """
    ahead = (12 * 3600 - round(opening)) % 86400
    ahead -= 86400 if ahead > 12 * 3600 else 0
    zone = zones / f"Noon{round(opening)}"
    zone.write_bytes(b"TZif" + bytes(16) + struct.pack(">6LlBB4s", 0, 0, 0, 0, 1, 4, ahead, 0, 0, b"TST"))
    return {"cron": "0 12 * * *", "duration": 7200, "timezone": zone.name}


def test_an_agent_wakes_when_its_window_opens(
    shop: Shop, web: Server, seeder: Any, agent_factory: Any, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between polls, a day apart: the payload is here and unpacked long before, the window is for the switch alone."""
    zones = shop.base / "zones"
    zones.mkdir()
    monkeypatch.setenv("PYTHONTZPATH", str(zones))
    shop.interval = 86400
    shop.follow()
    host = agent_factory("host1", apps_dir=str(shop.places.apps), upgrade={"by": "child"})

    def polled() -> dict[str, Any]:
        """What was decided at the first poll by what the file says."""
        host.client.poll_app("shop")
        wait_until(lambda: app_of(host)["polls"] == 1, timeout=WAIT, what="the poll")
        return app_of(host)

    def polled_anew() -> dict[str, Any]:
        """The same, by what it says now."""
        host.process.send_signal(signal.SIGHUP)
        wait_until(lambda: app_of(host)["polls"] == 0, timeout=WAIT, what="the reload")
        return polled()

    assert polled()["error"]["code"] == "no_channel"
    for version, seconds in (("1.0", 4), ("1.1", 20), ("1.2", 80)):  # a busy machine may miss an opening or two
        one = shop.publish(version)
        shop.follow(windows=[window_from(time.time() + 36000, zones)])
        assert polled_anew()["decision"] == "outside_window"
        hand_over(one, seeder, host, wait_until)
        wait_until(lambda: (app_of(host)["outcome"] or {}).get("outcome") == "staged", timeout=WAIT, what="the staging")
        assert app_of(host)["state"] == "waiting"
        assert shop.releases.current() != version

        opening = time.time() + seconds
        shop.follow(windows=[window_from(opening, zones)])
        seen = polled_anew()
        wait_until(lambda one=version: shop.releases.current() == one, timeout=WAIT, what=f"{version} in the window")
        if seen["decision"] == "outside_window":
            break
    assert abs(seen["until"] - opening) <= 1
    assert time.time() >= seen["until"]
    wait_until(lambda: app_of(host)["state"] == "up_to_date", timeout=WAIT, what="the outcome")
    assert app_of(host)["polls"] == 1, "it was the window that woke it, and no poll"


def test_an_agent_asks_through_a_socket_and_again_until_somebody_answers(
    shop: Shop, web: Server, seeder: Any, agent_factory: Any, wait_until: Any, short_dir: Path
) -> None:
    host = agent_factory("host1", apps_dir=str(shop.places.apps), upgrade={"socket_dir": str(short_dir)})
    hand_over(shop.publish("1.0"), seeder, host, wait_until)
    wait_until(lambda: app_of(host)["state"] == "retrying", timeout=WAIT, what="the first try")
    assert app_of(host)["outcome"]["reason"] == "unreachable"
    with closing(Unit(shop, short_dir / "shop.sock", 600)):
        wait_until(lambda: app_of(host)["state"] == "up_to_date", timeout=WAIT, what="1.0")
    assert shop.releases.current() == "1.0"
