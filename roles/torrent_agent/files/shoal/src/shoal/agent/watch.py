"""The applications that this host follows: polled, fetched and seeded, and brought to what is published.

Nothing is unpacked or switched here: for that the privileged side is asked, which decides again by itself. What the
agent asks of an end point and believes of it is the room `endpoint`'s; its libraries are loaded with the first poll,
so that an agent that follows nothing does not pay for them.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from shoal.agent.asking import Answer, ask
from shoal.agent.config import Config
from shoal.agent.log import log
from shoal.agent.reload import Configuration
from shoal.endpoint import apps, schedule
from shoal.endpoint.apps import App
from shoal.endpoint.errors import EndpointError, RefusedError
from shoal.endpoint.policy import Action, Past, decide
from shoal.swarm import AddTorrent, Engine, Label, State, SwarmError, UnknownTorrent

if TYPE_CHECKING:
    from shoal.endpoint.client import View

_T = TypeVar("_T")
Report = Callable[[App, str, Answer], None]

RETRY, MAX_RETRY = 2.0, 300.0  # seconds until the privileged side is asked again, at first and at last
LONGEST_SLEEP = 3600.0  # seconds; a clock may be set meanwhile
UNENDED = ("busy", "refused")  # outcomes after which something may be half done
SETTLED = ("activated", "rolled_back", "failed")  # outcomes after which a sequence is done with
_DONE = ("up_to_date", "failed_before")
_TOLD = ("outcome", "reason", "message", "sequence", "version", "current", "until", "seconds")  # of an answer


class Watcher:
    """One application: its channel, what came of the last poll, and what the privileged side said."""

    def __init__(self, app: App, config: Config, engine: Engine, report: Report) -> None:
        """``report`` is told of each outcome that is new, with the host's name."""
        self.app = app
        self.config = config
        self.polls = 0
        self.refused: Counter[str] = Counter()  # polls in vain, by reason
        self.outcomes: Counter[tuple[str, str]] = Counter()  # what the privileged side said, by outcome and reason
        self._engine = engine
        self._report = report
        self._folder = config.state_dir / "endpoints" / app.name / app.channel
        self._nudged = asyncio.Event()  # somebody wants a poll now
        self._look = asyncio.Event()  # something is new: decide again
        self._failures = 0  # polls in a row
        self._view: View | None = None
        self._reason = ""  # of the last decision
        self._until: float | None = None  # Unix time at which the time alone changes the decision
        self._polled_at = 0.0
        self._next_poll = 0.0  # of the monotonic clock: not before
        self._polling = False
        self._error: EndpointError | None = None
        self._fetched = 0  # the sequence that the engine was told of, since the agent's start
        self._fetching = ""  # the info hash that is on its way
        self._asking = False
        self._past = Past()  # as the privileged side told it
        self._settled: tuple[int, Action] | None = None  # what needs not be asked again
        self._retries = 0
        self._retry_at: float | None = None  # of the monotonic clock
        self._answer: Answer | None = None

    async def run(self) -> None:
        """Poll and follow for ever."""
        await asyncio.gather(self._poll_for_ever(), self._follow_for_ever())

    def nudge(self) -> None:
        """Poll now."""
        self._retry_at = None
        self._nudged.set()

    def on_complete(self, info_hash: str) -> None:
        """A payload is here."""
        if info_hash == self._fetching:
            self._look.set()

    async def _poll_for_ever(self) -> None:
        rng = random.Random()
        interval = float(self.app.keys.endpoint.interval)
        delay = schedule.first_delay(rng, interval)
        while True:
            await _wait(self._nudged, delay)
            await asyncio.sleep(self._next_poll - time.monotonic())  # however often somebody nudges
            self._nudged.clear()
            try:
                await self.poll()
            except Exception:  # the next one may do better, and nobody else would tell
                self._failures += 1
                log.exception("the poll for %s failed", self.app.name)
            delay = schedule.next_delay(rng, self._failures, interval)

    async def poll(self) -> None:
        """Ask the end point once."""
        self._polling = True
        try:
            view = await _in_thread(self._read)
        except (EndpointError, OSError) as error:
            self._fail(error if isinstance(error, EndpointError) else EndpointError(str(error), code="io_error"))
            return
        finally:
            self._polled_at = time.time()
            self._next_poll = time.monotonic() + apps.MIN_INTERVAL
            self._polling = False
            self.polls += 1
        if self._error is not None:
            log.info("the end point of %s is believed again", self.app.name)
        self._failures, self._error = 0, None
        if self._view is None or view.sequence != self._view.sequence:
            fields = {"app": view.app, "channel": view.channel, "sequence": view.sequence, "version": view.version}
            log.info("%s is at %s", view.app, view.version, extra={"event": "channel", "fields": fields})
            self._retry_at, self._retries = None, 0  # what stood in the way of another sequence may not in its
        self._view = view
        # Decided before anybody hears that a poll is over, so that the state is that of this poll.
        self._decide(view)
        self._look.set()

    def _read(self) -> View:
        from shoal.endpoint.client import Client

        keys = self.app.keys.endpoint
        urls = [str(url) for url in keys.urls]
        client = Client(self.app.name, urls, self.app.read_root(), self._folder, cafile=keys.ca_file)
        return client.read(self.app.channel)

    def _fail(self, error: EndpointError) -> None:
        # An end point that answers properly, and waits for its first version, is asked as often as any other.
        self._failures = 0 if error.code == "no_channel" else self._failures + 1
        self.refused[error.code] += 1
        if self._error is None or self._error.code != error.code:  # once, and not every minute
            url = error.url if isinstance(error, RefusedError) else ""
            fields = {"app": self.app.name, "reason": error.code, "url": url, "hint": error.hint}
            log.warning(
                "the end point of %s is not believed: %s",
                self.app.name,
                error,
                extra={"event": "refused", "fields": fields},
            )
        self._error = error

    # -- following -----------------------------------------------------------------------------------------------

    async def _follow_for_ever(self) -> None:
        while True:
            await _wait(self._look, self._pause())
            self._look.clear()
            if self._retry_at is not None and self._retry_at <= time.monotonic():
                self._retry_at = None
            try:
                if self._view is not None:
                    await self._follow(self._view)
            except Exception:
                self._retry_at, self._until = time.monotonic() + MAX_RETRY, None
                log.exception("%s cannot be followed", self.app.name)

    def _pause(self) -> float:
        """Seconds until time alone may change what is to be done."""
        waits = [LONGEST_SLEEP]
        if self._until is not None:
            waits.append(self._until - time.time())
        if self._retry_at is not None:
            waits.append(self._retry_at - time.monotonic())
        return max(0.0, min(waits))

    def _decide(self, view: View) -> Action:
        policy = self.app.policy
        # What is only fetched has no other past than that it was fetched.
        past = Past(self._settled[0] if self._settled else 0) if policy.auto == "fetch" else self._past
        decision = decide(view.document, policy, past, self.config.agent_name, datetime.now(timezone.utc))
        self._reason = decision.reason
        self._until = decision.until.timestamp() if decision.until else None
        return decision.action

    async def _follow(self, view: View) -> None:
        action = self._decide(view)
        if action == "none":
            # Nobody is to begin now; but what was begun is brought to its end, or back, whatever is published since.
            if self._answer is None or self._answer["outcome"] not in UNENDED:
                return
        elif not await self._add(view) or self._settled == (view.sequence, action):
            return
        if self._retry_at is not None:
            return
        if action != "none" and not await self._is_here(view, action):
            return
        if action == "fetch":
            self._settled = (view.sequence, action)
            self._decide(view)
            return
        self._asking = True
        try:
            answer = await ask(self.config, self.app.name)
        finally:
            self._asking = False
        self._take(answer, view, action)

    async def _add(self, view: View) -> bool:
        """Whether the engine was told of the payload: once for each sequence, so that who removes it has it removed."""
        if view.sequence == self._fetched:
            return True
        request = AddTorrent(torrent=view.torrent, label=Label(view.app, view.version))
        try:
            await asyncio.to_thread(self._engine.add, request)
        except SwarmError as error:  # no space, perhaps
            self._reason, self._until = "not_added", time.time() + MAX_RETRY
            log.error("%s %s cannot be fetched: %s", view.app, view.version, error)
            return False
        self._fetched = view.sequence
        return True

    async def _is_here(self, view: View, action: Action) -> bool:
        self._fetching = view.manifest.info_hash  # first, so that no event is missed
        try:
            status = await asyncio.to_thread(self._engine.status, view.manifest.info_hash)
        except UnknownTorrent:  # somebody removed it, and has it removed
            self._fetching, self._settled = "", (view.sequence, action)
            return False
        if status.state is not State.COMPLETE:
            return False
        self._fetching = ""
        return True

    def _take(self, answer: Answer, view: View, action: Action) -> None:
        """What follows from an answer."""
        if past := answer.get("past"):
            self._past = Past(past["sequence"], frozenset(past["failed"]))
        told = {key: answer.get(key) for key in _TOLD}
        before = self._answer or {}
        if answer["changed"] or any(told[key] != before.get(key) for key in ("outcome", "reason", "sequence")):
            self._tell(told)
        self._answer = told
        sequence = answer.get("sequence")
        if sequence is not None and sequence < view.sequence:  # that of a run that had begun before
            self._retry_at = time.monotonic() + RETRY
        elif told["outcome"] in SETTLED or told["reason"] in _DONE or (told["outcome"], action) == ("staged", "stage"):
            self._settled, self._retries = (view.sequence, action), 0
            if self._decide(view) not in (action, "none"):  # the window opened while it was being unpacked
                self._look.set()
        else:
            wait = min(RETRY * 2 ** min(self._retries, 20), MAX_RETRY)
            self._retries += 1
            self._retry_at = time.monotonic() + wait * random.uniform(1 - schedule.SPREAD, 1)

    def _tell(self, told: Answer) -> None:
        outcome, reason = str(told["outcome"]), str(told["reason"])
        self.outcomes[outcome, reason] += 1
        bad = outcome in ("rolled_back", "failed", "refused")
        fields = {"app": self.app.name, "channel": self.app.channel, **told, "detail": told["message"]}
        del fields["message"]  # the line has its own
        write = log.warning if bad else log.info
        write("%s: %s (%s)", self.app.name, outcome, reason, extra={"event": "upgrade", "fields": fields})
        self._report(self.app, self.config.agent_name, told)

    @property
    def view(self) -> View | None:
        """What was believed last."""
        return self._view

    @property
    def past(self) -> Past:
        """What became of earlier sequences here, as the privileged side told it."""
        return self._past

    # -- telling -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """In one word where it stands."""
        if self._view is None:
            return "refused" if self._error else "unknown"
        if self._asking:
            return "upgrading"
        if self._fetching:
            return "fetching"
        if self._error is not None:
            return "refused"
        if self._retry_at is not None:
            return "retrying"
        if self._view.sequence in self._past.failed:
            return "failed"
        settled = self._settled is not None and self._settled[0] == self._view.sequence
        if self._reason == "up_to_date" or (settled and self._reason == "due"):
            return "up_to_date"
        return "deciding" if self._reason == "due" else "waiting"

    def describe(self) -> dict[str, Any]:
        """As the API tells it; times are Unix time."""
        view, error = self._view, self._error
        return {
            "app": self.app.name,
            "channel": self.app.channel,
            "auto": self.app.keys.policy.auto,
            "state": self.state,
            "sequence": view.sequence if view else None,
            "version": view.version if view else None,
            "info_hash": view.manifest.info_hash if view else None,
            "percent": view.percent() if view else None,
            "halted": view.halted if view else None,
            "revoked": view.revoked if view else None,
            "expires": view.expires.timestamp() if view else None,
            "decision": self._reason or None,
            "until": self._until,
            "polls": self.polls,
            "polling": self._polling,
            "polled_at": self._polled_at or None,
            "error": error.as_dict() if error else None,
            "refused": dict(self.refused),
            "active": self._past.sequence,
            "failed": sorted(self._past.failed),
            "outcome": self._answer,
        }


