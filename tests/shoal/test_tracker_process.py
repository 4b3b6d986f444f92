"""``shoal tracker`` as a process, spoken to over raw sockets by well-behaved clients and by others."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from tracker_helpers import (
    DEADLINE,
    RunningTracker,
    announce_query,
    compact_peers,
    exchange,
    get,
    talk,
    tracker_process,
)

from shoal.tracker import Tracker, TrackerSettings


@pytest.fixture(scope="module")
def tracker() -> Iterator[RunningTracker]:
    with tracker_process() as running:
        yield running


@pytest.fixture
def info_hash(request: pytest.FixtureRequest) -> bytes:
    """A swarm of the test's own in the shared tracker."""
    return random.Random(request.node.name).randbytes(20)


def peer_id(number: int) -> bytes:
    return b"-XX0001-%012d" % number


def test_two_clients_find_each_other_and_the_counts_are_told(tracker: RunningTracker, info_hash: bytes) -> None:
    status, answer = get(tracker.url, announce_query(info_hash, peer_id(1), left=0, port=7001, event="started"))
    assert (status, answer) == (
        200,
        {b"complete": 1, b"incomplete": 0, b"interval": 60, b"min interval": 30, b"peers": b""},
    )
    _, answer = get(tracker.url, announce_query(info_hash, peer_id(2), port=7002, event="started"))
    assert compact_peers(answer) == [("127.0.0.1", 7001)]
    assert (answer[b"complete"], answer[b"incomplete"]) == (1, 1)
    _, answer = get(tracker.url, announce_query(info_hash, peer_id(2), port=7002, left=0, event="completed"))
    assert compact_peers(answer) == []  # both have everything
    _, answer = get(tracker.url, announce_query(info_hash, peer_id(1), port=7001, left=0, event="stopped"))
    nobody = b"\xff\xfe" * 10
    _, scraped = get(tracker.url, announce_query(info_hash) + "&info_hash=" + "%FF%FE" * 10, path="/scrape")
    assert scraped == {
        b"files": {
            info_hash: {b"complete": 1, b"downloaded": 1, b"incomplete": 0},
            nobody: {b"complete": 0, b"downloaded": 0, b"incomplete": 0},
        }
    }


def test_the_long_form_for_those_who_decline_the_short_one(tracker: RunningTracker, info_hash: bytes) -> None:
    get(tracker.url, announce_query(info_hash, peer_id(1), port=7001))
    _, answer = get(tracker.url, announce_query(info_hash, peer_id(2), compact=0))
    assert answer[b"peers"] == [{b"ip": b"127.0.0.1", b"peer id": peer_id(1), b"port": 7001}]
    _, answer = get(tracker.url, announce_query(info_hash, peer_id(2), compact=0, no_peer_id=1))
    assert answer[b"peers"] == [{b"ip": b"127.0.0.1", b"port": 7001}]


def test_hosts_on_ipv4_and_ipv6_are_one_swarm(info_hash: bytes) -> None:
    with tracker_process(listen=("127.0.0.1:0", "[::1]:0")) as tracker:
        four, six = tracker.urls
        assert six.startswith("http://[::1]:")
        get(four, announce_query(info_hash, peer_id(4), port=7004))
        _, answer = get(six, announce_query(info_hash, peer_id(6), port=7006))
        assert compact_peers(answer) == [("127.0.0.1", 7004)]
        get(six, announce_query(info_hash, peer_id(66), port=7066))
        _, answer = get(four, announce_query(info_hash, peer_id(4), port=7004))
        assert sorted(compact_peers(answer)) == [("::1", 7006), ("::1", 7066)]
        _, answer = get(four, announce_query(info_hash, peer_id(4), port=7004, compact=0, no_peer_id=1, numwant=1))
        assert answer[b"peers"][0][b"ip"] == b"::1"


