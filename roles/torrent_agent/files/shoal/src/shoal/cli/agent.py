"""``shoal agent``: run the daemon in the foreground, or check its configuration."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from shoal.agent.config import load
from shoal.agent.errors import AgentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config``, ``--check``, and the few keys that a trial on one machine wants to give at once."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML configuration (default: built-in defaults)")
    parser.add_argument("--check", action="store_true", help="only say whether the configuration is valid")
    parser.add_argument("--name", help="how this agent calls itself to its peers (default: the host's name)")
    parser.add_argument("--socket", metavar="PATH", type=Path, help="unix socket of the API")
    parser.add_argument("--state-dir", metavar="DIR", type=Path, help="resume data, and the store unless configured")
    parser.add_argument(
        "--listen", metavar="ADDRESS:PORT", action="append", help="where peers reach it; more than once for more"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; the exit status: 0 stopped cleanly, 1 failed, 2 wrong configuration."""
    given = {
        "name": args.name,
        "socket": None if args.socket is None else str(args.socket.absolute()),
        "state_dir": None if args.state_dir is None else str(args.state_dir.absolute()),
        "listen": args.listen,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    try:
        config = load(args.config, overrides)
    except AgentError as error:
        print(f"shoal agent: {error}", file=sys.stderr)
        return 2
    if args.check:
        print(f"{args.config or 'command line'}: valid")
        return 0
    # only now: --check needs no event loop and no web server
    from shoal.agent import daemon, log

    log.configure(config.log.level, config.log.format)
    try:
        return daemon.run(config, lambda: load(args.config, overrides))
    except AgentError as error:
        log.log.critical("%s", error)
        return 1
