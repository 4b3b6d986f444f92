# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Trackers that answer as real ones do, and as broken ones do. The real ones: tests/shoal/test_contract_tracker.py."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import struct
import threading
import time

import pytest
from ansible_collections.shoal.deploy.plugins.module_utils import _tracker as trackers

HASH = bytes(bytearray(range(20)))
WHO = trackers.Identity(b"-SH0100-abcdefghijkl", 50000, 7)


@contextlib.contextmanager
def http_tracker(*bodies, **options):
    """A server that answers each connection with the next of the bodies; yields its announce URL and the requests.

    ``then``, where it is given, is the body for all that come after them.
    """
    status = options.get("status", "200 OK")
    pause = options.get("pause", 0)
    if "then" in options:
        bodies = itertools.chain(bodies, itertools.repeat(options["then"]))
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(5)
    requests = []
    over = threading.Event()

    def serve():
        for body in bodies:
            try:
                connection, _peer = server.accept()
            except OSError:
                return
            with contextlib.closing(connection), contextlib.suppress(OSError):
                request = b""
                while b"\r\n\r\n" not in request:
                    received = connection.recv(65536)
                    if not received:
                        return
                    request += received
                requests.append(request.split(b"\r\n")[0].decode())
                connection.sendall(("HTTP/1.1 %s\r\nConnection: close\r\n\r\n" % status).encode())
                if not pause:
                    connection.sendall(body)
                for number in range(len(body) if pause else 0):
                    connection.sendall(body[number : number + 1])
                    if over.wait(pause):
                        return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield "http://127.0.0.1:%d/announce" % server.getsockname()[1], requests
    finally:
        over.set()
        # A thread that still waits for a connection gets one that says nothing.
        with contextlib.suppress(OSError), contextlib.closing(socket.create_connection(server.getsockname(), 1)):
            pass
        server.close()
        thread.join(10)
        assert not thread.is_alive()


@contextlib.contextmanager
def udp_tracker(*answers):
    """A socket that answers each packet with what the next of the functions makes of it; None is silence."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.settimeout(10)
    packets = []

    def serve():
        for answer in answers:
            packet, peer = server.recvfrom(65536)
            if packet == b"over":
                return
            packets.append(packet)
            for reply in answer(packet) or ():
                server.sendto(reply, peer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield "udp://127.0.0.1:%d" % server.getsockname()[1], packets
    finally:
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as bell:
            bell.sendto(b"over", server.getsockname())
        thread.join(15)
        server.close()
        assert not thread.is_alive()


def reply(action, body, strangers=()):
    """Answer with the request's own transaction, after packets of strangers."""
    return lambda packet: [*strangers, struct.pack(">I", action) + packet[12:16] + body]


CONNECTED = reply(0, struct.pack(">Q", 99))


def ask(url, timeout=60.0, **options):
    return trackers.tracker_for(url, timeout=timeout, validate_certs=True, ca_path=None, **options)


def failure(kind, call):
    """What the error says that a call raises."""
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


class TestBencoding:
    @pytest.mark.parametrize(
        ("data", "value"),
        [
            (b"d1:bi1e1:ai2ee", {b"b": 1, b"a": 2}),  # chihaya's main does not sort its keys
            (b"i007e", 7),
            (b"l4:spami-3elee", [b"spam", -3, []]),
            (b"i1e\n", 1),
            (b"0:", b""),
        ],
    )
    def test_takes_what_trackers_send(self, data, value):
        assert trackers.bdecode(data) == value

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"x",
            b"i1",
            b"ie",
            b"i--1e",
            b"5:spam",
            b"99999999999999:a",
            b"l",
            b"d1:ae",
            b"di1ei2ee",
            b"d",
            b"l" * 5000,
        ],
    )
    def test_refuses_the_rest_as_a_value_error(self, data):
        with pytest.raises(ValueError):
            trackers.bdecode(data)

    def test_digits_are_limited(self):
        # Converting a million digits takes Python seconds.
        with pytest.raises(ValueError):
            trackers.bdecode(b"i" + b"9" * 1000000 + b"e")


