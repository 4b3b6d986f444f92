"""The ``shoal`` command: one subcommand a module, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Protocol

from shoal import __version__


class Command(Protocol):
    """What a module of this room offers: its arguments and what it does with them."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the subcommand's options on ``parser``."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work; the exit status: 0 done, 1 failed, 2 wrong use."""


COMMANDS = {
    # name: (module, one line of help)
    "agent": ("shoal.cli.agent", "run the agent, the daemon that fetches and seeds"),
    "tracker": ("shoal.cli.tracker", "run the small tracker, for trials and tests"),
    "status": ("shoal.cli.torrents", "what the agent fetches and seeds"),
    "fetch": ("shoal.cli.torrents", "fetch an archive by torrent and go on seeding it"),
    "seed": ("shoal.cli.torrents", "seed an archive that is already here"),
    "watch": ("shoal.cli.watch", "what the end points of this host's applications say, and where it stands"),
    "endpoint": ("shoal.cli.endpoint", "publish versions at the known end point that hosts watch"),
    "upgrade": ("shoal.cli.upgrade", "switch to what the end point says; the privileged side of a pull"),
    "release": ("shoal.cli.release", "stage, activate, roll back, recover and list releases"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (``sys.argv[1:]`` when None) and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="shoal", description="Roll releases out to a fleet by BitTorrent.")
    parser.add_argument("--version", action="version", version=f"shoal {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    # Only the called subcommand's module is imported: `shoal release` runs at every switch and must not pay
    # for the daemon's libraries.
    called = next((word for word in words if not word.startswith("-")), None)
    command: Command | None = None
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name == called:
            command = importlib.import_module(module)
            command.add_arguments(subparser)
    args = parser.parse_args(words)
    assert command is not None  # argparse has refused an unknown or missing COMMAND
    return command.run(args)
