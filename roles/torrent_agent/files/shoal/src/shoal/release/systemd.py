"""Restarting a systemd unit, and seeing that it really was restarted."""

from __future__ import annotations

from pathlib import Path

from shoal.release import commands
from shoal.release.errors import ReleaseError, StepError

ACTIVE = ("active", "reloading")


def find(unit: str) -> None:
    """Refuse a unit that systemd does not know. Raises ReleaseError."""
    commands.find(["systemctl"], Path("/"))
    if _show(unit).get("LoadState") != "loaded":
        raise ReleaseError(
            f"systemd has no unit {unit!r} on this host", hint="install the unit first, or correct restart"
        )


def restart(unit: str, timeout: float) -> None:
    """Restart ``unit`` and check that a new invocation of it is active. Raises StepError."""
    before = _show(unit)
    _call("restart", unit, timeout)
    after = _show(unit)
    if after.get("ActiveState") not in ACTIVE:
        raise StepError(f"{unit} is {after.get('ActiveState', 'unknown')} after its restart; see journalctl -u {unit}")
    # InvocationID is new for each start (systemd.exec(5)); MainPID serves where it is not told.
    same = [key for key in ("InvocationID", "MainPID") if before.get(key) and before.get(key) == after.get(key)]
    if before.get("ActiveState") in ACTIVE and same and before.get(same[0]) not in ("", "0"):
        raise StepError(f"{unit} was not restarted: its {same[0]} is still {after[same[0]]}")


def stop(unit: str, timeout: float) -> None:
    """Stop ``unit``: the first release failed and there is none to run. Raises StepError."""
    _call("stop", unit, timeout)


def _call(verb: str, unit: str, timeout: float) -> None:
    outcome = commands.run(["systemctl", verb, "--", unit], cwd=Path("/"), env={}, timeout=timeout)
    if not outcome.ok:
        raise StepError(f"systemctl {verb} {unit} {outcome.reason()}")


def _show(unit: str) -> dict[str, str]:
    properties = "--property=LoadState,ActiveState,MainPID,InvocationID"
    outcome = commands.run(["systemctl", "show", properties, "--", unit], cwd=Path("/"), env={}, timeout=30)
    if not outcome.ok:
        raise StepError(f"systemctl show {unit} {outcome.reason()}", hint="restart may also be a command: a list")
    pairs = (line.partition("=") for line in outcome.output.splitlines())
    return {key: value for key, found, value in pairs if found}
