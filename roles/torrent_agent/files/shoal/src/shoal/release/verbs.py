"""What `shoal release` can do: each verb takes a checked request and returns its result (docs/release.md)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from shoal.release import archive, detached, journal, staging, switch
from shoal.release.errors import LockedError, ReleaseError, RequestError
from shoal.release.events import Emit, Result
from shoal.release.journal import Journal
from shoal.release.layout import Layout, Pointer, Record, new_operation_id
from shoal.release.lock import Lock, holder_of
from shoal.release.request import PROTOCOL, InspectRequest, Request
from shoal.release.switch import Switch

LOG_SHOWN = 20  # revisions in a result


def stage(request: Request, emit: Emit, *, check: bool = False) -> Result:
    """Unpack and verify an archive as a release."""
    layout = Layout(request.root)
    layout.check_trust()
    version, spec = staging.wanted(request)
    before = _versions(layout)
    record = staging.already_staged(layout, version, spec)
    changed, warnings = record is None, []
    if record is None and check:
        warnings = staging.predict(request, layout, spec)
    elif record is None:
        layout.prepare()
        _recover_first(layout, request, emit)
        record, changed = staging.stage(request, layout, emit)
    after = before if not changed else sorted({*before, version})
    return _result(
        layout,
        request,
        changed=changed,
        outcome="staged" if changed else "already_staged",
        version=version,
        warnings=warnings,
        diff=_diff("staged", before, after),
        archive=_record_dict(record) if record else None,
    )


def activate(request: Request, emit: Emit, *, check: bool = False) -> Result:
    """Switch to a staged release, or back to the previous one."""
    layout = Layout(request.root)
    layout.check_trust()
    if (request.version is not None) == request.previous:
        raise RequestError("activate needs exactly one of version and previous: true")
    if check:
        return _predict_activate(layout, request)
    if not journal.read(layout):
        to = _target(layout, request)
        if _is_active(layout, to):
            return _already_active(layout, request, to)
        if not layout.home.is_dir():
            raise _not_staged(request.version or "")
    return _run_detached(layout, request, "activate", emit, lambda tell: _activate(layout, request, tell))


def remove(request: Request, emit: Emit, *, check: bool = False) -> Result:
    """Delete a release that is neither the current nor the previous one."""
    layout = Layout(request.root)
    layout.check_trust()
    if request.version is None:
        raise RequestError("remove needs version")
    before = _versions(layout)
    changed = _removable(layout, request.version)
    if changed and not check:
        _recover_first(layout, request, emit)
        holder = {"verb": "remove", "version": request.version, "who": request.who}
        with (
            Lock.acquire(layout.lock, holder, request.lock_timeout),
            Lock.acquire(layout.stage_lock, holder, request.lock_timeout),
        ):
            changed = _removable(layout, request.version)
            layout.empty_trash()
            layout.discard(request.version)
    after = [version for version in before if version != request.version]
    return _result(
        layout,
        request,
        changed=changed,
        outcome="removed" if changed else "already_absent",
        version=request.version,
        diff=_diff("staged", before, after),
    )


def recover(request: Request, emit: Emit, *, check: bool = False) -> Result:
    """End what a killed switch left: prove the new release, or go back."""
    layout = Layout(request.root)
    layout.check_trust()
    note = journal.read(layout)
    if note is None:
        return _result(layout, request, changed=False, outcome="nothing")
    if check:
        return _result(layout, request, changed=True, outcome="unproven", version=note.to.version)
    return _run_detached(layout, request, "recover", emit, lambda tell: _recover(layout, tell))


def info(request: Request) -> Result:
    """What is here; changes nothing."""
    layout = Layout(request.root)
    layout.check_trust()
    return _result(layout, request, changed=False, outcome="")


def inspect(request: InspectRequest) -> Result:
    """Read an archive as a host would, unpacking nothing."""
    found = archive.inspect(request.archive, request.limits, request.strip_components)
    return {
        "protocol": PROTOCOL,
        "ok": True,
        "changed": False,
        "archive": {
            "format": found.format,
            "size": found.size,
            "sha256": found.sha256,
            "info_hash": found.info_hash,
            "unpacked_bytes": found.unpacked_bytes,
            "entries": found.entries,
        },
    }


# -- activate ----------------------------------------------------------------------------------------------------


def _target(layout: Layout, request: Request) -> Pointer:
    """The release that is to become active. Raises ReleaseError if there is no such."""
    if request.version is not None:
        if layout.record(request.version) is None:
            raise _not_staged(request.version)
        return layout.pointer_to(f"releases/{request.version}")
    previous = layout.previous()
    if previous is None:
        raise ReleaseError(
            f"{layout.root} has no previous release to go back to",
            hint="name the version to activate; `shoal release info` lists those that are here",
            code="no_previous",
        )
    return previous


def _not_staged(version: str) -> ReleaseError:
    return ReleaseError(f"{version} is not staged on this host", hint="stage it first", code="not_staged")


def _is_active(layout: Layout, to: Pointer) -> bool:
    current = layout.pointer()
    return current is not None and layout.path_of(current).resolve() == layout.path_of(to).resolve()


def _switch_for(layout: Layout, request: Request, to: Pointer, operation: str, emit: Emit) -> Switch:
    record = layout.record(to.version)
    note = Journal(
        operation=operation,
        request=request,
        to=to,
        previous=layout.pointer(),
        irreversible=record is not None and record.irreversible,
        started_at=time.time(),
    )
    return Switch(layout, note, emit)


def _predict_activate(layout: Layout, request: Request) -> Result:
    current = layout.pointer()
    try:
        to = _target(layout, request)
    except ReleaseError as error:
        # What is only predicted to be staged is not here to be checked; its archive in the request says so.
        if error.code != "not_staged" or request.archive is None:
            raise
        to = layout.pointer_to(f"releases/{request.version}")
    else:
        if _is_active(layout, to):
            return _already_active(layout, request, to)
        switch.check(_switch_for(layout, request, to, "", lambda _: None))
    return _result(
        layout,
        request,
        changed=True,
        outcome="activated",
        version=to.version,
        diff=_diff("current", current.version if current else None, to.version),
    )


def _already_active(layout: Layout, request: Request, to: Pointer) -> Result:
    return _result(
        layout,
        request,
        changed=False,
        outcome="already_active",
        version=to.version,
        diff=_diff("current", to.version, to.version),
    )


def _activate(layout: Layout, request: Request, emit: Emit) -> Result:
    """In the detached process, with the lock held."""
    _end_unproven(layout, emit)
    layout.prepare()
    layout.empty_trash()
    to = _target(layout, request)
    if _is_active(layout, to):
        return {"ok": True, "changed": False, "outcome": "already_active", "version": to.version}
    return run_switch(_switch_for(layout, request, to, _operation(layout), emit), "check")


def _operation(layout: Layout) -> str:
    return str((holder_of(layout.lock) or {}).get("operation", ""))


def run_switch(one: Switch, step: str) -> Result:
    """Go through the table from ``step`` and say in a result how it ended."""
    note = one.journal
    try:
        one.run(step)
    except Exception as error:
        if journal.read(one.layout) is None:
            raise  # nothing was changed
        raise ReleaseError(
            f"the switch to {note.to.version} stands at {note.step!r}: {error}",
            hint=f"remove the cause, then run: shoal release recover --root {one.layout.root}",
            code="stuck",
        ) from None
    before = note.previous.version if note.previous else None
    ok = note.outcome == "activated"
    after = note.to.version if one.moved else before
    result: Result = {
        "ok": ok,
        "changed": ok or note.restarted or note.outcome == "rolled_back" or one.moved,
        "outcome": note.outcome,
        "healthy": not note.unhealthy,
        "version": note.to.version,
        "from": before,
        "to": note.to.version,
        "reason": note.reason,
        "seconds": note.seconds,
        "warnings": note.warnings,
        "output": note.output,
        "diff": _diff("current", before, after),
    }
    if not ok:
        result["error"] = _failure(note, one.moved)
    return result


def _failure(note: Journal, kept: bool) -> dict[str, str]:
    back = note.previous.version if note.previous else None
    if note.outcome == "rolled_back" and back is None:
        end = "there was no release before it: current is removed again"
    elif note.outcome == "rolled_back":
        end = f"{back} is active and healthy again"
    elif kept:
        end = f"it is irreversible, so {note.to.version} stays active, NOT healthy"
    elif note.unhealthy:
        end = f"{back or 'nothing'} is active again, but NOT healthy: {'; '.join(note.warnings)}"
    else:
        end = f"nothing was switched, {back or 'nothing'} is active"
    code = note.outcome if note.outcome == "rolled_back" else "not_activated"
    return {"code": code, "message": f"{note.to.version} was not activated: {note.reason}; {end}", "hint": ""}


# -- recover -----------------------------------------------------------------------------------------------------


def _end_unproven(layout: Layout, emit: Emit) -> Result | None:
    """Bring an unproven release to an end, with the lock held; None if there is none."""
    note = journal.read(layout)
    if note is None:
        return None
    emit({"event": "recover", "version": note.to.version, "step": note.step})
    one = Switch(layout, note, emit)
    one.end_running()
    entry = switch.table_of(note)[note.step].recover
    if entry in ("record", "switch_back") and not note.reason:
        note.reason = f"it was interrupted at {note.step}"
    result = run_switch(one, entry)
    emit({"event": "recovered", "version": note.to.version, "outcome": note.outcome})
    return result


def _recover(layout: Layout, emit: Emit) -> Result:
    """In the detached process, with the lock held."""
    result = _end_unproven(layout, emit)
    if result is None:  # another one was faster
        return {"ok": True, "changed": False, "outcome": "nothing"}
    result["changed"] = True  # the mark is gone, whatever `current` was
    if result["ok"] or not result["healthy"]:
        return result
    # The switch failed, but recovering did what it is for: the host serves a healthy release, the old one.
    message = result.pop("error")["message"]
    return {**result, "ok": True, "outcome": "rolled_back", "message": message}


def _recover_first(layout: Layout, request: Request, emit: Emit) -> None:
    """Before any change: what a killed switch left is brought to an end, unless somebody is at it."""
    if journal.read(layout) is None:
        return
    with suppress(LockedError):
        _run_detached(layout, request, "recover", emit, lambda tell: _recover(layout, tell))


# -- running -----------------------------------------------------------------------------------------------------


def _run_detached(layout: Layout, request: Request, verb: str, emit: Emit, work: Callable[[Emit], Result]) -> Result:
    """Run ``work`` in a process of its own and follow it; follow the running one if it does the same work."""
    operation = new_operation_id()
    holder = {"verb": verb, "version": request.version, "who": request.who, "operation": operation}
    lock = None
    running = _running_alike(layout, request) if verb == "activate" else ""
    try:
        lock = None if running else Lock.acquire(layout.lock, holder, request.lock_timeout)
    except LockedError:
        running = _running_alike(layout, request) if verb == "activate" else ""
        if not running:
            raise
    if lock is None:
        emit({"event": "follow", "operation": running})
        result = detached.follow(layout, running, emit)
    else:
        pid = detached.start(layout, lock, operation, request, work)
        result = detached.follow(layout, operation, emit, pid)
    # The worker's own view is older than its end.
    return {**_result(layout, request, changed=False, outcome=""), **result}


def _running_alike(layout: Layout, request: Request) -> str:
    """The running operation that does what ``request`` asks for; empty if there is none."""
    running = _operation(layout)
    other = detached.request_of(layout, running) if running else None
    return running if other is not None and request.means_the_same(other) else ""


def _removable(layout: Layout, version: str) -> bool:
    """Whether ``version`` is there. Raises ReleaseError if it is in use."""
    uses = [("current", layout.pointer()), ("previous", layout.state().previous)]
    note = journal.read(layout)
    if note is not None:
        uses += [("unproven", note.to), ("previous", note.previous)]
    for what, pointer in uses:
        if pointer is not None and layout.path_of(pointer).resolve() == layout.release(version).resolve():
            raise ReleaseError(
                f"{version} is the {what} release of {layout.root} and is not removed",
                hint="activate another version first",
                code="in_use",
            )
    return layout.release(version).is_dir()


# -- results -----------------------------------------------------------------------------------------------------


def _versions(layout: Layout) -> list[str]:
    return sorted([record.version for record in layout.staged()] + layout.strangers())


def _diff(key: str, before: object, after: object) -> Result:
    return {"before": {key: before}, "after": {key: after}}


def _result(layout: Layout, request: Request, *, changed: bool, outcome: str, **extra: Any) -> Result:
    return {
        "protocol": PROTOCOL,
        "ok": True,
        "changed": changed,
        **({"outcome": outcome} if outcome else {}),
        **extra,
        "release": describe(layout, request.app),
    }


def describe(layout: Layout, app: str = "") -> Result:
    """The `release` object of a result: what is here now."""
    current, previous = layout.pointer() if layout.current.is_symlink() else None, layout.previous()
    note = journal.read(layout)
    holder = holder_of(layout.lock)
    staged = layout.staged()
    names = {"current": current.version if current else None, "previous": previous.version if previous else None}
    return {
        "app": app or layout.root.name,
        "root": str(layout.root),
        **names,
        "staged": [record.version for record in staged],
        "releases": [
            *(
                {**_record_dict(record), "complete": True, "adopted": False, **_role(record.version, names)}
                for record in staged
            ),
            *(
                {"version": version, "complete": False, "adopted": True, **_role(version, names)}
                for version in layout.strangers()
            ),
        ],
        "no_way_back_before": layout.state().floor,
        "unproven": None
        if note is None
        else {
            "operation": note.operation,
            "version": note.to.version,
            "previous": note.previous.version if note.previous else None,
            "step": note.step,
            "started_at": note.started_at,
        },
        "running_operation": holder,
        "log": layout.read_log(LOG_SHOWN),
    }


def _role(version: str, names: dict[str, str | None]) -> dict[str, bool]:
    return {role: names[role] == version for role in ("current", "previous")}


def _record_dict(record: Record) -> Result:
    return {field: getattr(record, field) for field in record.__struct_fields__}


CHANGES: dict[str, Callable[..., Result]] = {
    "stage": stage,
    "activate": activate,
    "remove": remove,
    "recover": recover,
}
