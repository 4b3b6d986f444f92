"""Peers by name made peers by address."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from shoal.swarm.errors import SwarmError
from shoal.swarm.types import Endpoint


def resolve(peers: Iterable[Endpoint]) -> list[Endpoint]:
    """Peers by address; a name stands for all of its addresses.

    :raises SwarmError: a name that is not known, a port out of range
    """
    resolved: dict[Endpoint, None] = {}
    for host, port in peers:
        if not 0 < port < 65536:
            raise SwarmError(f"peer {host}:{port}: a port is a number from 1 to 65535")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise SwarmError(f"peer {host}:{port}: {error}") from error
        resolved.update(dict.fromkeys((str(entry[4][0]), port) for entry in found))
    return list(resolved)
