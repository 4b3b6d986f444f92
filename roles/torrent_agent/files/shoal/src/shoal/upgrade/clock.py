"""Whether this host's clock can tell what has expired."""

from __future__ import annotations

import ctypes
import os
from datetime import datetime, timedelta, timezone

AHEAD = timedelta(minutes=5)
"""So far the publisher's clock may be ahead of this host's. An end point is signed for a day: five minutes are nothing
to somebody who holds a host on an old state by its clock."""
MAX_ERROR = 16_000_000
"""Microseconds. The kernel's estimate stands at this where nobody sets the clock; systemd (ntp_synced in its
time-util.c) goes by the same figure, and not by STA_UNSYNC, which is also set to keep the kernel off the hardware
clock."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Timex(ctypes.Structure):
    """The head of adjtimex(2)'s struct; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_byte * 512),
    )


def now() -> datetime:
    """UTC."""
    return datetime.now(timezone.utc)


def is_behind(at: datetime, signed_at: datetime) -> bool:
    """Whether a clock that says ``at`` is too far behind something that was signed at ``signed_at``."""
    return at + AHEAD < signed_at


def is_synchronised() -> bool:
    """Whether the kernel says that somebody keeps the clock. Raises OSError where it does not tell."""
    found = _Timex()
    if _libc.adjtimex(ctypes.byref(found)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(found.maxerror) < MAX_ERROR
