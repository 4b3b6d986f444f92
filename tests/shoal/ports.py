"""Ports for what cannot be told to listen on port 0."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, over TCP and UDP.

    It lies outside the range from which the kernel gives ports to the other tests at work, so that it stays free until
    somebody is told of it, and while who had it is started anew.
    """
    chance = random.Random()
    while True:
        port = chance.randrange(20_000, 30_000)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
