"""``shoal status``, ``shoal fetch`` and ``shoal seed``: the agent's torrents, for people and (``--json``) machines."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shoal.agent.client import MAX_TORRENT_BYTES, Client, Json, default_socket
from shoal.agent.errors import AgentError, AnswerError

WAIT_SECONDS = 30.0  # one long-poll; the agent allows 60
_FOLLOWED = 1 / 100  # a fetch that is followed answers at every hundredth


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand that ``parser`` is for; its name is the last word of ``prog``."""
    socket = default_socket()
    parser.add_argument("--socket", metavar="PATH", type=Path, default=socket, help="of the agent (%(default)s)")
    parser.add_argument("--json", action="store_true", help="JSON for machines")
    name = parser.prog.split()[-1]
    if name == "status":
        parser.add_argument("info_hash", nargs="?", metavar="INFO_HASH", help="only this torrent, in full")
        parser.add_argument("--watch", action="store_true", help="go on showing it until interrupted")
        parser.set_defaults(work=_status)
        return
    if name == "fetch":
        parser.add_argument("torrent", metavar="TORRENT", help=".torrent file or magnet link")
        ending = parser.add_mutually_exclusive_group()
        ending.add_argument("--no-wait", action="store_true", help="do not wait for the end")
        ending.add_argument(
            "--dest", metavar="PATH", help="copy the payload there: as PATH, or into it if it is a folder"
        )
        parser.set_defaults(work=_fetch)
    else:
        parser.add_argument("path", metavar="PATH", type=Path, help="the archive: a file or a directory")
        parser.add_argument("--torrent", metavar="FILE", required=True, help="its .torrent file")
        parser.set_defaults(work=_seed)
    parser.add_argument("--peer", metavar="HOST:PORT", action="append", default=[], help="a peer to start from")
    parser.add_argument("--tracker", metavar="URL", action="append", default=[], help="a tracker beside the torrent's")
    parser.add_argument("--web-seed", metavar="URL", action="append", default=[], help="where to turn in a stall")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=3600, help="at most (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """The exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    work: Callable[[Client, argparse.Namespace], int] = args.work
    try:
        return work(Client(args.socket), args)
    except AgentError as error:
        if args.json:
            code = error.code if isinstance(error, AnswerError) else "unreachable"
            print(json.dumps({"error": {"code": code, "message": str(error)}}))
        print(f"shoal: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


# --- status ---------------------------------------------------------------------------------------------------


def _status(client: Client, args: argparse.Namespace) -> int:
    if args.json:
        _print_json(_look(client, args.info_hash))
        return 0
    from rich.console import Console

    console = Console()
    if not args.watch:
        console.print(_picture(_look(client, args.info_hash)))
        return 0
    from rich.live import Live

    last = client.events()["last"]
    with Live(_picture(_look(client, args.info_hash)), console=console, auto_refresh=False) as live:
        while True:
            # woken by what happens, once a second at most
            time.sleep(1)
            last = client.events(last, wait=WAIT_SECONDS)["last"]
            live.update(_picture(_look(client, args.info_hash)), refresh=True)


def _look(client: Client, info_hash: str | None) -> Json:
    if info_hash:
        return {"torrent": client.torrent(info_hash), "peers": client.peers(info_hash)}
    return {"agent": client.agent(), "torrents": client.torrents()}


def _picture(found: Json) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    # Text, not str: brackets in a torrent's or a peer's name are no markup
    if "torrent" in found:
        fields = Table.grid(padding=(0, 2))
        for key, value in found["torrent"].items():
            words = value if isinstance(value, str) else json.dumps(value)
            fields.add_row(Text(key, style="bold"), Text(_plain(words)))
        table = Table(box=None, header_style="bold")
        for title in ("peer", "client", "progress", "down", "up"):
            table.add_column(title, justify="right" if title in ("progress", "down", "up") else "left")
        for peer in found["peers"]:
            table.add_row(
                Text(peer["agent_name"] or f"{peer['address']}:{peer['port']}"),
                Text(_plain(peer["client"])),
                f"{peer['progress']:.0%}",
                _size(peer["downloaded"]),
                _size(peer["uploaded"]),
            )
        return Group(fields, table)
    agent = found["agent"]
    ports = ", ".join(str(port) for port in agent["listen"])
    head = Text(f"{agent['name']}  shoal {agent['version']}  port {ports}", style="bold")
    storage = agent.get("storage")
    if storage and (storage["reserved"] or storage["waiting"]):
        head.append(
            f"\nspace: {_size(storage['free'])} free, {_size(storage['reserved'])} of it for downloads, "
            f"min_free {_size(storage['min_free'])}",
            style="not bold",
        )
    table = Table(box=None, header_style="bold")
    for title in ("name", "state", "size", "done", "down", "up", "peers"):
        table.add_column(title, justify="right" if title not in ("name", "state") else "left", overflow="fold")
    table.add_column("info hash", no_wrap=True, min_width=40)
    for torrent in found["torrents"]:
        table.add_row(
            Text(_name(torrent)),
            Text(_state(torrent).partition(":")[0] if torrent.get("held") else _state(torrent)),
            _size(torrent["size"]),
            f"{torrent['progress']:.0%}",
            f"{_size(torrent['download_rate'])}/s",
            f"{_size(torrent['upload_rate'])}/s",
            str(torrent["peers"]),
            torrent["info_hash"],
        )
    notes = [Text(f"{_name(torrent)}: {_state(torrent)}") for torrent in found["torrents"] if torrent.get("held")]
    return Group(head, table if found["torrents"] else Text("no torrents"), *notes)


def _name(torrent: Json) -> str:
    return _plain(torrent["name"]) or str(torrent["info_hash"])


def _state(torrent: Json) -> str:
    if torrent["error"]:
        return _plain(f"error: {torrent['error']['message']} {torrent['error']['what']}".rstrip())
    if held := torrent.get("held"):
        return _plain(str(held["message"]))
    return f"{torrent['state']}, paused" if torrent["paused"] else str(torrent["state"])


# --- fetch and seed -------------------------------------------------------------------------------------------


def _fetch(client: Client, args: argparse.Namespace) -> int:
    source = (
        {"magnet": args.torrent} if args.torrent.startswith("magnet:") else {"torrent": _read_torrent(args.torrent)}
    )
    if args.dest and not Path(args.dest).absolute().parent.is_dir():
        raise AgentError(f"cannot copy to {args.dest}: its folder is not there; make it")
    answer = client.add(**source, **_additions(args))
    torrent: Json = answer["torrent"]
    if torrent["paused"]:
        torrent = client.change(torrent["info_hash"], paused=False)["torrent"]
    if not args.no_wait:
        torrent = _follow(client, torrent, args)
    if args.dest and torrent["state"] == "complete":
        copy = _deliver(Path(torrent["payload_path"]), args.dest)
        print(f"copied to {copy}", file=sys.stderr)
    return _conclude(torrent, args, changed=bool(answer["changed"]))


def _deliver(payload: Path, dest: str) -> Path:
    """Copy ``payload`` so that it is at ``dest`` whole or not at all; a file there is replaced, a folder is not."""
    into = dest.endswith("/") or Path(dest).is_dir()
    target = Path(dest, payload.name) if into else Path(dest)
    try:
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".shoal-") as folder:
            part = Path(folder, "payload")
            if payload.is_dir():
                shutil.copytree(payload, part, symlinks=True)
            else:
                shutil.copyfile(payload, part)
            part.rename(target)
    except (OSError, shutil.Error) as error:
        raise AgentError(f"cannot copy {payload} to {target}: {error}") from error
    return target


