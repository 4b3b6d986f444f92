"""How much a host asks its peers for in advance, found out while it fetches.

What is asked for in advance nobody has yet, and others ask the publisher for it, too: on slow links the publisher then
sends much of the payload twice. On fast or long ones a host that asks for little waits for every answer.
"""

from __future__ import annotations

DEEP = 3
"""Seconds' worth of blocks that each peer is asked for in advance (``request_queue_time``): libtorrent's default."""

SHALLOW = 0
"""Two blocks a peer, once libtorrent has seen how fast the peer is. Measured with 5 hosts at 10 Mbit/s: 1.11 times the
ideal time, 1.36 with DEEP; the publisher sent 1.09 and 1.33 times the payload."""

_FAST = 5_000_000
"""Bytes per second from which it is DEEP. Measured unshaped with 5 hosts: 26 s per GB with SHALLOW, 11 s with DEEP."""

_FEW = 2
"""With so few peers there is little to send twice, and two blocks a peer do not fill a link: under a limit of 2 MB/s
one peer brought 1.2 MB/s."""

_FALLEN = 0.7
_LOOKS = 3
_TRIAL = 6  # looks: libtorrent's rates are means of about five seconds
_GAIN = 1.25


class Queueing:
    """Of one torrent, from when it is begun to be fetched."""

    def __init__(self) -> None:
        self._best = 0
        self._worse = 0  # looks in a row
        self._before = 0  # the rate when a trial began
        self._trial = 0  # looks that are left of it
        self._needs_more = False

    def look(self, rate: int, recent: float, peers: int) -> int:
        """SHALLOW or DEEP, for the payload's ``rate`` in bytes/s from ``peers``. To be called about once a second.

        ``recent``: the rate since the last look, where ``rate`` is a mean that takes seconds to rise.
        libtorrent begins with more and more blocks a peer, so the best rate so far is what the link can carry. If two
        blocks do not keep it up, DEEP is tried: where answers take long to come, that helps, and it stays; where the
        link or the machine is busy with other things, it does not.
        """
        if self._trial:
            self._trial -= 1
            if not self._trial:
                self._needs_more = rate >= _GAIN * self._before
                self._best = rate
        else:
            self._best = max(self._best, rate)
            self._worse = self._worse + 1 if rate < _FALLEN * self._best else 0
            if self._worse >= _LOOKS:
                self._before, self._worse, self._trial = rate, 0, _TRIAL
        deep = self._needs_more or self._trial or max(rate, recent) >= _FAST or peers <= _FEW
        return DEEP if deep else SHALLOW
