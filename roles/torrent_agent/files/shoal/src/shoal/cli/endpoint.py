"""``shoal endpoint``: for machines JSON in and JSON lines out, for people flags and tables."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.cli import protocol
from shoal.endpoint import client, documents, publisher
from shoal.endpoint.errors import DocumentError, EndpointError, RefusedError, RequestError
from shoal.endpoint.request import PROTOCOL, Request, parse
from shoal.release import metainfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

_SUMMARIES = {
    "init": "make an end point and its keys",
    "publish": "put a published version into a channel",
    "promote": "put the version of one channel into another",
    "percent": "plan which share of the fleet may upgrade when",
    "halt": "let no host begin to upgrade on a channel",
    "resume": "take a halt back",
    "revoke": "say that a version is not to be activated",
    "withdraw": "take versions away that no channel is at",
    "refresh": "sign anew what will expire; a timer does it every hour",
    "rotate": "replace the keys of a role",
    "verify": "read an end point as a host would",
    "list": "show channels, versions and keys",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs and their options."""
    protocol.add_verbs(parser, _SUMMARIES, _add_options)


_CHANGING = frozenset(_SUMMARIES) - {"verify", "list"}

# Which verbs take which options; positional arguments in their order.
_OPTIONS: list[tuple[frozenset[str], str, dict[str, Any]]] = [
    (
        frozenset(_SUMMARIES),
        "folder",
        {"nargs": "?", "default": "", "help": "the end point's folder, as in /srv/shoal/endpoint/shop"},
    ),
    (
        frozenset({"promote"}),
        "source",
        {"nargs": "?", "default": "", "metavar": "FROM", "help": "the channel whose version it is"},
    ),
    (
        frozenset({"publish", "promote", "percent", "halt", "resume"}),
        "channel",
        {"nargs": "?", "default": "", "help": "the channel, as in stable"},
    ),
    (
        frozenset({"percent"}),
        "rollout",
        {"nargs": "*", "metavar": "STEP", "help": "10, 50@+2h, 100@2026-11-23T08:00:00Z"},
    ),
    (
        frozenset({"publish", "promote"}),
        "--rollout",
        {"nargs": "+", "default": [], "metavar": "STEP", "help": "10, 50@+2h, ... (default: 100)"},
    ),
    (
        frozenset({"publish", "promote"}),
        "--sequence",
        {"type": int, "default": 0, "metavar": "N", "help": "instead of the next number"},
    ),
    (
        frozenset({"publish", "promote"}),
        "--again",
        {"action": "store_true", "help": "also if the channel had this version before"},
    ),
    (
        frozenset({"publish", "promote"}),
        "--version",
        {"default": "", "help": "of a version that is here already; or what is expected"},
    ),
    (
        frozenset({"publish"}),
        "--from",
        {"dest": "published", "default": "", "metavar": "DIR", "help": "the folder that release_publish made"},
    ),
    (frozenset({"revoke"}), "version", {"nargs": "?", "default": ""}),
    (frozenset({"withdraw"}), "versions", {"nargs": "*", "default": [], "metavar": "VERSION"}),
    (frozenset({"halt", "revoke"}), "--reason", {"default": "", "help": "words for people"}),
    (frozenset({"init", "verify"}), "--app", {"default": "", "help": "the application's name"}),
    (
        frozenset({"init"}),
        "--operator-keys",
        {"default": "", "metavar": "DIR", "help": "where root's and targets' keys are, or are to be"},
    ),
    (
        frozenset({"init"}),
        "--publisher-keys",
        {"default": "", "metavar": "DIR", "help": "where snapshot's and timestamp's keys are, or are to be"},
    ),
    (
        frozenset({"init"}),
        "--root-keys",
        {"type": int, "default": 1, "metavar": "N", "help": "how many root keys there are (default: 1)"},
    ),
    (
        frozenset({"init"}),
        "--root-threshold",
        {"type": int, "default": 1, "metavar": "N", "help": "how many of them must sign (default: 1)"},
    ),
    (frozenset({"refresh"}), "--force", {"action": "store_true", "help": "also what was signed a moment ago"}),
    (frozenset({"rotate"}), "role", {"nargs": "?", "default": "", "help": "root, targets, snapshot or timestamp"}),
    (
        frozenset({"rotate"}),
        "--new-keys",
        {"default": "", "metavar": "DIR", "help": "where the new keys are to be"},
    ),
    (frozenset({"verify"}), "--url", {"default": "", "help": "read it from there (default: from the folder)"}),
    (
        frozenset({"verify"}),
        "--root",
        {"default": "", "metavar": "FILE", "help": "the pinned root (default: the folder's first)"},
    ),
    (
        frozenset({"verify"}),
        "--channel",
        {"default": "", "help": "only this one (default: all; with --url: stable)"},
    ),
    (
        _CHANGING - {"init"},
        "--keys",
        {"nargs": "+", "default": [], "metavar": "PATH", "help": "key files, or folders of *.pem files"},
    ),
    (_CHANGING, "--passphrase-file", {"metavar": "FILE", "help": "of encrypted keys"}),
    (
        _CHANGING,
        "--lock-timeout",
        {"type": float, "default": 0, "metavar": "SECONDS", "help": "wait for another publisher"},
    ),
]


