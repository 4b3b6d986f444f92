"""The switch from one release to another, as a table of steps.

Before each step the journal on disk says which one comes (from `mark` on). Every step may be run again: after a kill
`recover` enters the table where the row says. TABLE is the switch by shoal's own steps, SCRIPT_TABLE the one by a
deployment script; tests enumerate both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from shoal.common.durable import sync_dir
from shoal.release import commands, files, health, journal, listeners, shared, systemd
from shoal.release.archive import Ownership
from shoal.release.errors import ReleaseError, StepError
from shoal.release.events import Emit
from shoal.release.health import Expectation, Surroundings
from shoal.release.journal import Journal
from shoal.release.layout import Layout, State
from shoal.release.ownership import resolve

END = "end"
GONE_BACK = 10  # exit status of a deployment script that went back by itself and left the old release serving
# What began to read the old release before the switch may still do so: nothing is pruned that was `current` less
# than this many seconds ago.
PRUNE_GRACE = 1.0
OUTPUT_TAIL = 4000  # characters of a command's output in the result
_GOING_BACK = ("restart_back", "health_back", "script_back", "post_rollback")


@dataclass
class Switch:
    """One run through the table."""

    layout: Layout
    journal: Journal
    emit: Emit = lambda _: None
    observe: Callable[[str, str], None] = lambda _when, _step: None  # ("before" or "after", step): for tests
    ownership: Ownership = field(init=False)

    def __post_init__(self) -> None:
        self.ownership = resolve(self.journal.request)

    @property
    def release(self) -> Path:
        """The folder of the release that is to become active."""
        return self.layout.path_of(self.journal.to)

    @property
    def moved(self) -> bool:
        """Whether `current` leads to the new release, in whatever words a script wrote the link."""
        return self.layout.current.is_symlink() and self.layout.current.resolve() == self.release.resolve()

    def run(self, name: str) -> None:
        """Go through the table from step ``name`` to its end; the outcome is in the journal then.

        Raises ReleaseError or OSError where the row says that nothing follows: before anything was changed, or with
        the mark left for `recover`.
        """
        steps = table_of(self.journal)
        while name != END:
            step = steps[name]
            begun = time.monotonic()
            if step.journalled:
                self.journal.step = name
                self.journal.running = None
                journal.write(self.layout, self.journal)
            self.observe("before", name)
            self.emit({"event": "step", "step": name, "state": "start", "about": step.about})
            try:
                step.act(self)
            # Whatever it is, a fault of our own too: to go back is better than to stand between two releases.
            except Exception as error:
                following = step.failed if not (self.journal.irreversible and step.no_way_back) else step.no_way_back
                known = isinstance(error, (ReleaseError, OSError))
                message = str(error) if known else f"{type(error).__name__}: {error}"
                self.emit({"event": "step", "step": name, "state": "failed", "message": message})
                if not following:
                    raise
                self._note(name, message)
                name = following
            else:
                self.emit({"event": "step", "step": name, "state": "done"})
                self.observe("after", name)
                name = step.then
            spent = self.journal.seconds.get(step.name, 0.0) + time.monotonic() - begun
            self.journal.seconds[step.name] = round(spent, 3)

    def _note(self, step: str, message: str) -> None:
        if self.journal.reason or self.journal.outcome:
            self.journal.warnings.append(f"{step}: {message}")
        else:
            self.journal.reason = f"{step}: {message}"

    def command(
        self, step: str, command: list[str], timeout: float, *, cwd: Path | None = None, run_as: str | None = None
    ) -> int:
        """Run a configured command, in the new release unless told otherwise.

        Its exit status if that is 0 or GONE_BACK; raises StepError for others.
        """
        outcome = commands.run(
            command,
            cwd=cwd or self.release,
            env=self.environment(step),
            timeout=timeout,
            run_as=run_as,
            on_start=self._note_running,
            on_line=lambda line: self.emit({"event": "output", "step": step, "line": line}),
        )
        self.journal.output[step] = outcome.output[-OUTPUT_TAIL:]
        if not outcome.ok and outcome.status != GONE_BACK:
            raise StepError(f"{command[0]} {outcome.reason()}")
        return outcome.status or 0

    def _note_running(self, pid: int) -> None:
        with suppress(OSError):  # it has ended already
            self.journal.running = listeners.process(pid)
            journal.write(self.layout, self.journal)

    def end_running(self) -> None:
        """End the command that a killed switch left running, so that it does not work beside the recovery."""
        left = self.journal.running
        with suppress(OSError):
            same_boot = self.journal.boot_id == listeners.boot_id()
            if left is not None and same_boot and listeners.process(left.pid) == left:
                commands.kill_group(left.pid)

    def environment(self, step: str) -> dict[str, str]:
        """The documented environment of hooks, scripts, restart and health commands."""
        back = step in _GOING_BACK
        to, previous = self.journal.to, self.journal.previous
        wanted, other = (previous, to) if back else (to, previous)
        return {
            "SHOAL_APP": self.journal.request.app or self.layout.root.name,
            "SHOAL_ROOT": str(self.layout.root),
            "SHOAL_VERSION": wanted.version if wanted else "",
            "SHOAL_RELEASE_PATH": str(self.layout.path_of(wanted)) if wanted else "",
            "SHOAL_PREVIOUS_VERSION": other.version if other else "",
            "SHOAL_PREVIOUS_RELEASE_PATH": str(self.layout.path_of(other)) if other else "",
            "SHOAL_ACTION": "rollback" if back else "activate",
            "SHOAL_STEP": step,
            "SHOAL_OPERATION": self.journal.operation,
        }


@dataclass(frozen=True)
class Step:
    """A row of the table."""

    name: str
    about: str
    act: Callable[[Switch], None]
    then: str
    failed: str  # the step after a failure; empty: the error ends the run
    recover: str  # where `recover` enters when the journal stands here
    no_way_back: str = ""  # instead of `failed`, for an irreversible release
    journalled: bool = True


# -- the steps ---------------------------------------------------------------------------------------------------


def check(switch: Switch) -> None:
    """Everything that can be known before a change; raises what is wrong and changes nothing."""
    spec, layout = switch.journal.request.switch, switch.layout
    to = switch.journal.to
    state = layout.state()
    if to.version in state.behind and layout.pointer() is not None:
        raise ReleaseError(
            f"{to.version} lies behind {state.floor}, past which there is no way back (it was published irreversible)",
            hint="publish what you want to run as a new version",
            code="no_way_back",
        )
    shared.check(switch.release, _shared(switch))
    wanted = [spec.script, *(getattr(spec.hooks, name) for name in spec.hooks.__struct_fields__)]
    for command in filter(None, [*wanted, *(probe.command for probe in spec.health)]):
        commands.find(command, switch.release, spec.run_as)
    if isinstance(spec.restart, str):
        systemd.find(spec.restart)
    elif spec.restart:
        commands.find(spec.restart, switch.release)
    if spec.run_as is not None:
        commands.user(spec.run_as)
    health.proofs(spec)


def mark(switch: Switch) -> None:
    """The mark itself was written by the driver; note who serves now, and keep the note."""
    switch.journal.boot_id = listeners.boot_id()
    switch.journal.old = sorted(health.listening(switch.journal.request.switch))
    journal.write(switch.layout, switch.journal)


def link_shared(switch: Switch) -> None:
    """Link what releases share."""
    shared.link(switch.layout, switch.release, _shared(switch), switch.ownership)


def _shared(switch: Switch) -> list[str]:
    # A release that another tool made is taken as it is.
    ours = switch.layout.record(switch.journal.to.version) is not None
    return switch.journal.request.shared if ours else []


def _hook(name: str) -> Callable[[Switch], None]:
    def run_hook(switch: Switch) -> None:
        spec = switch.journal.request.switch
        command = getattr(spec.hooks, name)
        if command and switch.command(name, command, spec.hook_timeout, run_as=spec.run_as):
            raise StepError(f"{command[0]} exited with {GONE_BACK}")

    return run_hook


def sync(switch: Switch) -> None:
    """Put the release on the disk, with what hooks and links added: a switch must not survive what it points at."""
    files.sync_tree(switch.release)
    if switch.layout.releases.is_dir():
        sync_dir(switch.layout.releases)


def switch_over(switch: Switch) -> None:
    """The switch."""
    switch.layout.point_current(switch.journal.to)


def restart(switch: Switch) -> None:
    """Make the new release run."""
    switch.journal.restarted = switch.journal.request.switch.restart is not None
    _restart(switch, "restart", switch.release)


def _restart(switch: Switch, step: str, release: Path) -> None:
    spec = switch.journal.request.switch
    if isinstance(spec.restart, str):
        systemd.restart(spec.restart, spec.restart_timeout)
    elif spec.restart and switch.command(step, spec.restart, spec.restart_timeout, cwd=release):
        raise StepError(f"{spec.restart[0]} exited with {GONE_BACK}")


def prove(switch: Switch) -> None:
    """Wait until the new release is healthy, and watch it for its soak time."""
    same_boot = switch.journal.boot_id == listeners.boot_id()
    expectation = Expectation(switch.journal.to.version, frozenset(switch.journal.old if same_boot else ()))
    _prove(switch, "health", switch.release, expectation)


def _prove(switch: Switch, step: str, release: Path, expectation: Expectation) -> None:
    spec = switch.journal.request.switch
    health.wait_until_healthy(
        spec,
        expectation,
        Surroundings(release, switch.environment(step), spec.run_as),
        lambda label, found: switch.emit({"event": "health", "check": label, "found": found}),
    )


def run_script(switch: Switch) -> None:
    """The user's own switch."""
    spec = switch.journal.request.switch
    switch.journal.restarted = True
    assert spec.script is not None
    if switch.command("script", spec.script, spec.script_timeout, run_as=spec.run_as) == GONE_BACK:
        switch.journal.gone_back = True
        raise StepError(f"{spec.script[0]} exited with {GONE_BACK}: it went back by itself")


