"""The known end points that the configuration names: polled, and what is new there is fetched and seeded.

Nothing is unpacked or switched here. What the agent asks of an end point and believes of it is the room `endpoint`'s;
its libraries are loaded with the first poll, so that an agent that watches nothing does not pay for them.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shoal.agent.config import App
from shoal.agent.log import log
from shoal.agent.reload import Configuration
from shoal.endpoint import schedule
from shoal.endpoint.errors import EndpointError, RefusedError
from shoal.swarm import AddTorrent, Engine, Label, SwarmError

if TYPE_CHECKING:
    from shoal.endpoint.client import View

_T = TypeVar("_T")


class Watcher:
    """One application: its channel, and what came of the last poll."""

    def __init__(self, app: App, host: str, engine: Engine, folder: Path) -> None:
        """``host``: this agent's name, which gives it its place in the order of the fleet.

        ``folder``: for what is believed.
        """
        self.app = app
        self._host = host
        self._engine = engine
        self._folder = folder
        self._fetched = 0  # the sequence that the engine was told of, since the agent's start
        self._failures = 0  # in a row
        self._view: View | None = None
        self._decision = ""
        self._polled_at = 0.0
        self._error: EndpointError | None = None
        self._refused: Counter[str] = Counter()

    async def run(self) -> None:
        """Poll for ever."""
        rng = random.Random()
        delay = schedule.first_delay(rng, self.app.interval)
        while True:
            await asyncio.sleep(delay)
            try:
                await self.poll()
            except Exception:  # the next one may do better, and nobody else would tell
                self._failures += 1
                log.exception("the poll for %s failed", self.app.name)
            delay = schedule.next_delay(rng, self._failures, self.app.interval)

    async def poll(self) -> None:
        """Ask once, and do what is due."""
        try:
            view = await _in_thread(self._read)
        except (EndpointError, OSError) as error:
            self._fail(error if isinstance(error, EndpointError) else EndpointError(str(error), code="io_error"))
            return
        finally:
            self._polled_at = time.time()
        if self._error is not None:
            log.info("the end point of %s is believed again", self.app.name)
        self._failures, self._error = 0, None
        if self._view is None or view.sequence != self._view.sequence:
            fields = {"app": view.app, "channel": view.channel, "sequence": view.sequence, "version": view.version}
            log.info("%s is at %s", view.app, view.version, extra={"event": "channel", "fields": fields})
        self._view = view
        await self._follow(view)

    async def _follow(self, view: View) -> None:
        from shoal.endpoint.policy import Past, Policy, decide

        now = datetime.now(timezone.utc)
        decision = decide(view.document, Policy(auto=self.app.auto), Past(sequence=self._fetched), self._host, now)
        self._decision = decision.reason
        if decision.action == "none":
            return
        request = AddTorrent(torrent=view.torrent, label=Label(view.app, view.version))
        try:
            await asyncio.to_thread(self._engine.add, request)
        except SwarmError as error:  # no space, perhaps: asked again at the next poll
            self._decision = "not_added"
            log.error("%s %s cannot be fetched: %s", view.app, view.version, error)
            return
        self._fetched = view.sequence

    def _read(self) -> View:
        from shoal.endpoint.client import Client

        urls = [str(url) for url in self.app.endpoints]
        root = self.app.root.read_bytes()
        client = Client(str(self.app.name), urls, root, self._folder, cafile=self.app.ca_file)
        return client.read(str(self.app.channel))

    def _fail(self, error: EndpointError) -> None:
        self._failures += 1
        self._refused[error.code] += 1
        if self._error is None or self._error.code != error.code:  # once, and not every minute
            url = error.url if isinstance(error, RefusedError) else ""
            fields = {"app": str(self.app.name), "reason": error.code, "url": url, "hint": error.hint}
            log.warning(
                "the end point of %s is not believed: %s",
                self.app.name,
                error,
                extra={"event": "refused", "fields": fields},
            )
        self._error = error

    def describe(self) -> dict[str, Any]:
        """As the API tells it; times are Unix time."""
        view, error = self._view, self._error
        return {
            "app": str(self.app.name),
            "channel": str(self.app.channel),
            "auto": self.app.auto,
            "sequence": view.sequence if view else None,
            "version": view.version if view else None,
            "info_hash": view.manifest.info_hash if view else None,
            "percent": view.percent() if view else None,
            "halted": view.halted if view else None,
            "revoked": view.revoked if view else None,
            "expires": view.expires.timestamp() if view else None,
            "decision": self._decision or None,
            "polled_at": self._polled_at or None,
            "error": error.as_dict() if error else None,
            "refused": dict(self._refused),
        }


class Watchers:
    """All of them, as the configuration wants them."""

    def __init__(self, engine: Engine, configuration: Configuration, folder: Path) -> None:
        """``folder``: has one folder for each application and channel."""
        self.changed = asyncio.Event()
        self._engine = engine
        self._configuration = configuration
        self._folder = folder
        self._running: dict[tuple[App, str], tuple[Watcher, asyncio.Task[None]]] = {}  # by application and host name

    async def run(self) -> None:
        """Start and stop them, now and whenever ``changed`` is set."""
        try:
            while True:
                self.changed.clear()
                self._adjust()
                await self.changed.wait()
        finally:
            for _watcher, task in self._running.values():
                task.cancel()

    def _adjust(self) -> None:
        config = self._configuration.current
        wanted = [(app, config.agent_name) for app in config.apps if app.auto != "off"]
        for key in set(self._running) - set(wanted):
            self._running.pop(key)[1].cancel()
        for app, host in wanted:
            if (app, host) not in self._running:
                watcher = Watcher(app, host, self._engine, self._folder / app.name / app.channel)
                self._running[app, host] = (watcher, asyncio.create_task(watcher.run()))

    def describe(self) -> list[dict[str, Any]]:
        """As the API tells it."""
        return [watcher.describe() for watcher, _task in self._running.values()]


async def _in_thread(work: Callable[[], _T]) -> _T:
    """``work`` in a thread of its own, which does not hold the agent up when that stops: a poll may take a minute."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def tell(error: BaseException | None, result: _T | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as found:
            result, error = None, found
        try:
            loop.call_soon_threadsafe(tell, error, result)
        except RuntimeError:
            return  # the agent has stopped meanwhile

    threading.Thread(target=run, name="watch", daemon=True).start()
    return await done
