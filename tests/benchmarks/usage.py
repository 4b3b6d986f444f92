"""What a benchmark's processes took."""

from __future__ import annotations

import resource


def cpu_of_children() -> float:
    """Seconds of processor time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
