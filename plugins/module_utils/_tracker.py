# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask a BitTorrent tracker: announce, scrape and withdraw over HTTP (BEP 3, 7, 23, 48) and UDP (BEP 15, 41).

Answers are taken as trackers send them: dictionaries with unsorted keys, peers as a list or compact, IPv6 peers under
either key. What is read is bounded in bytes and, by one deadline for all of it, in time.

Times are in seconds. Info hashes are the 20 bytes on the wire. Private to this collection.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import time
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote, quote_from_bytes, urlsplit, urlunsplit

from ansible.module_utils.urls import open_url

# 10,000 compact peers are 60 kB; a full scrape, which nobody here asks for, is what gets larger.
MAX_ANSWER = 1024 * 1024
_CHUNK = 64 * 1024
# A peer list is two levels deep, a scrape three.
_MAX_DEPTH = 20

# Chihaya cuts longer scrapes short without a word (50 by default); a UDP scrape holds no more than 74.
_SCRAPE_BATCH = 25
# Chihaya v1.0.2 refuses a scrape with these words if it does not know one of its info hashes.
_UNKNOWN_TORRENT = "torrent does not exist"

_UDP_MAGIC = 0x41727101980  # BEP 15: what a connect request says in place of a connection id
_CONNECT, _ANNOUNCE, _SCRAPE, _ERROR = range(4)
_UDP_EVENTS = {"": 0, "completed": 1, "started": 2, "stopped": 3}
# BEP 15 waits 15 s before it asks again, which is for trackers on the other side of the world.
_UDP_FIRST_WAIT = 1.0

_WITHDRAWAL_TIME = 3
_WITHDRAWALS = 3
_COUNT_TIME = 2
_COUNT_PAUSE = 0.02


class TrackerError(Exception):
    """The tracker cannot be reached or what it sends makes no sense; the text says what was found where."""


class RefusedError(TrackerError):
    """The tracker answered, with a reason why not."""


class Announce(NamedTuple):
    """A tracker's answer to an announce. What it did not tell is None."""

    interval: int | None
    min_interval: int | None
    seeders: int | None
    leechers: int | None
    peers: tuple  # of (address, port)
    warning: str | None


class Swarm(NamedTuple):
    """What a scrape says of one info hash."""

    seeders: int
    leechers: int
    downloads: int | None


class Identity(NamedTuple):
    """Who announces."""

    peer_id: bytes
    port: int
    key: int


def new_identity(client: str) -> Identity:
    """A throwaway peer. ``client`` is how its peer id begins, at most 20 ASCII characters (BEP 20)."""
    rng = random.SystemRandom()
    prefix = client.encode("ascii")
    suffix = "".join(rng.choice("0123456789abcdefghijklmnopqrstuvwxyz") for _missing in range(20 - len(prefix)))
    # From the range of ephemeral ports: trackers refuse port 0, and some refuse those below 1024.
    return Identity(prefix + suffix.encode("ascii"), rng.randint(49152, 65535), rng.getrandbits(32))


