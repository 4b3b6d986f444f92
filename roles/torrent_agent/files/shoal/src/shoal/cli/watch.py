"""``shoal watch``: what the channel of each followed application says, and where this host stands."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from shoal.agent.client import Client, Json, default_socket
from shoal.agent.errors import AgentError
from shoal.cli.protocol import DONE, FAILED, INTERRUPTED

LOOK_SECONDS = 0.25  # between two looks at an agent that works
_WORKING = ("unknown", "deciding", "fetching", "upgrading")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which application, and whether to wait for it."""
    socket = default_socket()
    parser.add_argument("app", nargs="?", metavar="APP", help="only this application")
    parser.add_argument("--once", action="store_true", help="poll now, and wait until it has settled")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=3600, help="at most (default: %(default)s)")
    parser.add_argument("--socket", metavar="PATH", type=Path, default=socket, help="of the agent (%(default)s)")
    parser.add_argument("--json", action="store_true", help="JSON for machines")


def run(args: argparse.Namespace) -> int:
    """0: where the channel wants it, or rightly waiting; 1: not believed, failed, not yet, or no agent."""
    client = Client(args.socket)
    try:
        names = [args.app] if args.app else [app["app"] for app in client.apps()]
        found = _settle(client, names, args.timeout) if args.once else [client.app(name) for name in names]
    except AgentError as error:
        print(f"shoal: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    if args.json:
        print(json.dumps({"apps": found}, indent=2))
    else:
        _show(found)
    return DONE if not args.once or all(map(_is_well, found)) else FAILED


def _settle(client: Client, names: list[str], timeout: float) -> list[Json]:
    deadline = time.monotonic() + timeout
    # A poll that was under way when we asked may have seen an older state: the one after it counts.
    asked = {name: client.poll_app(name) for name in names}
    wanted = {name: app["polls"] + (2 if app["polling"] else 1) for name, app in asked.items()}
    while True:
        found = [client.app(name) for name in names]
        if all(app["polls"] >= wanted[app["app"]] and _is_settled(app) for app in found):
            return found
        if time.monotonic() > deadline:
            print(f"shoal: not settled within {timeout:g} s", file=sys.stderr)
            return found
        time.sleep(LOOK_SECONDS)


def _is_settled(app: Json) -> bool:
    busy = app["state"] == "retrying" and _outcome(app) == "busy"
    return app["state"] not in _WORKING and not busy


def _is_well(app: Json) -> bool:
    if app["state"] == "retrying":
        return _outcome(app) == "nothing"
    return app["state"] in ("up_to_date", "waiting")


def _outcome(app: Json) -> str:
    """The last one; empty if nothing was asked yet, as after a fault before that."""
    return str((app.get("outcome") or {}).get("outcome", ""))


def _show(found: list[Json]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("app", "channel", "sequence", "version", "state", "", box=None, header_style="bold")
    for app in found:
        words = [app["app"], app.get("channel"), app.get("sequence"), app.get("version"), app["state"]]
        table.add_row(*(Text(str(word or "")) for word in words), Text(_why(app)))
    Console(highlight=False).print(table)


def _why(app: Json) -> str:
    error: dict[str, Any] | None = app.get("error") or app["file_error"]
    if error:
        return f"{error['code']}: {error['message']}"
    outcome: dict[str, Any] = app.get("outcome") or {}
    if app["state"] in ("retrying", "failed") and outcome:
        return f"{outcome['outcome']}, {outcome['reason']}: {outcome['message']}"
    return str(app["decision"] or "") if app["state"] == "waiting" else ""
