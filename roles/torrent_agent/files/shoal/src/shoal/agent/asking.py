"""Asking the privileged side to bring an application to what its end point says; docs/upgrade.md has the protocol."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from shoal.agent.config import Config
from shoal.agent.log import log

PROTOCOL = 1
MAX_LINE = 1 << 20  # bytes of one JSON line
CONNECT_SECONDS = 10.0

Answer = dict[str, Any]


async def ask(config: Config, app: str) -> Answer:
    """Ask, and wait for the result. Nothing is raised: that nobody answers is a result too."""
    try:
        if config.upgrade.by == "child":
            return await _by_child(config, app)
        return await _by_socket(config.upgrade.socket_dir / f"{app}.sock", app)
    except (OSError, ValueError) as error:  # ValueError: a line that is no JSON
        return _unreachable(str(error) or type(error).__name__)


async def _by_socket(path: Path, app: str) -> Answer:
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_unix_connection(str(path), limit=MAX_LINE), CONNECT_SECONDS
        )
    except (OSError, asyncio.TimeoutError) as error:
        found = getattr(error, "strerror", None) or str(error) or f"no answer within {CONNECT_SECONDS:g} s"
        return _unreachable(f"cannot connect to {path}: {found}; is shoal-upgrade@{app}.socket started?")
    try:
        writer.write(json.dumps({"protocol": PROTOCOL, "app": app}).encode() + b"\n")
        with suppress(ConnectionError):  # refused before it was said: the answer says why
            await writer.drain()
        return await _result(reader, app)
    finally:
        writer.close()


async def _by_child(config: Config, app: str) -> Answer:
    """In a session of its own: an agent that stops does not take a switch down with it."""
    settings = config.engine_settings()
    places = {
        "--apps-dir": config.apps_dir,
        "--state-dir": config.state_dir / "upgrade",
        "--agent-state-dir": config.state_dir,
        "--store-dir": settings.store_dir,
        "--name": config.agent_name,
    }
    words = [str(word) for option in places.items() for word in option]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shoal", "upgrade", "run", app, "--json", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=MAX_LINE,
    )
    assert process.stdout is not None
    answer = await _result(process.stdout, app)
    await process.wait()
    return answer


async def _result(reader: asyncio.StreamReader, app: str) -> Answer:
    """The last line; what comes before it is logged for who wants to know."""
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # longer than MAX_LINE: what a command wrote, and no result
            continue
        if not line:
            return _unreachable("it ended without a result")
        event = json.loads(line)
        if not isinstance(event, dict):
            raise ValueError(f"{line[:80]!r} is no JSON object")
        if event.get("event") == "result":
            return event
        fields = {"app": app, "progress": event}
        log.debug("%s: %s", app, event.get("event"), extra={"event": "upgrade_progress", "fields": fields})


def _unreachable(message: str) -> Answer:
    return {"ok": False, "changed": False, "outcome": "refused", "reason": "unreachable", "message": message}
