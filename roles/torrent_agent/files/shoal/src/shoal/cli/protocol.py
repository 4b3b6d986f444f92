"""What commands with verbs have in common: JSON in and JSON lines out for machines, words for people.

Errors of a room have a ``code``, a message and a ``hint``; a result says ``ok``, and ``error`` where it is not.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

REQUEST_LIMIT = 4 << 20  # bytes of a request on stdin
DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130  # exit statuses; after Ctrl-C as of shells


def add_verbs(
    parser: argparse.ArgumentParser,
    summaries: Mapping[str, str],
    add_options: Callable[[str, argparse.ArgumentParser], None],
) -> None:
    """Declare the verbs, each with the options that all have and what ``add_options`` adds."""
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, summary in summaries.items():
        options = subparsers.add_parser(verb, help=summary, description=summary.capitalize() + ".")
        options.add_argument("--json", action="store_true", help="read a JSON request on stdin, write JSON lines")
        options.add_argument("--check", action="store_true", help="say what would change, and touch nothing")
        add_options(verb, options)


def guarded(work: Callable[[], int], interrupted: str) -> int:
    """The exit status of ``work``; after Ctrl-C people are told ``interrupted``."""
    try:
        return work()
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads; not even the interpreter's last flush
        return FAILED


def read_request(refuse: Callable[[str], Exception]) -> object:
    """The JSON document on stdin. Raises ``refuse(why)`` if it is none."""
    data = sys.stdin.buffer.read(REQUEST_LIMIT + 1)
    if len(data) > REQUEST_LIMIT:
        raise refuse(f"the request has more than {REQUEST_LIMIT} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise refuse(f"the request on stdin is not JSON: {error}") from None


def write(event: Mapping[str, Any]) -> None:
    """One JSON line, with the time."""
    print(json.dumps({"time": round(time.time(), 3), **event}), flush=True)


def with_who(document: object) -> object:
    """A request that says who asks, also if it did not."""
    return {**document, "who": document.get("who") or who()} if isinstance(document, dict) else document


def who() -> str:
    """Who runs this: ``alice@host``."""
    name = os.environ.get("SUDO_USER", "")
    with suppress(Exception):  # an account without a name: there is no one error for it in all Python versions
        name = name or getpass.getuser()
    return f"{name or os.getuid()}@{socket.gethostname()}"


def failed(protocol: int, error: Mapping[str, str]) -> dict[str, Any]:
    """The result that says ``error``."""
    return {"protocol": protocol, "ok": False, "changed": False, "error": dict(error)}


def io_error(verb: str, error: OSError, whom: str) -> dict[str, str]:
    """The error that an OSError is; ``whom``: the user that may."""
    hint = f"run as {whom}, or as root" if isinstance(error, PermissionError) else ""
    return {"code": "io_error", "message": f"{verb}: {error}", "hint": hint}


def status(result: Mapping[str, Any]) -> int:
    """The exit status that tells ``result``."""
    if result["ok"]:
        return DONE
    return WRONG_USE if result.get("error", {}).get("code") == "bad_request" else FAILED


def show_error(console: Console, error: Mapping[str, str], more: tuple[str, ...] = ()) -> None:
    """An error for people, with ``more`` lines between message and hint."""
    console.print("✗ ", style="red", end="")
    console.print(error["message"], markup=False, soft_wrap=True)
    for line in filter(None, (*more, error.get("hint"))):
        console.print(f"  {line}", markup=False, soft_wrap=True)
