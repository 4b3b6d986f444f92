"""systemd's notify protocol (sd_notify(3), sd_watchdog_enabled(3)): datagrams to $NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> None:
    """Send ``lines`` such as ``READY=1``; nothing happens where no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # Linux's abstract name space
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall("\n".join(lines).encode())
    except OSError:
        return  # the manager restarts: it must not take the agent down


def watchdog_interval() -> float | None:
    """Seconds between two signs of life, half of what the manager allows; None where it does not ask."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    meant_for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    if not usec.isdigit() or int(usec) == 0 or not meant_for_us:
        return None
    return int(usec) / 2_000_000