def tracker_for(url: str, scrape_url: str | None = None, timeout: float = 10, **tls):
    """The client that fits an announce URL. ``timeout`` is for everything it is asked; ``tls`` goes to ``open_url``."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise TrackerError("The announce URL %r cannot be read: %s" % (url, error)) from error
    if parts.scheme in ("http", "https") and parts.hostname:
        return HttpTracker(url, scrape_url, timeout, **tls)
    if parts.scheme == "udp" and parts.hostname and port:
        return UdpTracker(url, timeout)
    raise TrackerError(
        "%r is no announce URL: expected http://HOST[:PORT]/announce, https://HOST[:PORT]/announce or udp://HOST:PORT"
        % url
    )


def prove(tracker, who: Identity) -> Announce:
    """Announce a throwaway info hash, see it in a scrape, withdraw it and see it gone; the answer to the announce.

    Raises TrackerError at the first step that does not hold, RefusedError where the tracker says no.
    """
    info_hash = bytes(bytearray(random.SystemRandom().getrandbits(8) for _byte in range(20)))
    answer, counted, gone = _visit(tracker, info_hash, who, 1)
    if not counted:
        raise TrackerError("it answers announces, but a scrape does not count who announced")
    if not gone:
        raise TrackerError("it answers announces, but a scrape still counts who withdrew")
    return answer


def sample_peers(tracker, info_hash: bytes, who: Identity, count: int) -> Announce:
    """At most ``count`` peers of a swarm, as an announce tells them; we are withdrawn from it afterwards."""
    answer, _counted, _gone = _visit(tracker, info_hash, who, count + 1)
    # Ourselves left out: trackers name a peer that is alone. Known by its port, since a NAT may hide our address.
    others = [peer for peer in answer.peers if peer[1] != who.port]
    return answer._replace(peers=tuple(others[:count]))


def _visit(tracker, info_hash: bytes, who: Identity, numwant: int):
    """Join a swarm and leave it: the answer, and whether we were seen to be counted and to be gone."""
    before = _count(tracker, info_hash)
    try:
        answer = tracker.announce(info_hash, who, "started", numwant)
        # Chihaya answers first and counts then, each announce on its own: a withdrawal could come before.
        counted = _await_count(tracker, info_hash, lambda now: now > before)
    except RefusedError:
        raise
    except TrackerError:
        # It may have heard us all the same. Time for this, even where all of it is used up.
        tracker.grant(_WITHDRAWAL_TIME)
        with contextlib.suppress(TrackerError):  # the first error says more
            tracker.announce(info_hash, who, "stopped")
        raise
    gone = False
    for _time in range(_WITHDRAWALS):
        tracker.announce(info_hash, who, "stopped")
        gone = _await_count(tracker, info_hash, lambda now: now <= before)
        if gone:
            break
    return answer, counted, gone


def _count(tracker, info_hash: bytes) -> int:
    """Peers of a swarm as a scrape counts them."""
    if not tracker.can_scrape:
        return 0
    swarm = tracker.scrape([info_hash]).get(info_hash, Swarm(0, 0, None))
    return swarm.seeders + swarm.leechers


def _await_count(tracker, info_hash: bytes, wanted) -> bool:
    """Whether the count becomes what is wanted, soon. Other peers come and go, so it may not in a swarm of others."""
    end = time.monotonic() + _COUNT_TIME
    while tracker.can_scrape and not wanted(_count(tracker, info_hash)):
        if time.monotonic() > end:
            return False
        time.sleep(_COUNT_PAUSE)
    return True


class _Deadline:
    """One time limit for several waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left; raises TrackerError when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TrackerError("no answer within %.3g s" % self.seconds)
        return left


# HTTP


class HttpTracker:
    """A tracker at an ``http`` or ``https`` announce URL."""

    def __init__(self, url: str, scrape_url: str | None, timeout: float, **tls) -> None:
        self.protocol = urlsplit(url).scheme
        self._url = url
        self._scrape_url = scrape_url or scrape_url_of(url)
        self._deadline = _Deadline(timeout)
        self._tls = tls

    @property
    def can_scrape(self) -> bool:
        """Whether there is a URL to scrape at."""
        return self._scrape_url is not None

    def grant(self, seconds: float) -> None:
        """Take a new time limit, from now."""
        self._deadline = _Deadline(seconds)

    def announce(self, info_hash: bytes, who: Identity, event: str = "", numwant: int = 0) -> Announce:
        """Announce as a peer that lacks a byte, so that the tracker hands out seeders too."""
        query = [
            "info_hash=" + quote_from_bytes(info_hash, safe=""),
            "peer_id=" + quote_from_bytes(who.peer_id, safe=""),
            "port=%d" % who.port,
            "uploaded=0&downloaded=0&left=1&compact=1",
            "numwant=%d" % numwant,
            "key=%08x" % who.key,
        ]
        if event:
            query.append("event=" + event)
        return _read_http_announce(self._get(self._url, query))

    def scrape(self, info_hashes: list) -> dict:
        """Swarm by info hash, of those that the tracker knows."""
        if self._scrape_url is None:
            raise TrackerError(
                "%s: no scrape URL follows from it, since its last part does not begin with 'announce' (BEP 48); "
                "give scrape_url" % self._url
            )
        return _scrape_in_batches(info_hashes, self._scrape_batch)

    def _scrape_batch(self, batch: list) -> dict:
        answer = self._get(self._scrape_url, ["info_hash=" + quote_from_bytes(one, safe="") for one in batch])
        return _read_http_scrape(answer, batch)

    def close(self) -> None:
        """Nothing is kept open."""

    def _get(self, url: str, query: list) -> dict:
        full = url + ("&" if urlsplit(url).query else "?") + "&".join(query)
        body = _fetch(full, url, self._deadline, self._tls)
        try:
            answer = bdecode(body)
        except ValueError as error:
            raise TrackerError(
                "%s answered %r, which is no tracker's answer: %s" % (url, body[:80].decode("latin-1"), error)
            ) from error
        if not isinstance(answer, dict):
            raise TrackerError("%s answered a bencoded %s, expected a dictionary" % (url, type(answer).__name__))
        if b"failure reason" in answer:
            raise RefusedError(_text(answer[b"failure reason"]) or "refused without a reason")
        return answer