def commit(switch: Switch) -> None:
    """The release is proven: say so everywhere, and take the mark away last."""
    switch.journal.outcome = "activated"
    _keep(switch)


def keep(switch: Switch) -> None:
    """The release is not healthy, but there is no way back: it stays."""
    switch.journal.outcome, switch.journal.unhealthy = "failed", True
    switch.journal.warnings.append(
        f"{switch.journal.to.version} is irreversible: it stays active although it is not healthy"
    )
    _keep(switch)


def _keep(switch: Switch) -> None:
    layout, note = switch.layout, switch.journal
    state = layout.state()
    floor, behind = state.floor, state.behind
    if note.irreversible:
        record = layout.record(note.to.version)
        since = record.staged_at if record else time.time()
        older = {found.version for found in layout.staged() if found.staged_at < since} | set(layout.strangers())
        floor, behind = note.to.version, sorted((older | set(behind)) - {note.to.version})
    # Run again after a kill, `previous` must not become the release itself.
    previous = state.previous if state.operation == note.operation else note.previous
    now = time.time()
    left = {version: at for version, at in state.left.items() if layout.release(version).is_dir()}
    if previous is not None:
        left[previous.version] = now
    layout.write_state(State(note.operation, note.to, previous, now, left, floor, behind, note.request))
    _log(switch)
    journal.clear(layout)


