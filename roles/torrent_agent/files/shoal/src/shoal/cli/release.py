"""``shoal release``: for machines JSON in and JSON lines out, for people flags and tables."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.cli import protocol
from shoal.release import PROTOCOL, ReleaseError, journal, parse, parse_inspect, verbs
from shoal.release.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

_SUMMARIES = {
    "stage": "unpack and verify an archive as a release; switches nothing",
    "activate": "switch to a staged release, prove it healthy or go back",
    "remove": "delete a release that is not in use",
    "recover": "end what a killed switch left behind",
    "info": "show what is on this host",
    "inspect": "read an archive as a host would, unpacking nothing",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs and their options."""
    protocol.add_verbs(parser, _SUMMARIES, lambda verb, options: _ADD[verb](options))


def _add_root(options: argparse.ArgumentParser) -> None:
    options.add_argument("--root", help="the application's folder, as in /srv/shop")
    options.add_argument("--app", default="", help="its name (default: the folder's)")
    options.add_argument("--lock-timeout", type=float, default=0, metavar="SECONDS", help="wait for another operation")


def _add_archive(options: argparse.ArgumentParser) -> None:
    options.add_argument("archive", nargs="?", help="the archive: tar (plain, gz, bz2, xz, zst) or zip")
    options.add_argument("--sha256", help="what the archive must have")
    options.add_argument("--torrent", help="the .torrent whose pieces it must match")
    options.add_argument("--strip-components", type=int, default=0, metavar="N", help="leading folders to leave out")


def _add_stage(options: argparse.ArgumentParser) -> None:
    _add_root(options)
    options.add_argument("version", nargs="?")
    _add_archive(options)
    options.add_argument("--owner")
    options.add_argument("--group")
    options.add_argument("--umask", default="022")
    options.add_argument("--irreversible", action="store_true", help="there is no way back past this release")


def _add_activate(options: argparse.ArgumentParser) -> None:
    _add_root(options)
    options.add_argument("version", nargs="?")
    options.add_argument("--previous", action="store_true", help="go back to the previous release")
    options.add_argument("--restart", metavar="UNIT", help="systemd unit to restart (default: as the last time)")
    options.add_argument("--health", metavar="URL", help="what must answer 200 (default: as the last time)")
    options.add_argument("--keep-releases", type=int, metavar="N", help="releases to keep (default: as the last time)")


def _add_remove(options: argparse.ArgumentParser) -> None:
    _add_root(options)
    options.add_argument("version", nargs="?")


def _add_recover(options: argparse.ArgumentParser) -> None:
    _add_root(options)
    options.add_argument("--all", action="store_true", help="wherever root's switches on this host were cut off")


_ADD: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "stage": _add_stage,
    "activate": _add_activate,
    "remove": _add_remove,
    "recover": _add_recover,
    "info": _add_root,
    "inspect": _add_archive,
}


def run(args: argparse.Namespace) -> int:
    """Do what ``args`` say; 0 if it is done, 1 if not, 2 for a wrong request."""
    return protocol.guarded(
        lambda: _run_json(args) if args.json else _run_for_people(args),
        "interrupted; a switch that had begun goes on by itself",
    )


# -- for machines ------------------------------------------------------------------------------------------------


def _run_json(args: argparse.Namespace) -> int:
    result = perform(args.verb, lambda: protocol.read_request(RequestError), args.check, protocol.write)
    protocol.write({"event": "result", **result})
    return protocol.status(result)


