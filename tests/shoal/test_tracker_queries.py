"""What the tracker reads in a query: every wrong parameter is named, nothing a stranger sends is an accident."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracker_helpers import announce_query

from shoal.tracker.queries import MAX_SCRAPE, parse_announce, parse_scrape
from shoal.tracker.swarms import Announce, Event, TrackerError

T = TypeVar("T")
HERE = ip_address("192.0.2.7")
NAMES = ["info_hash", "peer_id", "port", "left", "event", "numwant", "ip", "compact", "no_peer_id", "key", "x"]


def test_a_whole_announce_is_read_byte_by_byte() -> None:
    info_hash = bytes(range(0xEC, 0x100))  # not UTF-8
    peer_id = b"a+b c%d&e=f?g#h/i\x00jk"
    query = announce_query(info_hash, peer_id, port=1, left=2**64 - 1, event="completed", numwant=3, key="k", zzz="?")
    asked = parse_announce(query.encode(), HERE)
    assert asked.announce == Announce(info_hash, peer_id, HERE, 1, 2**64 - 1, Event.COMPLETED, 3)
    assert (asked.compact, asked.no_peer_id) == (True, False)


def test_the_answer_is_short_unless_that_is_declined() -> None:
    for more, compact, no_peer_id in (
        ({}, True, False),
        ({"compact": 1}, True, False),
        ({"compact": 0, "no_peer_id": 1}, False, True),
    ):
        asked = parse_announce(announce_query(**more).encode(), HERE)
        assert (asked.compact, asked.no_peer_id) == (compact, no_peer_id)


def test_the_address_is_the_one_we_see_unless_clients_are_believed() -> None:
    query = announce_query(ip="198.51.100.1", ipv4="198.51.100.2", ipv6="2001:db8::2").encode()
    assert parse_announce(query, HERE).announce.address == HERE
    assert parse_announce(query, HERE, believe_address=True).announce.address == ip_address("198.51.100.1")
    assert parse_announce(announce_query().encode(), HERE, believe_address=True).announce.address == HERE
    mapped = announce_query(ip="::ffff:198.51.100.1").encode()
    assert parse_announce(mapped, HERE, believe_address=True).announce.address == ip_address("198.51.100.1")


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("", "info_hash is missing: expected 20 bytes"),
        (announce_query(info_hash=b"h" * 19), "info_hash has 19 bytes: expected 20"),
        (announce_query(info_hash=b"h" * 32), "info_hash has 32 bytes: expected 20"),
        (announce_query() + "&info_hash=" + "h" * 20, "info_hash is given 2 times: at most 1 here"),
        (announce_query(peer_id=b"short"), "peer_id has 5 bytes: expected 20"),
        (announce_query().replace("peer_id", "peerid"), "peer_id is missing: expected 20 bytes"),
        (announce_query(port=0), "port is '0': expected a number from 1 to 65535"),
        (announce_query(port=65536), "port is '65536': expected a number"),
        (announce_query(port="0x50"), "port is '0x50': expected a number"),
        (announce_query(port="٣"), "port is .*: expected a number"),
        (announce_query().replace("port", "porto"), "port is missing: expected a number from 1 to 65535"),
        (announce_query(port="9" * 5000), "port has 5000 bytes: at most 64 are read"),
        (announce_query() + "&port=1", "port is given 2 times: once is enough"),
        (announce_query(left=-1), "left is '-1': expected a number from 0"),
        (announce_query(left=2**64), "left is '18446744073709551616': expected a number from 0"),
        (announce_query(left=""), "left is missing: expected a number from 0"),
        (announce_query(event="begun"), "event is 'begun': expected started, completed, stopped or paused"),
        (announce_query(event=b"\xff\n"), r"event is .*xff.*: expected started"),
        (announce_query(numwant="many"), "numwant is 'many': expected a number from -1"),
        (announce_query(numwant=-2), "numwant is '-2': expected a number from -1"),
        (announce_query(ip="host1.example"), "ip is 'host1.example': expected an IP address, no host name"),
        (announce_query(ip="224.0.0.1"), "ip is 224.0.0.1: no peer can be reached there"),
        (announce_query(ip="::"), "ip is ::: no peer can be reached there"),
        (announce_query() + "&x=" + "y" * 8192, r"the query has \d+ bytes: at most 8192 are read"),
    ],
)
def test_a_wrong_announce_is_refused_by_the_name_of_what_is_wrong(query: str, complaint: str) -> None:
    with pytest.raises(TrackerError, match=complaint) as refused:
        parse_announce(query.encode(), HERE, believe_address=True)
    assert len(str(refused.value)) < 400


def test_a_scrape_may_ask_for_many_swarms_but_not_for_all() -> None:
    def query(number: int) -> bytes:
        return b"&".join(b"info_hash=" + b"%%%02X" % (n % 256) * 20 for n in range(number))

    assert len(parse_scrape(query(MAX_SCRAPE))) == MAX_SCRAPE
    for number, complaint in ((0, "info_hash is missing"), (MAX_SCRAPE + 1, "given 101 times: at most 100 here")):
        with pytest.raises(TrackerError, match=complaint):
            parse_scrape(query(number))


@st.composite
def broken_announces(draw: st.DrawFn) -> bytes:
    """A valid announce with some parameters put wrong, lost, doubled or made up."""
    parts = announce_query().encode().split(b"&")
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(NAMES)).encode()
        value = draw(st.binary(max_size=80) | st.integers(-10, 2**70).map(lambda number: b"%d" % number))
        part = name + b"=" + draw(st.sampled_from([value, quote_from_bytes(value).encode()]))
        parts.insert(draw(st.integers(0, len(parts))), part)
        if draw(st.booleans()):
            parts.pop(draw(st.integers(0, len(parts) - 1)))
    return b"&".join(parts)


def outcome(parse: Callable[[bytes], T], query: bytes) -> T | None:
    """What was read; None where it was refused, which must say something, in plain text, whatever was sent."""
    try:
        return parse(query)
    except TrackerError as refused:
        message = str(refused)
    assert re.fullmatch(r"[ -~]{10,400}", message)
    return None


@given(st.binary(max_size=300) | broken_announces())
def test_no_query_surprises_the_parser(query: bytes) -> None:
    asked = outcome(lambda query: parse_announce(query, HERE, believe_address=True), query)
    if asked:
        assert len(asked.announce.info_hash) == len(asked.announce.peer_id) == 20
        assert 1 <= asked.announce.port <= 65535
        assert 0 <= asked.announce.left < 2**64


@given(st.binary(max_size=300) | broken_announces())
def test_no_query_surprises_a_scrape(query: bytes) -> None:
    assert all(len(info_hash) == 20 for info_hash in outcome(parse_scrape, query) or [])
