"""``shoal upgrade``: bring an application to what its end point says, from what the agent fetched."""

from __future__ import annotations

import argparse
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.cli import protocol
from shoal.endpoint.errors import EndpointError
from shoal.release.errors import ReleaseError
from shoal.upgrade import PROTOCOL
from shoal.upgrade.errors import UpgradeError
from shoal.upgrade.serve import serve

if TYPE_CHECKING:
    from rich.console import Console

    from shoal.upgrade.steps import Places

_SUMMARIES = {
    "run": "decide once, and do what is due",
    "serve": "the same for whoever connects to this unit's socket",
    "follow": "take back the pin of a version that was pushed",
    "status": "show what was seen, what failed here, and what runs",
    "check": "say whether the application's file is valid",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs and their options."""
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, summary in _SUMMARIES.items():
        options = subparsers.add_parser(verb, help=summary, description=summary.capitalize() + ".")
        options.add_argument("app", metavar="APP", help="the application, as in shop for shop.yml")
        options.add_argument("--json", action="store_true", help="write JSON lines")
        for name, default, what in _PLACES:
            options.add_argument(f"--{name}", type=Path, metavar="DIR", default=default, help=what)
        options.add_argument("--name", default=socket.gethostname(), help="the agent's name (default: the host's)")
        if verb == "check":
            options.add_argument("--file", type=Path, help="another file, before it is placed")
        if verb == "serve":
            options.add_argument("--idle", type=float, default=60, metavar="SECONDS", help="then it ends")


_PLACES = (
    ("apps-dir", Path("/etc/shoal/apps.d"), "where applications' files are (default: %(default)s)"),
    ("state-dir", Path("/var/lib/shoal-upgrade"), "what is remembered, nobody else's (default: %(default)s)"),
    ("agent-state-dir", Path("/var/lib/shoal"), "the agent's state_dir (default: %(default)s)"),
    ("store-dir", None, "the agent's store_dir (default: store in its state_dir)"),
)


def run(args: argparse.Namespace) -> int:
    """Do what ``args`` say; 0 if it is done, 1 if not, 2 for a wrong request."""
    if args.verb == "serve":
        return serve(args.app, _arguments(args), args.idle)
    return protocol.guarded(
        lambda: _run_json(args) if args.json else _run_for_people(args),
        "interrupted; a switch that had begun goes on by itself",
    )


def _places(args: argparse.Namespace) -> Places:
    from shoal.upgrade.steps import Places

    agent_state = args.agent_state_dir.absolute()
    store = args.store_dir.absolute() if args.store_dir else agent_state / "store"
    return Places(args.apps_dir.absolute(), args.state_dir.absolute(), agent_state, store, args.name)


def _arguments(args: argparse.Namespace) -> list[str]:
    """The same places, for a `run` of its own."""
    words = ["--name", args.name]
    for name, _default, _what in _PLACES:
        path = getattr(args, name.replace("-", "_"))
        words += [f"--{name}", str(path)] if path else []
    return words


def _perform(args: argparse.Namespace, emit: Any) -> dict[str, Any]:
    """Run one verb; every error becomes a result."""
    from shoal.upgrade import steps

    places = _places(args)
    try:
        if args.verb == "run":
            return steps.run(args.app, places, emit)
        if args.verb == "check":
            return steps.check(args.app, places, args.file)
        return steps.follow(args.app, places) if args.verb == "follow" else steps.status(args.app, places)
    except (EndpointError, ReleaseError, UpgradeError) as error:
        return protocol.failed(PROTOCOL, error.as_dict())
    except OSError as error:
        return protocol.failed(PROTOCOL, protocol.io_error(args.verb, error, "root"))


def _run_json(args: argparse.Namespace) -> int:
    result = _perform(args, _tell_whoever_reads)
    protocol.write({"event": "result", **result})
    return protocol.status(result)


def _tell_whoever_reads(event: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # what was begun goes on, also when nobody follows it any more
        protocol.write(event)


def _run_for_people(args: argparse.Namespace) -> int:
    from rich.console import Console

    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    result = _perform(args, lambda event: _tell(errors, event))
    if not result["ok"]:
        protocol.show_error(errors, result["error"])
        return protocol.status(result)
    if "upgrade" in result:
        _show(console, result["app"], result["upgrade"])
    else:
        words = [result.get("version"), result["outcome"], result.get("reason")]
        console.print(f"✓ {' '.join(filter(None, words))}".replace("_", " "), markup=False, soft_wrap=True)
    return 0


def _tell(console: Console, event: dict[str, Any]) -> None:
    words = {"step": "about", "health": "found", "output": "line"}.get(event["event"])
    if words and event.get("state", "start") == "start":
        name = event.get("step") or event.get("check")
        console.print(f"  {name:<14} {event[words]}", style="dim", markup=False, soft_wrap=True)


def _show(console: Console, app: str, found: dict[str, Any]) -> None:
    console.print(f"{app} follows {found['channel']} ({found['auto']}); {found['current'] or 'nothing'} runs")
    if found["pushed"]:
        console.print(f"  it was pushed, which pins it: shoal upgrade follow {app}", style="yellow")
    for name, channel in found["channels"].items():
        failed = ", ".join(map(str, channel["failed"])) or "none"
        line = f"  {name}: sequence {channel['sequence']} seen, {channel['active']} active, failed: {failed}"
        console.print(line, markup=False, soft_wrap=True)