def _add_options(verb: str, options: argparse.ArgumentParser) -> None:
    for verbs, name, settings in _OPTIONS:
        if verb in verbs:
            options.add_argument(name, **settings)


def run(args: argparse.Namespace) -> int:
    """Do what ``args`` say; 0 if it is done, 1 if not, 2 for a wrong request."""
    return protocol.guarded(
        lambda: _run_json(args) if args.json else _run_for_people(args),
        "interrupted; run it again, what is half done is not served",
    )


# -- for machines ------------------------------------------------------------------------------------------------


def _run_json(args: argparse.Namespace) -> int:
    result = perform(args.verb, lambda: protocol.read_request(RequestError), args.check)
    protocol.write({"event": "result", **result})
    return protocol.status(result)


def perform(verb: str, read: Callable[[], object], check: bool) -> dict[str, Any]:
    """Run one verb; every error becomes a result."""
    try:
        return _VERBS[verb](parse(protocol.with_who(read())), check)
    except RefusedError as error:
        attempts = [{**one.as_dict(), "url": one.url} for one in error.attempts]
        return {**protocol.failed(PROTOCOL, error.as_dict()), "attempts": attempts}
    except EndpointError as error:
        return protocol.failed(PROTOCOL, error.as_dict())
    except OSError as error:
        return protocol.failed(PROTOCOL, protocol.io_error(verb, error, "the user that owns the folder"))


# -- verbs that need another room, or the reader ------------------------------------------------------------------


def _publish(request: Request, check: bool) -> dict[str, Any]:
    if not request.published:
        return publisher.publish(request, None, None, check=check)
    manifest, torrent = _published(Path(request.published))
    return publisher.publish(request, manifest, torrent, check=check)


def _published(folder: Path) -> tuple[documents.Manifest, bytes]:
    """Manifest and torrent of the folder that release_publish made, seen to belong together."""
    try:
        manifest = documents.read_manifest((folder / "manifest.json").read_bytes())
        path = folder / f"{manifest.archive.name}.torrent"
        torrent = path.read_bytes()
    except FileNotFoundError as error:
        raise EndpointError(
            f"{folder} is no published version: {error.filename} is not there",
            hint="publish it first, with the module release_publish or the playbook publish",
            code="not_published",
        ) from None
    if len(torrent) > documents.MAX_TORRENT:
        raise DocumentError(f"{path} has more than {documents.MAX_TORRENT} bytes")
    try:
        found = metainfo.parse(torrent)
    except metainfo.MetainfoError as error:
        raise DocumentError(f"{path}: {error}") from None
    archive = manifest.archive
    if (found.info_hash, found.name, found.length) != (manifest.info_hash, archive.name, archive.size):
        raise DocumentError(
            f"{path} is the torrent of {found.name} ({found.length} bytes, {found.info_hash}), and the manifest "
            f"beside it is about {archive.name} ({archive.size} bytes, {manifest.info_hash})",
            hint="remove the folder and publish the version again, from the same archive",
        )
    return manifest, torrent


def _verify(request: Request, _check: bool) -> dict[str, Any]:
    """Read as a host that has never read before."""
    root = Path(request.root) if request.root else Path(request.folder) / "metadata" / "1.root.json"
    if request.url and not request.root:
        raise RequestError("verify with a URL needs the pinned root", hint="give --root FILE")
    pinned = root.read_bytes()
    app = request.app or client.app_of(pinned)
    url = request.url or Path(request.folder).absolute().as_uri()
    names = [request.channel] if request.channel else ["stable"]
    if not request.channel and not request.url:
        listed = publisher.list_(request)["endpoint"]["channels"]
        names = [channel["channel"] for channel in listed]
    found = []
    with tempfile.TemporaryDirectory(prefix="shoal-verify-") as scratch:
        reader = client.Client(app, [url], pinned, Path(scratch))
        for name in names:
            view = reader.read(name)
            found.append(
                {
                    "channel": name,
                    "sequence": view.sequence,
                    "version": view.version,
                    "percent": view.percent(),
                    "halted": view.halted,
                    "revoked": view.revoked,
                    "info_hash": view.manifest.info_hash,
                    "expires": view.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "requests": view.requests,
                    "received": view.received,
                }
            )
    return {"protocol": PROTOCOL, "ok": True, "changed": False, "outcome": "verified", "app": app, "channels": found}


