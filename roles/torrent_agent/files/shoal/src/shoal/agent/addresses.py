"""Endpoints as people write them: ``192.0.2.7:6891``, ``host1:6891``, ``[2001:db8::7]:6891``."""

from __future__ import annotations

import ipaddress
import re

_ENDPOINT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})", re.ASCII)


def parse_endpoint(text: str) -> tuple[str, int]:
    """Host (a name or an address, without brackets) and port, 0 to 65535; ValueError says what was expected."""
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError(f"found {text!r}, expected HOST:PORT, with IPv6 in brackets: [::1]:6891")
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"found {text!r}, expected a port of 0 to 65535")
    if match["v6"] is not None:
        return parse_ip(match["v6"]), port
    return match["host"], port


def parse_ip(text: str) -> str:
    """``text`` if it is an IPv4 or IPv6 address; ValueError otherwise."""
    if not is_ip(text):
        raise ValueError(f"found {text!r}, expected an IPv4 or IPv6 address")
    return text


def is_ip(text: str) -> bool:
    """Whether ``text`` is an IPv4 or IPv6 address, not a name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
