"""The mark of an unproven release: what a switch was doing, so that another process can end it after a kill.

`.shoal/unproven.json` is there from before the first change until the outcome is decided, and says before each step
which one comes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from shoal.common.durable import sync_dir
from shoal.release import files
from shoal.release.errors import ReleaseError
from shoal.release.layout import Layout, Pointer
from shoal.release.listeners import Process
from shoal.release.request import Request

MARKED = Path("/var/lib/shoal-release/unproven")
"""Links to the roots in which root left a mark, for a boot to find. Where nobody made this folder, nobody looks."""


class Journal(Struct):
    """One switch, from its first step to its outcome."""

    operation: str
    request: Request
    to: Pointer
    previous: Pointer | None
    irreversible: bool = False
    step: str = ""
    old: list[Process] = []  # who listened before the switch
    failed: list[Process] = []  # who listened when the new release was given up
    boot_id: str = ""  # of the boot in which `old` was seen
    restarted: bool = False  # whether anything was restarted, so that going back must restart too
    running: Process | None = None  # the command of this step, which outlives a killed switch
    unhealthy: bool = False  # the release that is active in the end is not healthy
    gone_back: bool = False  # the script said that it went back by itself
    outcome: str = ""  # activated, rolled_back, failed
    reason: str = ""  # why it is not activated
    warnings: list[str] = []
    started_at: float = 0.0
    seconds: dict[str, float] = {}
    output: dict[str, str] = {}  # the end of what each step's command wrote


def read(layout: Layout) -> Journal | None:
    """The mark, None if there is none."""
    try:
        return msgspec.json.decode(files.read_trusted(layout.journal_file), type=Journal)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ReleaseError(
            f"{layout.journal_file} cannot be read: {error}",
            hint="see by hand which release is healthy, point current at it, then move the file away",
            code="damaged_record",
        ) from None


def write(layout: Layout, journal: Journal) -> None:
    """Keep the mark, on the disk when it returns."""
    link = _link(layout)
    if link and not link.is_symlink():
        link.symlink_to(layout.root)
        sync_dir(MARKED)
    files.write_whole(layout.journal_file, msgspec.json.encode(journal))


def clear(layout: Layout) -> None:
    """Take the mark away, on the disk when it returns."""
    files.remove_file(layout.journal_file)
    if link := _link(layout):
        link.unlink(missing_ok=True)


def marked() -> list[Path]:
    """The roots in which a switch of root's is under way, or was when the host went down."""
    return sorted(link.readlink() for link in MARKED.iterdir()) if MARKED.is_dir() else []


def _link(layout: Layout) -> Path | None:
    if os.geteuid() != 0 or not MARKED.is_dir():
        return None
    return MARKED / hashlib.sha256(os.fsencode(layout.root)).hexdigest()