def scrape_url_of(url: str) -> str | None:
    """The scrape URL of an announce URL, None where it has none (BEP 48)."""
    parts = urlsplit(url)
    folder, slash, last = parts.path.rpartition("/")
    if not last.startswith("announce"):
        return None
    return urlunsplit(parts._replace(path=folder + slash + "scrape" + last[len("announce") :]))


def _fetch(full: str, url: str, deadline: _Deadline, tls: dict) -> bytes:
    try:
        # No proxy: the tracker would learn its address instead of ours, and BitTorrent clients use none either.
        response = open_url(full, timeout=deadline.left(), use_proxy=False, decompress=False, **tls)
    except HTTPError as error:
        # Some trackers tell their refusal with a status other than 200: the body counts.
        response = error
    except OSError as error:
        raise TrackerError("%s cannot be reached: %s" % (url, getattr(error, "reason", None) or error)) from error
    except Exception as error:  # open_url's own errors (TLS), http.client's and a bad URL's have no common root
        raise TrackerError("%s cannot be asked: %s" % (url, error)) from error
    body = b""
    try:
        while True:
            deadline.left()
            # One read of the socket at a time: a tracker that drips bytes must not outlast the deadline.
            chunk = response.read1(_CHUNK) if hasattr(response, "read1") else response.read(_CHUNK)
            body += chunk
            if not chunk:
                break
            if len(body) > MAX_ANSWER:
                raise TrackerError("%s sent more than %d bytes, which no answer of a tracker has" % (url, MAX_ANSWER))
    except TrackerError:
        raise
    except Exception as error:
        raise TrackerError("%s broke off: %s" % (url, error)) from error
    finally:
        response.close()
    status = getattr(response, "code", 200)
    if status != 200 and not body.startswith(b"d"):
        raise TrackerError("%s answered HTTP status %d, expected 200" % (url, status))
    return body


def _read_http_announce(answer: dict) -> Announce:
    peers = _read_peers(answer.get(b"peers", b""), 4)
    peers += _read_peers(answer.get(b"peers6", b""), 16)
    return Announce(
        interval=_number(answer.get(b"interval")),
        min_interval=_number(answer.get(b"min interval")),
        seeders=_number(answer.get(b"complete")),
        leechers=_number(answer.get(b"incomplete")),
        peers=tuple(peers),
        warning=_text(answer.get(b"warning message")),
    )


def _read_peers(value, address_size: int) -> list:
    if isinstance(value, bytes):
        return _read_compact_peers(value, address_size)
    return [
        (_text(peer[b"ip"]), peer[b"port"])
        for peer in (value if isinstance(value, list) else ())
        if isinstance(peer, dict) and _text(peer.get(b"ip")) and _number(peer.get(b"port")) is not None
    ]


def _read_compact_peers(value: bytes, address_size: int) -> list:
    family = socket.AF_INET if address_size == 4 else socket.AF_INET6
    size = address_size + 2
    whole = len(value) - len(value) % size
    return [
        (
            socket.inet_ntop(family, value[start : start + address_size]),
            struct.unpack(">H", value[start + address_size : start + size])[0],
        )
        for start in range(0, whole, size)
    ]