_VERBS: dict[str, Callable[[Request, bool], dict[str, Any]]] = {
    "init": lambda request, check: publisher.init(request, check=check),
    "publish": _publish,
    "promote": lambda request, check: publisher.promote(request, check=check),
    "percent": lambda request, check: publisher.percent(request, check=check),
    "halt": lambda request, check: publisher.halt(request, check=check),
    "resume": lambda request, check: publisher.resume(request, check=check),
    "revoke": lambda request, check: publisher.revoke(request, check=check),
    "withdraw": lambda request, check: publisher.withdraw(request, check=check),
    "refresh": lambda request, check: publisher.refresh(request, check=check),
    "rotate": lambda request, check: publisher.rotate(request, check=check),
    "verify": _verify,
    "list": lambda request, _check: publisher.list_(request),
}


# -- for people --------------------------------------------------------------------------------------------------

_PATHS = ("folder", "published", "operator_keys", "publisher_keys", "new_keys", "root")
_NOT_IN_REQUEST = ("command", "verb", "json", "check", "passphrase_file")


def _run_for_people(args: argparse.Namespace) -> int:
    from rich.console import Console

    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    result = perform(args.verb, lambda: _request_of(args), args.check)
    if not result["ok"]:
        attempts = [f"{one['url']}: {one['message']}" for one in result.get("attempts", [])[1:]]
        protocol.show_error(errors, result["error"], tuple(attempts))
        return protocol.status(result)
    if args.verb != "list":
        words = result["outcome"].replace("_", " ")
        would = " (only tried: nothing was written)" if args.check and result["changed"] else ""
        console.print(f"[green]✓[/green] {words}{would}")
    if args.verb == "verify":
        for one in result["channels"]:
            line = f"  {one['channel']}: {one['version']} (sequence {one['sequence']}), {one['percent']} %"
            console.print(f"{line}, believed until {one['expires']}", markup=False, soft_wrap=True)
    elif "endpoint" in result:
        _show(console, result["endpoint"], everything=args.verb in ("list", "init", "rotate"))
    return 0


def _request_of(args: argparse.Namespace) -> dict[str, Any]:
    request = {key: value for key, value in vars(args).items() if key not in _NOT_IN_REQUEST}
    for key in _PATHS:
        if request.get(key):
            request[key] = str(Path(request[key]).absolute())
    if getattr(args, "passphrase_file", None):
        request["passphrase"] = Path(args.passphrase_file).read_text(encoding="utf-8").rstrip("\n")
    return request


def _show(console: Console, endpoint: dict[str, Any], *, everything: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("channel", "sequence", "version", "now", "then", "", box=None, title=f"{endpoint['app']}")
    for channel in endpoint["channels"]:
        steps = [f"{step['percent']} % at {step['at']}" for step in channel["rollout"]]
        halt = channel["halt"]
        state = f"halted by {halt['who']} {halt['reason']}" if halt else ""
        if any(one["version"] == channel["version"] for one in channel["revoked"]):
            state = f"revoked {state}"
        table.add_row(
            channel["channel"],
            str(channel["sequence"]),
            Text(channel["version"]),
            f"{channel['percent']} %",
            steps[-1] if channel["percent"] < channel["rollout"][-1]["percent"] else "",
            Text(state, style="red"),
        )
    if endpoint["channels"]:
        console.print(table)
    if everything:
        for role, one in endpoint["signed"].items():
            names = ", ".join(keyid[:8] for keyid in one["keys"])
            line = f"  {role:<10} expires {one['expires']}, signed {one['signed_at']}, by {one['threshold']} of {names}"
            console.print(line, markup=False, soft_wrap=True)
        console.print(f"  hosts pin  {endpoint['root']['file']}", markup=False, soft_wrap=True)
        for version in endpoint["versions"]:
            line = f"  {version['version']}  {version['size'] / 1e6:.1f} MB  by {version['published_by']}"
            console.print(f"{line} at {version['published_at']}", markup=False, soft_wrap=True)
    for warning in endpoint["warnings"]:
        console.print(f"  {warning}", style="yellow", markup=False, soft_wrap=True)