def test_all_addresses_of_both_families_are_served_side_by_side(info_hash: bytes) -> None:
    with tracker_process(listen=("[::]:0", "0.0.0.0:0")) as tracker:
        ports = [urlsplit(url).port for url in tracker.urls]
        get(f"http://[::1]:{ports[0]}", announce_query(info_hash, peer_id(6), port=7006))
        _, answer = get(f"http://127.0.0.1:{ports[1]}", announce_query(info_hash, peer_id(4)))
        assert compact_peers(answer) == [("::1", 7006)]


@pytest.mark.parametrize(("options", "expected"), [((), "127.0.0.1"), (("--believe-ip",), "198.51.100.9")])
def test_the_address_a_client_gives_counts_only_when_told_so(options: tuple[str, ...], expected: str) -> None:
    with tracker_process(*options) as tracker:
        get(tracker.url, announce_query(peer_id=peer_id(1), port=7001, ip="198.51.100.9"))
        _, answer = get(tracker.url, announce_query(peer_id=peer_id(2)))
        assert compact_peers(answer) == [(expected, 7001)]


def test_silent_peers_are_forgotten_after_the_lifetime() -> None:
    with tracker_process("--interval", "1", "--min-interval", "1", "--lifetime", "2") as tracker:
        _, answer = get(tracker.url, announce_query(peer_id=peer_id(1), port=7001))
        assert (answer[b"interval"], answer[b"min interval"]) == (1, 1)
        end = time.monotonic() + DEADLINE
        while compact_peers(get(tracker.url, announce_query(peer_id=peer_id(2)))[1]):
            assert time.monotonic() < end, "still told of a peer that has been silent"
            time.sleep(0.05)


def test_a_request_may_come_in_any_pieces(tracker: RunningTracker, info_hash: bytes) -> None:
    request = f"GET /announce?{announce_query(info_hash)} HTTP/1.1\r\nHost: tracker\r\n\r\n".encode()
    for size in (1, 7, 100):
        status, answer = exchange(tracker.url, *(request[at : at + size] for at in range(0, len(request), size)))
        assert (status, answer[b"incomplete"]) == (200, 1)


def test_http_1_0_and_absolute_urls_are_served(tracker: RunningTracker, info_hash: bytes) -> None:
    for target in (f"/announce?{announce_query(info_hash)}", f"{tracker.url}?{announce_query(info_hash)}"):
        status, answer = exchange(tracker.url, f"GET {target} HTTP/1.0\r\n\r\n".encode())
        assert (status, answer[b"incomplete"]) == (200, 1)


@pytest.mark.parametrize(
    ("method", "path", "query", "status", "reason"),
    [
        ("GET", "/announce", "", 200, b"info_hash is missing: expected 20 bytes, percent-encoded"),
        ("GET", "/announce", announce_query(port=0), 200, b"port is '0': expected a number from 1 to 65535"),
        ("GET", "/announce", "x" * 9000, 200, b"the query has 9000 bytes: at most 8192 are read"),
        ("GET", "/scrape", "info_hash=short", 200, b"info_hash has 5 bytes: expected 20, percent-encoded"),
        ("GET", "/", "", 404, b"nothing is here: this tracker knows /announce and /scrape"),
        ("GET", "/announce/../etc/passwd", "", 404, b"nothing is here: this tracker knows /announce and /scrape"),
        ("POST", "/announce", announce_query(), 405, b"/announce takes GET requests only"),
    ],
)
def test_refusals_say_why_in_the_clients_own_language(
    tracker: RunningTracker, method: str, path: str, query: str, status: int, reason: bytes
) -> None:
    request = f"{method} {path}?{query} HTTP/1.1\r\nHost: tracker\r\n\r\n".encode()
    assert exchange(tracker.url, request) == (status, {b"failure reason": reason})


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x13BitTorrent protocol" + bytes(48),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"GET /announce?info_hash=\xff\xfe\x80 HTTP/1.1\r\n\r\n",
        b"GET /announce?%zz%&&&==&%00=%0a#?&a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /announce HTTP/9.9\r\n\r\n",
        b"POST /announce HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /announce HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET /announce?" + b"y" * 1_000_000,
        b"GET /announce HTTP/1.1\r\nX-Endless: " + b"y" * 1_000_000,
        b"GET /announce HTTP/1.1\r\n" + b"A: b\r\n" * 100_000,
        b"\r\n" * 1000 + b"\0" * 1000 + b"\r\n\r\n",
    ],
    ids=lambda garbage: repr(garbage[:24]),
)
def test_garbage_is_turned_away_and_hurts_nobody(garbage: bytes, info_hash: bytes) -> None:
    with tracker_process() as tracker:  # which has nothing to complain about at its end
        answer = talk(tracker.url, garbage)
        head = answer.partition(b"\r\n")[0]
        assert not head or head.split()[1] in (b"200", b"400", b"405"), answer[:300]
        assert get(tracker.url, announce_query(info_hash))[1][b"incomplete"] == 1


