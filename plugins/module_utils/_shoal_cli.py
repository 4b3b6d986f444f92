# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs ``shoal release VERB --json`` and ``shoal endpoint VERB --json``: a request on stdin, JSON lines on stdout, the
last of which is the result.

Sizes are in bytes, durations in seconds. Private to this collection; docs/release.md and docs/endpoint.md describe the
protocols.
"""

from __future__ import annotations

import getpass
import json
import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

PROTOCOL = 1

# Where the role torrent_agent puts the command; elsewhere it is looked for on PATH.
INSTALLED = "/opt/shoal/current/bin/shoal"

RunCommand = Callable[..., Tuple[int, str, str]]


class ShoalCliError(Exception):
    """The command could not be run, or its result says that the work was not done.

    ``str(error)`` says what was found and what to do now; ``result`` is the command's own result, empty where it
    gave none.
    """

    def __init__(self, message: str, result: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(message)
        self.result = result or {}


def find_executable(given: Optional[str]) -> str:
    """The command to run: the given one, or the installed one, or the word ``shoal`` for PATH to find."""
    if given:
        return os.path.expanduser(given)
    return INSTALLED if os.path.exists(INSTALLED) else "shoal"


def caller() -> str:
    """The name of the user that the connection logged in as, also where that user became another one."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name
        return str(os.getuid())


def run_release(
    run_command: RunCommand, executable: str, verb: str, request: Dict[str, Any], check: bool = False
) -> Dict[str, Any]:
    """The result of ``shoal release VERB``, as of :func:`run_shoal`."""
    return run_shoal(run_command, executable, ["release", verb], request, check)


def run_shoal(
    run_command: RunCommand,
    executable: str,
    words: List[str],
    request: Dict[str, Any],
    check: bool = False,
    prefix: Sequence[str] = (),
) -> Dict[str, Any]:
    """The result of a ``shoal`` command that speaks JSON.

    :param run_command: AnsibleModule.run_command or what behaves like it.
    :param words: ``release`` or ``endpoint``, and the verb.
    :param check: only predict what would be done.
    :param prefix: a command that runs the command, as somebody else.
    :raises ShoalCliError: where the result is not ok, or there is none.
    """
    command = [*prefix, executable, *words, "--json"] + (["--check"] if check else [])
    try:
        rc, out, err = run_command(command, data=json.dumps(dict(request, protocol=PROTOCOL)), handle_exceptions=False)
    except (OSError, ValueError) as error:
        raise ShoalCliError(
            "cannot run %s: %s. Install it with the role shoal.deploy.torrent_agent, or say in the option executable "
            "where it is." % (executable, getattr(error, "strerror", None) or error)
        ) from None
    result = _last_result(out)
    if result is None:
        tail = (err or out).strip()[-1000:] or "nothing"
        raise ShoalCliError(
            "%s gave no result (exit status %d) and said: %s. It may be older than this collection: update shoal on "
            "this host." % (" ".join(command), rc, tail)
        )
    if result.get("protocol") != PROTOCOL:
        newer = (result.get("protocol") or 0) > PROTOCOL
        raise ShoalCliError(
            "%s speaks protocol %s and this collection %d: update %s."
            % (executable, result.get("protocol"), PROTOCOL, "the collection" if newer else "shoal on this host"),
            result,
        )
    if not result.get("ok"):
        raise ShoalCliError(explain(result), result)
    return result


def explain(result: Dict[str, Any]) -> str:
    """A failed result as a sentence, with the next step where the command knows one."""
    error = result.get("error") or {}
    parts: List[str] = [error.get("message") or result.get("reason") or "shoal failed without saying why"]
    if error.get("hint"):
        parts.append(error["hint"])
    return " ".join(part[:1].upper() + part[1:].rstrip(".") + "." for part in parts)


def _last_result(out: str) -> Optional[Dict[str, Any]]:
    """The last line that is a result; what a hook printed in between is passed over."""
    for line in reversed(out.splitlines()):
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict) and document.get("event") == "result":
            return document
    return None
