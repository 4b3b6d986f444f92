"""Which pieces a host asks for first, so that the publisher sends none of them twice.

Hosts that start together know of one another what each has, not what each has asked for: of the pieces that only the
publisher has, two hosts soon pick the same one, the more often the fewer are left. So each piece is one host's to ask
for, and if that host is late, the next one's in a line of its own. Nobody hands the pieces out: each host draws a
number for every name and piece (rendezvous hashing), the same as all others draw, and the highest is first in line.
Who does not know all names yet begins where its own number is so high that hardly anybody's is higher.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

# libtorrent picks the piece with the least (peers that have it + 1) * (8 - priority). With priorities 4 to 1 a piece
# that only seeds have comes before any that another host has, whoever's it is: rarest first, shares among equals.
BEST = 4
"""The priority of what it begins with; libtorrent's default."""

OWN = 3
"""Of all else for which it is first in line."""

NEXT = 2
"""Of what it is to ask for if the first in line does not."""

REST = 1

_FIRST = 8
"""Pieces that it begins with: about what it asks for before it has heard of the others."""


class Shares:
    """Of the host called ``own_name`` in a torrent of so many ``pieces``."""

    def __init__(self, pieces: int, own_name: str) -> None:
        self.names = {own_name}
        self._numbers = _draw(pieces, own_name)
        self._before = [0] * pieces  # hosts before it in the line of each piece

    def add(self, names: Iterable[str]) -> bool:
        """Take other hosts into account; whether there was one that was not known."""
        new = set(names) - self.names
        for name in new:
            drawn = _draw(len(self._numbers), name)
            self._before = [
                before + (theirs > own) for before, theirs, own in zip(self._before, drawn, self._numbers, strict=True)
            ]
        # whoever is gone may be back at once, and a few that are gone cost nothing
        self.names |= new
        return bool(new)

    def priorities(self) -> list[int]:
        """libtorrent's priority of each piece."""
        found = [max(REST, OWN - before) for before in self._before]
        own = [piece for piece, before in enumerate(self._before) if not before]
        for piece in sorted(own, key=self._numbers.__getitem__, reverse=True)[:_FIRST]:
            found[piece] = BEST
        return found


def _draw(pieces: int, name: str) -> list[float]:
    # Python promises the same numbers of a seed for ever, whatever the version and the machine
    numbers = Random(name)
    return [numbers.random() for _piece in range(pieces)]