def _seed(client: Client, args: argparse.Namespace) -> int:
    answer = client.add(torrent=_read_torrent(args.torrent), data_path=args.path.absolute(), **_additions(args))
    torrent = _follow(client, answer["torrent"], args)
    return _conclude(torrent, args, changed=bool(answer["changed"]))


def _read_torrent(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_TORRENT_BYTES + 1)
    except OSError as error:
        raise AgentError(f"cannot read the torrent {path}: {error.strerror}") from error
    if len(data) > MAX_TORRENT_BYTES:
        raise AgentError(f"{path} has more than {MAX_TORRENT_BYTES} bytes: is it the archive, not its .torrent?")
    return data


def _additions(args: argparse.Namespace) -> Json:
    return {"peers": args.peer, "trackers": [[url] for url in args.tracker], "web_seeds": args.web_seed}


def _follow(client: Client, torrent: Json, args: argparse.Namespace) -> Json:
    """Wait until the torrent is complete or in error, or time is over, and show how far it is."""
    deadline = time.monotonic() + args.timeout
    with _progress_display(args) as show:
        while torrent["state"] not in ("complete", "error"):
            show(torrent)
            left = deadline - time.monotonic()
            if left <= 0:
                break
            # while the check runs, or the metainfo is on its way, there is no progress to wait for
            goal = torrent["progress"] + _FOLLOWED if torrent["state"] == "downloading" else _FOLLOWED
            wait = min(left, WAIT_SECONDS)
            torrent = client.torrent(torrent["info_hash"], wait=wait, progress=min(1.0, goal))
        show(torrent)
    return torrent


def _conclude(torrent: Json, args: argparse.Namespace, *, changed: bool) -> int:
    done = torrent["state"] == "complete" or (getattr(args, "no_wait", False) and torrent["state"] != "error")
    if args.json:
        _print_json({"changed": changed, "torrent": torrent})
    elif torrent["state"] == "complete":
        print(f"complete: {torrent['payload_path']}")
        sources = {**torrent["from_peers"], "web seeds": torrent["from_web_seeds"]}  # names without spaces, so no clash
        came = ", ".join(f"{_size(count)} from {name}" for name, count in sources.items() if count)
        if came:
            print(f"{came}, in {torrent['download_seconds']:.1f} s")
    if not done:
        why = _state(torrent) if torrent["error"] else f"not complete after {args.timeout:g} s: {_state(torrent)}"
        print(f"shoal: {_name(torrent)}: {why}", file=sys.stderr)
    return 0 if done else 1


@contextlib.contextmanager
def _progress_display(args: argparse.Namespace) -> Iterator[Callable[[Json], None]]:
    """A bar on a terminal, a line per tenth elsewhere, nothing with --json."""
    if args.json:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _lines()


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Json], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.fields[name]}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None, name="", state="")

        def show(torrent: Json) -> None:
            progress.update(
                task,
                total=torrent["size"] or None,
                completed=torrent["progress"] * torrent["size"],
                name=_name(torrent),
                state=f"{_state(torrent)}, {torrent['peers']} peers",
            )

        yield show


def _lines() -> Callable[[Json], None]:
    shown: list[tuple[str, bool, int]] = []

    def show(torrent: Json) -> None:
        step = (torrent["state"], bool(torrent.get("held")), int(torrent["progress"] * 10))
        if step in shown[-1:]:
            return
        shown.append(step)
        rate = f", {_size(torrent['download_rate'])}/s from {torrent['peers']} peers"
        tail = rate if torrent["state"] == "downloading" else ""
        print(f"{_name(torrent)}: {_state(torrent)} {torrent['progress']:.0%}{tail}", file=sys.stderr, flush=True)

    return show


def _print_json(content: Json) -> None:
    print(json.dumps(content, indent=2))


def _plain(text: str) -> str:
    """Without the terminal codes that a torrent or a peer may have put into its name."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
