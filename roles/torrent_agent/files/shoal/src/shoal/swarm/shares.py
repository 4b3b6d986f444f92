"""Which pieces a host asks for first, so that the publisher sends none of them twice.

Hosts that start together know of one another what each has, not what each has asked for: of the pieces that only the
publisher has, two hosts soon pick the same one, the more often the fewer are left. So each host begins with a share of
its own. Nobody hands the shares out: all hosts sort the same names, and each takes the part of the torrent at its own
place in that order. Where they do not see the same names, shares overlap a little; nothing else depends on them.
"""

from __future__ import annotations

from collections.abc import Iterable

OWN = 4
"""libtorrent's default priority."""

# libtorrent picks the piece with the least (peers that have it + 1) * (8 - priority). With priorities 4 to 1 a piece
# that only seeds have comes before any that another host has, whoever's share it is: rarest first, shares among equals.
_BEYOND = (3, 2, 1)


def priorities(pieces: int, own_name: str, other_names: Iterable[str]) -> list[int]:
    """The priority of each piece for the host called ``own_name``, beside the hosts ``other_names``.

    Its own share comes first, then the shares of those that follow it, those of its predecessors last: who has done
    its part helps its successor, where the successor gets last.
    """
    names = sorted({own_name, *other_names})
    hosts = len(names)
    place = names.index(own_name)

    def priority(piece: int) -> int:
        distance = (piece * hosts / pieces - place) % hosts  # in shares, from the beginning of its own
        if distance < 1:
            return OWN
        return _BEYOND[int((distance - 1) / (hosts - 1) * len(_BEYOND))]

    return [priority(piece) for piece in range(pieces)]
