# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a rollout is told: short lines, one for each thing that happened, and a table at the end."""

from __future__ import annotations

from collections.abc import Sequence


def line(version: str, phase: str, text: str) -> str:
    """``1.0  prefetch   5/5 hosts in 1.9 s``."""
    return f"{version}  {phase:<9}  {text}"


def size(count: float) -> str:
    """Bytes for people, in powers of 1000 as links are sold: ``42.3 MB``."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while count >= 1000 and unit != "TB":
        count /= 1000
        unit = next(units)
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``95 s``, ``12 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def names(hosts: Sequence[str], order: Sequence[str]) -> str:
    """Hosts for people: up to four by name, more of them as a range where they are neighbours in the fleet's order."""
    if len(hosts) <= 2:
        return " and ".join(hosts)
    positions = sorted(order.index(host) for host in hosts)
    if positions[-1] - positions[0] == len(hosts) - 1:
        return f"{order[positions[0]]} to {order[positions[-1]]}"
    if len(hosts) <= 4:
        return ", ".join(hosts[:-1]) + f" and {hosts[-1]}"
    return ", ".join(hosts[:3]) + f" and {len(hosts) - 3} more"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
