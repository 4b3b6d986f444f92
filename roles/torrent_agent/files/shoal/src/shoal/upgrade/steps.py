"""One decision and what follows from it, as a table of steps.

What is going to be done is written down before it is begun. After a kill at any step, the next run ends what was begun
(`settle`) and decides anew; `release` brings its own switch to an end. The tests kill at every row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from shoal.endpoint import apps, policy
from shoal.endpoint.client import Client, View
from shoal.endpoint.errors import EndpointError, RefusedError
from shoal.endpoint.folder import write_whole
from shoal.release import journal, verbs
from shoal.release.errors import LockedError, ReleaseError
from shoal.release.layout import Layout
from shoal.release.lock import Lock, holder_of
from shoal.release.request import Request
from shoal.upgrade import PROTOCOL, clock, config
from shoal.upgrade.errors import UpgradeError
from shoal.upgrade.state import State, Store, Work

Result = dict[str, Any]
Emit = Callable[[Result], None]

END = "end"
LOG_READ = 50  # revisions in which the outcome of a killed run is looked for
INTERRUPTED = "interrupted"  # a reason: killed before anything was switched
_ALREADY = ("up_to_date", "failed_before")


@dataclass(frozen=True)
class Places:
    """Where things are. ``host``: this host's name in the order of the fleet, as its agent has it."""

    apps: Path
    state: Path
    agent_state: Path
    store: Path
    host: str


class Stop(Exception):  # noqa: N818 - it is no error: the run has its outcome
    """Nothing more is to be done; why. ``unended``: what was begun is for the next run to end."""

    def __init__(self, outcome: str, reason: str, message: str = "", unended: bool = False, **more: Any) -> None:
        super().__init__(message)
        self.unended = unended
        self.result: Result = {"outcome": outcome, "reason": reason, "message": message, **more}


@dataclass
class Run:
    """One run through the table."""

    app: apps.App
    places: Places
    store: Store
    emit: Emit = lambda _: None
    observe: Callable[[str, str], None] = lambda _when, _step: None  # ("before" or "after", step): for tests
    request: Request = field(init=False)
    layout: Layout = field(init=False)
    view: View | None = None
    action: str = ""
    result: Result = field(default_factory=dict)
    ended: Result | None = None  # how the work of a killed run ended
    changed: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.request = config.request_of(self.app)
        self.layout = Layout(self.request.root)

    @property
    def state(self) -> State:
        """What is remembered."""
        return self.store.state

    @property
    def seen(self) -> View:
        """What the end point says; known once `decide` has believed it."""
        assert self.view is not None
        return self.view

    @property
    def who(self) -> str:
        """As the release's log names this work."""
        return f"shoal upgrade: {self.seen.channel} {self.seen.sequence}"

    def go(self) -> Result:
        """Through the table; its result."""
        name = "settle"
        while name != END:
            step = TABLE[name]
            begun = time.monotonic()
            if step.journalled:
                self.note(step.name)
            self.observe("before", name)
            self.emit({"event": "step", "step": name, "state": "start", "about": step.about})
            try:
                step.act(self)
            except Stop as stop:
                self.result = stop.result
                if step.journalled and not stop.unended:
                    self.drop()
                self.emit({"event": "step", "step": name, "state": "done"})
                name = step.stopped
            else:
                self.emit({"event": "step", "step": name, "state": "done"})
                self.observe("after", name)
                name = step.then
            self.seconds[step.name] = round(time.monotonic() - begun, 3)
        return self.answer()

    def note(self, step: str) -> None:
        """Write down what is done next."""
        work = Work(step, self.seen.channel, self.seen.sequence, self.seen.version, self.who, time.time())
        self.store.save(msgspec.structs.replace(self.state, work=work))

    def drop(self) -> None:
        """Nothing is being done any more."""
        self.store.save(msgspec.structs.replace(self.state, work=None))

    def current(self) -> str | None:
        """The version that `current` shows."""
        pointer = self.layout.pointer()
        return pointer.version if pointer else None

    def answer(self) -> Result:
        """The result, complete."""
        result = self.result
        if self.ended is not None and result["reason"] in _ALREADY:
            result = {**result, **self.ended}
        past = self.state.channel(self.app.channel)
        ok = result["outcome"] in ("nothing", "staged", "activated")
        answer: Result = {
            "protocol": PROTOCOL,
            "ok": ok,
            "changed": self.changed,
            "app": self.app.name,
            "channel": self.app.channel,
            "sequence": self.view.sequence if self.view else None,
            "version": self.view.version if self.view else None,
            "current": self.current(),
            "past": {"sequence": past.active, "failed": list(past.failed)},
            "until": None,
            "seconds": self.seconds,
            **result,
        }
        if not ok and "error" not in answer:
            answer["error"] = {"code": answer["reason"], "message": answer["message"], "hint": ""}
        return answer