def test_random_requests_are_answered_whatever_they_say(tracker: RunningTracker) -> None:
    chance = random.Random(3)
    keys = set()
    for _ in range(200):
        query = announce_query(info_hash=chance.randbytes(20)).encode()
        at = chance.randrange(len(query))
        query = query[:at] + bytes(chance.choices(range(0x21, 0x7F), k=3)) + query[at + 3 :]
        status, answer = exchange(tracker.url, b"GET /announce?" + query + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status == 200
        keys.update(answer)
    assert keys == {b"failure reason", b"complete", b"incomplete", b"interval", b"min interval", b"peers"}


def test_many_who_connect_and_say_nothing_keep_nobody_out(tracker: RunningTracker, info_hash: bytes) -> None:
    port = urlsplit(tracker.url).port
    with ExitStack() as silent:
        for _ in range(200):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert get(tracker.url, announce_query(info_hash))[0] == 200


@pytest.mark.parametrize(
    "sent", [b"", b"GET /announce?info_hash=", b"GET /announce HTTP/1.1\r\nContent-Length: 9\r\n\r\n"]
)
def test_nobody_can_hold_a_connection_open(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.tracker.http.CONNECTION_SECONDS", 0.2)

    async def cut_off() -> None:
        tracker = Tracker(TrackerSettings(listen=(("127.0.0.1", 0),)))
        await tracker.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(tracker.urls[0]).port)
        writer.write(sent)
        await asyncio.wait_for(reader.read(), DEADLINE)
        writer.close()
        await tracker.stop()

    asyncio.run(cut_off())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_while_clients_are_connected(number: signal.Signals) -> None:
    words = [sys.executable, "-m", "shoal", "tracker", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline()
        port = urlsplit(url.strip()).port
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(b"GET /announce")
            process.send_signal(number)
            out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, err) == (0, "", "")


def test_an_address_in_use_is_named(tracker: RunningTracker) -> None:
    port = urlsplit(tracker.url).port
    done = shoal_tracker("--listen", "127.0.0.1:0", "--listen", f"127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"shoal tracker: cannot listen on 127.0.0.1, port {port}: " in done.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--listen", "6969"], "'6969': expected HOST:PORT or [IPv6]:PORT, with a port from 0 to 65535"),
        (["--listen", "::1:6969"], "'::1:6969': expected HOST:PORT or [IPv6]:PORT"),
        (["--listen", "127.0.0.1:70000"], "'127.0.0.1:70000': expected HOST:PORT"),
        (["--interval", "soon"], "invalid int value: 'soon'"),
        (["--interval", "200"], "interval 200, min interval 30, lifetime 180: expected 1 <= min interval <= interval"),
        (["--min-interval", "0"], "interval 60, min interval 0, lifetime 180: expected 1 <= min interval"),
    ],
)
def test_wrong_options_are_refused_with_what_was_expected(options: list[str], complaint: str) -> None:
    done = shoal_tracker(*options)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


def shoal_tracker(*options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "shoal", "tracker", *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)