def _read_http_scrape(answer: dict, wanted: list) -> dict:
    files = answer.get(b"files")
    if not isinstance(files, dict):
        raise TrackerError("the scrape's answer has no dictionary 'files' (BEP 48)")
    swarms = {}
    for info_hash in wanted:
        swarm = files.get(info_hash)
        if isinstance(swarm, dict):
            swarms[info_hash] = Swarm(
                _number(swarm.get(b"complete")) or 0,
                _number(swarm.get(b"incomplete")) or 0,
                _number(swarm.get(b"downloaded")),
            )
    return swarms


def _scrape_in_batches(info_hashes: list, scrape_batch) -> dict:
    def known(batch: list) -> dict:
        try:
            return scrape_batch(batch)
        except RefusedError as refusal:
            if str(refusal) != _UNKNOWN_TORRENT:
                raise
            return {}

    swarms = {}
    for start in range(0, len(info_hashes), _SCRAPE_BATCH):
        batch = info_hashes[start : start + _SCRAPE_BATCH]
        swarms.update(known(batch))
        if len(batch) > 1:
            # Left out because it is unknown, or because this tracker cuts long scrapes short?
            for info_hash in batch:
                if info_hash not in swarms:
                    swarms.update(known([info_hash]))
    return swarms


# Bencoding

_INTEGER = re.compile(rb"i(-?[0-9]{1,20})e")
_LENGTH = re.compile(rb"([0-9]{1,10}):")


def bdecode(data: bytes):
    """Bytes, int, list or dict of bencoded data (BEP 3).

    Takes what trackers send: keys in any order, leading zeros, bytes after the end. Raises ValueError, and never
    anything else, for what cannot be read.
    """
    value, _end = _decode(data, 0, 0)
    return value


def _decode(data: bytes, at: int, depth: int):
    kind = data[at : at + 1]
    if kind == b"i":
        match = _INTEGER.match(data, at)
        if not match:
            raise ValueError("bad integer at byte %d" % at)
        return int(match.group(1)), match.end()
    if kind.isdigit():
        match = _LENGTH.match(data, at)
        end = match.end() + int(match.group(1)) if match else len(data) + 1
        if end > len(data):
            raise ValueError("bad string at byte %d" % at)
        return data[match.end() : end], end
    if kind not in (b"l", b"d"):
        raise ValueError("nothing bencoded at byte %d" % at)
    if depth >= _MAX_DEPTH:
        raise ValueError("nested deeper than %d" % _MAX_DEPTH)
    items = []
    at += 1
    while data[at : at + 1] != b"e":
        item, at = _decode(data, at, depth + 1)
        items.append(item)
    if kind == b"l":
        return items, at + 1
    if len(items) % 2 or not all(isinstance(key, bytes) for key in items[::2]):
        raise ValueError("bad dictionary before byte %d" % at)
    return {items[number]: items[number + 1] for number in range(0, len(items), 2)}, at + 1


def _number(value) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _text(value) -> str | None:
    return value.decode("utf-8", "replace")[:1000] if isinstance(value, bytes) else None


# UDP