def prune(switch: Switch) -> None:
    """Delete the oldest releases over keep_releases; never the current, the previous or one that waits for its turn."""
    layout = switch.layout
    state = layout.state()
    staged = layout.staged()
    current = layout.record(switch.journal.to.version)
    kept = {pointer.version for pointer in (state.current, state.previous) if pointer}
    over = len(staged) - switch.journal.request.keep_releases
    doomed = [
        record.version
        for record in staged
        if record.version not in kept and (current is None or record.staged_at <= current.staged_at)
    ][: max(0, over)]
    left = []
    for version in doomed:
        time.sleep(max(0.0, min(PRUNE_GRACE, state.left.get(version, 0.0) + PRUNE_GRACE - time.time())))
        try:
            layout.discard(version)
        except OSError as error:  # those after it may go all the same
            left.append(f"{version} cannot be deleted: {error}")
        else:
            switch.emit({"event": "pruned", "version": version})
    if left:
        raise StepError("; ".join(left))


def switch_back(switch: Switch) -> None:
    """Point `current` at the release before; without one, remove it."""
    if not switch.moved:
        return
    same_boot = switch.journal.boot_id == listeners.boot_id()
    serving = health.listening(switch.journal.request.switch)
    switch.journal.failed = sorted(serving - set(switch.journal.old if same_boot else ()))
    switch.journal.outcome = "rolled_back"
    journal.write(switch.layout, switch.journal)
    switch.layout.point_current(switch.journal.previous)


def restart_back(switch: Switch) -> None:
    """Make the release before run again."""
    spec = switch.journal.request.switch
    if not switch.journal.restarted:
        return
    if switch.journal.previous is not None:
        _restart(switch, "restart_back", switch.layout.path_of(switch.journal.previous))
    elif isinstance(spec.restart, str):
        systemd.stop(spec.restart, spec.restart_timeout)


def script_back(switch: Switch) -> None:
    """Let the user's script undo what it did."""
    spec = switch.journal.request.switch
    assert spec.script is not None
    switch.journal.outcome = "rolled_back"
    if switch.journal.gone_back:
        return
    if switch.command("script_back", spec.script, spec.script_timeout, run_as=spec.run_as):
        raise StepError(f"{spec.script[0]} exited with {GONE_BACK}")


def prove_back(switch: Switch) -> None:
    """Wait until the release before is healthy again."""
    note = switch.journal
    if note.previous is None or note.outcome != "rolled_back":
        return
    # A release that another tool made may tell its version in other words than its folder's name.
    version = note.previous.version if switch.layout.record(note.previous.version) else None
    same_boot = note.boot_id == listeners.boot_id()
    release = switch.layout.path_of(note.previous)
    _prove(switch, "health_back", release, Expectation(version, frozenset(note.failed if same_boot else ())))


def not_healthy_back(switch: Switch) -> None:
    """Neither release is healthy; `current` is the release before, and people must look."""
    switch.journal.outcome, switch.journal.unhealthy = "failed", True