@dataclass(frozen=True)
class Step:
    """A row of the table. ``then``: the next step; ``stopped``: the next one where there is nothing more to do."""

    name: str
    about: str
    act: Callable[[Run], None]
    then: str
    stopped: str = END
    journalled: bool = False


# -- the steps ---------------------------------------------------------------------------------------------------


def settle(run: Run) -> None:
    """End what a killed run left behind, whatever the end point says now: a way back is never blocked."""
    work = run.state.work
    if work is None:
        return
    if holder_of(run.layout.lock) is not None:
        raise _busy(f"the switch to {work.version} that was begun goes on by itself")
    if journal.read(run.layout) is not None:
        try:
            result = verbs.recover(run.request, run.emit)
        except LockedError as error:
            raise _busy(str(error)) from None
        if _stands_still(result):
            raise _refused(result["error"], unended=True)
        run.changed = True
    entry = next((entry for entry in run.layout.read_log(LOG_READ) if entry.get("who") == work.who), None)
    if entry is not None and entry["time"] >= work.started_at:
        ended = _outcome(entry["outcome"], str(entry["reason"]))
        # What a kill cut off before it was tried did not fail: it is decided anew.
        if ended["reason"] != INTERRUPTED:
            run.ended = ended
            _remember(run, work.channel, work.sequence, work.version, entry["outcome"])
    run.drop()


def decide(run: Run) -> None:
    """Believe the end point, look at the clock, at who switched last, and at the policy."""
    run.view = view = _read(run)
    _check_floor(run, view)
    _check_clock(run, view)
    _check_pushed(run, view)
    past = run.state.channel(view.channel).past
    decision = policy.decide(view.document, run.app.policy, past, run.places.host, clock.now())
    until = decision.until.timestamp() if decision.until else None
    if decision.action in ("none", "fetch"):
        reason = "only_fetch" if decision.action == "fetch" else decision.reason
        raise Stop("nothing", reason, f"{view.channel} is at {view.version}: {reason}", until=until)
    run.action = decision.action
    run.result = {"outcome": "staged", "reason": decision.reason, "message": "", "until": until}


def _read(run: Run) -> View:
    kept = f"endpoints/{run.app.name}/{run.app.channel}"
    try:
        client = Client(run.app.name, (), run.app.read_root(), run.store.trusted, kept=(run.places.agent_state, kept))
        return client.read(run.app.channel)
    except RefusedError as error:
        raise _refused(error.as_dict()) from None


def _check_floor(run: Run, view: View) -> None:
    """Never behind what was believed once, also where python-tuf's own memory was lost."""
    floor = run.state.channel(view.channel).sequence
    signed = run.state.signed_at
    if view.sequence < floor:
        raise Stop("refused", "older", f"{view.channel} is at sequence {view.sequence}, and was at {floor} already")
    if signed is not None and view.signed_at < signed:
        raise Stop("refused", "older", f"it was signed at {view.signed_at}, and newer was seen, of {signed}")


