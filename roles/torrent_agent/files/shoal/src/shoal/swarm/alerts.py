"""libtorrent's alerts as events of ours. Everything is copied here: an alert is gone with the next ``pop_alerts``."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import libtorrent as lt

from shoal.swarm.types import Event, EventKind


class Bell:
    """What the alert thread sleeps at: libtorrent rings when an alert comes to an empty queue, we to have it look up.

    A pipe and `set_alert_fd`, because the two other ways are not safe from Python: a `set_alert_notify` callback needs
    the interpreter's lock in libtorrent's thread and can deadlock, and 2.0's `wait_for_alert` looks at an alert that
    libtorrent's thread may be moving at that moment.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)

    def hang_at(self, session: Any) -> None:
        session.set_alert_fd(self._write)

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings already
            os.write(self._write, b"x")

    def wait(self, seconds: float) -> None:
        """Sleep until it rings, ``seconds`` at most."""
        if self._poll.poll(max(0.0, seconds) * 1000):
            os.read(self._read, 4096)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


# `ep` is 2.1's name, `endpoint` 2.0's
endpoint: Callable[[Any], tuple[str, int]] = attrgetter("ep" if hasattr(lt.peer_alert, "ep") else "endpoint")
"""Address and port of the peer that an alert is about. Called with every block."""


def _where(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tracker_error(alert: Any, info_hash: str) -> Event:
    message = alert.error_message() or alert.error.message()
    return Event(EventKind.TRACKER_ERROR, info_hash, what=alert.tracker_url(), message=message)


def _tracker_warning(alert: Any, info_hash: str) -> Event:
    return Event(EventKind.TRACKER_ERROR, info_hash, what=alert.tracker_url(), message=alert.warning_message())


def _peer_error(alert: Any, info_hash: str) -> Event:
    return Event(EventKind.PEER_ERROR, info_hash, what=_where(endpoint(alert)), message=alert.error.message())


def _peer_disconnected(alert: Any, info_hash: str) -> Event | None:
    # peers come and go; one that could not even be reached is worth telling
    return _peer_error(alert, info_hash) if alert.op == lt.operation_t.connect else None


def _url_seed_error(alert: Any, info_hash: str) -> Event:
    message = alert.error_message() or alert.error.message()
    return Event(EventKind.PEER_ERROR, info_hash, what=alert.server_url(), message=message)


def _hash_failed(alert: Any, info_hash: str) -> Event:
    return Event(EventKind.HASH_FAILED, info_hash, piece=alert.piece_index, message=alert.message())


def _metadata_failed(alert: Any, info_hash: str) -> Event:
    return Event(EventKind.PEER_ERROR, info_hash, what="metainfo", message=alert.error.message())


def _listen_failed(alert: Any, _info_hash: str) -> Event:
    return Event(EventKind.LISTEN_FAILED, what=alert.listen_interface(), message=alert.error.message())


_TRANSLATIONS: dict[type, Callable[[Any, str], Event | None]] = {
    lt.tracker_error_alert: _tracker_error,
    lt.tracker_warning_alert: _tracker_warning,
    lt.peer_error_alert: _peer_error,
    lt.peer_disconnected_alert: _peer_disconnected,
    lt.url_seed_alert: _url_seed_error,
    lt.hash_failed_alert: _hash_failed,
    lt.metadata_failed_alert: _metadata_failed,
    lt.listen_failed_alert: _listen_failed,
}


def translate(alert: Any, info_hash: str) -> Event | None:
    """The event that ``alert`` amounts to by itself; None where it means nothing without what went before."""
    translation = _TRANSLATIONS.get(type(alert))
    return translation(alert, info_hash) if translation else None