class UdpTracker:
    """A tracker at ``udp://HOST:PORT`` (BEP 15)."""

    protocol = "udp"
    can_scrape = True

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        self._url = url
        self._host = parts.hostname
        self._port = parts.port
        self._path = parts.path + ("?" + parts.query if parts.query else "")
        self._deadline = _Deadline(timeout)
        self._socket = None
        self._connection = None

    def grant(self, seconds: float) -> None:
        """Take a new time limit, from now."""
        self._deadline = _Deadline(seconds)

    def announce(self, info_hash: bytes, who: Identity, event: str = "", numwant: int = 0) -> Announce:
        """Announce as a peer that lacks a byte, so that the tracker hands out seeders too."""
        body = struct.pack(
            ">20s20sQQQIIIiH",
            info_hash,
            who.peer_id,
            0,  # downloaded
            1,  # left
            0,  # uploaded
            _UDP_EVENTS[event],
            0,  # our address: the one that the packet comes from
            who.key,
            numwant,
            who.port,
        )
        answer = self._ask(_ANNOUNCE, body + self._url_data())
        if not answer:
            raise RefusedError("an answer with nothing in it, which is how opentracker refuses over UDP")
        if len(answer) < 12:
            raise TrackerError("%s answered an announce with %d bytes, expected 20 or more" % (self._url, len(answer)))
        interval, leechers, seeders = struct.unpack(">III", answer[:12])
        address_size = 16 if self._socket.family == socket.AF_INET6 else 4
        return Announce(interval, None, seeders, leechers, tuple(_read_compact_peers(answer[12:], address_size)), None)

    def scrape(self, info_hashes: list) -> dict:
        """Swarm by info hash, of those that the tracker knows."""
        return _scrape_in_batches(info_hashes, self._scrape_batch)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _scrape_batch(self, batch: list) -> dict:
        answer = self._ask(_SCRAPE, b"".join(batch))
        swarms = {}
        for number, info_hash in enumerate(batch[: len(answer) // 12]):
            seeders, downloads, leechers = struct.unpack(">III", answer[12 * number : 12 * number + 12])
            swarms[info_hash] = Swarm(seeders, leechers, downloads)
        return swarms

    def _url_data(self) -> bytes:
        # BEP 41. Only for a URL that says something: old trackers take longer packets for malformed ones.
        if self._path in ("", "/", "/announce"):
            return b""
        path = quote(self._path, safe="/?&=%").encode("ascii")
        chunks = (path[start : start + 255] for start in range(0, len(path), 255))
        return b"".join(struct.pack(">BB", 2, len(chunk)) + chunk for chunk in chunks)

    def _ask(self, action: int, body: bytes) -> bytes:
        if self._connection is None:
            self._connect()
        return self._exchange(self._socket, self._connection, action, body, self._deadline)

    def _connect(self) -> None:
        try:
            addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise TrackerError("%s: the name %r has no address: %s" % (self._url, self._host, error)) from error
        problem = None
        for number, (family, kind, protocol, _name, address) in enumerate(addresses):
            # An equal share of the time for each address that is left.
            share = self._deadline.left() / (len(addresses) - number)
            sock = socket.socket(family, kind, protocol)
            try:
                sock.connect(address)
                answer = self._exchange(sock, _UDP_MAGIC, _CONNECT, b"", _Deadline(share))
                if len(answer) < 8:
                    raise TrackerError("answered a connect with %d bytes, expected 16" % (8 + len(answer)))
            except (OSError, TrackerError) as error:
                sock.close()
                problem = error
                continue
            self._socket = sock
            self._connection = struct.unpack(">Q", answer[:8])[0]
            return
        raise TrackerError("%s cannot be reached: %s" % (self._url, problem)) from problem

    def _exchange(self, sock, connection: int, action: int, body: bytes, deadline: _Deadline) -> bytes:
        """Send a request, again where nothing comes back, and return the answer's bytes after its header."""
        transaction = random.SystemRandom().getrandbits(32)
        packet = struct.pack(">QII", connection, action, transaction) + body
        wait = _UDP_FIRST_WAIT
        while True:
            try:
                sock.send(packet)
                answer = self._receive(sock, transaction, min(wait, deadline.left()))
            except OSError as error:  # ICMP says that nobody listens
                raise TrackerError("no answer: %s" % error) from error
            if answer is None:
                deadline.left()
                wait *= 2
                continue
            if answer[0] == _ERROR:
                raise RefusedError(_text(answer[1].rstrip(b"\0")) or "refused without a reason")
            if answer[0] != action:
                raise TrackerError("%s answered with action %d to action %d" % (self._url, answer[0], action))
            return answer[1]

    @staticmethod
    def _receive(sock, transaction: int, seconds: float):
        """Action and body of the answer to a transaction, None when none comes in time."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if left <= 0:
                return None
            sock.settimeout(left)
            try:
                packet = sock.recv(65536)
            except socket.timeout:
                return None
            # Late answers to what was asked before, and strangers' packets, are passed over.
            if len(packet) >= 8 and struct.unpack(">I", packet[4:8])[0] == transaction:
                return struct.unpack(">I", packet[:4])[0], packet[8:]