def _check_clock(run: Run, view: View) -> None:
    now = clock.now()
    newest = max(view.signed_at, run.state.signed_at or view.signed_at)
    if clock.is_behind(now, newest):
        words = f"this host's clock says {now:%Y-%m-%d %H:%M:%S} UTC, and the end point was signed at {newest}"
        raise Stop("refused", "clock_behind", f"{words}: what has expired cannot be told")
    run.store.save(run.state.with_seen(view.channel, view.sequence, view.signed_at))
    if run.app.keys.policy.clock == "any":
        return
    try:
        synchronised = clock.is_synchronised()
    except OSError as error:
        raise Stop("refused", "clock_not_synchronised", f"the kernel does not tell of its clock: {error}") from None
    if not synchronised:
        words = "nobody keeps this host's clock (see timedatectl): what has expired cannot be told"
        raise Stop("refused", "clock_not_synchronised", f"{words}; policy.clock: any does without")


def _check_pushed(run: Run, view: View) -> None:
    """Somebody else's switch pins the application, until the channel names what they switched to."""
    state, current = run.state, run.current()
    if not state.known:
        state = msgspec.structs.replace(state, known=True, runs=current)
        run.store.save(state)
    if current == view.version:
        run.store.save(state.with_active(view.channel, view.sequence, view.version))
    elif current != state.runs:
        words = f"{current or 'nothing'} was activated by somebody else, and pins {run.app.name}"
        raise Stop("nothing", "pushed", f"{words}; shoal upgrade follow {run.app.name} takes the pin back")


def stage(run: Run) -> None:
    """Unpack the agent's payload, checked against what is signed."""
    manifest = run.seen.manifest
    write_whole(run.store.torrent, run.seen.torrent, 0o600)
    places = run.places
    below = places.agent_state if places.store.is_relative_to(places.agent_state) else places.store
    payload = places.store / manifest.info_hash / manifest.archive.name
    request = config.stage_request(run.request, manifest, payload, below, run.store.torrent, run.who)
    try:
        result = verbs.stage(request, run.emit)
    except LockedError as error:
        raise _busy(str(error)) from None
    except ReleaseError as error:
        if error.code == "refused_archive":  # the same bytes would be refused again
            run.store.save(run.state.with_failed(run.seen.channel, run.seen.sequence))
            raise Stop("failed", error.code, str(error), error=error.as_dict()) from None
        raise _refused(error.as_dict()) from None
    run.changed |= result["changed"]
    if run.action == "stage":
        raise Stop(**run.result)


def activate(run: Run) -> None:
    """The switch, which is `release`'s: hooks, restart, health, and the way back."""
    _check_pushed(run, run.seen)  # again: unpacking takes its time, and somebody may have switched meanwhile
    request = config.activate_request(run.request, run.seen.version, run.who)
    try:
        result = verbs.activate(request, run.emit)
    except LockedError as error:
        raise _busy(str(error)) from None
    except ReleaseError as error:
        raise _refused(error.as_dict(), unended=error.code == "died") from None
    run.changed |= result["changed"]
    if _stands_still(result):
        raise _refused(result["error"], unended=journal.read(run.layout) is not None)
    run.seconds.update({f"activate.{step}": spent for step, spent in result.get("seconds", {}).items()})
    run.result = {**_outcome(result["outcome"], result.get("reason", "")), "until": None}
    if "error" in result:
        run.result |= {"message": result["error"]["message"], "error": {**result["error"], "code": result["outcome"]}}


def record(run: Run) -> None:
    """Remember how it ended; the note of the work goes in the same write."""
    view = run.seen
    _remember(run, view.channel, view.sequence, view.version, run.result["outcome"])


def _remember(run: Run, channel: str, sequence: int, version: str, outcome: str) -> None:
    state = msgspec.structs.replace(run.state, work=None)
    if run.current() == version:
        state = state.with_active(channel, sequence, version)
    if outcome in ("rolled_back", "failed"):
        state = state.with_failed(channel, sequence)
    run.store.save(state)