class TestHttp:
    def test_announce_compact(self):
        peers = bytes(bytearray([10, 0, 0, 1, 0x1A, 0xE1]))
        peers6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + b"\x1a\xe1"
        body = (
            b"d8:completei3e10:incompletei4e8:intervali60e12:min intervali30e5:peers6:%s6:peers618:%s"
            b"15:warning message4:slowe" % (peers, peers6)
        )
        with http_tracker(body) as (url, requests):
            answer = ask(url).announce(HASH, WHO, "started", 9)
        assert answer == trackers.Announce(60, 30, 3, 4, (("10.0.0.1", 6881), ("2001:db8::1", 6881)), "slow")
        assert "info_hash=%00%01%02%03%04%05%06%07%08%09%0A%0B%0C%0D%0E%0F%10%11%12%13&" in requests[0]
        assert "&event=started" in requests[0]
        assert "&numwant=9&" in requests[0]
        assert "&left=1&" in requests[0]

    def test_announce_with_a_list_of_peers(self):
        body = b"d8:intervali60e5:peersld2:ip9:127.0.0.17:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti6881eed2:ip1:aeee"
        with http_tracker(body) as (url, _requests):
            assert ask(url).announce(HASH, WHO).peers == (("127.0.0.1", 6881),)

    def test_refusal_whatever_the_status(self):
        with http_tracker(b"d14:failure reason18:unapproved torrente", status="403 Forbidden") as (url, _requests):
            assert re.search(
                r"^unapproved torrent$", failure(trackers.RefusedError, lambda: ask(url).announce(HASH, WHO))
            )

    @pytest.mark.parametrize(
        ("body", "status", "said"),
        [
            (b"<html>hello</html>", "200 OK", "no tracker's answer"),
            (b"not here", "404 Not Found", "HTTP status 404"),
            (b"i1e", "200 OK", "bencoded int"),
            (b"x" * (trackers.MAX_ANSWER + 1), "200 OK", "more than 1048576 bytes"),
        ],
    )
    def test_what_is_no_tracker(self, body, status, said):
        with http_tracker(body, status=status) as (url, _requests):
            assert re.search(said, failure(trackers.TrackerError, lambda: ask(url).announce(HASH, WHO)))

    def test_a_tracker_that_drips_bytes_does_not_outlast_the_time_limit(self):
        with http_tracker(b"d" * 10000, pause=0.05) as (url, _requests):
            started = time.monotonic()
            with pytest.raises(trackers.TrackerError, match=r"no answer within 0.5 s"):
                ask(url, timeout=0.5).announce(HASH, WHO)
            assert time.monotonic() - started < 5

    def test_nobody_listens(self):
        with contextlib.closing(socket.socket()) as unused:
            unused.bind(("127.0.0.1", 0))
            url = "http://127.0.0.1:%d/announce" % unused.getsockname()[1]
            with pytest.raises(trackers.TrackerError, match=r"cannot be reached: .*refused"):
                ask(url).announce(HASH, WHO)

    def test_scrape(self):
        other = b"z" * 20
        known = b"d5:filesd20:%sd8:completei5e10:downloadedi4e10:incompletei1eeee" % HASH
        # What a long scrape leaves out is asked for alone.
        with http_tracker(known, b"d5:filesdee") as (url, requests):
            assert ask(url).scrape([HASH, other]) == {HASH: trackers.Swarm(5, 1, 4)}
        assert requests[1].startswith("GET /scrape?info_hash=" + "z" * 20 + " ")

    def test_scrape_that_is_refused_for_one_unknown_info_hash(self):
        # As chihaya v1.0.2 does.
        other = b"z" * 20
        known = b"d5:filesd20:%sd8:completei5e10:downloadedi4e10:incompletei1eeee" % HASH
        unknown = b"d14:failure reason22:torrent does not existe"
        with http_tracker(unknown, known, unknown) as (url, _requests):
            assert ask(url).scrape([HASH, other]) == {HASH: trackers.Swarm(5, 1, 4)}
        with http_tracker(b"d14:failure reason10:not for yoe") as (url, _requests):
            assert failure(trackers.RefusedError, lambda: ask(url).scrape([HASH])) == "not for yo"

    @pytest.mark.parametrize(
        ("announce", "scrape"),
        [
            ("http://t/announce", "http://t/scrape"),
            ("http://t/x/announce.php?a=b", "http://t/x/scrape.php?a=b"),
            ("http://t/key/announce", "http://t/key/scrape"),
            ("http://t/a", None),
            ("http://t/announce/x", None),
        ],
    )
    def test_scrape_url(self, announce, scrape):
        assert trackers.scrape_url_of(announce) == scrape