def record(switch: Switch) -> None:
    """It was not activated: say so in the log, and take the mark away last."""
    switch.journal.outcome = switch.journal.outcome or "failed"
    _log(switch)
    journal.clear(switch.layout)


def _log(switch: Switch) -> None:
    note = switch.journal
    switch.layout.append_log(
        {
            "operation": note.operation,
            "time": round(time.time(), 3),
            "who": note.request.who,
            "what": "activate",
            "from": note.previous.version if note.previous else None,
            "to": note.to.version,
            "outcome": note.outcome,
            "reason": note.reason,
            "seconds": round(time.time() - note.started_at, 3),
        }
    )


# -- the tables --------------------------------------------------------------------------------------------------


def _table(*steps: Step) -> dict[str, Step]:
    return {step.name: step for step in steps}


_BEGIN = (
    Step("check", "look before leaping", check, then="mark", failed="", recover="", journalled=False),
    Step("mark", "mark the release as unproven", mark, then="link_shared", failed="record", recover="record"),
)
_FINISH = (
    Step("commit", "keep it", commit, then="prune", failed="", recover="commit"),
    Step("keep", "keep it, unhealthy, past the point of no return", keep, then=END, failed="", recover="keep"),
    Step("prune", "delete old releases", prune, then=END, failed=END, recover="", journalled=False),
)
_RECORD = Step("record", "note the outcome", record, then=END, failed="", recover="record")
_BACK = (
    Step("switch_back", "point current back", switch_back, then="restart_back", failed="", recover="switch_back"),
    Step(
        "restart_back",
        "restart the release before",
        restart_back,
        then="health_back",
        failed="not_healthy_back",
        recover="restart_back",
    ),
    Step(
        "health_back",
        "wait until the release before is healthy",
        prove_back,
        then="post_rollback",
        failed="not_healthy_back",
        recover="restart_back",
    ),
    Step(
        "not_healthy_back",
        "note that neither release is healthy",
        not_healthy_back,
        then="post_rollback",
        failed="post_rollback",
        recover="restart_back",
    ),
    Step(
        "post_rollback",
        "run the hook after going back",
        _hook("post_rollback"),
        then="record",
        failed="record",
        recover="post_rollback",
    ),
    _RECORD,
)

TABLE = _table(
    *_BEGIN,
    Step("link_shared", "link shared folders", link_shared, then="pre_activate", failed="record", recover="record"),
    Step(
        "pre_activate",
        "run the hook before the switch",
        _hook("pre_activate"),
        then="sync",
        failed="switch_back",
        recover="switch_back",
    ),
    Step("sync", "put the release on the disk", sync, then="switch", failed="switch_back", recover="switch_back"),
    Step("switch", "point current at the release", switch_over, then="restart", failed="switch_back", recover="switch"),
    Step(
        "restart",
        "restart",
        restart,
        then="health",
        failed="switch_back",
        recover="restart",
        no_way_back="keep",
    ),
    Step(
        "health",
        "wait until it is healthy",
        prove,
        then="post_activate",
        failed="switch_back",
        recover="restart",
        no_way_back="keep",
    ),
    Step(
        "post_activate",
        "run the hook after the switch",
        _hook("post_activate"),
        then="commit",
        failed="switch_back",
        recover="restart",
        no_way_back="keep",
    ),
    *_FINISH,
    *_BACK,
)

SCRIPT_TABLE = _table(
    *_BEGIN,
    Step("link_shared", "link shared folders", link_shared, then="sync", failed="record", recover="record"),
    Step("sync", "put the release on the disk", sync, then="script", failed="record", recover="record"),
    Step(
        "script",
        "run the deployment script",
        run_script,
        then="switch",
        failed="switch_back",
        recover="script",
        no_way_back="keep",
    ),
    Step("switch", "point current at the release", switch_over, then="health", failed="switch_back", recover="switch"),
    Step(
        "health",
        "wait until it is healthy",
        prove,
        then="commit",
        failed="switch_back",
        recover="health",
        no_way_back="keep",
    ),
    *_FINISH,
    Step("switch_back", "point current back", switch_back, then="script_back", failed="", recover="switch_back"),
    Step(
        "script_back",
        "let the deployment script go back",
        script_back,
        then="health_back",
        failed="not_healthy_back",
        recover="script_back",
    ),
    Step(
        "health_back",
        "wait until the release before is healthy",
        prove_back,
        then="record",
        failed="not_healthy_back",
        recover="script_back",
    ),
    Step(
        "not_healthy_back",
        "note that neither release is healthy",
        not_healthy_back,
        then="record",
        failed="record",
        recover="script_back",
    ),
    _RECORD,
)


def table_of(note: Journal) -> dict[str, Step]:
    """The table that the switch of ``note`` goes by."""
    return SCRIPT_TABLE if note.request.switch.script else TABLE