def perform(
    verb: str, read: Callable[[], object], check: bool, emit: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run one verb; every error becomes a result."""
    try:
        document = read()
        if verb == "inspect":
            return verbs.inspect(parse_inspect(document))
        document = protocol.with_who(document)
        if verb == "info":
            return verbs.info(parse(document))
        return verbs.CHANGES[verb](parse(document), emit, check=check)
    except ReleaseError as error:
        return protocol.failed(PROTOCOL, error.as_dict())
    except OSError as error:
        return protocol.failed(PROTOCOL, protocol.io_error(verb, error, "the user that owns the root"))


# -- for people --------------------------------------------------------------------------------------------------


def _run_for_people(args: argparse.Namespace) -> int:
    from rich.console import Console

    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    if args.verb == "recover" and args.all:
        args.all = False
        return max((_recover(args, root, console) for root in journal.marked()), default=0)
    result = perform(args.verb, lambda: _request_of(args), args.check, lambda event: _tell(errors, event))
    if not result["ok"]:
        protocol.show_error(errors, result["error"])
        return protocol.status(result)
    _SHOW.get(args.verb, _show_outcome)(console, result)
    return 0


def _recover(args: argparse.Namespace, root: Path, console: Console) -> int:
    console.print(f"{root}:", markup=False, soft_wrap=True)
    args.root = str(root)
    return _run_for_people(args)


def _request_of(args: argparse.Namespace) -> dict[str, Any]:
    request: dict[str, Any] = {}
    if args.verb != "inspect":
        if not args.root:
            raise RequestError("--root is missing", hint="give the application's folder, as in --root /srv/shop")
        request = {"root": str(Path(args.root).absolute()), "app": args.app, "lock_timeout": args.lock_timeout}
    if args.verb in ("stage", "inspect"):
        if not args.archive:
            raise RequestError("the archive is missing")
        torrent = str(Path(args.torrent).absolute()) if args.torrent else None
        request["archive"] = {"path": str(Path(args.archive).absolute()), "sha256": args.sha256, "torrent": torrent}
        request["strip_components"] = args.strip_components
    if args.verb == "stage":
        request |= {key: getattr(args, key) for key in ("version", "owner", "group", "umask", "irreversible")}
    if args.verb == "activate":
        request |= {"version": args.version, "previous": args.previous, **_as_last_time(args, request["root"])}
    if args.verb == "remove":
        request["version"] = args.version
    return request


def _as_last_time(args: argparse.Namespace, root: str) -> dict[str, Any]:
    """How the current release was activated, but for what the flags say."""
    import msgspec

    from shoal.release.layout import Layout
    from shoal.release.request import HealthCheck, Request

    last = Layout(root).state().request or Request(root=root)
    spec = last.switch
    if args.restart:
        spec = msgspec.structs.replace(spec, restart=args.restart)
    if args.health:
        spec = msgspec.structs.replace(spec, health=[HealthCheck(url=args.health)])
    keep = last.keep_releases if args.keep_releases is None else args.keep_releases
    found: dict[str, Any] = msgspec.to_builtins(
        {"switch": spec, "keep_releases": keep, "shared": last.shared, "owner": last.owner, "group": last.group}
    )
    return {**found, "umask": last.umask, "app": args.app or last.app}


def _tell(console: Console, event: dict[str, Any]) -> None:
    if event["event"] == "step" and event["state"] == "start":
        console.print(f"  {event['step']:<14} {event['about']}", style="dim", markup=False, soft_wrap=True)
    elif event["event"] == "step" and event["state"] == "failed":
        console.print(f"  {event['step']:<14} {event['message']}", style="yellow", markup=False, soft_wrap=True)
    elif event["event"] == "health":
        console.print(f"    {event['check']} {event['found']}", style="dim", markup=False, soft_wrap=True)
    elif event["event"] == "output":
        console.print(f"    {event['line']}", style="dim", markup=False, soft_wrap=True)
    elif event["event"] == "follow":
        console.print(f"  this is being done already: following {event['operation']}", markup=False, soft_wrap=True)


def _show_outcome(console: Console, result: dict[str, Any]) -> None:
    words = result.get("outcome", "").replace("_", " ")
    console.print(f"[green]✓[/green] {result.get('version') or ''} {words}".replace("  ", " "))
    for warning in result.get("warnings", []):
        console.print(f"  {warning}", style="yellow", markup=False, soft_wrap=True)


def _show_inspect(console: Console, result: dict[str, Any]) -> None:
    for key, value in result["archive"].items():
        console.print(f"{key:<15} {value}", markup=False, soft_wrap=True)


def _show_info(console: Console, result: dict[str, Any]) -> None:
    from rich.table import Table

    release = result["release"]
    table = Table(
        "version", "", "staged", "unpacked", "entries", box=None, title=f"{release['app']} in {release['root']}"
    )
    for one in release["releases"]:
        role = "current" if one["current"] else "previous" if one["previous"] else ""
        if one["adopted"]:
            table.add_row(one["version"], role, "by others", "", "")
        else:
            staged = time.strftime("%Y-%m-%d %H:%M", time.localtime(one["staged_at"]))
            table.add_row(one["version"], role, staged, f"{one['unpacked_bytes'] / 1e6:.1f} MB", str(one["entries"]))
    console.print(table)
    if release["unproven"]:
        console.print(f"unproven: {release['unproven']['version']}, at {release['unproven']['step']}", style="red")
    for entry in release["log"][:5]:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["time"]))
        line = f"{when} {entry['who']}: {entry['from']} → {entry['to']} {entry['outcome']} {entry['reason']}"
        console.print(line, markup=False, soft_wrap=True)


_SHOW: dict[str, Callable[[Console, dict[str, Any]], None]] = {"info": _show_info, "inspect": _show_inspect}