class TestUdp:
    def test_announce(self):
        answer = struct.pack(">III", 60, 4, 3) + bytes(bytearray([10, 0, 0, 1, 0x1A, 0xE1])) + b"odd"
        strangers = (b"short", struct.pack(">II", 1, 12345) + b"not ours")
        with udp_tracker(CONNECTED, reply(1, answer, strangers)) as (url, packets):
            told = ask(url).announce(HASH, WHO, "stopped", 5)
        assert told == trackers.Announce(60, None, 3, 4, (("10.0.0.1", 6881),), None)
        assert packets[0][:12] == struct.pack(">QI", 0x41727101980, 0)
        connection, action, _transaction, info_hash, peer_id = struct.unpack(">QII20s20s", packets[1][:56])
        assert (connection, action, info_hash, peer_id) == (99, 1, HASH, WHO.peer_id)
        assert struct.unpack(">QQQIIIiH", packets[1][56:]) == (0, 1, 0, 3, 0, 7, 5, 50000)

    def test_what_the_url_says_beyond_host_and_port_is_sent_along(self):
        with udp_tracker(CONNECTED, reply(1, struct.pack(">III", 60, 0, 0))) as (url, packets):
            ask(url + "/announce?jwt=abc").announce(HASH, WHO)
        assert packets[1][98:] == b"\x02\x11/announce?jwt=abc"

    def test_a_lost_packet_is_sent_again(self):
        with udp_tracker(lambda packet: None, CONNECTED, reply(2, struct.pack(">III", 5, 4, 1))) as (url, packets):
            assert ask(url).scrape([HASH]) == {HASH: trackers.Swarm(5, 1, 4)}
        assert packets[0] == packets[1]

    def test_silence_ends_at_the_time_limit(self):
        with udp_tracker(lambda packet: None, lambda packet: None) as (url, _packets):
            assert re.search(
                r"cannot be reached: no answer within 0\.\d+ s",
                failure(trackers.TrackerError, lambda: ask(url, timeout=0.3).announce(HASH, WHO)),
            )

    def test_refusals(self):
        with udp_tracker(CONNECTED, reply(3, b"unapproved client\0")) as (url, _packets):
            assert re.search(
                r"^unapproved client$", failure(trackers.RefusedError, lambda: ask(url).announce(HASH, WHO))
            )
        with udp_tracker(CONNECTED, reply(1, b"")) as (url, _packets):
            assert re.search(r"opentracker", failure(trackers.RefusedError, lambda: ask(url).announce(HASH, WHO)))

    def test_broken_answers(self):
        with udp_tracker(reply(0, b"1234")) as (url, _packets):
            assert re.search(
                r"12 bytes, expected 16", failure(trackers.TrackerError, lambda: ask(url).announce(HASH, WHO))
            )
        with udp_tracker(CONNECTED, reply(1, b"1234")) as (url, _packets):
            assert re.search(
                r"4 bytes, expected 20", failure(trackers.TrackerError, lambda: ask(url).announce(HASH, WHO))
            )
        with udp_tracker(CONNECTED, reply(2, b"1234")) as (url, _packets):
            assert re.search(
                r"action 2 to action 1", failure(trackers.TrackerError, lambda: ask(url).announce(HASH, WHO))
            )


def scraped(leechers):
    return b"d5:filesd20:%sd8:completei0e10:incompletei%deeee" % (HASH, leechers)


TOLD = b"d8:intervali60ee"
NOBODY = b"d5:filesdee"


class TestProbe:
    def test_withdraws_when_the_tracker_breaks_down_in_between(self):
        with http_tracker(NOBODY, TOLD, b"nonsense", TOLD) as (url, requests):
            assert "no tracker's answer" in failure(trackers.TrackerError, lambda: trackers.prove(ask(url), WHO))
        assert "event=started" in requests[1]
        assert "event=stopped" in requests[3]

    def test_a_tracker_that_forgets_what_it_was_told_is_not_healthy(self):
        with http_tracker(then=NOBODY) as (url, _requests):
            tracker = ask(url)
            tracker.announce = lambda *_args: trackers.Announce(60, None, None, None, (), None)
            assert "does not count" in failure(trackers.TrackerError, lambda: trackers.prove(tracker, WHO))

    def test_a_withdrawal_that_overtook_the_announce_is_told_again(self):
        with http_tracker(scraped(1), TOLD, scraped(2), TOLD, then=scraped(2)) as (url, requests):
            trackers.sample_peers(ask(url), HASH, WHO, 5)
        assert len([request for request in requests if "event=stopped" in request]) > 1

    def test_sample_leaves_ourselves_out_and_withdraws(self):
        ours = bytes(bytearray([10, 0, 0, 9])) + struct.pack(">H", WHO.port)
        peers = bytes(bytearray([10, 0, 0, 1, 0x1A, 0xE1])) + ours
        bodies = [scraped(1), b"d8:intervali60e5:peers12:%se" % peers, scraped(2), TOLD, scraped(1)]
        with http_tracker(*bodies) as (url, requests):
            assert trackers.sample_peers(ask(url), HASH, WHO, 5).peers == (("10.0.0.1", 6881),)
        assert "numwant=6&" in requests[1]
        assert "event=stopped" in requests[3]


@pytest.mark.parametrize(
    "url", ["", "tracker:6969", "ftp://t/announce", "http:///announce", "udp://t", "http://t:x/announce"]
)
def test_no_announce_url(url):
    with pytest.raises(trackers.TrackerError, match=r"announce URL"):
        ask(url)
