"""Which processes listen on a TCP port: how a health check knows that the new process answers, not the old one.

From /proc/net/tcp and tcp6 (proc_pid_net(5)) to socket inodes, and from /proc/PID/fd to processes. Works for
processes of one's own, and for all as root; only within this network namespace.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import Struct

LISTEN = "0A"


class Process(Struct, frozen=True, order=True):
    """A process for ever: numbers are used again, but not with the same start time (in clock ticks since boot)."""

    pid: int
    started: int


@dataclass(frozen=True)
class Listeners:
    """Who listens on an address."""

    processes: set[Process] = field(default_factory=set)
    hidden: bool = False  # somebody listens, but this user may not see who


def is_local(host: str) -> bool:
    """Whether ``host`` is an address of this machine: only such an address can be bound."""
    try:
        candidates = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _name, address in candidates:
        with suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
            return True
    return False


def on(host: str, port: int) -> Listeners:
    """The processes that listen on ``port`` at ``host`` or at all addresses."""
    with suppress(OSError):
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        inodes = _inodes(addresses, port)
        processes, seen = _owners(inodes)
        return Listeners(processes, hidden=bool(inodes - seen))
    return Listeners()


def boot_id() -> str:
    """Changes with every boot; process start times are only comparable within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _inodes(addresses: set[str], port: int) -> set[str]:
    addresses = addresses | {"0.0.0.0", "::"}
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # no IPv6
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                words = line.split()
                address, _colon, number = words[1].partition(":")
                if words[3] == LISTEN and int(number, 16) == port and _address(address) in addresses:
                    found.add(words[9])
    return found


def _address(digits: str) -> str:
    """The kernel prints addresses as 32-bit words in the host's byte order."""
    words = [int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _owners(inodes: set[str]) -> tuple[set[Process], set[str]]:
    """The processes that hold one of the sockets, and the sockets that were seen in them."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    processes, seen = set(), set()
    for folder in Path("/proc").iterdir() if inodes else ():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):  # gone meanwhile, or somebody else's
            held = {links[link] for link in map(_link, (folder / "fd").iterdir()) if link in links}
            if held:
                processes.add(process(int(folder.name)))
                seen |= held
    return processes, seen


def _link(path: Path) -> str:
    try:
        return os.fspath(path.readlink())
    except OSError:
        return ""


def process(pid: int) -> Process:
    """The process that has the number ``pid`` now. Raises OSError if there is none."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    # Field 22 of proc_pid_stat(5); the command's name before it may hold spaces and parentheses.
    return Process(pid, int(stat.rpartition(")")[2].split()[19]))
