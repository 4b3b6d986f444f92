# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What became of each host, read from what its tasks registered, and what follows from that for the rollout.

The tasks of a rollout record how they ended instead of failing, so that every host is seen here, the unreachable ones
too, which Ansible's own limits do not count (ansible#56265, #82834).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from . import _story as story

Variables = Mapping[str, Any]
"""What one host registered, by the name it was registered under."""


def latest(variables: Variables, *names: str) -> Mapping[str, Any]:
    """The last of these results that was not skipped; empty if the host came to none of them."""
    for name in reversed(names):
        result = variables.get(name)
        if isinstance(result, Mapping) and not result.get("skipped"):
            return result
    return {}


def problem_of(result: Mapping[str, Any]) -> str | None:
    """Why a task's result is no success, in one line; None where it is one."""
    if result.get("unreachable"):
        return "unreachable: " + _first_line(result.get("msg"))
    if result.get("failed"):
        return _first_line(result.get("reason") or result.get("msg"))
    return None


def _first_line(text: object) -> str:
    lines = [part.strip() for part in str(text or "").splitlines() if part.strip()]
    return lines[0].removeprefix("Task failed: ").removesuffix(".") if lines else "no reason was given"


# --- publish ---


def tell_publication(published: Mapping[str, Any], release: Mapping[str, Any]) -> str:
    """``shop-1.0.tar.zst  42.3 MB, 2,583 pieces``."""
    manifest = release.get("manifest") or published.get("manifest")
    if manifest is None or "piece_length" not in manifest:
        return f"{os.path.basename(published['archive'])}  can be; nothing was published"
    archive = manifest["archive"]
    pieces = -(-archive["size"] // manifest["piece_length"])
    text = f"{archive['name']}  {story.size(archive['size'])}, {pieces:,} pieces"
    return text if published["changed"] else f"{text}: was published already"


def tell_channel(name: str, channeled: Mapping[str, Any]) -> str:
    """``stable is at 1.0 (sequence 1) for 10 % of the hosts, for 100 % from 2026-11-23T08:00:00Z``."""
    channel = next(one for one in channeled["endpoint"]["channels"] if one["channel"] == name)
    last = channel["rollout"][-1]
    share = f"{channel['percent']} % of the hosts" if channel["percent"] < 100 else "all hosts"
    later = f", for {last['percent']} % from {last['at']}" if last["percent"] > channel["percent"] else ""
    halted = "; it is halted" if channel["halt"] else ""
    return f"{name} is at {channel['version']} (sequence {channel['sequence']}) for {share}{later}{halted}"


# --- prefetch ---


@dataclass(frozen=True)
class Prefetch:
    """Whether one host has the release staged, and how its bytes came."""

    problem: str | None = None
    seconds: float | None = None  # None: nothing had to be fetched
    from_peers: int = 0
    from_publisher: int = 0
    from_web_seeds: int = 0


def prefetch_of(variables: Variables, publishers: Sequence[str]) -> Prefetch:
    """
    :param publishers: names of the publishers' agents, as peers see them.
    """
    look = latest(variables, "shoal_look")
    fetch = latest(variables, "shoal_start", "shoal_fetch")
    stage = latest(variables, "shoal_stage", "shoal_stage_wait")
    problem = problem_of(look) or problem_of(fetch) or problem_of(stage)
    if not look:
        problem = "its turn never came"
    sources = (fetch.get("bytes_from") or {}).get("peers") or {}
    from_publisher = sum(count for name, count in sources.items() if name in publishers)
    return Prefetch(
        problem=problem,
        seconds=(fetch.get("duration") or None) if not problem_of(fetch) else None,
        from_peers=sum(sources.values()) - from_publisher,
        from_publisher=from_publisher,
        from_web_seeds=(fetch.get("bytes_from") or {}).get("web_seeds") or 0,
    )


def has_quorum(ready: int, hosts: int, percent: int) -> bool:
    return ready * 100 >= hosts * percent


def tell_prefetch(found: Mapping[str, Prefetch], size: int, *, check: bool) -> str:
    """``5/5 hosts in 1.9 s; 172 MB came from peers, 44 MB from the publisher (1.04 × the archive)``."""
    ready = [one for one in found.values() if one.problem is None]
    times = [one.seconds for one in found.values() if one.seconds is not None]
    text = f"{len(ready)}/{len(found)} hosts"
    if check:
        return f"{text} can have it; nothing was fetched"
    if not times:
        return f"{text} had it already" if ready else text
    text += f" in {story.duration(max(times))}"
    from_publisher = sum(one.from_publisher for one in found.values())
    text += f"; {story.size(sum(one.from_peers for one in found.values()))} came from peers"
    text += f", {story.size(from_publisher)} from the publisher"
    if size:
        text += f" ({from_publisher / size:.2f} × the archive)"
    from_web_seeds = sum(one.from_web_seeds for one in found.values())
    return text + (f", {story.size(from_web_seeds)} from web seeds" if from_web_seeds else "")


# --- switch ---


@dataclass(frozen=True)
class Switch:
    """Where one host stands after its turn."""

    outcome: str
    """switched, unchanged, rolled_back (healthy on the version before), failed (on neither), kept (nothing was
    switched, because something went wrong before), lost (nobody knows), waiting (its turn never came)."""
    version: str | None  # that it serves now; None: none, or nobody knows
    was: str | None  # that it served before this run
    problem: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # of each step

    @property
    def arrived(self) -> bool:
        return self.outcome in ("switched", "unchanged") and self.problem is None


_OUTCOMES = {"activated": "switched", "already_active": "unchanged", "rolled_back": "rolled_back"}


def switch_of(variables: Variables, target: str | None) -> Switch:
    """What became of the switch to ``target``."""
    was = (latest(variables, "shoal_look").get("release") or {}).get("current")
    result = latest(variables, "shoal_switch", "shoal_switch_wait", "shoal_switch_again")
    drain = variables.get("shoal_drain_failed") or None
    undrain = variables.get("shoal_undrain_failed") or None
    if drain:
        return Switch("kept", was, was, f"draining failed: {_first_line(drain)}")
    if not result:
        return Switch("waiting", was, was, "its turn never came")
    problem = problem_of(result)
    if result.get("unreachable"):
        return Switch("lost", None, was, problem)
    seconds = {name: float(value) for name, value in (result.get("seconds") or {}).items() if value is not None}
    outcome = _OUTCOMES.get(result.get("outcome") or "", "kept" if problem else "unchanged")
    if outcome == "unchanged" and was != target:
        outcome = "switched"  # by a switch whose end was lost: asked again, the host is there already
    if result.get("healthy") is False:
        outcome = "failed"
        problem = problem or "was not healthy when it was activated, and there is no way back from it"
    if undrain and not problem:
        problem = f"undraining failed: {_first_line(undrain)}"
    version = {"switched": target, "unchanged": target, "failed": None}.get(outcome, was)
    return Switch(outcome, version, was, problem, seconds)


def tell_batch(found: Mapping[str, Switch], order: Sequence[str]) -> tuple[str, str]:
    """The word for the phase and the line of one batch.

    ``host2 host3 ✓``; ``host1 ✗ /health answered 500 for 10 s: back on 1.1; host2 to host5 never left 1.1``.
    """
    good = [host for host, one in found.items() if one.arrived]
    parts = []
    if good:
        parts.append((" ".join(good) if len(good) <= 6 else f"{story.names(good, order)} ({len(good)} hosts)") + " ✓")
    parts += [_tell_failure(host, one) for host, one in found.items() if not one.arrived]
    return ("switched" if len(good) == len(found) else "switch"), "; ".join(parts)


def _tell_failure(host: str, one: Switch) -> str:
    text = f"{host} ✗ {one.problem}"
    if one.outcome == "rolled_back":
        back = sum(seconds for step, seconds in one.seconds.items() if step.endswith("_back"))
        text += (
            f": back on {one.version} in {story.duration(back)}" if one.version else ": there was none to go back to"
        )
    elif one.outcome == "failed":
        text += ": on no healthy version"
    elif one.outcome == "kept" and one.version:
        text += f": still on {one.version}"
    elif one.outcome == "lost":
        text += ": nobody knows what it runs"
    return text


def tell_waiting(waiting: Sequence[str], versions: Mapping[str, str | None], order: Sequence[str]) -> str:
    """``host2 to host5 never left 1.1``, for the hosts whose turn never came."""
    parts = []
    for version in dict.fromkeys(versions[host] for host in waiting):
        same = [host for host in waiting if versions[host] == version]
        left = f"never left {version}" if version else ("were" if len(same) > 1 else "was") + " never switched"
        parts.append(f"{story.names(same, order)} {left}")
    return "; ".join(parts)


def to_take_back(found: Mapping[str, Switch], stopped_batch: Sequence[str], on_failure: str) -> dict[str, str]:
    """The hosts that ``on_failure`` sends back, and the version each goes back to."""
    among = {"rollback_batch": stopped_batch, "rollback_all": list(found)}.get(on_failure, [])
    return {
        host: one.was
        for host, one in found.items()
        if host in among and one.outcome == "switched" and one.was is not None and one.was != one.version
    }


# --- rollback ---


def taken_back(first: Switch, back: Switch) -> Switch:
    """A host that was switched and then sent back because of others: where it stands in the end."""
    if back.arrived:
        return replace(back, outcome="taken_back", was=first.was, problem="went back because the rollout was stopped")
    return replace(back, was=first.was)


def aim_of(variables: Variables, version: str | None) -> tuple[str | None, str | None]:
    """The version that a host is to go back to, and the problem if there is none.

    Without a ``version``, the one before. A release that was staged after the current one is none to go back to: the
    host came back from it, going there again would be forward, and it is to be where it is.
    """
    look = latest(variables, "shoal_look")
    problem = problem_of(look)
    if problem or not look:
        return None, problem or "its turn never came"
    release = look["release"]
    if version is not None:
        if version in release["staged"] or version == release["current"]:
            return version, None
        return None, f"{version} is not staged (it has {', '.join(release['staged']) or 'none'}): use rollout"
    if release["previous"] is None:
        return None, "has no release before the current one"
    staged_at = {one["version"]: one.get("staged_at") or 0 for one in release["releases"]}
    if staged_at.get(release["previous"], 0) > staged_at.get(release["current"], 0):
        return release["current"], None
    return release["previous"], None


# --- report ---

STATUS_HEAD = ("host", "current", "since", "previous", "staged", "state")


def status_row(look: Mapping[str, Any]) -> tuple[str, ...]:
    """What one host runs."""
    problem = problem_of(look)
    if problem or not look:
        return ("?", "?", "?", "?", problem or "its turn never came")
    release = look["release"]
    current = release["current"]
    arrivals = [one for one in release.get("log") or [] if (one["to"], one["outcome"]) == (current, "activated")]
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(arrivals[0]["time"])) if arrivals else "-"
    state = "ok"
    if release.get("running_operation"):
        state = "being switched"
    elif release.get("unproven"):
        state = "unproven: run shoal release recover"
    elif current is None:
        state = "nothing deployed"
    others = [version for version in release["staged"] if version not in (current, release["previous"])]
    return (current or "-", since, release["previous"] or "-", " ".join(others) or "-", state)


HEAD = ("host", "version", "fetched in", "from peers", "from publisher", "switched in", "healthy after")


def report_row(host: str, prefetch: Prefetch | None, switch: Switch) -> tuple[str, ...]:
    fetched = prefetch is not None and prefetch.seconds is not None
    moved = switch.outcome in ("switched", "rolled_back", "failed")
    healthy = switch.seconds.get("restart", 0.0) + switch.seconds.get("health", 0.0)
    return (
        host,
        switch.version or ("?" if switch.outcome in ("failed", "lost") else "-"),
        story.duration(prefetch.seconds) if fetched else "-",
        story.size(prefetch.from_peers) if fetched else "-",
        story.size(prefetch.from_publisher) if fetched else "-",
        story.duration(sum(switch.seconds.values())) if moved and switch.seconds else "-",
        story.duration(healthy) if switch.outcome == "switched" and "health" in switch.seconds else "-",
    )


def facts(one: Any) -> dict[str, Any]:
    """A host's part of the machine-readable result."""
    return asdict(one)
