"""A tracker as its users start it, and raw requests to it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_from_bytes, urlsplit

import libtorrent as lt

DEADLINE = 60.0  # seconds; a step of a test that takes longer has failed


@dataclass(frozen=True)
class RunningTracker:
    process: subprocess.Popen[str]
    urls: list[str]

    @property
    def url(self) -> str:
        return self.urls[0]


@contextmanager
def tracker_process(*options: str, listen: tuple[str, ...] = ("127.0.0.1:0",)) -> Iterator[RunningTracker]:
    """``shoal tracker`` on free ports; at the end it must stop cleanly, having written nothing but its URLs."""
    words = [sys.executable, "-m", "shoal", "tracker", *options]
    for endpoint in listen:
        words += ["--listen", endpoint]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield RunningTracker(process, [process.stdout.readline().strip() for _ in listen])
        except BaseException:
            process.kill()
            raise
        process.terminate()
        out, err = process.communicate(timeout=DEADLINE)
        assert (process.returncode, out, err) == (0, "", "")


def announce_query(
    info_hash: bytes = b"h" * 20, peer_id: bytes = b"-XX0001-000000000000", **more: bytes | str | int
) -> str:
    """A whole, valid announce, changed or completed by ``more``."""
    values: dict[str, Any] = {"info_hash": info_hash, "peer_id": peer_id, "port": 6881, "left": 1000, **more}
    return "&".join(f"{name}={quote_from_bytes(_bytes(value))}" for name, value in values.items())


def get(url: str, query: str = "", path: str = "/announce") -> tuple[int, Any]:
    """Status and decoded answer of a GET."""
    return exchange(url, f"GET {path}?{query} HTTP/1.1\r\nHost: tracker\r\n\r\n".encode())


def exchange(url: str, *pieces: bytes) -> tuple[int, Any]:
    """Write ``pieces`` to the tracker one by one and read what it says until it closes the connection."""
    answer = talk(url, *pieces)
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), bdecode(body)


def talk(url: str, *pieces: bytes) -> bytes:
    parts = urlsplit(url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=DEADLINE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionError:  # it may hang up before it has read all of an endless line
            pass
        return answer


def bdecode(body: bytes) -> Any:
    """Decoded by libtorrent, which is strict, and made sure that it is the one canonical form: sorted, no rest."""
    value = lt.bdecode(body)
    assert lt.bencode(value) == body
    return value


def compact_peers(answer: Mapping[bytes, bytes]) -> list[tuple[str, int]]:
    """The addresses in ``peers`` and ``peers6``."""
    found = []
    for key, family, size in ((b"peers", socket.AF_INET, 6), (b"peers6", socket.AF_INET6, 18)):
        packed = answer.get(key, b"")
        assert len(packed) % size == 0
        for start in range(0, len(packed), size):
            one = packed[start : start + size]
            found.append((socket.inet_ntop(family, one[:-2]), int.from_bytes(one[-2:], "big")))
    return found


def _bytes(value: bytes | str | int) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