def _outcome(outcome: str, reason: str) -> Result:
    """In this room's words; the reason of a release that did not get healthy is the step that failed."""
    if outcome == "already_active":
        outcome = "activated"
    step = reason.partition(":")[0] if outcome != "activated" else "due"
    return {"outcome": outcome, "reason": step if step.isidentifier() else INTERRUPTED, "message": reason}


def _stands_still(result: Result) -> bool:
    """Whether a switch has no outcome: it was not begun, or it could not be brought to an end."""
    return not result["ok"] and "healthy" not in result


def _refused(error: dict[str, str], *, unended: bool = False) -> Stop:
    return Stop("refused", error["code"], error["message"], unended, error=error)


def _busy(message: str) -> Stop:
    return Stop("busy", "busy", message)


TABLE = {
    step.name: step
    for step in (
        Step("settle", "end what an earlier run left behind", settle, then="decide"),
        Step("decide", "see what is signed, and what is due here", decide, then="stage"),
        Step("stage", "verify and unpack", stage, then="activate", journalled=True),
        Step("activate", "switch, or go back", activate, then="record", journalled=True),
        Step("record", "remember the outcome", record, then=END),
    )
}


# -- what is asked -----------------------------------------------------------------------------------------------


def run(
    name: str, places: Places, emit: Emit, observe: Callable[[str, str], None] = lambda _when, _step: None
) -> Result:
    """Decide once about application ``name``, and do what is due; the result, which tells errors too."""
    begun: Result = {"protocol": PROTOCOL, "ok": False, "changed": False, "app": name, "outcome": "refused"}
    try:
        app = apps.load(places.apps, name)
        with _alone(name, places, "upgrade") as store:
            return Run(app, places, store, emit, observe).go()
    except LockedError as error:
        return {**begun, "outcome": "busy", "reason": "busy", "error": error.as_dict(), "message": str(error)}
    except (EndpointError, ReleaseError, UpgradeError) as error:
        return {**begun, "reason": error.code, "message": str(error), "error": error.as_dict()}
    except OSError as error:
        found = {"code": "io_error", "message": f"{name}: {error}", "hint": ""}
        return {**begun, "reason": "io_error", "message": found["message"], "error": found}


@contextmanager
def _alone(name: str, places: Places, verb: str) -> Iterator[Store]:
    """What is remembered of application ``name``, and nobody else's to change meanwhile. Raises LockedError."""
    folder = places.state / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Lock.acquire(folder / "lock", {"verb": verb, "who": name}):
        yield Store(folder)


def follow(name: str, places: Places) -> Result:
    """Take the pin of a pushed version back: what runs now is known, and the channel counts again."""
    app = apps.load(places.apps, name)
    with _alone(name, places, "follow") as store:
        one = Run(app, places, store)
        before = one.state
        store.save(msgspec.structs.replace(before, known=True, runs=one.current()))
        changed = before.known and before.runs != one.state.runs
        return {**_described(one), "changed": changed, "outcome": "following"}


def status(name: str, places: Places) -> Result:
    """What is remembered and what runs; changes nothing."""
    return _described(Run(apps.load(places.apps, name), places, Store(places.state / name)))


def check(name: str, places: Places, file: Path | None) -> Result:
    """Whether the application's file is right (``file``: another one, before it is placed)."""
    config.request_of(apps.load(places.apps, name, file))
    return {"protocol": PROTOCOL, "ok": True, "changed": False, "app": name, "outcome": "valid"}


def _described(one: Run) -> Result:
    state, current = one.state, one.current()
    described: Result = {
        "channel": one.app.channel,
        "auto": one.app.keys.policy.auto,
        "current": current,
        "pushed": state.known and current != state.runs,
        "signed_at": state.signed_at.timestamp() if state.signed_at else None,
        "channels": msgspec.to_builtins(state.channels),
        "work": msgspec.to_builtins(state.work),
    }
    return {
        "protocol": PROTOCOL,
        "ok": True,
        "changed": False,
        "app": one.app.name,
        "outcome": "",
        "upgrade": described,
    }
