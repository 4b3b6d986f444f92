"""Peers that do not mean well, small enough to be read: the wire protocol of BEP 3 and nothing more."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

PROTOCOL = b"\x13BitTorrent protocol"
BITFIELD, UNCHOKE, REQUEST, PIECE = 5, 1, 6, 7


class Peer(socketserver.ThreadingTCPServer):
    """Accepts connections on an address of its own and lets ``behave`` deal with each.

    Addresses of 127.0.0.0/8 are all loopback: a client that bans 127.0.0.2 still talks to 127.0.0.1.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: str, behave: Callable[[Peer, socket.socket], None]) -> None:
        super().__init__((address, 0), socketserver.BaseRequestHandler)
        self.behave = behave
        self.spoken = threading.Event()  # somebody was told what we have to say
        self.served: list[tuple[int, int]] = []  # piece and offset of each block handed out

    @property
    def endpoint(self) -> str:
        host, port = self.server_address[:2]
        return f"{host}:{port}"

    def finish_request(self, request, client_address) -> None:
        with suppress(OSError, EOFError):  # whoever is told nonsense hangs up
            request.settimeout(60)
            self.behave(self, request)


@contextmanager
def peer(address: str, behave: Callable[[Peer, socket.socket], None]) -> Iterator[Peer]:
    with Peer(address, behave) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def corrupting(info_hash: bytes, payload: bytes, piece_length: int) -> Callable[[Peer, socket.socket], None]:
    """Says it has everything, answers every request at once, and flips one bit in the last byte of each block."""
    pieces = -(-len(payload) // piece_length)

    def behave(server: Peer, connection: socket.socket) -> None:
        _handshake(connection, info_hash)
        everything = ((1 << pieces) - 1) << (-pieces % 8)
        _send(connection, BITFIELD, everything.to_bytes(-(-pieces // 8), "big"))
        _send(connection, UNCHOKE)
        while True:
            kind, body = _receive(connection)
            if kind == REQUEST:
                piece, offset, length = struct.unpack("!III", body)
                start = piece * piece_length + offset
                block = payload[start : start + length]
                server.served.append((piece, offset))
                _send(connection, PIECE, struct.pack("!II", piece, offset) + block[:-1] + bytes([block[-1] ^ 1]))

    return behave


def speaking(info_hash: bytes, words: bytes) -> Callable[[Peer, socket.socket], None]:
    """Shakes hands as it should and then says ``words``, whatever they are."""

    def behave(server: Peer, connection: socket.socket) -> None:
        _handshake(connection, info_hash)
        connection.sendall(words)
        server.spoken.set()
        while connection.recv(65536):
            pass

    return behave


def _handshake(connection: socket.socket, info_hash: bytes) -> None:
    theirs = _exactly(connection, len(PROTOCOL))
    if theirs != PROTOCOL:  # an encrypted one: they try in the clear when we hang up
        raise EOFError
    _exactly(connection, 8 + 20 + 20)
    connection.sendall(PROTOCOL + bytes(8) + info_hash + b"-XX0001-" + bytes(12))


def _send(connection: socket.socket, kind: int, body: bytes = b"") -> None:
    connection.sendall(struct.pack("!IB", 1 + len(body), kind) + body)


def _receive(connection: socket.socket) -> tuple[int | None, bytes]:
    (length,) = struct.unpack("!I", _exactly(connection, 4))
    if not length:  # keep-alive
        return None, b""
    message = _exactly(connection, length)
    return message[0], message[1:]


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data