class Watchers:
    """All of them, as the files of the folder `apps_dir` want them."""

    def __init__(self, engine: Engine, configuration: Configuration, report: Report) -> None:
        self.changed = asyncio.Event()
        self._engine = engine
        self._configuration = configuration
        self._report = report
        self._running: dict[str, tuple[Watcher, asyncio.Task[None]]] = {}
        self._wrong: dict[str, EndpointError] = {}  # files that are refused; what they said before goes on

    async def run(self) -> None:
        """Start and stop them, now and whenever ``changed`` is set."""
        try:
            while True:
                self.changed.clear()
                try:
                    self._adjust()
                except Exception:  # what was followed goes on, and nobody else would tell
                    log.exception("the applications' files cannot be taken over")
                await self.changed.wait()
        finally:
            for _watcher, task in self._running.values():
                task.cancel()

    def _adjust(self) -> None:
        config = self._configuration.current
        wanted = self._load(config)
        for name in set(self._running) - set(wanted) - set(self._wrong):
            self._running.pop(name)[1].cancel()
        for name, app in wanted.items():
            if name in self._running:
                watcher, task = self._running[name]
                if watcher.app == app and _same(watcher.config, config):
                    continue
                task.cancel()
            watcher = Watcher(app, config, self._engine, self._report)
            self._running[name] = (watcher, asyncio.create_task(watcher.run()))

    def _load(self, config: Config) -> dict[str, App]:
        wanted: dict[str, App] = {}
        self._wrong = {}
        try:
            names = apps.names(config.apps_dir)
        except EndpointError as error:
            log.error("no application is followed anew: %s", error)
            self._wrong = dict.fromkeys(self._running, error)
            return wanted
        for name in names:
            try:
                app = apps.load(config.apps_dir, name)
            except EndpointError as error:
                log.error("%s is not followed as its file says now: %s", name, error)
                self._wrong[name] = error
                continue
            if app.keys.policy.auto != "off":
                wanted[name] = app
        return wanted

    @property
    def watchers(self) -> list[Watcher]:
        """Those that run."""
        return [watcher for watcher, _task in self._running.values()]

    def get(self, name: str) -> Watcher | None:
        """That of the application ``name``."""
        found = self._running.get(name)
        return found[0] if found else None

    def on_complete(self, info_hash: str) -> None:
        """A payload is here."""
        for watcher in self.watchers:
            watcher.on_complete(info_hash)

    def describe(self) -> list[dict[str, Any]]:
        """As the API tells it; ``file_error``: why what the file says now is not in force."""
        found = {watcher.app.name: watcher.describe() for watcher in self.watchers}
        for name in self._wrong:
            found.setdefault(name, {"app": name, "state": "refused"})
        return [
            {**one, "file_error": self._wrong[name].as_dict() if name in self._wrong else None}
            for name, one in sorted(found.items())
        ]


def _same(one: Config, other: Config) -> bool:
    """Whether two configurations are the same to a watcher."""
    return (one.agent_name, one.apps_dir, one.upgrade) == (other.agent_name, other.apps_dir, other.upgrade)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


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
