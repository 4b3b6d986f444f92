"""Web seeds are the last resort: a stalled torrent turns to them, after a delay of its own, and lets them go again."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import libtorrent as lt
import pytest
from swarm_helpers import content, hosts, make_payload, make_torrent

from shoal.swarm import AddTorrent, EventKind, State, WebSeedPolicy, totals
from shoal.swarm.webseeds import WebSeedTimer, port_of

SIZE = 1_000_000
SOON = WebSeedPolicy(stall_after=0.3, jitter=0.2, max_connections=2)


class WebSeed:
    """An HTTP server of one folder that counts what is asked of it."""

    def __init__(self, folder: Path) -> None:
        web = self
        self.requests: list[str] = []
        self.connections: set[tuple[str, int]] = set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.requests.append(self.path)
                web.connections.add(self.client_address)
                data = folder.joinpath(self.path.lstrip("/")).read_bytes()
                span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                first, last = (int(span[1]), int(span[2])) if span else (0, len(data) - 1)
                body = data[first : last + 1]
                self.send_response(206 if span else 200)
                if span:
                    self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # peers hang up when they have all
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebSeed]:
    server = WebSeed(tmp_path / "www")
    yield server
    server.close()


def test_a_swarm_that_delivers_leaves_the_server_alone(tmp_path: Path, web: WebSeed) -> None:
    """Though the .torrent itself names a web seed, which libtorrent would use from the first second."""
    payload = make_payload(tmp_path / "www" / "shop.tar", SIZE)
    torrent = make_torrent(payload, web_seeds=(web.url("shop.tar"),))
    slow = WebSeedPolicy(stall_after=3, jitter=1)
    with hosts(tmp_path, "publisher", "host1", web_seed=slow) as (publisher, host1):
        publisher.seed(torrent, payload)
        info_hash = host1.fetch(torrent, publisher, download_limit=SIZE // 2)
        status = host1.wait_complete(info_hash)
        assert status.web_seeds == (web.url("shop.tar"),)
        assert (status.from_web_seeds, status.from_peers) == (0, {"publisher": SIZE})
    assert web.requests == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_stalled_torrent_turns_to_the_server(tmp_path: Path, web: WebSeed, kind: str) -> None:
    if kind == "file":
        payload = make_payload(tmp_path / "www" / "shop.tar", SIZE)
    else:
        payload = make_payload(tmp_path / "www" / "shop" / "bin" / "shop", SIZE).parent.parent
        make_payload(payload / "README", 100)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "host1", web_seed=SOON) as (host1,):
        url = web.url("shop.tar" if kind == "file" else "")
        info_hash = host1.fetch(torrent)
        host1.wait_until(info_hash, lambda s: s.state is State.DOWNLOADING)
        host1.engine.extend(info_hash, AddTorrent(web_seeds=(url,)))
        status = host1.wait_complete(info_hash)
        used = host1.events.wait_for(EventKind.WEB_SEEDS_USED)
        assert used.what == url
        assert re.fullmatch(r"no byte came for \d+ s", used.message)
        assert status.payload_path is not None
        assert content(status.payload_path) == content(payload)
        assert (status.from_web_seeds, status.from_peers) == (status.size, {})
    assert len(web.connections) <= SOON.max_connections


def test_a_server_that_has_hung_up_is_still_known(tmp_path: Path, web: WebSeed) -> None:
    payload = make_payload(tmp_path / "www" / "shop.tar", SIZE)
    with hosts(tmp_path, "host1", web_seed=SOON) as (host1,):
        host1.react_late(lt.block_downloading_alert, lambda status: status.is_seeding and not status.num_peers)
        info_hash = host1.fetch(make_torrent(payload), web_seeds=(web.url("shop.tar"),))
        status = host1.wait_complete(info_hash)
        assert (status.from_web_seeds, status.from_peers) == (SIZE, {})


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://files.example:8080/shop.tar", 8080),
        ("https://files.example/shop.tar", 443),
        ("http://[::1]/", 80),
        ("http://files.example:bad/", 0),
        ("shop.tar", 0),
    ],
)
def test_where_a_server_is_asked(url: str, port: int) -> None:
    assert port_of(url) == port


def test_a_server_counts_where_bytes_come_fast_too(
    tmp_path: Path, web: WebSeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too fast to be told of each block, see test_swarm_totals.py."""
    size = 16 * SIZE
    monkeypatch.setattr(totals, "LARGE", size // 2)
    monkeypatch.setattr(totals, "_FAST", SIZE)  # or it is here before there was time to look
    payload = make_payload(tmp_path / "www" / "shop.tar", size)
    with hosts(tmp_path, "host1", web_seed=SOON) as (host1,):
        info_hash = host1.fetch(make_torrent(payload), web_seeds=(web.url("shop.tar"),), download_limit=2 * SIZE)
        host1.wait_until(info_hash, lambda s: host1.engine._torrents[info_hash].totals)
        before = host1.engine.status(info_hash)
        on_the_way = host1.wait_until(info_hash, lambda s: s.from_web_seeds >= before.from_web_seeds + SIZE)
        assert (on_the_way.state, on_the_way.from_peers) == (State.DOWNLOADING, {})
        host1.engine.set_torrent_limits(info_hash, 0, 0)
        status = host1.wait_complete(info_hash)
        assert (status.from_web_seeds, status.from_peers) == (size, {})
        assert len(host1.events.of(EventKind.WEB_SEEDS_USED)) == 1, "it is seen to deliver"


def test_a_swarm_that_comes_to_life_takes_over_from_the_server(tmp_path: Path, web: WebSeed) -> None:
    payload = make_payload(tmp_path / "www" / "shop.tar", 2 * SIZE)
    torrent = make_torrent(payload)
    patient = WebSeedPolicy(stall_after=1.0, jitter=0)
    with hosts(tmp_path, "publisher", "host1", web_seed=patient) as (publisher, host1):
        publisher.seed(torrent, payload)
        info_hash = host1.fetch(torrent, web_seeds=(web.url("shop.tar"),), download_limit=SIZE // 4)
        host1.wait_until(info_hash, lambda s: s.from_web_seeds > 0)
        host1.engine.connect(info_hash, [publisher.endpoint])
        host1.wait_until(info_hash, lambda s: s.from_peers)
        host1.engine.set_torrent_limits(info_hash, 0, 0)
        status = host1.wait_complete(info_hash)
        assert status.from_peers["publisher"] > 0
        assert status.from_peers["publisher"] + status.from_web_seeds == status.downloaded
        assert status.downloaded == pytest.approx(2 * SIZE, rel=0.01)
        assert len(host1.events.of(EventKind.WEB_SEEDS_USED)) == 1


def test_a_server_that_fails_is_told(tmp_path: Path, web: WebSeed) -> None:
    payload = make_payload(tmp_path / "shop.tar", SIZE)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "host1", web_seed=SOON) as (host1,):
        web.server.RequestHandlerClass.do_GET = lambda self: self.send_error(404)  # type: ignore[attr-defined]
        info_hash = host1.fetch(torrent, web_seeds=(web.url("shop.tar"),))
        error = host1.events.wait_for(EventKind.PEER_ERROR)
        assert error.what == web.url("shop.tar")
        assert "404" in error.message or "Not Found" in error.message
        assert host1.engine.status(info_hash).state is State.DOWNLOADING


def test_hosts_that_stall_together_do_not_turn_to_the_server_together() -> None:
    random.seed(5)
    policy = WebSeedPolicy(stall_after=20, jitter=20)
    timers = [WebSeedTimer(policy) for _ in range(200)]
    for timer in timers:
        timer.start(100.0)
    due = sorted(timer.due or 0.0 for timer in timers)
    assert 120 <= due[0] <= 122
    assert 138 <= due[-1] <= 140
    assert max(later - sooner for sooner, later in pairwise(due)) < 1
    # a server that does not help is given a minute, then another chance
    timers[1].use(200.0)
    assert timers[1].in_use
    assert 260.0 <= (timers[1].due or 0.0) <= 280.0
    # bytes of the swarm put it off; a torrent that wants none waits for nothing
    timers[1].swarm_delivered(210.0)
    assert not timers[1].in_use
    timers[0].swarm_delivered(1000.0)
    assert timers[0].due is not None
    assert timers[0].due >= 1020.0
    timers[0].stop()
    assert timers[0].due is None
