"""Restart the shop on a host without systemd: ``python restart_shop.py ROOT PORT``.

What `restart: shop.service` does on a real host. It stops the process named in ROOT.pid, starts `ROOT/current/shop.py`
as a session of its own, so that it outlives whoever asked for the restart, and returns at once: whether the new one is
healthy is for the health check to find out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STOP_SECONDS = 5.0


def is_shop(pid: int) -> bool:
    """Whether `pid` is a shop: not gone, not a zombie (no command line), no stranger whose number was used again."""
    try:
        return b"shop.py\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def stop(pid_file: Path) -> None:
    try:
        pid = int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return
    deadline = time.monotonic() + STOP_SECONDS
    while is_shop(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
        time.sleep(0.02)


def start(root: Path, port: str, pid_file: Path) -> None:
    release = (root / "current").resolve(strict=True)
    with root.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(release / "shop.py"), port],
            cwd=release,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    pid_file.write_text(f"{process.pid}\n")


if __name__ == "__main__":
    root, port = Path(sys.argv[1]), sys.argv[2]
    pid_file = root.with_suffix(".pid")
    stop(pid_file)
    start(root, port, pid_file)
