"""Outcomes, POSTed as JSON to where an application's file says; beside the work, which never waits for it."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

import aiohttp

from shoal.agent.log import log
from shoal.endpoint.apps import App

WAITING = 100  # reports at most that are still to be sent; more are lost
TRIES = 5
ANSWER_SECONDS = 10.0
PAUSE = 5.0  # seconds after the first try in vain; each later one twice the one before


class Reporter:
    """Sends one after the other."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[App, dict[str, Any]]] = asyncio.Queue(WAITING)

    def report(self, app: App, host: str, told: dict[str, Any]) -> None:
        """Send ``told`` in a while, if ``app`` wants to hear of it."""
        if app.keys.report_url is None:
            return
        document = {"host": host, "app": app.name, "channel": app.channel, "time": round(time.time(), 3), **told}
        try:
            self._waiting.put_nowait((app, document))
        except asyncio.QueueFull:
            log.warning("an outcome of %s is not reported: %d others wait already", app.name, WAITING)

    async def run(self) -> None:
        """For ever."""
        while True:
            app, document = await self._waiting.get()
            try:
                await self._send(app, document)
            except Exception:  # the next one may be sent, and nobody else would tell
                log.exception("an outcome of %s is not reported", app.name)

    async def _send(self, app: App, document: dict[str, Any]) -> None:
        pause = PAUSE
        for left in reversed(range(TRIES)):
            problem = await _post(app, document)
            if not problem:
                return
            log.warning("%s did not take an outcome of %s: %s", app.keys.report_url, app.name, problem)
            if left:
                await asyncio.sleep(pause)
                pause *= 2


async def _post(app: App, document: dict[str, Any]) -> str:
    """What went wrong; empty if it was taken."""
    try:
        tls: Any = True
        if app.keys.endpoint.ca_file is not None:
            tls = ssl.create_default_context(cafile=str(app.keys.endpoint.ca_file))
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS), connector=aiohttp.TCPConnector(ssl=tls)
            ) as session,
            session.post(str(app.keys.report_url), json=document, allow_redirects=False) as answer,
        ):
            return "" if answer.status < 300 else f"HTTP {answer.status} {answer.reason}"
    except asyncio.TimeoutError:
        return f"no answer within {ANSWER_SECONDS:g} s"
    except (aiohttp.ClientError, OSError) as error:
        return str(error) or type(error).__name__
